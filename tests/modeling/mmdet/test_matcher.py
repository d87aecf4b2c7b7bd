"""Hand-worked matches, by the rules that MMDetection's MaxIoUAssigner documents."""

import pytest
import torch
from detectron2.structures import Boxes

from d2_regnet.modeling.mmdet.matcher import MaxIoUMatcher, match_anchors


def answers(matcher, iou):
    matches, labels = matcher(torch.as_tensor(iou))
    return matches.tolist(), labels.tolist()


def test_thresholds_are_detectron2s():
    iou = [[0.1, 0.3, 0.69, 0.7], [0.2, 0.1, 0.0, 0.9]]
    matcher = MaxIoUMatcher([0.3, 0.7], [0, -1, 1])
    assert answers(matcher, iou) == ([1, 0, 0, 1], [0, -1, -1, 1])


@pytest.mark.parametrize(
    "least, labels",
    [(None, [0, -1, 0, 0]), (0.0, [0, 1, 1, 0]), (0.3, [0, 1, 0, 0]), (0.41, [0, -1, 0, 0])],
)
def test_low_quality_matches_count_from_the_least_iou_on(least, labels):
    iou = [[0.2, 0.4, 0.0, 0.1], [0.1, 0.0, 0.2, 0.15]]
    matches, found = answers(MaxIoUMatcher([0.3, 0.7], [0, -1, 1], least), iou)
    assert found == labels
    assert matches[1] == 0 and matches[2] == 1


def test_an_objects_best_box_is_matched_with_that_object():
    """MaxIoUAssigner's own example: A overlaps the first by 0.9 and is the second's best by 0.8."""
    iou = [[0.9, 0.1], [0.8, 0.2]]
    assert answers(MaxIoUMatcher([0.5], [0, 1], 0.5), iou) == ([1, 1], [1, 0])
    assert answers(MaxIoUMatcher([0.5], [0, 1]), iou) == ([0, 1], [1, 0])


def test_all_equally_good_boxes_match_and_the_last_object_wins():
    iou = [[0.35, 0.35, 0.1], [0.2, 0.3, 0.3]]
    assert answers(MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3), iou) == ([0, 1, 1], [1, 1, 1])


def test_appended_objects_match_themselves_and_are_nobodys_best_box():
    # Two proposals, then the two objects, which coincide.
    iou = [[0.6, 0.55, 1.0, 1.0], [0.6, 0.55, 1.0, 1.0]]
    matcher = MaxIoUMatcher([0.5], [0, 1], 0.5, objects_appended=True)
    assert answers(matcher, iou) == ([1, 0, 0, 1], [1, 1, 1, 1])
    assert answers(MaxIoUMatcher([0.5], [0, 1], objects_appended=True), iou)[0] == [0, 0, 0, 1]


def test_nothing_to_match():
    matcher = MaxIoUMatcher([0.5], [0, 1], 0.5, objects_appended=True)
    assert answers(matcher, torch.zeros(0, 3)) == ([0, 0, 0], [0, 0, 0])
    # No proposals, only the object itself.
    assert answers(matcher, [[1.0]]) == ([0], [1])


def anchors_of(*centers, side=20):
    half = side / 2
    return Boxes(torch.tensor([[x - half, y - half, x + half, y + half] for x, y in centers]))


def test_anchors_in_another_pictures_padding_are_left_out():
    # An image of 40 x 70 (height, width) is padded to 64 x 96.
    anchors = anchors_of((0, 0), (95.9 - 0.9, 0), (96, 0), (0, 63), (0, 64), (95, 63))
    matcher = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3)
    _, labels = match_anchors(matcher, anchors, anchors_of((0, 0)), (40, 70))
    assert labels.tolist() == [1, 0, -1, 0, -1, 0]


def test_anchors_across_the_edge_are_left_out_before_matching():
    # The object's best anchor crosses the edge; the next best is what remains to be matched.
    anchors, target = anchors_of((8, 20), (14, 20), (80, 20)), anchors_of((9, 20))
    matcher = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3)
    assert match_anchors(matcher, anchors, target, (64, 64))[1].tolist()[0] == 1
    matches, labels = match_anchors(matcher, anchors, target, (64, 64), 0.0)
    assert labels.tolist() == [-1, 1, -1]
    assert matches.dtype == torch.int64 and labels.dtype == torch.int8


def test_the_edge_itself_is_inside():
    anchors = Boxes(torch.tensor([[0.0, 0, 20, 20], [-1.0, 0, 20, 20], [0, 0, 64.0, 20]]))
    nothing = Boxes(torch.zeros(0, 4))
    matcher = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3)
    assert match_anchors(matcher, anchors, nothing, (64, 64), 0.0)[1].tolist() == [0, -1, -1]
    assert match_anchors(matcher, anchors, nothing, (64, 64), 1.0)[1].tolist() == [0, 0, 0]

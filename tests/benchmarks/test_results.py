"""The table by hand, and an image that has something on it."""

import io

from PIL import Image

from benchmarks import plot
from benchmarks.plot import draw
from benchmarks.results import about, table

RESULTS = [
    {"arch": "RegNetX-400MF", "peer": "ours", "seconds": 0.0125, "spread": 0.021, "ratio": 0.5}
    | {"gflops": 8.0, "images_per_second": 80.0, "ap": 36.0, "difference": 1.26e-6},
    {"arch": "efficientnet_b0", "peer": "torchvision", "seconds": 1.5, "spread": 0.1, "ratio": 1.0}
    | {"gflops": 7.0, "images_per_second": 0.667, "ap": None},
]


def test_table():
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table(RESULTS).split("\n")
    ]
    assert lines[0] == [
        *("arch", "by", "median, ms", "spread", "images/s", "GFLOPs", "ratio", "difference")
    ]
    assert lines[2] == ["RegNetX-400MF", "ours", "12.5", "2 %", "80.00", "8.0", "0.50", "1.3e-06"]
    assert lines[3] == [
        "efficientnet_b0",
        "torchvision",
        "1,500.0",
        "10 %",
        "0.67",
        "7.0",
        "1.00",
        "",
    ]


def test_about():
    machine = {"processor": "Z80", "threads": 1, "cores": 2, "torch": "2.9", "bandwidth": 10.4}
    machine["peak"] = {"float32": 1234.4, "bfloat16": 9.0}
    assert about(machine) == (
        "Z80, 1 thread(s) of 2 core(s), torch 2.9; "
        "peak 1,234 GFLOP/s float32, 9 GFLOP/s bfloat16, 10 GB/s"
    )


def test_lines_and_points_have_names():
    def parts(**result):
        return plot._parts(result)

    assert parts(arch="RegNetY-4.0GF") == ("RegNetY", "Y-4.0GF")
    assert parts(arch="efficientnet_b4") == ("EfficientNet", "B4")
    assert parts(model="mask_rcnn_regnetx_3.2gf_fpn_3x") == ("Mask R-CNN 3x", "X-3.2GF")
    assert parts(model="cascade_mask_rcnn_r50_fpn_1x") == ("Cascade Mask R-CNN 1x", "R50")
    assert parts(model="mask_rcnn_regnety_4.0gf_dds_fpn_1x")[1] == "Y-4.0GF-DDS"


def test_names_of_close_points_cover_neither_each_other_nor_lines():
    measured = {"RegNetX-3.2GF": (60, 1.4, 43.1), "RegNetX-4.0GF": (66, 1.3, 43.4)}
    measured |= {"RegNetX-400MF": (8, 9.2, 37.6), "RegNetY-3.2GF": (60, 1.35, 43.2)}
    keys = ("gflops", "images_per_second", "ap")
    results = [
        {"arch": arch, "peer": "ours"} | dict(zip(keys, values))
        for arch, values in measured.items()
    ]
    for axes in plot._figure(results, "a title").axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert sorted(text.get_text() for text in axes.texts) == [
            *("X-3.2GF", "X-4.0GF", "X-400MF", "Y-3.2GF")
        ]
        assert [box.count_overlaps(boxes) for box in boxes] == [1] * 4  # each with itself
        assert not any(box.count_contains(plot._drawn(axes)) for box in boxes)


def test_image():
    for results, panels in ((RESULTS, 1), ([*RESULTS, RESULTS[0] | {"ap": 40.0}], 2)):
        with Image.open(io.BytesIO(draw(results, "a title"))) as image:
            assert image.width == panels * 6.4 * 130
            assert len(image.convert("L").getcolors(256)) > 10

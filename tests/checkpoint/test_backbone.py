"""Recognising archs by the shapes of their tensors."""

import pytest

from d2_regnet.archs import get_arch, list_archs
from d2_regnet.checkpoint.backbone import backbone_shapes, model_shapes, recognise
from d2_regnet.modeling.backbone.regnet import build_regnet


@pytest.mark.parametrize("name", list_archs(others=True))
def test_every_arch_is_recognised_by_its_own_shapes(name):
    shapes = backbone_shapes(name)
    assert recognise(shapes.get) == name
    # Nearly everything may be missing: what is left of a stage shows its sizes.
    some = {n: s for n, s in shapes.items() if not n.startswith(("s3.b1.", "stem."))}
    some |= {n: s for n, s in shapes.items() if n == "s3.b1.f.a_bn.weight"}
    assert recognise(some.get) == name


def test_shapes_are_those_of_the_model_that_is_built():
    model = build_regnet("RegNetY-200MF")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert backbone_shapes("RegNetY-200MF") == expected
    assert model_shapes(lambda: build_regnet("RegNetY-200MF")) == expected


def test_an_unknown_arch_is_described():
    # A RegNetX-400MF with one block more in its third stage.
    shapes = dict(backbone_shapes("RegNetX-400MF"))
    depth = get_arch("RegNetX-400MF").stage_depths[2]
    last = {n: s for n, s in shapes.items() if n.startswith(f"s3.b{depth}.")}
    shapes |= {n.replace(f"b{depth}", f"b{depth + 1}"): s for n, s in last.items()}
    with pytest.raises(ValueError, match="depth 1, 2, 8, 12, .* nearest is RegNetX-400MF"):
        recognise(shapes.get)


@pytest.mark.parametrize(
    "shapes",
    [{}, {"s1.b1.f.a.weight": ()}, {"s1.b1.f.a.weight": (3,)}, {"s1.b1.f.c.weight": (0,) * 4}],
)
def test_nonsense_is_refused(shapes):
    with pytest.raises(ValueError, match="no known RegNet"):
        recognise(shapes.get)

import json
import re

import numpy as np
import pytest

from d2_regnet.archs import RegNetArch, get_arch
from d2_regnet.design import describing
from d2_regnet.design.sampling import sample


def test_facts_add_up_and_are_the_published_ones(fixtures):
    facts = describing.facts(get_arch("RegNetX-3.2GF"))
    published = json.loads((fixtures / "regnet_archs.json").read_text())["RegNetX-3.2GF"]
    for key, recorded in (("flops", "flops_224"), ("params", "params"), ("acts", "acts_224")):
        assert facts["total"][key] == published[recorded]
    for key, total in facts["total"].items():
        assert sum(row[key] for row in facts["stages"]) == total
    s1, *_, s4 = facts["stages"][1:-1]
    assert (s1["width"], s1["depth"], s1["groups"], s1["stride"]) == (96, 2, 2, 4)
    assert (s4["width"], s4["depth"], s4["stride"]) == (1008, 2, 32)
    json.dumps(facts)


def test_text_has_every_stage():
    text = describing.text("mine", get_arch("RegNetY-400MF"), (800, 1216))
    assert text.startswith("mine: RegNetY, depth 16, w_0 48, w_a 27.89")
    assert "At 800x1216" in text
    for word in ("stem", "s1", "s2", "s3", "s4", "head", "all"):
        assert re.search(rf"^ *{word} ", text, re.M)


def test_widths_that_are_the_line_have_no_fit_error():
    # Doubling each time: the line 16, 32 is met, and the quantized widths are the line's own.
    assert describing.fit_error(RegNetArch(2, 16, 16, 2, 8)) == 0
    # 24, 56, 152 x 4, 368 x 7 against the line, worked out by hand with numpy.
    arch = get_arch("RegNetX-200MF")
    widths = np.array([24, 56, *[152] * 4, *[368] * 7])
    assert list(describing.block_widths(arch)) == list(widths)
    line = 24 + 36.44 * np.arange(13)
    assert describing.fit_error(arch) == pytest.approx(np.abs(np.log(widths / line)).mean())


def test_summary_of_a_sample():
    archs = sample("constrained", 4e8, 5)
    rows = {row["of"]: row for row in describing.summary(archs)}
    assert rows["depth"]["least"] == min(arch.depth for arch in archs)
    assert rows["w_m"]["median"] == np.median([arch.w_m for arch in archs])
    assert 0.38 <= rows["FLOPs (G)"]["least"] <= rows["FLOPs (G)"]["largest"] <= 0.42
    assert "w_m" not in {row["of"] for row in describing.summary(sample("anynet_a", 4e8, 2))}

#!/usr/bin/env python
"""Writes what is derived from the rows: MODEL_ZOO.md and the YAML form of each config."""

import json
import sys
from pathlib import Path

import torch
from detectron2.config import instantiate
from tqdm import tqdm

from d2_regnet import model_zoo
from d2_regnet.archs import arch_name
from d2_regnet.model_zoo.yacs import to_yaml
from d2_regnet.utils.cli import ToolParser, failure
from d2_regnet.utils.files import whole_file
from d2_regnet.utils.flops import count_flops

_EXAMPLES = """
After a change of a recipe or a row:
    $ %(prog)s

In a test; exit code 1 where something is stale:
    $ %(prog)s --check

First count parameters and FLOPs of all rows again, for a minute:
    $ %(prog)s --measure
"""
_EXIT_CODES = "Exit codes: 0, done; 1, failed, or --check found stale files; 2, bad input."

ROOT = Path(__file__).resolve().parents[1]
FACTS = ROOT / "d2_regnet" / "model_zoo" / "zoo.json"
VERIFIED = ROOT / "docs" / "verified.json"  # written by benchmarks/verify_zoo.py; may be absent

TITLES = {
    "mask_rcnn": "Mask R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "faster_rcnn": "Faster R-CNN",
    "retinanet": "RetinaNet",
}
BODIES = {"r50": "ResNet-50", "r101": "ResNet-101", "x101_32x4d": "ResNeXt-101-32x4d"}


def main(argv: list[str] | None = None) -> int:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        exit_codes=_EXIT_CODES,
        dry_run="list what would be written, write nothing",
    )
    parser.add_argument("--check", action="store_true", help="report stale files, write nothing")
    parser.add_argument("--measure", action="store_true", help="count parameters and FLOPs again")
    args = parser.parse_args(argv)
    if args.measure and (args.check or args.dry_run):
        parser.error("--measure writes; it goes with neither --check nor --dry-run")
    with failure(args.verbose):
        return generate(args)


def generate(args) -> int:
    """Writes, or lists, what is stale; the exit code."""
    if args.measure:
        write(FACTS, measured())
        model_zoo.rows.cache_clear()
    files = {ROOT / "MODEL_ZOO.md": page()}
    for name in model_zoo.list():
        files[ROOT / "configs" / "yaml" / f"{name}.yaml"] = yaml_file(name)
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    left_over = sorted(set((ROOT / "configs" / "yaml").glob("*")) - set(files))
    only_look = args.check or args.dry_run
    for path in [*stale, *left_over]:
        print(f"{'stale' if only_look else 'written'}: {path.relative_to(ROOT)}")
    if only_look:
        return 1 if args.check and (stale or left_over) else 0
    for path in stale:
        write(path, files[path])
    for path in left_over:
        path.unlink()
    return 0


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as file:
        file.write(text.encode())


def measured() -> str:
    """The text of zoo.json with parameters and multiply-adds of every row counted anew."""
    rows = {}
    for name, facts in tqdm(model_zoo.rows().items(), desc="rows", disable=None):
        cfg = model_zoo.get_config(name).model
        if "arch" in cfg.backbone.bottom_up:
            cfg.backbone.bottom_up.fuse_conv_norm = False
        with torch.device("meta"):
            model = instantiate(cfg).eval()
        flops = sum(count_flops(model).values())
        params = sum(p.numel() for p in model.parameters())
        rows[name] = {**facts, "params": params, "flops": flops}
    lines = [f" {json.dumps(name)}: {json.dumps(facts)}" for name, facts in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def yaml_file(name: str) -> str:
    head = f"# Written by docs/generate_model_zoo.py from configs/{name}.py: change that one.\n"
    return head + to_yaml(model_zoo.get_config(name))


def page() -> str:
    """MODEL_ZOO.md with its tables written anew; the text around them is kept."""
    text = (ROOT / "MODEL_ZOO.md").read_text()
    before, begin, rest = text.partition("<!-- tables: written by docs/generate_model_zoo.py -->\n")
    _, end, after = rest.partition("<!-- end of tables -->\n")
    if not (begin and end):
        raise ValueError("MODEL_ZOO.md has lost the two comments that enclose its tables")
    return before + begin + tables() + end + after


def tables() -> str:
    text = ""
    rows = model_zoo.rows()
    for detector, title in TITLES.items():
        names = [n for n in rows if n.startswith(detector) and rows[n]["source"] == "mmdet"]
        names.sort(key=lambda name: (name.rpartition("_")[2], rows[name]["flops"]))
        text += f"\n### {title}\n\n" + table(names)
    names = [name for name in rows if rows[name]["source"] == "detectron2"]
    return text + "\n### Detectron2's own recipes, Mask R-CNN\n\n" + table(names) + "\n"


def table(names: list[str]) -> str:
    head = (
        "Backbone",
        "Style",
        "Schedule",
        "Memory (GB), published",
        "Box AP, published",
        "Mask AP, published",
        "Parameters (M), counted",
        "GFLOPs, counted",
        "Config",
        "Weights",
    )
    verified = json.loads(VERIFIED.read_text()) if VERIFIED.is_file() else {}
    measured = {"Box AP, measured": "box_ap", "Mask AP, measured": "mask_ap"} if verified else {}
    head = (*head[:6], *measured, *head[6:])
    lines = [head, ["---"] * 3 + ["--:"] * (5 + len(measured)) + ["---"] * 2]
    for name in names:
        facts = model_zoo.rows()[name]
        body, schedule = _body_and_schedule(name)
        lines.append(
            (
                body,
                "pytorch",
                schedule,
                _number(facts["mem_gb"]),
                _number(facts["box_ap"]),
                _number(facts["mask_ap"]),
                *(_number(verified.get(name, {}).get(key)) for key in measured.values()),
                f"{facts['params'] / 1e6:.1f}",
                f"{facts['flops'] / 1e9:.0f}",
                f"[`{name}`](configs/{name}.py) · [yaml](configs/yaml/{name}.yaml)",
                f"[download]({facts['url']})" if facts["url"] else "–",
            )
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _body_and_schedule(name: str) -> tuple[str, str]:
    rest = next(name.removeprefix(f"{each}_") for each in TITLES if name.startswith(f"{each}_"))
    body, _, schedule = rest.partition("_fpn_")
    body, deformable = body.removesuffix("_dcn"), body.endswith("_dcn")
    body, frozen = body.removesuffix("_dds"), body.endswith("_dds")
    body = BODIES.get(body) or arch_name(body)
    notes = {
        ", deformable s2–s4": deformable,
        ", FrozenBN": frozen,
        ", RGB": body.startswith("RegNet")
        and model_zoo.get_config(name).model.input_format == "RGB",
    }
    return body + "".join(note for note, holds in notes.items() if holds), schedule


def _input_format(name: str) -> str:
    return model_zoo.get_config(name).model.input_format


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())

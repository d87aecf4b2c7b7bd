"""Lists the published models, and prints or saves the config of one."""

import argparse
import json
from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from tabulate import tabulate

from d2_regnet import model_zoo
from d2_regnet.utils.cli import ToolParser, bad_input
from d2_regnet.utils.files import check_file, write_file

_EXAMPLES = """
All models, with their published AP; those of one kind:
    $ %(prog)s
    $ %(prog)s retinanet

The complete config of one, and a copy of its file to start from:
    $ %(prog)s --config mask_rcnn_regnetx_400mf_fpn_3x
    $ %(prog)s --config mask_rcnn_regnetx_400mf_fpn_3x --save my_config.py
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet zoo", dry_run="with --save: write nothing"
    )
    parser.add_argument(
        "part", nargs="?", default="", metavar="PART", help="part of the names to list"
    )
    parser.add_argument("--json", action="store_true", help="print all that is published, as JSON")
    parser.add_argument("--config", metavar="NAME", help="print this model's complete config")
    parser.add_argument("--save", type=Path, metavar="FILE", help="copy its config file to FILE")
    parser.add_overwrite("a FILE that exists")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        if args.save:
            text = save(args)
        elif args.config:
            text = config(args.config)
        else:
            found = matching(args.part)
            text = json.dumps(found, indent=1) if args.json else table(found)
    print(text)
    return 0


def matching(part: str) -> dict[str, dict]:
    """What is published about each model whose name contains `part`; ValueError if none does."""
    found = {name: facts for name, facts in model_zoo.rows().items() if part.lower() in name}
    if not found:
        raise ValueError(f"no model's name contains {part!r}; d2-regnet zoo lists all")
    return found


def table(found: dict[str, dict]) -> str:
    lines = [
        (name, facts["box_ap"], facts["mask_ap"], round(facts["flops"] / 1e9))
        for name, facts in found.items()
    ]
    heads = ("model", "box AP", "mask AP", "GFLOPs")
    return tabulate(lines, heads, floatfmt=("", ".1f", ".1f", "d"), missingval="-")


def config(name: str) -> str:
    """All keys of a model's config: of a `.yaml` name as yacs has them, else as LazyConfig has."""
    cfg = model_zoo.get_config(name)
    return (cfg.dump() if isinstance(cfg, CfgNode) else LazyConfig.to_py(cfg)).strip()


def save(args: argparse.Namespace) -> str:
    """Copies the file of a config; what is to be said of it."""
    if not args.config:
        raise ValueError("--save needs --config NAME: the model whose config is to be saved")
    source = Path(model_zoo.get_config_file(args.config))
    if args.save.suffix != source.suffix:
        raise ValueError(f"--save {args.save}: a copy of {source.name} ends in {source.suffix}")
    check_file(args.save, "--save", overwrite=args.overwrite)
    if not args.dry_run:
        write_file(args.save, source.read_bytes())
    return f"{'Would write' if args.dry_run else 'Wrote'} {args.save}"

"""Lists the published models, and prints or saves the config of one."""

import argparse
from pathlib import Path

from detectron2.config import CfgNode, LazyConfig

from d2_regnet import model_zoo
from d2_regnet.utils.cli import ToolParser, bad_input
from d2_regnet.utils.files import whole_file

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
    parser.add_argument("part", nargs="?", default="", metavar="PART", help="of the models' names")
    parser.add_argument("--config", metavar="NAME", help="print this model's complete config")
    parser.add_argument("--save", type=Path, metavar="FILE", help="copy its config file to FILE")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        if args.save:
            return save(args)
        print(config(args.config) if args.config else table(args.part))
    return 0


def table(part: str) -> str:
    """Name, box AP and mask AP of each model whose name contains `part`.

    Raises:
        ValueError: no name does.
    """
    rows = {name: facts for name, facts in model_zoo.rows().items() if part.lower() in name}
    if not rows:
        raise ValueError(f"no model's name contains {part!r}; d2-regnet zoo lists all")
    width = max(map(len, rows))
    lines = [f"{'model':{width}}  box AP  mask AP  GFLOPs"]
    for name, facts in rows.items():
        box, mask = (f"{facts[key]:.1f}" if facts[key] else "-" for key in ("box_ap", "mask_ap"))
        lines.append(f"{name:{width}}  {box:>6}  {mask:>7}  {facts['flops'] / 1e9:6.0f}")
    return "\n".join(lines)


def config(name: str) -> str:
    cfg = model_zoo.get_config(name)
    return cfg.dump() if isinstance(cfg, CfgNode) else LazyConfig.to_py(cfg)


def save(args: argparse.Namespace) -> int:
    if not args.config:
        raise ValueError("--save needs --config NAME: the model whose config is to be saved")
    text = Path(model_zoo.get_config_file(args.config)).read_bytes()
    if args.save.exists():
        raise FileExistsError(f"{args.save} exists; choose another --save")
    if not args.dry_run:
        with whole_file(args.save) as file:
            file.write(text)
    print(f"{'Would be written' if args.dry_run else 'Written'}: {args.save}")
    return 0

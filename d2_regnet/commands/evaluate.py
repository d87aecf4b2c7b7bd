"""Measures the AP of a model, by class, on its own test data or on yours."""

import argparse

from d2_regnet.utils.cli import ToolParser

_EXAMPLES = """
A published model on COCO val2017 (DETECTRON2_DATASETS names the folder that holds coco/):
    $ %(prog)s --model mask_rcnn_regnetx_400mf_fpn_3x

Your own detector on your own data:
    $ %(prog)s --model output/mine --data val/ val.json
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet evaluate", dry_run="check everything, and stop"
    )
    parser.add_model()
    parser.add_argument(
        "--data", nargs=2, metavar=("IMAGES", "ANN"), help="default: the config's test data"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    argument_parser().parse_args(argv)
    return 1

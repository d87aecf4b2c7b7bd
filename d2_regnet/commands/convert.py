"""Converts a RegNet checkpoint of another project to one that Detectron2 loads."""

from d2_regnet.checkpoint.conversion import INPUT_FORMATS, SOURCES, convert
from d2_regnet.utils.cli import ToolParser, bad_input

_EXAMPLES = """
A detector of MMDetection; the source and the arch are recognised:
    $ %(prog)s mask_rcnn_regnetx-400MF.pth mask_rcnn.pth

A backbone of torchvision, for a config of BGR images:
    $ %(prog)s regnet_x_400mf-adf1edd5.pth regnetx_400mf.safetensors --input-format BGR

A classifier of pycls, and no other:
    $ %(prog)s --source pycls RegNetX-400MF_dds_8gpu.pyth regnetx_400mf.pth
"""


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="d2-regnet convert",
        dry_run="convert and check everything, write nothing",
    )
    parser.add_argument("src", metavar="SRC", help="a file of torch.save, .safetensors or .pkl")
    parser.add_argument("dst", metavar="DST", help="file to write: .pth, .safetensors or .pkl")
    parser.add_argument("--source", default="auto", help=f"auto, {', '.join(SOURCES)}")
    parser.add_argument("--arch", default="auto", help="auto, or a name such as RegNetX-3.2GF")
    parser.add_argument(
        "--input-format",
        help=f"{' or '.join(INPUT_FORMATS)}: channel order of the images (the source's own)",
    )
    parser.add_overwrite("a DST that exists")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        report = convert(
            args.src,
            args.dst,
            source=None if args.source == "auto" else args.source,
            arch=None if args.arch == "auto" else args.arch,
            input_format=args.input_format,
            overwrite=args.overwrite,
            dry_run=args.dry_run,
        )
    print(report)
    if args.verbose:
        for name, target in report.mapped.items():
            print(f"mapped {name} -> {target}")
        for name, reason in report.dropped.items():
            print(f"dropped {name}: {reason}")
    if args.dry_run:
        print("Dry run: nothing was written")
    return 0

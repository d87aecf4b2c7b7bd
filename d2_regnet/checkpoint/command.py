"""The command line of the tools that convert checkpoints."""

from d2_regnet.checkpoint.convert import INPUT_FORMATS, SOURCES, convert
from d2_regnet.cli import ToolParser, bad_input

_ANY_SOURCE = """
A detector of MMDetection; the source and the arch are recognised:
    $ %(prog)s mask_rcnn_regnetx-400MF.pth mask_rcnn.pth

A body of torchvision, for a config of BGR pictures:
    $ %(prog)s regnet_x_400mf-adf1edd5.pth regnetx_400mf.safetensors --input-format BGR
"""
_ONE_SOURCE = """
    $ %(prog)s RegNetX-400MF_dds_8gpu.pyth regnetx_400mf.pth
"""


def main(description: str, source: str | None = None, argv: list[str] | None = None) -> int:
    """Converts as the command line says, and prints what was done.

    Args:
        description: shown by `--help`.
        source: the only source of this tool; by default `--source` chooses, or the file shows.
        argv: arguments, `sys.argv[1:]` by default.

    Returns:
        0.

    Raises:
        SystemExit: with code 2 and one line on stderr where there is nothing to convert.
    """
    parser = ToolParser(
        description,
        _ONE_SOURCE if source else _ANY_SOURCE,
        dry_run="convert and check everything, write nothing",
    )
    parser.add_argument("src", metavar="SRC", help="a file of torch.save, .safetensors or .pkl")
    parser.add_argument("dst", metavar="DST", help="file to write: .pth, .safetensors or .pkl")
    if source is None:
        parser.add_argument("--source", default="auto", help=f"auto, {', '.join(SOURCES)}")
    parser.add_argument("--arch", default="auto", help="auto, or a name such as RegNetX-3.2GF")
    parser.add_argument(
        "--input-format",
        help=f"{' or '.join(INPUT_FORMATS)}: channel order of the pictures (the source's own)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing DST")
    args = parser.parse_args(argv)
    wanted = source or (None if args.source == "auto" else args.source)
    with bad_input(args.verbose):
        report = convert(
            args.src,
            args.dst,
            source=wanted,
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

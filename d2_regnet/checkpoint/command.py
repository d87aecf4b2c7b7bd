"""The command line of the tools that convert checkpoints."""

import argparse

from d2_regnet.checkpoint.convert import INPUT_FORMATS, SOURCES, convert
from d2_regnet.cli import bad_input


def main(description: str, source: str | None = None, argv: list[str] | None = None) -> None:
    """Converts as the command line says, and prints one line about it.

    Args:
        description: shown by `--help`.
        source: the only source of this tool; by default `--source` chooses, or the file shows.
        argv: arguments, `sys.argv[1:]` by default.

    Raises:
        SystemExit: with code 2 and one line on stderr where there is nothing to convert.
    """
    parser = argparse.ArgumentParser(description=description)
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
    parser.add_argument("--verbose", action="store_true", help="list tensors; tracebacks of errors")
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
        )
    print(report)
    if args.verbose:
        for name, target in report.mapped.items():
            print(f"mapped {name} -> {target}")
        for name, reason in report.dropped.items():
            print(f"dropped {name}: {reason}")

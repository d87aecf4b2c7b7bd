"""The installed command: `d2-regnet NAME ...`, also `python -m d2_regnet NAME ...`.

One module of this folder for each NAME, with `argument_parser()` and `main(argv)`.
"""

import importlib
import os
import select
import signal
import sys

import d2_regnet
from d2_regnet.utils.cli import BAD_INPUT, ignore_deprecations
from d2_regnet.utils.threads import spin_briefly

COMMANDS = {
    "train": "train or evaluate a config, with Detectron2's own flags",
    "evaluate": "AP of a model, by class, on its test data or on your own",
    "predict": "find and draw objects in images, videos or camera frames",
    "finetune": "train a detector of your own classes from a trained one",
    "export": "write a whole detector as ONNX or TorchScript",
    "convert": "convert a checkpoint of another project",
    "check-dataset": "find what is wrong with a data set, and write a cleaned one",
    "report": "one HTML page of training runs",
    "design": "describe, sample, time and compare RegNets",
    "zoo": "list the published models, and print or save their configs",
    "replay": "run a batch again whose losses were not finite",
    "slurm": "submit a training to SLURM",
}


def main(argv: list[str] | None = None) -> int | None:
    """Runs one command.

    Args:
        argv: its name and its arguments; default: those of the program.

    Returns:
        The exit code; None is success.

    Raises:
        SystemExit: after `--help`, and with code 2 if there is no such command.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else BAD_INPUT
    if argv[0] in ("-V", "--version"):
        print(f"d2-regnet {d2_regnet.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        from d2_regnet.archs import suggest

        print(f"error: there is no command {name!r}: {suggest(name, COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    spin_briefly()
    if "--verbose" not in rest:
        ignore_deprecations()  # those of imports, too
    try:
        code = importlib.import_module(f".{name.replace('-', '_')}", __name__).main(rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return 128 + signal.SIGPIPE


def _output_is_closed() -> bool:
    """Whether who read the output has gone, as `head` does; then the rest goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def usage() -> str:
    """What `d2-regnet --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "RegNet for Detectron2.",
            "",
            "Usage: d2-regnet COMMAND ...    (d2-regnet COMMAND --help explains each)",
            "",
            *lines,
        ]
    )

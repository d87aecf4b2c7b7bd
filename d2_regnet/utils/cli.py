"""What all command-line tools share: their options, their help, and how they end.

Exit codes: 0, done; 1, the work failed; 2, the input is at fault and nothing was done.
"""

import argparse
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

FAILED = 1
BAD_INPUT = 2
# What Detectron2's own code sets off besides FutureWarnings, of no use to who runs a tool.
_WARNINGS = "pkg_resources is deprecated|torch.meshgrid"
_EXIT_CODES = "Exit codes: 0, done; 1, failed; 2, bad input, before anything is written."


class ToolParser(argparse.ArgumentParser):
    """argparse's parser with `--verbose`, examples below the help, and errors of one line."""

    def __init__(
        self,
        description: str,
        examples: str = "",
        *,
        exit_codes: str = _EXIT_CODES,
        dry_run: str | None = None,
        **kwargs,
    ):
        """
        Args:
            examples: command lines that work, each below a line about it; `%(prog)s` is the tool.
            exit_codes: a sentence, where they are not `_EXIT_CODES`.
            dry_run: adds `--dry-run` with this help.
        """
        shown = examples.strip("\n")
        epilog = f"Examples:\n\n{shown}\n\n{exit_codes}" if examples else exit_codes
        kwargs = {
            "prog": f"python {sys.argv[0]}",  # so that examples can be pasted
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        } | kwargs
        super().__init__(description=description, epilog=epilog, **kwargs)
        self.add_argument(
            "--verbose",
            action="store_true",
            default=argparse.SUPPRESS,  # else a sub-command's default would undo the parser's
            help="show where an error was found, and more",
        )
        if dry_run:
            self.add_argument("--dry-run", action="store_true", help=dry_run)

    def add_model(self, *more: str) -> None:
        """Adds `--model` and `--weights`, which `d2_regnet.inference.find_model` takes.

        Args:
            *more: what else the command takes for a model.
        """
        kinds = ["a name that `d2-regnet zoo` lists", "a config (.py, .yaml)", "a run's folder"]
        *kinds, last = [*kinds, *more]
        about = f"{', '.join(kinds)}, or {last}"
        self.add_argument("--model", required=True, metavar="MODEL", help=about)
        about = "default: the published ones, or the run's best or newest"
        self.add_argument("--weights", metavar="PATH", help=about)

    def add_device(self) -> None:
        """Adds `--device` and `--dtype`, which `d2_regnet.inference.Predictor` takes."""
        from .dtypes import DTYPES  # loads torch, which most of --help does without

        about = "cpu, cuda or cuda:N (default: the GPU, if there is one)"
        self.add_argument("--device", help=about)
        about = "prepare the model in it (default: as it was trained)"
        self.add_argument("--dtype", choices=DTYPES, help=about)

    def add_formats(self, of: str, formats: Sequence[str], unlabelled: Sequence[str]) -> None:
        """Adds `--format` and `--unlabelled`, which `d2_regnet.data.formats.read_dataset` takes."""
        self.add_argument("--format", choices=formats, help=f"of {of} (default: recognised)")
        self.add_argument(
            "--unlabelled",
            choices=unlabelled,
            help="images without a label file: leave them out, or take them as showing nothing "
            "(default: skip, but empty for YOLO)",
        )

    def add_overwrite(self, what: str = "files that exist") -> None:
        self.add_argument("--overwrite", action="store_true", help=f"replace {what}")

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="print JSON instead of tables")

    def parse_args(self, args=None, namespace=None):
        """As argparse's; from here on deprecations of others' code show with `--verbose` only."""
        return _quiet(super().parse_args(args, namespace or argparse.Namespace(verbose=False)))

    def parse_intermixed_args(self, args=None, namespace=None):
        """As argparse's, with the same effect as `parse_args`."""
        namespace = namespace or argparse.Namespace(verbose=False)
        return _quiet(super().parse_intermixed_args(args, namespace))

    def error(self, message):
        """One line and exit code 2; argparse would print its usage as well."""
        self.exit(BAD_INPUT, f"error: {message} ({self.prog} --help shows what there is)\n")


def _quiet(args: argparse.Namespace) -> argparse.Namespace:
    if not args.verbose:
        ignore_deprecations()
    return args


def ignore_deprecations() -> None:
    """Of others' code, and of no use to who runs a command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=_WARNINGS)


def bad_input(verbose: bool = False):
    """For parsing and validation: ends the program with one clear line where input is at fault.

    Raises:
        SystemExit: with code 2, in place of the ValueError, OSError or ImportError raised inside;
            the traceback is printed if `verbose`.
    """
    return _one_line((ValueError, OSError, ImportError), BAD_INPUT, verbose)


def failure(verbose: bool = False):
    """For the work itself: as `bad_input`, with code 1 in place of any Exception."""
    return _one_line((Exception,), FAILED, verbose)


def say(line: str) -> None:
    """What is not a result of a command goes to stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _one_line(kinds: tuple, code: int, verbose: bool) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who reads the output has gone: `commands.main` knows
        raise
    except kinds as error:
        if verbose:
            traceback.print_exc()
        line = " ".join(str(error).split()) or type(error).__name__
        hint = "" if verbose or code == BAD_INPUT else " (--verbose shows where)"
        print(f"error: {line}{hint}", file=sys.stderr)
        raise SystemExit(code) from error

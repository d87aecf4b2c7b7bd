"""Finds faults in a data set, and writes a cleaned annotation file; see docs/guides/data.md."""

import argparse
import functools
import json
import os
from collections import defaultdict

from tabulate import tabulate
from tqdm import tqdm

import d2_regnet  # noqa: F401  registers its data sets
from d2_regnet.data.before_training import dataset_names
from d2_regnet.data.browsing import draw
from d2_regnet.data.checks import check_annotations
from d2_regnet.data.cleaning import cleaned, crowd_as_objects
from d2_regnet.data.findings import Finding, Kind
from d2_regnet.data.formats import FORMATS, UNLABELLED, read_dataset
from d2_regnet.data.image_checks import check_images
from d2_regnet.data.registered import load_registered
from d2_regnet.model_zoo.loading import load_any
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import check_file, write_file

_EXAMPLES = """
All data sets of a config:
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x.yaml

Your own annotations, read to the last pixel, and a cleaned copy:
    $ %(prog)s --json train.json --images train/ --decode --fix-to train_clean.json
"""


_EXIT_CODES = (
    "Exit codes: 0, no faults, or only notes; 1, errors or warnings, or the check failed; 2, bad "
    "input, before anything is written."
)


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="d2-regnet check-dataset",
        exit_codes=_EXIT_CODES,
        dry_run="with --fix-to: say what would be written, write nothing",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config-file",
        metavar="FILE",
        help="a config, a model's name, or a run's folder",
    )
    source.add_argument("--dataset", metavar="NAME", help="a registered data set")
    source.add_argument(
        "--json",
        metavar="ANN",
        help="annotations of any format that `finetune` reads: COCO's file, or a folder",
    )
    parser.add_argument("--images", metavar="DIR", help="folder of the images of --json")
    parser.add_formats("--json", FORMATS, UNLABELLED)
    parser.add_argument(
        "--crowd-as-objects",
        action="store_true",
        help="read crowd regions as objects; CVAT exports masks as crowds",
    )
    parser.add_argument(
        "--draw",
        metavar="DIR",
        help="write images with their annotations, and counts by class, size and aspect ratio",
    )
    parser.add_argument("--decode", action="store_true", help="read every pixel, not only headers")
    parser.add_argument(
        "--threads", type=int, default=8, help="images read at once (default: %(default)s)"
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=3,
        help="examples shown of each kind of fault (default: %(default)s)",
    )
    parser.add_argument("--fix-to", metavar="NEW.json", help="write a cleaned file")
    parser.add_overwrite("a NEW.json that exists")
    parser.add_argument(
        "opts", nargs="*", metavar="key=value", help="overrides of the config; for YAML, KEY VALUE"
    )
    return parser


def read_any(args: argparse.Namespace, annotations: str) -> tuple[dict, str, str]:
    """As `load_registered`, of files; what the reader has left out is printed."""
    coco, account = read_dataset(args.images, annotations, args.format, unlabelled=args.unlabelled)
    for line in account.lines():
        print(f"{annotations}: {line}")
    return coco, args.images, annotations


def find_sources(args) -> dict[str, tuple]:
    """Loader and its argument, by the name to print."""
    if args.json:
        if not args.images:
            raise ValueError("--json needs --images, the folder of its images")
        if not os.path.isdir(args.images):
            raise FileNotFoundError(f"--images: there is no folder {args.images}")
        return {args.json: (functools.partial(read_any, args), args.json)}
    if args.dataset:
        return {args.dataset: (load_registered, args.dataset)}
    names = dataset_names(load_any(args.config_file, args.opts))
    if not any(names.values()):
        raise ValueError(
            f"{args.config_file} names no data set: it has neither dataloader.train.dataset.names "
            "nor, in YAML, DATASETS.TRAIN"
        )
    return {name: (load_registered, name) for part in names.values() for name in part}


def check_arguments(args, sources: dict) -> None:
    if args.threads < 1 or args.examples < 0:
        raise ValueError("--threads must be at least 1 and --examples at least 0")
    if args.opts and not args.config_file:
        raise ValueError(f"{args.opts[0]}: overrides go with --config-file")
    if not args.fix_to:
        return
    if len(sources) > 1:
        raise ValueError(f"--fix-to writes one file: choose one --dataset of {', '.join(sources)}")
    check_file(args.fix_to, "--fix-to", overwrite=args.overwrite)


def check_target(target: str, original: str | None) -> None:
    if original is None:
        raise ValueError("--fix-to: the data set is not in a COCO file, of which to write another")
    if os.path.exists(target) and os.path.exists(original) and os.path.samefile(target, original):
        raise ValueError(f"--fix-to: {target} is the original, which is never changed")


def table(findings, examples: int) -> str:
    """Kinds by level, with their count and the first examples."""
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding.detail)
    rows = [
        (kind.level, kind, len(by_kind[kind]), "\n".join(by_kind[kind][:examples]))
        for kind in Kind
        if kind in by_kind
    ]
    return tabulate(rows, headers=("level", "finding", "count", "examples"))


def size(coco: dict) -> str:
    return f"{len(coco['images'])} images, {len(coco.get('annotations', []))} annotations"


def write_fixed(args, coco: dict, findings: list[Finding]) -> None:
    """The cleaned file, and beside it a list of what was removed or changed.

    Raises:
        ValueError: the boxes are of another form, which no cleaning mends.
    """
    wrong = [f for f in findings if f.kind == Kind.FORM_OF_BOXES]
    if wrong:
        raise ValueError(f"--fix-to: {args.fix_to} is not written: {wrong[0].detail}: convert them")
    fixed, lines = cleaned(coco, findings)
    listed = f"{args.fix_to}.changes.txt"
    if not args.dry_run:
        for path, text in ((args.fix_to, json.dumps(fixed)), (listed, "\n".join([*lines, ""]))):
            write_file(path, text)
    done = "Would write" if args.dry_run else "Wrote"
    print(f"{done} {args.fix_to}: {size(fixed)}; {len(lines)} change(s), listed in {listed}")


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        sources = find_sources(args)
        check_arguments(args, sources)
    bad = 0
    for name, (load, argument) in sources.items():
        with bad_input(args.verbose):
            coco, folder, original = load(argument)
            if args.crowd_as_objects:
                coco = crowd_as_objects(coco)
            if args.fix_to:
                check_target(args.fix_to, original)
            findings = check_annotations(coco)
        images = coco["images"]
        with failure(args.verbose):
            findings += check_images(
                images,
                folder,
                decode=args.decode,
                threads=args.threads,
                progress=functools.partial(tqdm, total=len(images), desc="images", disable=None),
            )
        levels = [finding.level for finding in findings]
        counts = ", ".join(f"{levels.count(x)} {x}(s)" for x in ("error", "warning", "note"))
        print(f"{name}: {size(coco)}: {counts}")
        if findings:
            print(table(findings, args.examples))
        bad += len(levels) - levels.count("note")
        with bad_input(args.verbose):
            if args.fix_to:
                write_fixed(args, coco, findings)
        if args.draw and not args.dry_run:
            with failure(args.verbose):
                draw(cleaned(coco, findings)[0], folder, args.draw)  # what cannot be drawn is told
            print(f"Drew {args.draw}")
    return 1 if bad else 0

"""Evaluates the published weights on COCO val2017, and sets the measured AP beside the published
one in MODEL_ZOO.md."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from d2_regnet import __version__, model_zoo
from d2_regnet.utils.cli import ToolParser, bad_input, failure
from d2_regnet.utils.files import whole_file

_EXAMPLES = """
All models with published weights, on 8 GPUs; the same command continues after a stop:
    $ export DETECTRON2_DATASETS=datasets
    $ %(prog)s --num-gpus 8

One model on a CPU, from weights in a folder; then the tables of MODEL_ZOO.md:
    $ D2_REGNET_MIRROR=weights %(prog)s --models retinanet_regnetx_800mf_fpn_1x train.device=cpu
    $ %(prog)s --write
    $ python docs/generate_model_zoo.py
"""
FACTS = Path(__file__).resolve().parents[1] / "docs" / "verified.json"
VAL2017 = 5000  # images
_TASKS = {"box_ap": "bbox/AP", "mask_ap": "segm/AP"}


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__,
        _EXAMPLES,
        prog="python -m benchmarks.verify_zoo",
        dry_run="list what would be evaluated, and what there is already",
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="default: all that have published weights"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes of a job (default: 1)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/verified"),
        metavar="DIR",
        help="NAME.json for each model; those that are there are skipped (default: %(default)s)",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"put the results into docs/{FACTS.name}, and stop"
    )
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY=VALUE",
        help="last; as d2-regnet train's",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    models = [each for each in args.models or published() if "=" not in each]
    args.overrides += [each for each in args.models or () if "=" in each]
    with bad_input(args.verbose):
        if args.write:
            return write(args.output)
        models = [checked(each) for each in models]
        if args.num_gpus < 1:
            raise ValueError(f"--num-gpus must be at least 1, not {args.num_gpus}")
    waiting = [name for name in models if not result_file(args.output, name).is_file()]
    print(
        f"{len(waiting)} to evaluate, {len(models) - len(waiting)} done: {args.output}", flush=True
    )
    if args.dry_run:
        print("\n".join(waiting))
        return 0
    failed = []
    with failure(args.verbose):
        for name in waiting:
            if not evaluated(name, args):
                failed.append(name)
    print(comparison(args.output, models))
    for name in failed:
        print(f"failed: {name}: see {args.output / name / 'log.txt'}", file=sys.stderr)
    return 1 if failed else 0


def published() -> list[str]:
    return [name for name, facts in model_zoo.rows().items() if facts["url"]]


def checked(name: str) -> str:
    """The model's own name.

    Raises:
        ValueError: there is no such model, or none of its weights are published.
    """
    model_zoo.get_checkpoint_url(name)
    return model_zoo.canonical_name(name)


def result_file(output: Path, name: str) -> Path:
    return output / f"{name}.json"


def evaluated(name: str, args: argparse.Namespace) -> bool:
    """Evaluates one model in processes of its own and writes its result; False if that failed."""
    folder = args.output / name
    command = [sys.executable, "-m"]
    if args.num_gpus > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={args.num_gpus}"]
        command += ["-m"]
    command += ["d2_regnet", "train", "--config-file", name, "--eval-only", *args.overrides]
    command += [
        f"train.init_checkpoint={model_zoo.get_checkpoint_url(name)}",
        f"train.output_dir={folder}",
    ]
    print(f"{name}: {' '.join(command)}", flush=True)
    metrics = folder / "metrics.json"
    metrics.unlink(missing_ok=True)  # of a run that was stopped
    if subprocess.run(command).returncode:
        return False
    measured = json.loads(metrics.read_text().splitlines()[-1])
    facts = {key: measured[metric] for key, metric in _TASKS.items() if metric in measured}
    facts |= {"images": images(), "overrides": args.overrides}
    facts |= {"torch": torch.__version__, "d2_regnet": __version__}
    with whole_file(result_file(args.output, name)) as file:
        file.write(json.dumps(facts, indent=1).encode())
    return True


def images() -> int:
    """How many images this machine's val2017 has."""
    return len(
        json.loads(Path(MetadataCatalog.get("coco_2017_val").json_file).read_text())["images"]
    )


def comparison(output: Path, models: list[str]) -> str:
    lines = []
    for name in models:
        if result_file(output, name).is_file():
            facts = json.loads(result_file(output, name).read_text())
            row = model_zoo.rows()[name]
            pairs = [each for key in _TASKS for each in (row[key], facts.get(key))]
            lines.append([name, *pairs, facts["images"]])
    head = ["model", "box AP, published", "measured", "mask AP, published", "measured", "images"]
    return tabulate(lines, head, floatfmt=".1f", tablefmt="github")


def write(output: Path) -> int:
    """Adds the results to the facts that MODEL_ZOO.md's tables are written from.

    Raises:
        ValueError: there is none, or one is of another data set or of other settings.
    """
    found = {path.stem: json.loads(path.read_text()) for path in sorted(output.glob("*.json"))}
    if not found:
        raise ValueError(f"no results in {output}: run this command without --write first")
    for name, facts in found.items():
        changed = [each for each in facts["overrides"] if not each.startswith("train.device=")]
        if facts["images"] != VAL2017 or changed:
            what = ", ".join(changed) or f"{facts['images']} images"
            raise ValueError(
                f"{result_file(output, name)} is of {what}, not of all {VAL2017} images of "
                "val2017 with the model's own settings: remove that file"
            )
    known = json.loads(FACTS.read_text()) if FACTS.is_file() else {}
    known |= {n: {key: facts[key] for key in _TASKS if key in facts} for n, facts in found.items()}
    with whole_file(FACTS) as file:
        file.write((json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    print(f"{len(found)} results in {FACTS}; python docs/generate_model_zoo.py writes the tables")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures the AP of a model, by class, on its own test data or on yours."""

import argparse
import contextlib
import io
import json
import logging
import math
import tempfile
from pathlib import Path

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import inference_on_dataset
from tabulate import tabulate

from d2_regnet.checkpoint.fitting import same_names
from d2_regnet.data.before_training import check_before_training, dataset_names
from d2_regnet.data.cleaning import mended
from d2_regnet.data.findings import refuse_errors
from d2_regnet.data.formats import FORMATS, UNLABELLED, read_dataset
from d2_regnet.data.image_checks import refuse_unusable
from d2_regnet.data.mapper import RobustMapper
from d2_regnet.data.objects import nothing_usable, objects_of, with_categories
from d2_regnet.data.shapes import register_named_shapes
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.inference import Predictor
from d2_regnet.inference.exported import find_predictor
from d2_regnet.utils.cli import ToolParser, bad_input, failure, say
from d2_regnet.utils.dtypes import DTYPES
from d2_regnet.utils.files import check_folder, write_file
from d2_regnet.utils.progress import progress

_EXAMPLES = """
A published model on COCO val2017 (DETECTRON2_DATASETS names the folder that holds coco/):
    $ %(prog)s --model mask_rcnn_regnetx_400mf_fpn_3x

Your own detector on your own data, with the results in files:
    $ %(prog)s --model output/mine --data val/ val.json --output output/evaluated
"""
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TITLES = {"bbox": "box", "segm": "mask"}
RESULTS, METRICS, ANNOTATIONS = "coco_instances_results.json", "metrics.json", "annotations.json"


def argument_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet evaluate", dry_run="check everything, and stop"
    )
    parser.add_model("a file of `d2-regnet export`")
    parser.add_argument(
        "--data",
        nargs=2,
        metavar=("IMAGES", "ANN"),
        help="folder of images; COCO's JSON file, or the folder of the annotations "
        "(default: the config's test data)",
    )
    parser.add_formats("--data", FORMATS, UNLABELLED)
    parser.add_device()
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"write {RESULTS} and {METRICS} there"
    )
    parser.add_overwrite("files that exist")
    parser.add_json()
    return parser


def own_data(cfg) -> list[str]:
    """The registered data sets that a config is evaluated on; an exported file has None.

    Raises:
        ValueError: it names none, or one that is not registered, or that cannot be evaluated.
    """
    names = [] if cfg is None else dataset_names(cfg)["test"]
    if not names:
        raise ValueError("--model names no test data: name some with --data IMAGES ANN")
    for name in names:
        register_named_shapes(name)
        if name not in DatasetCatalog:
            raise ValueError(
                f"the test data {name!r} is not registered here: name some with --data IMAGES ANN"
            )
    check_before_training(cfg, eval_only=True)
    return names


def check_names(name: str, classes: list[str]) -> None:
    """
    Raises:
        ValueError: a data set has other classes than the model, or in another order.
    """
    own = MetadataCatalog.get(name).get("thing_classes") or classes
    if not same_names(own, classes):
        raise ValueError(
            f"{name} has the classes {', '.join(own[:5])}, ..., and the weights have "
            f"{', '.join(classes[:5])}, ...: evaluate its file with --data IMAGES ANN, which goes "
            "by the names"
        )


def in_order_of(coco: dict, classes: list[str], origin: str) -> dict:
    """A COCO dict with the classes of a model, in its order; their ids then count from 1.

    Returns:
        `coco` itself, where it has them already.

    Raises:
        ValueError: it has a class that the model does not have, or two of one name.
    """
    names = [each["name"] for each in sorted(coco["categories"], key=lambda each: each["id"])]
    if names == classes:
        return coco
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return with_categories(coco, categories, origin, "the model")


def register_data(args: argparse.Namespace, classes: list[str], folder: Path) -> str:
    """Checks `--data` and registers it; `folder` takes its annotations where they are changed.

    Returns:
        Its name.

    Raises:
        ValueError, FileNotFoundError: what is wrong with it.
    """
    images, annotations = args.data
    coco, account = read_dataset(images, annotations, args.format, unlabelled=args.unlabelled)
    remedy = "`d2-regnet check-dataset` lists them and writes a cleaned file"
    coco, findings, lines = mended(was := coco)
    refuse_unusable(coco["images"], images, annotations)
    refuse_errors(findings, annotations, remedy)
    if not (objects := objects_of(coco)):
        raise ValueError(nothing_usable(coco, f"--data: {annotations}"))
    if not any(each.get("segmentation") for each in objects):
        lines.append("its objects have no masks, so there is no mask AP")
    ordered = in_order_of(coco, classes, annotations)
    for line in account.lines() + lines:
        say(f"--data: {line}")
    if missing := set(classes) - {each["name"] for each in coco["categories"]}:
        say(f"--data: it does not have {', '.join(sorted(missing))}: no AP of them")
    file = Path(annotations)
    if account.rewritten or ordered is not was:
        file = folder / ANNOTATIONS
        file.write_text(json.dumps(ordered))
    name = f"{annotations} with {images}"
    if name in DatasetCatalog:  # from an earlier call in this process
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, str(file), str(images))
    return name


def check_output(args: argparse.Namespace) -> None:
    if args.output is None:
        return
    check_folder(args.output)
    there = [f for f in (RESULTS, METRICS, ANNOTATIONS) if (args.output / f).exists()]
    if there and not args.overwrite:
        raise FileExistsError(
            f"--output: {args.output / there[0]} exists; choose another folder, or --overwrite it"
        )


def evaluate(predictor: Predictor, name: str, records: list[dict], output: Path | None) -> dict:
    """COCO's metrics in percent, by task: `{"bbox": {"AP": ..., "AP-person": ...}, ...}`."""
    mapper = RobustMapper(
        is_train=False, augmentations=predictor.augmentations, image_format=predictor.input_format
    )
    loader = build_detection_test_loader(records, mapper=mapper, num_workers=0)
    evaluator = FastCOCOEvaluator(name, output_dir=output and str(output))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        return inference_on_dataset(predictor.model, progress(loader, desc="images"), evaluator)


def tables(results: dict) -> str:
    """The overall metrics of each task, and its AP by class."""
    if not results:
        return "The test data has no annotations, so there is no AP"
    overall = [
        [_TITLES.get(task, task), *(_shown(found.get(each, math.nan)) for each in _METRICS)]
        for task, found in results.items()
    ]
    classes = dict.fromkeys(
        key.removeprefix("AP-") for found in results.values() for key in found if "AP-" in key
    )
    by_class = [
        [name, *(_shown(found.get(f"AP-{name}", math.nan)) for found in results.values())]
        for name in classes
    ]
    heads = ["class", *(f"{_TITLES.get(task, task)} AP" for task in results)]
    parts = [tabulate(overall, ["", *_METRICS], disable_numparse=True, stralign="right")]
    if by_class:
        align = ["left", *["right"] * len(results)]
        parts.append(tabulate(by_class, heads, disable_numparse=True, colalign=align))
    else:
        parts.append("Nothing was detected")
    return "\n\n".join(parts)


def _shown(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "n/a"


def as_json(results: dict) -> dict:
    """`results` with null for what is not a number."""
    return {
        task: {key: value if math.isfinite(value) else None for key, value in found.items()}
        for task, found in results.items()
    }


def write(output: Path, text: str, annotations: Path) -> None:
    """What the evaluator does not write: the metrics, and the annotations where they changed."""
    files = {METRICS: text.encode()}
    if annotations.exists():
        files[ANNOTATIONS] = annotations.read_bytes()
    for name, content in files.items():
        write_file(output / name, content)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    for name in ("fvcore", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        with bad_input(args.verbose):
            check_output(args)
            build, cfg, weights = find_predictor(args.model, args.weights)
            names = [] if args.data else own_data(cfg)
            predictor = build(device=args.device, dtype=DTYPES.get(args.dtype))
            names = names or [register_data(args, predictor.classes, Path(folder))]
            records = {n: get_detection_dataset_dicts(n, filter_empty=False) for n in names}
            for name in names:
                check_names(name, predictor.classes)
        for name, images in records.items():
            say(f"{args.model} with {weights} on {name}: {len(images)} images")
        if args.dry_run:
            return 0
        with failure(args.verbose):
            found = {n: evaluate(predictor, n, records[n], args.output) for n in names}
            facts = [
                {"model": args.model, "weights": weights, "data": name}
                | {"images": len(records[name]), "results": as_json(results)}
                for name, results in found.items()
            ]
            text = json.dumps(facts[0] if len(facts) == 1 else facts, indent=1)
            if args.output:
                write(args.output, text, Path(folder, ANNOTATIONS))
    shown = "\n\n".join(f"{name}\n\n{tables(results)}" for name, results in found.items())
    print(text if args.json else shown)
    return 0

"""Trains and evaluates small detectors, in as many processes as torchrun starts.

    torchrun --nproc-per-node N many_processes.py OUT

OUT/<detector> is a training's output folder. OUT/<n>_pictures holds the evaluation of n pictures:
COCO's results, what was predicted, and the ids of the pictures that were seen.
"""

import itertools
import json
import sys
from argparse import Namespace
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from d2_regnet.data import register_shapes
from d2_regnet.engine import evaluate, load_config, train
from d2_regnet.engine.launch import launch

FOLDER = Path(__file__).resolve().parent
STEPS = 3
PICTURES = (7, 5, 1)


class Seen(DatasetEvaluator):
    """The ids of all pictures that all processes were given."""

    def reset(self):
        self.ids = []

    def process(self, inputs, outputs):
        self.ids += [each["image_id"] for each in inputs]

    def evaluate(self):
        return {"seen": sorted(itertools.chain(*comm.gather(self.ids)))}


def config(detector, out):
    """Four pictures of different sizes a step."""
    cfg = load_config(
        str(FOLDER / f"tiny_{detector}.py"),
        [
            f"train.output_dir={out / detector}",
            f"train.max_iter={STEPS}",
            "train.device=cpu",
            "model.backbone.bottom_up.norm=EvalBN",
            "dataloader.train.total_batch_size=4",
            "train.scale_to_batch_size=false",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[40,120]",
            "dataloader.train.mapper.augmentations.0.sample_style=range",
        ],
    )
    cfg.dataloader.evaluator = None
    return cfg


def evaluated(cfg, model, pictures, out):
    (name,) = register_shapes(6, {"val": pictures})
    cfg.dataloader.test.dataset.names = name
    cfg.dataloader.evaluator = L(DatasetEvaluators)(
        evaluators=[
            L(COCOEvaluator)(dataset_name=name, output_dir=str(out), use_fast_impl=False),
            L(Seen)(),
        ]
    )
    results = evaluate(cfg, model)
    if comm.is_main_process():
        (out / "results.json").write_text(json.dumps(results))


def main(args):
    out = Path(args.out)
    for detector in ("mask_rcnn", "retinanet"):
        train(config(detector, out), console=False)
    cfg = config("mask_rcnn", out)
    cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    torch.manual_seed(1)  # so that all processes have the same model
    model = instantiate(cfg.model)
    for pictures in PICTURES:
        folder = out / f"{pictures}_pictures"
        folder.mkdir(parents=True, exist_ok=True)
        evaluated(cfg, model, pictures, folder)


if __name__ == "__main__":
    launch(main, Namespace(out=sys.argv[1], num_gpus=1, num_machines=1), "cpu")

"""Yacs configs, trained as LazyConfigs are."""

import functools
import os
from collections.abc import Callable

import detectron2.data.transforms as T
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import PreciseBN
from detectron2.evaluation import (
    COCOEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules

from d2_regnet.data.loader import build_train_loader, outlasting_signals
from d2_regnet.data.mapper import RobustMapper
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.solver import clip_gradients

from .checkpointer import Checkpointer
from .checks import Checked
from .ema import Average
from .non_finite import NonFinite
from .options import training_options
from .trainer import Trainer, unwrapped
from .training import checkpointables, distributed, fit
from .validation import validation_losses


class YacsTrainer(Trainer):
    """Trains the YAML form of a recipe, as Detectron2's `DefaultTrainer` is used.

    The loop, the checkpoints and the data loader are those of `engine.training`; the parts that
    `DefaultTrainer` lets its subclasses build are built here as there, but for
    `SOLVER.CLIP_GRADIENTS.FULL_MODEL`, `INPUT.LSJ` (see `config.add_regnet_config`), and COCO's
    evaluator for the data sets of `DATASETS.TEST`.
    """

    def __init__(self, cfg: CfgNode, checked: Checked | None = None):
        """
        Args:
            cfg: a complete config.
            checked: of a `check_config` for this training; default: the model is built here.
        """
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        device = torch.device(cfg.MODEL.DEVICE)
        model = checked.model.to(device) if checked else self.build_model(cfg)
        self._loaded = checked.weights if checked else None
        optimizer = self.build_optimizer(cfg, model)
        precision = torch.float16 if device.type == "cuda" else torch.bfloat16
        non_finite, self.options = cfg.SOLVER.NON_FINITE, training_options(cfg)
        decay = self.options.ema_decay
        super().__init__(
            distributed(model, device, broadcast_buffers=False),
            self.build_train_loader(cfg),
            optimizer,
            device=device.type,
            precision=precision if cfg.SOLVER.AMP.ENABLED else None,
            non_finite=NonFinite(
                os.path.join(cfg.OUTPUT_DIR, "non_finite"), non_finite.SKIP, non_finite.SAVE
            ),
            accumulate=self.options.accumulate,
            average=Average(model, decay) if decay else None,
        )
        self.checkpointer = Checkpointer(self.model, cfg.OUTPUT_DIR, **checkpointables(cfg, self))
        self._resume = False

    def resume_or_load(self, resume: bool = True) -> None:
        """Has `train` resume from the newest checkpoint of `OUTPUT_DIR`, if there is one."""
        self._resume = resume

    def train(self) -> dict:
        """Trains to the end; returns the last evaluation."""
        cfg, precise = self.cfg, self.cfg.TEST.PRECISE_BN
        if precise.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg)  # another, so that the training's goes on
            self.register_hooks(
                [PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, precise.NUM_ITER)]
            )
        evaluated = self.average.module if self.average else unwrapped(self.model)
        results = fit(
            self,
            self.checkpointer,
            functools.partial(self.test, cfg, evaluated),
            losses=functools.partial(validation_losses, cfg, evaluated),
            options=self.options,
            weights=cfg.MODEL.WEIGHTS,
            loaded=self._loaded,
            resume=self._resume,
            scheduler=self.build_lr_scheduler(cfg, self.optimizer),
            max_iter=cfg.SOLVER.MAX_ITER,
            checkpoints={"period": cfg.SOLVER.CHECKPOINT_PERIOD},
            eval_period=cfg.TEST.EVAL_PERIOD,
            log_period=20,
        )
        if cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(cfg, results)
        return results

    build_model = staticmethod(build_model)
    build_lr_scheduler = staticmethod(build_lr_scheduler)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Detectron2's optimizer, clipping all gradients together where the config says so."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not (clip.ENABLED and clip.FULL_MODEL):
            return build_optimizer(cfg, model)
        if clip.CLIP_TYPE != "norm":
            raise ValueError(
                f"SOLVER.CLIP_GRADIENTS.FULL_MODEL needs CLIP_TYPE norm, not {clip.CLIP_TYPE!r}"
            )
        without = cfg.clone()
        without.defrost()
        without.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = build_optimizer(without, model)
        clip_gradients(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """`data.build_train_loader`; Detectron2's where the config asks for one of its samplers."""
        mapper = train_mapper(cfg)
        if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
            return build_detection_train_loader(cfg, mapper=mapper)
        keypoints, proposals = cfg.MODEL.KEYPOINT_ON, cfg.MODEL.LOAD_PROPOSALS
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if proposals else None,
        )
        return build_train_loader(
            records,
            mapper=mapper,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Detectron2's loader, with `RobustMapper`."""
        mapper = RobustMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """COCO AP of boxes, and of masks where there are any."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        return FastCOCOEvaluator(dataset_name, output_dir=folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: torch.nn.Module,
        *,
        before_inference: Callable[[], None] | None = None,
    ) -> dict:
        """Evaluates on the data sets of `DATASETS.TEST`; calls back before each batch.

        Returns:
            task -> metric -> value; with several data sets, name -> that.
        """
        callbacks = {"before_inference": before_inference} if before_inference else None
        results = {}
        for name in cfg.DATASETS.TEST:
            with outlasting_signals(cls.build_test_loader(cfg, name)) as loader:
                evaluator = cls.build_evaluator(cfg, name)
                results[name] = inference_on_dataset(model, loader, evaluator, callbacks=callbacks)
            if comm.is_main_process():
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def evaluate(
        cls, cfg: CfgNode, checked: Checked | None = None, *, resume: bool = False
    ) -> dict:
        """`test` of `MODEL.WEIGHTS`, or of the newest checkpoint of `OUTPUT_DIR`."""
        if checked:
            return cls.test(cfg, checked.model.to(cfg.MODEL.DEVICE))
        model = cls.build_model(cfg)
        Checkpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return cls.test(cfg, model)


def train_mapper(cfg: CfgNode) -> DatasetMapper:
    """The mapper of training images, as Detectron2's for the config, or with `INPUT.LSJ`."""
    lsj = cfg.INPUT.LSJ
    if not lsj.ENABLED:
        return RobustMapper(cfg, is_train=True)
    augmentations = [
        T.ResizeScale(lsj.MIN_SCALE, lsj.MAX_SCALE, lsj.SIZE, lsj.SIZE),
        T.FixedSizeCrop((lsj.SIZE, lsj.SIZE)),
    ]
    if cfg.INPUT.RANDOM_FLIP != "none":
        flips = {cfg.INPUT.RANDOM_FLIP: True}
        augmentations.append(T.RandomFlip(**{"horizontal": False, **flips}))
    return RobustMapper(
        cfg, is_train=True, augmentations=augmentations, recompute_boxes=cfg.MODEL.MASK_ON
    )

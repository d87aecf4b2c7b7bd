"""YAML rows through Detectron2's DefaultTrainer and DefaultPredictor, and through YacsTrainer."""

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from PIL import Image

from d2_regnet import model_zoo
from d2_regnet.engine.yacs_trainer import YacsTrainer, train_mapper

CLIPPED = "mask_rcnn_regnetx_400mf_fpn_3x.yaml"


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered data set of two images with one object each."""
    name = "yacs_trainer_test"
    records = []
    for number in range(2):
        file = tmp_path / f"{number}.png"
        pixels = np.random.RandomState(number).randint(0, 255, (96, 128, 3), np.uint8)
        Image.fromarray(pixels).save(file)
        square = [20, 20, 80, 20, 80, 70, 20, 70]
        annotation = {
            "bbox": [20, 20, 80, 70],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "segmentation": [square],
            "iscrowd": 0,
        }
        records.append(
            {
                "file_name": str(file),
                "image_id": number,
                "height": 96,
                "width": 128,
                "annotations": [annotation],
            }
        )
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["square"], evaluator_type="coco")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def small(row, dataset, output):
    """A row's yacs config, for two steps on this CPU."""
    cfg = model_zoo.get_config(row)
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "DATASETS.TRAIN": (dataset,),
        "DATASETS.TEST": (),
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (),
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.BASE_LR": 1e-3,
        "INPUT.MIN_SIZE_TRAIN": (96, 96),
        "INPUT.MIN_SIZE_TEST": 96,
        "TEST.EVAL_PERIOD": 0,
        "OUTPUT_DIR": str(output),
    }
    cfg.merge_from_list([each for setting in settings.items() for each in setting])
    return cfg


@pytest.mark.parametrize(
    "trainer", [DefaultTrainer, pytest.param(YacsTrainer, marks=pytest.mark.slow)]
)
def test_a_row_trains_and_predicts(trainer, dataset, tmp_path, seed):
    cfg = small(CLIPPED, dataset, tmp_path)
    training = trainer(cfg)
    training.train()
    assert training.iter == 2
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    found = DefaultPredictor(cfg)(np.zeros((96, 128, 3), np.uint8))
    assert found["instances"].image_size == (96, 128)
    assert found["instances"].has("pred_masks")


def gradients_after_step(optimizer, parameters):
    for parameter, value in zip(parameters, (30.0, 40.0)):
        parameter.grad = torch.full_like(parameter, value)
    optimizer.step()
    return [parameter.grad.item() for parameter in parameters]


def test_all_gradients_are_clipped_together():
    cfg = model_zoo.get_config(CLIPPED)
    model = torch.nn.Linear(1, 1)
    optimizer = YacsTrainer.build_optimizer(cfg, model)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED, "the config was changed"
    found = gradients_after_step(optimizer, list(model.parameters()))
    assert found == pytest.approx([21.0, 28.0], rel=1e-5)

    model = torch.nn.Linear(1, 1)
    optimizer = DefaultTrainer.build_optimizer(cfg, model)
    found = gradients_after_step(optimizer, list(model.parameters()))
    assert found == pytest.approx([30.0, 35.0], rel=1e-5), "Detectron2 has learned to: use it"


def test_clipping_as_detectron2_where_the_config_says_so():
    cfg = model_zoo.get_config(CLIPPED)
    cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL = False
    model = torch.nn.Linear(1, 1)
    optimizer = YacsTrainer.build_optimizer(cfg, model)
    found = gradients_after_step(optimizer, list(model.parameters()))
    assert found == pytest.approx([30.0, 35.0], rel=1e-5)


def test_clipping_the_whole_by_value_is_refused():
    cfg = model_zoo.get_config(CLIPPED)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    with pytest.raises(ValueError, match="FULL_MODEL needs CLIP_TYPE norm, not 'value'"):
        YacsTrainer.build_optimizer(cfg, torch.nn.Linear(1, 1))


def test_large_scale_jitter(dataset):
    cfg = model_zoo.get_config("mask_rcnn_regnetx_4.0gf_fpn_lsj_100ep.yaml")
    mapper = train_mapper(cfg)
    kinds = [type(each) for each in mapper.augmentations.augs]
    assert kinds == [T.ResizeScale, T.FixedSizeCrop, T.RandomFlip]
    assert mapper.recompute_boxes
    mapped = mapper(DatasetCatalog.get(dataset)[0])
    assert mapped["image"].shape == (3, 1024, 1024)

    cfg.INPUT.RANDOM_FLIP = "vertical"
    flip = train_mapper(cfg).augmentations.augs[-1]
    assert (flip.horizontal, flip.vertical) == (False, True)
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(train_mapper(cfg).augmentations.augs) == 2


def test_evaluates_with_coco(tmp_path, dataset):
    cfg = model_zoo.get_config(CLIPPED)
    cfg.OUTPUT_DIR = str(tmp_path)
    assert isinstance(YacsTrainer.build_evaluator(cfg, dataset), COCOEvaluator)

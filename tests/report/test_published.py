"""Models are recognised by all their settings, and by nothing less."""

import pytest
from detectron2.config import LazyConfig

from d2_regnet import model_zoo
from d2_regnet.engine import load_config
from d2_regnet.report.published import check_model, differences, published_ap, recognise
from d2_regnet.report.runs import Run, flatten, parse_config


@pytest.fixture
def run_of(tmp_path):
    def make(model, *overrides):
        file = tmp_path / "config.yaml"
        LazyConfig.save(load_config(model, overrides), str(file))
        config = flatten(parse_config(file.read_text()))
        return Run("run", tmp_path, {1: {"total_loss": 1.0}}, {}, config=config)

    return make


@pytest.mark.parametrize(
    "model",
    [
        "mask_rcnn_regnetx_3.2gf_fpn_1x",
        "mask_rcnn_regnetx_3.2gf_dcn_fpn_1x",
        "retinanet_regnetx_800mf_fpn_1x",
        "cascade_mask_rcnn_regnetx_400mf_fpn_3x",
        "mask_rcnn_x101_32x4d_fpn_1x",
        "mask_rcnn_regnety_4.0gf_fpn_lsj_200ep",
    ],
)
def test_a_model_is_recognised(run_of, model):
    neutral = ("train.output_dir=elsewhere", "train.seed=7", "dataloader.train.num_workers=1")
    assert recognise(run_of(model, *neutral)) == model


def test_a_model_of_another_batch_size_is_recognised_where_it_is_scaled(run_of):
    model, batch = "mask_rcnn_regnetx_3.2gf_fpn_1x", "dataloader.train.total_batch_size=8"
    assert recognise(run_of(model, batch)) == model
    assert recognise(run_of(model, batch, "train.scale_to_batch_size=false")) is None


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.01",
        "train.max_iter=100",
        "dataloader.test.dataset.names=shapes_val",
        "model.roi_heads.num_classes=6",
        "train.init_checkpoint=''",
    ],
)
def test_a_changed_setting_is_no_model_and_is_named(run_of, override):
    run = run_of("mask_rcnn_regnetx_3.2gf_fpn_1x", override)
    assert recognise(run) is None
    assert [*differences(run, "mask_rcnn_regnetx_3.2gf_fpn_1x")] == [override.partition("=")[0]]


def test_one_class_by_two_addresses_is_the_same(run_of):
    run = run_of("mask_rcnn_regnetx_3.2gf_fpn_1x")
    key = "dataloader.train.mapper._target_"
    run.config[key] = "d2_regnet.data.mapper.RobustMapper"
    assert recognise(run) == "mask_rcnn_regnetx_3.2gf_fpn_1x"
    for other in ("d2_regnet.data.mapper.Gone", "detectron2.data.DatasetMapper"):
        run.config[key] = other
        assert [*differences(run, "mask_rcnn_regnetx_3.2gf_fpn_1x")] == [key]


def test_a_run_without_a_config_is_no_model(tmp_path):
    assert recognise(Run("run", tmp_path, {1: {}}, {})) is None


def test_published_numbers_are_the_zoo_s():
    assert published_ap("mask_rcnn_regnetx_3.2gf_fpn_1x") == {"bbox": 40.3, "segm": 36.6}
    assert published_ap("retinanet_regnetx_800mf_fpn_1x") == {"bbox": 35.6}
    assert check_model("Mask-RCNN_RegNetX-3.2GF_fpn_1x") == "mask_rcnn_regnetx_3.2gf_fpn_1x"


def test_models_without_a_published_ap_are_refused():
    assert model_zoo.rows()["mask_rcnn_regnetx_4.0gf_dds_fpn_1x"]["box_ap"] is None
    for model in ("mask_rcnn_regnetx_4.0gf_dds_fpn_1x", "mask_rcnn_regnety_1.6gf_fpn_3x"):
        with pytest.raises(ValueError, match="no AP of it is published"):
            check_model(model)
    with pytest.raises(ValueError, match="unknown model 'nonsense'"):
        check_model("nonsense")

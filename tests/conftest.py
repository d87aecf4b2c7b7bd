"""What several test files need: where the data lies, one way to seed, and few threads."""

import functools
import importlib.util
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, ModuleType

from d2_regnet.utils.threads import spin_briefly

if "torch" not in sys.modules:  # it reads these as it is loaded, here and in what tests start
    spin_briefly()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a core each
        os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Two threads: the images are small, and more only get into one another's way."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_modifyitems(items):
    """The files that lie highest first: they take longest, and no worker is to end with one
    (with `--no-loadscope-reorder`)."""
    items.sort(key=lambda item: len(item.path.parents))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def load_file():
    """`load_file(path)`: a Python file that lies in no package, as a module; each is run once."""

    @functools.cache
    def as_module(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return as_module


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """``tests/fixtures``: recorded facts and answers, kept with the tests."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Optional material too large for the repository: weights, fixtures, pieces of COCO.

    It is looked for beside the checkout, or where ``D2_REGNET_SHARED`` says.
    """
    path = Path(os.environ.get("D2_REGNET_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no test material at {path}: set D2_REGNET_SHARED to the folder that has it")
    return path


@pytest.fixture
def seed():
    """Seeds Python, numpy and torch: ``seed(3)``. Each test that asks for it starts at 0."""

    def set_seed(value: int) -> None:
        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)

    set_seed(0)
    return set_seed


@pytest.fixture(scope="session")
def settings_of():
    """What a model computes, but for its weights: ``settings_of(model)`` is comparable with ``==``.

    Of every module its type and attributes; of every parameter its shape and whether it is trained.
    """

    def plain(value):
        if isinstance(value, torch.Tensor):
            return tuple(value.shape) if value.is_meta else value.tolist()
        if isinstance(value, torch.nn.Module):
            return type(value).__name__
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(each) for each in value]
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        if hasattr(value, "__dict__") and not isinstance(value, (type, FunctionType)):
            return type(value).__name__, plain(vars(value))
        return getattr(value, "__qualname__", value)

    def settings(model):
        result = {}
        for name, module in model.named_modules():
            own = {k: plain(v) for k, v in vars(module).items() if k not in vars(torch.nn.Module())}
            result[name] = (type(module).__qualname__, own)
        for name, parameter in model.named_parameters():
            result[name] = (tuple(parameter.shape), parameter.requires_grad)
        for name, buffer in model.named_buffers():
            result[name] = plain(buffer)
        return result

    return settings


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, fixtures) -> Path:
    """The folder that a training of `tests/fixtures/tiny_mask_rcnn.py` would leave, with random
    weights: config.yaml, model_final.pth, last_checkpoint."""
    from detectron2.config import LazyConfig, instantiate

    from d2_regnet.engine import load_config
    from d2_regnet.engine.checkpointer import Checkpointer

    folder = tmp_path_factory.mktemp("tiny_run")
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"))
    cfg.train.device = "cpu"
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = instantiate(cfg.model)
        # Scores that depend on the image, and not all of one class.
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
    Checkpointer(model, str(folder)).save("model_final")
    return folder

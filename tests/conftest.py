"""What several test files need: where the data lies, one way to seed, and few threads."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Two threads: the pictures are small, and more only get into one another's way."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """``tests/data``: recorded facts and answers, kept with the tests."""
    return ROOT / "tests" / "data"


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

"""Installs d2_regnet beside a Detectron2 that is already there; ``make setup`` brings one."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "d2_regnet/__init__.py").read_text(), re.M)[1]

setup(
    name="d2_regnet",
    version=VERSION,
    description="RegNet for Detectron2: backbones, recipes, checkpoints and tools",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The d2_regnet developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="regnet detectron2 object-detection instance-segmentation",
    python_requires=">=3.11",
    # The rows: configs/ in a checkout, d2_regnet/configs/ once installed.
    packages=[*find_packages(include=["d2_regnet", "d2_regnet.*"]), "d2_regnet.configs"],
    package_dir={"d2_regnet.configs": "configs"},
    package_data={
        "d2_regnet": ["**/*.json", "**/*.html"],
        "d2_regnet.configs": ["**/*.py", "**/*.yaml"],
    },
    # Not Detectron2: no package index has it under its own name, and whoever built one keeps it.
    # Importing d2_regnet without any says how to get one.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy",
        "pillow",
        "pycocotools>=2.0.2",
        "faster-coco-eval>=1.6.5",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7,<0.1.10",
        "omegaconf>=2.1,<2.4",
        "hydra-core>=1.1",
        "yacs>=0.1.8",
        "pyyaml>=5.1",
        "safetensors",
        "shapely",  # Detectron2 crops polygons with it: large-scale jitter
        "matplotlib",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        "data": ["supervision>=0.25"],  # Pascal VOC and YOLO data sets; its own Detections
        "export": ["onnx", "onnxruntime"],
        "slurm": ["submitit"],
        "dev": ["pytest", "pytest-timeout", "hypothesis", "ruff", "timm"],
    },
)

"""What a resumed run must have in common with the one it continues, kept in its checkpoints."""

from collections.abc import Mapping
from textwrap import shorten

import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig

from d2_regnet.data.registered import known_classes
from d2_regnet.model_zoo.settings import key_of, select

__all__ = ["RunRecord", "check_same_shapes"]

_LAZY_KEYS = (
    "model.backbone.bottom_up.arch",
    "model.roi_heads.num_classes",
    "model.num_classes",
    "dataloader.train.dataset.names",
    "dataloader.train.total_batch_size",
    "train.accumulate",
)
_YACS_KEYS = (
    "MODEL.REGNETS.ARCH",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES",
    "DATASETS.TRAIN",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.ACCUMULATE",
)
_REMEDY = (
    "resume with the former setting, or start anew in another folder, from the weights if they fit"
)


class RunRecord:
    """A checkpointable: the arch, the classes with their names, the training data sets and the
    batch size.

    What it leaves out may change from one start to the next: the length of the training, the
    learning rate, the periods, the workers. The rest of the architecture shows in the shapes of
    the weights, see `check_same_shapes`.
    """

    def __init__(self, cfg: DictConfig | CfgNode):
        keys = _YACS_KEYS if isinstance(cfg, CfgNode) else _LAZY_KEYS
        self._training_data = key_of(cfg, "training data")
        found = {key: select(cfg, key) for key in keys}
        # Numbers, strings and lists, which every reader of a checkpoint takes.
        self._values = {key: value for key, value in found.items() if value is not None}

    def state_dict(self) -> dict:
        _, classes = known_classes(self._values.get(self._training_data))
        return self._values | ({"classes": classes} if classes else {})

    def load_state_dict(self, state: Mapping) -> None:
        """Compares with the record of a checkpoint; keys that only one of them has do not count.

        Raises:
            ValueError: naming the differences.
        """
        differences = [
            f"{key} was {shorten(str(state[key]), 300)} and is {shorten(str(value), 300)}"
            for key, value in self.state_dict().items()
            if key in state and state[key] != value
        ]
        if differences:
            raise ValueError(f"cannot resume another training: {'; '.join(differences)}: {_REMEDY}")


def check_same_shapes(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Makes sure that a checkpoint's weights are those of a model.

    Raises:
        ValueError: naming the first parameter that is missing or has another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in state:
            raise ValueError(f"cannot resume another model: {name} is not in the checkpoint")
        was, now = tuple(state[name].shape), tuple(parameter.shape)
        if was != now:
            raise ValueError(
                f"cannot resume another model: {name} was of shape {was} and is of {now}: {_REMEDY}"
            )

"""The moving average of a model's weights and statistics."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Average", "decay_after"]


def decay_after(updates: int, decay: float) -> float:
    """The weight of the average at an update: it begins low, so that the first values fade.

    As TensorFlow's ExponentialMovingAverage with `num_updates`: min(decay, (1 + n) / (10 + n)).

    Args:
        updates: done before, n.
        decay: the final one.
    """
    return min(decay, (1 + updates) / (10 + updates))


class Average:
    """torch's `AveragedModel`, and what a checkpoint needs of it.

    In checkpoints the average is the model, which whoever reads them takes, and this checkpointable
    holds the plain weights, with which a training goes on.

    Attributes:
        module: the averaged model, on the model's device.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: as it is trained, not wrapped for distributed training.
            decay: between 0 and 1.
        """
        self._model, self._decay = model, decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self.module = self._averaged.module

    @property
    def updates(self) -> int:
        return int(self._averaged.n_averaged)

    def _blend(self, averages, values, _) -> None:
        get_ema_multi_avg_fn(decay_after(self.updates, self._decay))(averages, values, _)

    def update(self) -> None:
        """Takes the model as it is after a step into the average, which begins with the first."""
        self._averaged.update_parameters(self._model)

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the average; of the model before the first update."""
        return (self.module if self.updates else self._model).state_dict()

    def state_dict(self) -> dict:
        return {"plain": self._model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping) -> None:
        """To be called where the model has just been given the checkpoint's: the average."""
        self.module.load_state_dict(self._model.state_dict())
        self._model.load_state_dict(state["plain"])
        self._averaged.n_averaged.fill_(state["updates"])

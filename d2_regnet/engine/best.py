"""The best of a training's evaluations: kept in a file, and the end of a training without gain."""

import logging
import math
from collections.abc import Mapping

from detectron2.engine import EvalHook, HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from .checkpointer import Checkpointer
from .options import Options

__all__ = ["Best", "StoppedEarly", "is_gain"]

logger = logging.getLogger(__name__)


class StoppedEarly(BaseException):
    """The training ends well before its last step. No error: the trainer must not log it as one."""


def is_gain(value: float, than: float | None, mode: str, delta: float = 0.0) -> bool:
    """Whether a metric is better than another by more than `delta`; what is not finite is not.

    Args:
        value, than: the metric, now and then; None: there was none.
        mode: "max" or "min".
    """
    if not math.isfinite(value):
        return False
    return than is None or (value - than if mode == "max" else than - value) > delta


class Best(HookBase):
    """Writes `model_best.pth` at each new best, and ends the training where patience ends.

    Unlike Detectron2's `BestCheckpointer`, it knows after a restart what was best, does the
    evaluation that a kill has cut short, and leaves `last_checkpoint` alone. Place it after all
    hooks but `PeriodicWriter`, which writes at the end anyhow.
    """

    def __init__(self, checkpointer: Checkpointer, evaluation: EvalHook, options: Options):
        """
        Args:
            checkpointer: that writes the files.
            evaluation: the hook whose evaluations are given to `see`.
            options: the metric, its mode, `patience` and `min_delta`.
        """
        self._checkpointer, self._evaluation, self._options = checkpointer, evaluation, options
        self._state = {"value": None, "reference": None, "waited": 0, "evaluated": 0}
        self._resumed = False

    def see(self, results: Mapping) -> None:
        """Takes an evaluation into account; to be called by all processes.

        Args:
            results: task -> metric -> value, in the first process.
        """
        options, state = self._options, self._state
        metrics = flatten_results_dict(results)
        value = comm.all_gather(metrics.get(options.metric))[0]
        steps = min(self.trainer.iter + 1, self.trainer.max_iter)
        if value is None:
            logger.warning(
                "%s is not among what was evaluated: %s", options.metric, ", ".join(metrics)
            )
            return
        if is_gain(value, state["value"], options.mode):
            logger.info("The best %s so far: %.5g", options.metric, value)
            state["value"] = value
            self._checkpointer.save_best(iteration=steps - 1, best={options.metric: value})
        if is_gain(value, state["reference"], options.mode, options.min_delta):
            state.update(reference=value, waited=0)
        elif steps != state["evaluated"] and state["reference"] is not None:
            state["waited"] += 1  # not before anything has been found at all
        state["evaluated"] = steps

    @property
    def exhausted(self) -> bool:
        return 0 < self._options.patience <= self._state["waited"]

    def before_train(self):
        done = self.trainer.start_iter
        if not self._resumed or not done or done == self._state["evaluated"]:
            return
        self._at(done - 1)
        self._evaluation.after_step()  # the checkpoint was written before it
        self.after_step()
        self._at(done)

    def _at(self, step: int) -> None:
        self.trainer.iter = self.trainer.storage.iter = step

    def after_step(self):
        if self.exhausted:
            logger.info(
                "%s has gained nothing in %d evaluations: the training ends here",
                *(self._options.metric, self._state["waited"]),
            )
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
            comm.synchronize()
            raise StoppedEarly

    def state_dict(self):
        return dict(self._state)

    def load_state_dict(self, state):
        self._state.update(state)
        self._resumed = True

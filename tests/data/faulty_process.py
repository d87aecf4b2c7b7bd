"""A training of eight steps in two processes, of which the second has a fault.

    torchrun --nproc-per-node 2 faulty_process.py OUT FAULT... KEY=VALUE...
    python faulty_process.py OUT FAULT...       (Detectron2's launcher)

A FAULT is a kind, a colon, and the step at which it happens. The n-th one is that of the process's
n-th life; several at once are joined by commas.

    raise, kill         an error; SIGKILL. Of raise, the step may be `evaluation`
    cut                 SIGKILL of the first process in the middle of the next checkpoint's write
    slow:evaluation     leaves OUT/evaluating
    loss, proposals, gradient       is not finite, in the second process
    without             no fault: both processes leave out the optimizer's step

At the end OUT/weights<rank>.pth are each process's weights.
"""

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_regnet.engine import load_config, train
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.launch import launch, restarted, under_torchrun
from d2_regnet.engine.trainer import unwrapped


class Fault(HookBase):
    def __init__(self, kind, step):
        self._kind, self._step = kind, step

    def before_step(self):
        if comm.get_rank() != 1 or self.trainer.iter != self._step:
            return
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the second process is ill")


def poison(model, kind):
    """Makes a model's loss, proposals or gradients not finite; a handle to remove it."""
    if kind == "loss":
        predictor = model.roi_heads.box_predictor
        return predictor.register_forward_hook(lambda m, i, out: (out[0] * float("inf"), out[1]))
    if kind == "proposals":
        level = model.backbone.fpn_output3
        return level.register_forward_hook(lambda m, i, out: out * float("nan"))
    weight = model.roi_heads.box_predictor.cls_score.weight
    return weight.register_hook(lambda grad: grad * float("inf"))


class Poison(HookBase):
    def __init__(self, kind, step):
        self._kind, self._step = kind, step

    def before_step(self):
        if comm.get_rank() == 1 and self.trainer.iter == self._step:
            self._handle = poison(unwrapped(self.trainer.model), self._kind)

    def after_step(self):
        if comm.get_rank() == 1 and self.trainer.iter == self._step:
            self._handle.remove()


class Cut(HookBase):
    def __init__(self, kind, step):
        self._step = step

    def before_step(self):
        if comm.get_rank() == 0 and self.trainer.iter == self._step:
            torch.save = self._save_half

    def _save_half(self, data, file):
        file.write(b"PK" + bytes(5000))
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class Without(HookBase):
    def __init__(self, kind, step):
        self._step = step

    def before_step(self):
        if self.trainer.iter == self._step:
            self._former, self.trainer.optimizer.step = self.trainer.optimizer.step, lambda: None

    def after_step(self):
        if self.trainer.iter == self._step:
            self.trainer.optimizer.step = self._former


HOOKS = {"raise": Fault, "kill": Fault, "cut": Cut, "without": Without}


class KeepWeights(HookBase):
    def __init__(self, out):
        self._out = out

    def after_train(self):
        weights = unwrapped(self.trainer.model).state_dict()
        torch.save(weights, f"{self._out}/weights{comm.get_rank()}.pth")


class FaultyEvaluator(DatasetEvaluator):
    def __init__(self, kind, out):
        self._kind, self._out = kind, out

    def process(self, inputs, outputs):
        if self._kind == "slow":
            with open(f"{self._out}/evaluating", "a") as file:
                file.write("picture\n")
            time.sleep(5)
        elif comm.get_rank() == 1:
            raise ValueError("the second process is ill")


def main(args):
    cfg = load_config(
        str(Path(__file__).with_name("tiny_mask_rcnn.py")),
        [
            f"train.output_dir={args.out}",
            "train.max_iter=8",
            "train.checkpointer.period=3",
            "train.device=cpu",
            "model.backbone.bottom_up.norm=EvalBN",
            *args.overrides,
        ],
    )
    cfg.dataloader.evaluator = None
    life = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    hooks = [KeepWeights(args.out)]
    for fault in args.faults[life].split(",") if life < len(args.faults) else []:
        kind, when = fault.split(":")
        if when == "evaluation":
            cfg.dataloader.evaluator = L(FaultyEvaluator)(kind=kind, out=args.out)
        else:
            hooks.append(HOOKS.get(kind, Poison)(kind, int(when)))
    train(cfg, resume=restarted(), hooks=hooks, console=False)


if __name__ == "__main__":
    out, *more = sys.argv[1:]
    overrides = [each for each in more if "=" in each]
    faults = [each for each in more if "=" not in each]
    processes = 1 if under_torchrun() else 2
    args = dict(num_gpus=processes, num_machines=1, machine_rank=0, dist_url="auto")
    with exit_on_signal():
        launch(main, Namespace(out=out, faults=faults, overrides=overrides, **args), "cpu")

"""A training of eight steps in two processes, of which the second has a fault.

    torchrun --nproc-per-node 2 faulty_process.py OUT FAULT...
    python faulty_process.py OUT FAULT...       (Detectron2's launcher)

A FAULT is `raise` or `kill`, a colon, and the step at which it happens; `raise:evaluation`, or
`slow:evaluation`, which leaves OUT/evaluating. The n-th one is that of the process's n-th life.
"""

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

from detectron2.config import LazyCall as L
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_regnet.engine import load_config, train
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.launch import launch, restarted, under_torchrun


class Fault(HookBase):
    def __init__(self, kind, step):
        self._kind, self._step = kind, step

    def before_step(self):
        if comm.get_rank() != 1 or self.trainer.iter != self._step:
            return
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the second process is ill")


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
        ],
    )
    cfg.dataloader.evaluator = None
    life = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    hooks = []
    if life < len(args.faults):
        kind, when = args.faults[life].split(":")
        if when == "evaluation":
            cfg.dataloader.evaluator = L(FaultyEvaluator)(kind=kind, out=args.out)
        else:
            hooks = [Fault(kind, int(when))]
    train(cfg, resume=restarted(), hooks=hooks, console=False)


if __name__ == "__main__":
    out, *faults = sys.argv[1:]
    processes = 1 if under_torchrun() else 2
    args = dict(num_gpus=processes, num_machines=1, machine_rank=0, dist_url="auto")
    with exit_on_signal():
        launch(main, Namespace(out=out, faults=faults, **args), "cpu")

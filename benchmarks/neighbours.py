"""`neighbours`: what OpenMP's spinning costs on an idle machine, and beside others' jobs.

A waiting thread of GNU's OpenMP spins before it sleeps. On an idle machine that saves the time of
waking it; beside a job that holds its core, all others wait for it. The variables that say how long
are read when torch is loaded, so each setting has a process of its own, new in every round; all of
them wait for their turn, and measure one after the other under each load.
"""

import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

SETTINGS = {
    "default": {},
    **{count: {"GOMP_SPINCOUNT": count} for count in ("1000", "10000", "100000")},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
_THREAD, _TORCH = "busy thread", "PyTorch job"
LOADS = {  # what runs beside; the last two only without --quick
    "idle": [],
    "1 busy thread": [_THREAD],
    "1 PyTorch job": [_TORCH],
    "2 busy threads": [_THREAD] * 2,
    "2 PyTorch jobs": [_TORCH] * 2,
}
# Each ends with the process that started it. They say when they are busy.
_CODE = {
    _THREAD: """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(10**6):
        pass
""",
    _TORCH: """
import os, torch
parent = os.getppid()
torch.set_num_threads(2)
conv, x = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 128, 128)
with torch.no_grad():
    conv(x)
    print(flush=True)
    while os.getppid() == parent:
        conv(x)
""",
}
_DEMO = Path(__file__).parents[1] / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py"
_DETECTOR = "retinanet_regnetx_800mf_fpn_1x"
_WORKER = ["-m", "benchmarks.neighbours"]
_LEAST = 2  # runs of a measurement, however long they take
_EXAMPLES = """
The table of docs/results/performance.md, in about ten minutes on an idle machine:
    $ %(prog)s

In three minutes, less exact:
    $ %(prog)s --quick
"""


def add_command(commands) -> None:
    """Adds `neighbours` to an `ArgumentParser.add_subparsers`."""
    about = "how long OpenMP should spin, idle and beside others' jobs"
    parser = commands.add_parser(
        "neighbours",
        description=f"{about}: a Markdown table of medians",
        help=about,
        examples=_EXAMPLES,
        dry_run="list what would run, and run nothing",
    )
    parser.add_argument("--size", nargs=2, type=int, default=[480, 640], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each, about (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, 2 seconds, one neighbour")
    parser.set_defaults(run=run)


def run(args: Namespace) -> int:
    rounds, seconds = (1, 2.0) if args.quick else (args.rounds, args.seconds)
    loads = list(LOADS)[: 3 if args.quick else None]
    if args.dry_run:
        print("\n".join(f"{load}: {', '.join(SETTINGS)}" for load in loads))
        return 0
    found = defaultdict(list)
    with tqdm(total=rounds * len(loads) * len(SETTINGS), disable=None) as bar:
        for _ in range(rounds):
            for load, setting, work, times in one_round(loads, args.size, seconds, bar.update):
                found[work, setting, load] += times
    print(table({key: statistics.median(times) for key, times in found.items()}))
    return 0


def one_round(
    loads: list[str], size: list[int], seconds: float, done: Callable[[], object]
) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yields load, setting, what was done, and its times in seconds."""
    command = [sys.executable, "-W", "ignore", *_WORKER, *map(str, size)]
    with ExitStack() as stack:
        workers = {}
        for setting, variables in SETTINGS.items():
            workers[setting] = stack.enter_context(process([*command, str(seconds)], variables))
        for load in loads:
            with ExitStack() as beside:
                for kind in LOADS[load]:
                    beside.enter_context(process([sys.executable, "-c", _CODE[kind]], {}))
                for setting, worker in workers.items():
                    print(file=worker.stdin, flush=True)
                    for work in ("step", "inference"):
                        yield load, setting, work, [*map(float, worker.stdout.readline().split())]
                    done()


@contextmanager
def process(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that has said that it is ready; it is killed at the end."""
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    child = subprocess.Popen(
        command,
        env=environment | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if not child.stdout.readline():
            raise RuntimeError(f"a process has failed: {' '.join(command)}")
        yield child
    finally:
        child.kill()
        child.communicate()


def table(medians: dict[tuple[str, str, str], float]) -> str:
    """Markdown: seconds by load, and how much longer than the default an idle machine takes."""
    loads = list(dict.fromkeys(load for _, _, load in medians))
    lines = []
    pairs = dict.fromkeys(key[:2] for key in medians)
    for work, setting in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        loss = medians[work, setting, "idle"] / medians[work, "default", "idle"] - 1
        seconds = [f"{medians[work, setting, load]:.3f}" for load in loads]
        lines.append([work, setting, *seconds, f"{100 * loss:+.1f} %"])
    header = ["", "spins", *(f"{load}, s" for load in loads), "idle, beside default"]
    align = ["left", "left", *["right"] * (len(header) - 2)]
    return tabulate(lines, header, "github", colalign=align, disable_numparse=True)


def repeated(once: Callable[[], object], seconds: float) -> list[float]:
    """The times of runs until so many seconds are over."""
    times, began = [], time.perf_counter()
    while len(times) < _LEAST or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return times


def work(size: tuple[int, int]) -> list[Callable[[], object]]:
    """A training step of the demo's model, and inference on one image of a size."""
    import torch
    from detectron2.config import instantiate

    from benchmarks.detectors import images, loaded, random_state
    from benchmarks.train import training_step
    from d2_regnet.inference.optimize import optimize_for_inference
    from d2_regnet.model_zoo.loading import load_config

    torch.manual_seed(0)
    model = instantiate(load_config(str(_DEMO)).model)
    step = training_step(model, images(4, (160, 160), True, classes=6), False, "cpu")
    detector = loaded(_DETECTOR, "ours", random_state(_DETECTOR, size), "cpu").eval()
    detector, inputs = optimize_for_inference(detector, torch.float32), images(1, size)
    return [step, torch.no_grad()(lambda: detector(inputs))]


def worker(height: str, width: str, seconds: str) -> None:
    """For each line that it reads: a line of times for each piece of work."""
    pieces = work((int(height), int(width)))
    for once in pieces:
        once()
    print(flush=True)
    for _ in sys.stdin:
        for once in pieces:
            print(*repeated(once, float(seconds)), flush=True)


if __name__ == "__main__":
    worker(*sys.argv[1:])

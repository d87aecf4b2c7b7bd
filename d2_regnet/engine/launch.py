"""The command line, and one process or many: Detectron2's own launcher, or torchrun's."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2 import engine
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import record
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from d2_regnet.utils.cli import ToolParser

from .hooks import SIGNALS, Interrupted

_EXAMPLES = """
Train a model on one GPU, and resume after an interruption:
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x
    $ %(prog)s --config-file mask_rcnn_regnetx_400mf_fpn_3x --resume

Evaluate weights on the CPU:
    $ %(prog)s --config-file FILE --eval-only train.init_checkpoint=model.pth train.device=cpu

Eight GPUs, another batch size:
    $ %(prog)s --config-file FILE --num-gpus 8 dataloader.train.total_batch_size=32
"""


_EXIT_CODES = """\
Exit codes: 0, done; 1, failed; 2, bad input, before anything is written; 130, 143, 138: stopped by
SIGINT, SIGTERM, SIGUSR1 after a whole step, with a checkpoint to --resume from."""


def argument_parser(description: str = "", examples: str = _EXAMPLES) -> ToolParser:
    """Detectron2's own flags, `--dry-run` and `--verbose`; examples and exit codes below them.

    Args:
        description: the tool's docstring.
        examples: see `ToolParser`.
    """
    parser = ToolParser(
        description,
        examples,
        prog="d2-regnet train",
        exit_codes=_EXIT_CODES,
        dry_run="check everything, print what would be done, and stop",
        parents=[engine.default_argument_parser()],
        conflict_handler="resolve",  # both have --help
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="weights may leave layers at random, or be of other images than the config's",
    )
    parser.set_defaults(resume=restarted())
    return parser


def under_torchrun() -> bool:
    """Whether this process is one of a group that torchrun (or the like) started."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def restarted() -> bool:
    """Whether torchrun, or SLURM, has started this run before: it is to be resumed."""
    return any(
        int(os.environ.get(name, 0)) > 0
        for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def may_be_restarted() -> bool:
    """Whether torchrun, or SLURM through submitit, would start this run again after its end."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 or (
        os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    )


def check_processes(args, device: str) -> int:
    """How many processes the command line, or torchrun, asks for.

    Args:
        args: `num_gpus`, `num_machines`, `machine_rank` and `dist_url` as Detectron2 parses them.
        device: `train.device`. With `cpu`, `num_gpus` counts processes on the CPU.

    Raises:
        ValueError: more GPUs than there are, or flags that contradict one another.
    """
    gpus = torch.cuda.device_count()
    if under_torchrun():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if device != "cpu" and gpus and local > gpus:
            raise ValueError(f"torchrun started {local} processes, but there are {gpus} GPU(s)")
        return int(os.environ["WORLD_SIZE"])
    if args.num_gpus < 0 or args.num_machines < 1:
        raise ValueError("--num-gpus must be at least 0 and --num-machines at least 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank {args.machine_rank}: with --num-machines {args.num_machines} the "
            f"ranks are 0 to {args.num_machines - 1}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--dist-url auto is for one machine; give tcp://<first machine>:<port>")
    # One "GPU" is Detectron2's default, and means one process where there is none.
    if device != "cpu" and args.num_gpus > max(gpus, 1):
        raise ValueError(
            f"--num-gpus {args.num_gpus}: this machine has {gpus}; "
            f"train.device=cpu runs {args.num_gpus} processes on the CPU"
        )
    return max(args.num_gpus, 1) * args.num_machines


def starts_processes(args) -> bool:
    """Whether `launch` works in processes that it starts, not in this one."""
    return not under_torchrun() and args.num_gpus * args.num_machines > 1


def launch(main: Callable, args, device: str) -> None:
    """Runs `main(args)` in every process that `check_processes` counts.

    Where one of them fails, all end: torchrun, or Detectron2's launcher, ends the others, and
    those on other machines lose their connection.

    Raises:
        Interrupted: a signal has ended the work in processes that were started here.
        RuntimeError: one of them has failed; the message is its error.
    """
    if under_torchrun():
        _join_torchrun(main, args, device)
    elif starts_processes(args):
        _start_processes(main, args, device)
    else:
        main(args)


def _join_torchrun(main: Callable, args, device: str) -> None:
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=engine.DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    _agree_on_restarts(args)
    try:
        record(main)(args)  # tells torchrun of an error
        # Not after an error: it could wait for processes that wait for this one.
        dist.destroy_process_group()
    finally:
        _settle()


def _agree_on_restarts(args) -> None:
    """Makes it known to all processes where some have been started again: an agent of torchrun
    does not count the starts that the failure of another machine brings about."""
    name = "TORCHELASTIC_RESTART_COUNT"
    os.environ[name] = str(max(comm.all_gather(int(os.environ.get(name, 0)))))
    if restarted():
        args.resume = True


def _start_processes(main: Callable, args, device: str) -> None:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Detectron2 takes NCCL where it sees a GPU
    signum = multiprocessing.get_context("spawn").Value("i", 0)
    received = []
    try:
        with _signals_passed_on(received):
            engine.launch(
                _run_apart,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args, signum),
            )
    except ProcessRaisedException as error:
        last = str(error).strip().splitlines()[-1]
        raise RuntimeError(f"process {error.error_index}: {last}") from error
    except ProcessExitedException as error:
        if received:  # before a process could look at signals
            raise Interrupted(received[0]) from error
        raise
    if signum.value:
        raise Interrupted(signum.value)


def _run_apart(main: Callable, args, signum: Synchronized) -> None:
    """One process's part; `signum` becomes that of the signal that ends it."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on: once, not twice
    try:
        main(args)
    except KeyboardInterrupt as stop:  # torch would take it for the end of the work
        signum.value = getattr(stop, "signum", signal.SIGINT)
    else:
        dist.destroy_process_group()
    finally:
        _settle()


def _settle(seconds: float = 10.0) -> None:
    """Waits, at most so long, until gloo's threads wait for work.

    On a busy machine one may still hold a tensor of a finished exchange. Letting go of it takes
    Python's lock, which at the interpreter's end aborts the process; and `destroy_process_group`
    ends no thread as long as Detectron2 or DistributedDataParallel know the group.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and "R" in _states_of_threads("pt_gloo_runloop"):
        time.sleep(0.01)  # without Python's lock


def _states_of_threads(name: str) -> set[str]:
    """The states, as `ps` has them, of this process's threads of a name; Linux only."""
    states = set()
    for stat in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):  # it has ended
            found, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            states |= {rest.split()[0]} if found == name else set()
    return states


@contextmanager
def _signals_passed_on(received: list[int]) -> Iterator[None]:
    """A signal that asks for the end is noted and goes to the processes started inside, which end
    themselves."""

    def pass_on(signum, frame):
        received.append(signum)
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, pass_on) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""The command line, and one process or many: Detectron2's own launcher, or torchrun's."""

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2 import engine
from detectron2.utils import comm

_EXAMPLES = """
Examples:

Train a row on one GPU, and go on after an interruption:
    $ %(prog)s --config-file configs/mask_rcnn_regnetx_400mf_fpn_3x.py
    $ %(prog)s --config-file configs/mask_rcnn_regnetx_400mf_fpn_3x.py --resume

Evaluate weights on the CPU:
    $ %(prog)s --config-file FILE --eval-only train.init_checkpoint=model.pth train.device=cpu

Eight GPUs, another batch size:
    $ %(prog)s --config-file FILE --num-gpus 8 dataloader.train.total_batch_size=32
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's own flags, and `--verbose`."""
    parser = engine.default_argument_parser(epilog=_EXAMPLES)
    parser.add_argument("--verbose", action="store_true", help="show where bad input was found")
    return parser


def under_torchrun() -> bool:
    """Whether this process is one of a group that torchrun (or the like) started."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


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


def launch(main: Callable, args, device: str) -> None:
    """Runs `main(args)` in every process that `check_processes` counts."""
    if under_torchrun():
        _join_torchrun(main, args, device)
        return
    if device == "cpu" and args.num_gpus * args.num_machines > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Detectron2 takes NCCL where it sees a GPU
    engine.launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _join_torchrun(main: Callable, args, device: str) -> None:
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=engine.DEFAULT_TIMEOUT)
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        main(args)
    finally:
        dist.destroy_process_group()

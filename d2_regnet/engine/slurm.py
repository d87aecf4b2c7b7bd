"""A training as a SLURM job, through submitit: a process for each GPU, requeued until it is done.

Each task of the job joins the others as one that torchrun has started, and then does what
`d2-regnet train` does. Some time before the job's time is over SLURM sends SIGUSR1:
the training writes a checkpoint, and submitit puts the job into the queue again, with `--resume`.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

__all__ = ["Training", "executor", "minutes", "sbatch_lines"]

_SIGNAL = "USR1"
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def minutes(text: str) -> int:
    """SLURM's notations of a duration, rounded up: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: it is another, or nothing.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(
            f"a duration is minutes, hours:minutes:seconds or days-hours, not {text!r}"
        )
    days, *parts = match.groups()
    parts = [int(part) for part in parts if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, mins, seconds = [*parts, 0, 0][:3]
    total = -(-(((int(days or 0) * 24 + hours) * 60 + mins) * 60 + seconds) // 60)
    if not total:
        raise ValueError(f"a duration must not be nothing: {text!r}")
    return total


def _submitit() -> ModuleType:
    """submitit, set to the signal that trainings stop at, in this process (it looks when it is
    imported) and in the job's."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL
    try:
        import submitit
    except ImportError as error:
        raise ImportError("SLURM jobs need submitit: pip install 'd2_regnet[slurm]'") from error
    return submitit


class Training:
    """What each task of a job runs; submitit pickles it, and asks it what to requeue."""

    def __init__(self, main: Callable[[list[str]], object], argv: Sequence[str]):
        """
        Args:
            main: of `d2-regnet train`; it ends with SystemExit unless all is done.
            argv: arguments of `d2-regnet train`, without those about processes.
        """
        self.main, self.argv = main, list(argv)

    def __call__(self) -> None:
        """
        Raises:
            SystemExit: with that tool's exit codes, and of submitit where it requeues.
        """
        _submitit()
        from submitit.helpers import TorchDistributedEnvironment

        joined = TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        if joined.world_size == joined.local_world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # a machine may not know its own name
        try:
            self.main(self.argv)
        except SystemExit as end:
            signum = signal.Signals[f"SIG{_SIGNAL}"]
            if end.code != 128 + signum:
                raise
            # The checkpoint is written, and submitit's handler is back.
            signal.raise_signal(signum)

    def checkpoint(self):
        """Called by submitit: the same, going on."""
        resume = [] if "--resume" in self.argv else ["--resume"]
        return _submitit().helpers.DelayedSubmission(Training(self.main, [*resume, *self.argv]))


def executor(cluster: str, folder: str, parameters: Mapping, max_requeues: int):
    """submitit's executor for `slurm`, or for this machine alone, `local`.

    Args:
        cluster: slurm or local.
        folder: for logs and pickled jobs; all machines must see it.
        parameters: as `sbatch_lines` takes them. `local` needs the number of tasks, of GPUs, and
            the time.
        max_requeues: how many times a job may come to the end of its time.

    Raises:
        ImportError: there is no submitit.
        ValueError: there is no SLURM here, or a parameter is wrong.
    """
    submitit = _submitit()
    if cluster == "local":
        made = submitit.LocalExecutor(folder, max_num_timeout=max_requeues)
        made.update_parameters(
            nodes=parameters["nodes"],
            tasks_per_node=parameters["ntasks_per_node"],
            gpus_per_node=parameters.get("gpus_per_node", 0),
            timeout_min=parameters["time"],
            signal_delay_s=parameters["signal_delay_s"],
        )
        return made
    try:
        made = submitit.SlurmExecutor(folder, max_num_timeout=max_requeues)
    except RuntimeError as error:
        raise ValueError(
            "there is no SLURM on this machine (srun is not found): submit from one that has it, "
            "or run here with --cluster local"
        ) from error
    others = {"signal": _signal_option(parameters), **parameters.get("additional_parameters", {})}
    made.update_parameters(**{**parameters, "additional_parameters": others})
    return made


def sbatch_lines(parameters: Mapping) -> list[str]:
    """What a job asks SLURM for, as the head of an sbatch file.

    Args:
        parameters: those of submitit's SlurmExecutor: sbatch's options, with underscores;
            `signal_delay_s`, the seconds from the signal to the end; `additional_parameters`.
    """
    options = {name.replace("_", "-"): value for name, value in parameters.items()}
    options |= options.pop("additional-parameters", {})
    options = {"signal": _signal_option(parameters), **options}
    del options["signal-delay-s"]
    return [
        f"#SBATCH --{name}" + ("" if value is True else f"={value}")
        for name, value in sorted(options.items())
    ]


def _signal_option(parameters: Mapping) -> str:
    return f"{_SIGNAL}@{parameters['signal_delay_s']}"

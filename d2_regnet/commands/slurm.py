"""Submits a training to SLURM, a process for each GPU, requeued until it is done; see
docs/guides/scale.md."""

import os
import shlex

from d2_regnet.engine import check_config, load_config
from d2_regnet.engine.slurm import Training, executor, minutes, sbatch_lines
from d2_regnet.utils.cli import ToolParser, bad_input, failure

from . import train

_EXAMPLES = """
What would be submitted for two machines with eight GPUs each:
    $ %(prog)s --config-file mask_rcnn_regnetx_3.2gf_fpn_1x --nodes 2 --gpus-per-node 8 \\
          --partition gpu --time 1-0 --dry-run dataloader.train.total_batch_size=32

The same path on this machine, two processes on its CPU:
    $ %(prog)s --config-file FILE --cluster local --gpus-per-node 0 --tasks-per-node 2 \\
          train.device=cpu
"""


def argument_parser() -> ToolParser:
    parser = ToolParser(
        __doc__, _EXAMPLES, prog="d2-regnet slurm", dry_run="print what would be submitted"
    )
    parser.add_argument(
        "--config-file", required=True, help="a LazyConfig, a model's name, or a run's folder"
    )
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: 1)")
    parser.add_argument(
        "--gpus-per-node",
        type=int,
        default=8,
        help="GPUs of each machine (default: 8); 0 trains on CPUs",
    )
    parser.add_argument(
        "--tasks-per-node", type=int, help="processes on each machine (default: one for each GPU)"
    )
    parser.add_argument(
        "--cpus-per-task", type=int, default=5, help="CPU cores of each process (default: 5)"
    )
    parser.add_argument(
        "--time",
        default="1-0",
        help="time limit in SLURM's form; then it is requeued (default: 1-0, a day)",
    )
    parser.add_argument("--partition", help="SLURM's partition")
    parser.add_argument("--qos", help="SLURM's quality of service")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--constraint", help="SLURM's features of machines")
    parser.add_argument("--job-name", help="default: the config's name")
    parser.add_argument(
        "--signal-delay",
        type=int,
        default=180,
        metavar="SECONDS",
        help="from the signal to the end of the time: a step and a checkpoint (default: 180)",
    )
    parser.add_argument("--max-requeues", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of sbatch, such as mem=200G; may be repeated",
    )
    parser.add_argument(
        "--folder", help="for logs, seen by all machines (default: slurm/ in train.output_dir)"
    )
    parser.add_argument(
        "--cluster",
        choices=["slurm", "local"],
        default="slurm",
        help="local: on this machine alone, and wait for the end",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides")
    return parser


def job_parameters(args) -> dict:
    """The parameters of submitit's SlurmExecutor.

    Raises:
        ValueError: naming the flag.
    """
    for flag, least in (
        ("nodes", 1),
        ("gpus_per_node", 0),
        ("cpus_per_task", 1),
        ("signal_delay", 1),
        ("max_requeues", 0),
    ):
        if getattr(args, flag) < least:
            name = flag.replace("_", "-")
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, flag)}")
    tasks = args.tasks_per_node or max(args.gpus_per_node, 1)
    if (args.gpus_per_node and tasks != args.gpus_per_node) or tasks < 1:
        raise ValueError(f"--tasks-per-node {tasks}: there is one process for each GPU")
    if args.cluster == "local" and args.nodes > 1:
        raise ValueError(f"--nodes {args.nodes}: --cluster local is one machine")
    others = dict(each.partition("=")[::2] for each in args.sbatch)
    if not all(others) or not all(others.values()):
        raise ValueError(f"--sbatch takes NAME=VALUE: {' '.join(args.sbatch)}")
    name = os.path.splitext(os.path.basename(args.config_file))[0]
    parameters = {
        "job_name": args.job_name
        or (name if os.path.isfile(args.config_file) else args.config_file),
        "nodes": args.nodes,
        "ntasks_per_node": tasks,
        "gpus_per_node": args.gpus_per_node or None,
        "cpus_per_task": args.cpus_per_task,
        "time": minutes(args.time),
        "partition": args.partition,
        "qos": args.qos,
        "account": args.account,
        "constraint": args.constraint,
        "signal_delay_s": args.signal_delay,
        "additional_parameters": {"requeue": True, **others},
    }
    return {name: value for name, value in parameters.items() if value is not None}


def main(argv: list[str] | None = None) -> int:
    args = argument_parser().parse_args(argv)
    with bad_input(args.verbose):
        parameters = job_parameters(args)
        tasks = parameters["nodes"] * parameters["ntasks_per_node"]
        cfg = load_config(args.config_file, args.opts)
        check_config(cfg, eval_only=args.eval_only, resume=args.resume, processes=tasks)
        flags = [
            f"--{flag.replace('_', '-')}" for flag in ("resume", "eval_only") if vars(args)[flag]
        ]
        training = Training(train.main, ["--config-file", args.config_file, *flags, *args.opts])
        folder = args.folder or os.path.join(cfg.train.output_dir, "slurm")
        if args.dry_run:
            print("\n".join(sbatch_lines(parameters)))
            command = shlex.join(["d2-regnet", "train", *training.argv])
            print(f"# in each of {tasks} tasks; logs in {folder}\n{command}")
            return 0
        runner = executor(args.cluster, folder, parameters, args.max_requeues)
    with failure(args.verbose):
        job = runner.submit(training)
        print(f"Job {job.job_id}; its logs: {job.paths.stderr} and {job.paths.stdout.name}")
        if args.cluster == "local":
            job.results()
    return 0

"""Joining the processes that a launcher started into one process group, or refusing to train.

fairseq reads a launcher's variables only if it finds several GPUs. On CPU and on nodes with one
GPU, each process that torchrun starts would otherwise train a separate model.
"""

import argparse
import os
import sys
from typing import Dict, NamedTuple, Optional

import torch

from ..errors import refuse

REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torch's env:// rendezvous
# variables with the number of started processes; not SLURM_NTASKS, which sbatch sets for its script
# too, a single process
STARTED_BY = {
    "WORLD_SIZE": "torchrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}
AS_TORCHRUN = {  # the launchers' names of torchrun's RANK and LOCAL_RANK
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "PMI_SIZE": ("PMI_RANK", "MPI_LOCALRANKID"),
}


class Launcher(NamedTuple):
    """This process's variables of torchrun, or of a script that sets the same ones."""

    rank: int
    world_size: int
    local_rank: Optional[int]


def from_environment() -> Optional[Launcher]:
    """Return the launcher's variables, or None without a launcher or with a single process."""
    if not all(os.environ.get(name) for name in REQUIRED):
        return None
    rank, world_size = number("RANK"), number("WORLD_SIZE")
    local_rank = number("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else None
    return Launcher(rank, world_size, local_rank) if world_size > 1 else None


def number(name: str) -> int:
    """Return the number in an environment variable."""
    try:
        return int(os.environ[name])
    except ValueError:
        refuse(f"{name}={os.environ[name]} in the environment is not a number")


def join_launcher(args: argparse.Namespace) -> None:
    """Set the distributed flags of fairseq-train from the launcher's variables.

    Nothing is changed without a launcher or with --distributed-init-method. Architecture functions
    call this, since fairseq runs them after parsing the flags and before using them.
    """
    launcher = from_environment()
    if launcher is None or getattr(args, "distributed_init_method", None) is not None:
        return
    given, gpus = args.distributed_world_size, torch.cuda.device_count()
    if given != launcher.world_size and (given != max(1, gpus) or flag_given()):
        refuse(
            f"--distributed-world-size {given} contradicts WORLD_SIZE={launcher.world_size} of the "
            "launcher; leave the flag out"
        )
    check_restarts()  # here, since restarted ranks could wait for each other forever
    args.distributed_init_method = "env://"
    args.distributed_world_size = launcher.world_size
    args.distributed_rank = launcher.rank
    args.distributed_no_spawn = True
    on_cpu = args.cpu or gpus == 0
    local_rank = launcher.rank if launcher.local_rank is None else launcher.local_rank
    # modulo, as in fairseq: each process may see only its own GPU
    args.device_id = 0 if on_cpu else local_rank % gpus
    if on_cpu and args.distributed_backend == "nccl":
        args.distributed_backend = "gloo"


def flag_given() -> bool:
    """Return whether --distributed-world-size is given; its default is the number of GPUs."""
    return any(word.split("=")[0] == "--distributed-world-size" for word in sys.argv)


def check_launch(world_size: int) -> None:
    """Refuse to train if the launcher started more processes than the run has ranks.

    world_size is the number of ranks that fairseq trains on, unless there is a process group. Also
    refuses restarts that could not connect.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world_size = torch.distributed.get_world_size()
    for name in STARTED_BY:
        if os.environ.get(name) and number(name) > world_size:
            refuse(
                f"{STARTED_BY[name]} started {number(name)} processes ({name}), but they would not "
                f"train together: this one's world size is {world_size}; {remedy(name)}"
            )
    check_restarts()


def check_restarts() -> None:
    """Refuse a torchrun whose restarted ranks would connect to addresses of the previous ranks.

    The addresses are in a store that is kept over restarts (PyTorch issue 135712).
    """
    if not os.environ.get("TORCHELASTIC_MAX_RESTARTS") or number("TORCHELASTIC_MAX_RESTARTS") == 0:
        return
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        refuse(
            "torchrun --max-restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's "
            "environment: the restarted ranks could not connect"
        )


def remedy(name: str) -> str:
    """Return how to fix a launch with too many processes, according to the variable `name`."""
    separate = f"where separate trainings are meant, start them with `env -u {name}`"
    if name in AS_TORCHRUN:
        rank, local_rank = AS_TORCHRUN[name]
        return (
            f"start one torchrun on each node, or let each process set RANK=${rank} "
            f"WORLD_SIZE=${name} LOCAL_RANK=${local_rank} MASTER_ADDR and MASTER_PORT "
            f"(docs/training-at-scale.md); {separate}"
        )
    missing = [variable for variable in REQUIRED if not os.environ.get(variable)]
    if missing:
        return f"set {', '.join(missing)} as well, or start with torchrun; {separate}"
    hydra: Dict[str, str] = {
        "distributed_world_size": "${oc.env:WORLD_SIZE}",
        "distributed_rank": "${oc.env:RANK}",
        "device_id": "${oc.env:LOCAL_RANK}",
        "distributed_init_method": "env://",
        "distributed_no_spawn": "true",
    }
    overrides = " ".join(f"'distributed_training.{key}={value}'" for key, value in hydra.items())
    return (
        "with fairseq-hydra-train add +launch=torchrun (on CPU +launch=torchrun_cpu), which means "
        f"{overrides}; with fairseq-train leave --distributed-* out; {separate}"
    )

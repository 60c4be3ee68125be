"""Ranks that a launcher starts form one group, or end with one line before they train."""

import re
import shlex

import pytest
import torch
from console import PLUGIN, ROOT, TRAIN, logged, run
from fairseq import options
from fairseq.distributed.utils import infer_init_method
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from fairseq_taskmoe.distributed import launch
from fairseq_taskmoe.errors import Refusal

TORCHRUN = ("torchrun", "--standalone", "--nproc_per_node", 2, "--no-python")
HYDRA = (
    "fairseq-hydra-train", "--config-dir", ROOT / "configs", "--config-name", "target_target",
    "size=smoke", f"common.user_dir={PLUGIN}", "optimization.max_update=2",
)
VARIABLES = (*launch.REQUIRED, "LOCAL_RANK", *launch.STARTED_BY, "SLURM_NTASKS", "SLURM_JOB_ID",
             "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE")
UNCHANGED = {
    "distributed_init_method": None, "distributed_rank": 0, "distributed_no_spawn": False,
    "distributed_backend": "nccl",
}


def set_environment(monkeypatch, **variables):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def torchrun_environment(monkeypatch, rank, world_size, local_rank):
    set_environment(
        monkeypatch, RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=local_rank,
        MASTER_ADDR="localhost", MASTER_PORT=29500,
    )


def parse(monkeypatch, gpus, *flags):
    """Return what fairseq-train makes of its flags on a machine with some GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("sys.argv", ["fairseq-train", "data", *flags])
    parser = options.get_training_parser()
    return options.parse_args_and_arch(
        parser, ["data", "--user-dir", PLUGIN, "--arch", "transformer_task_moe_tiny", *flags]
    )


def world(args):
    return {name: getattr(args, name) for name in (*UNCHANGED, "distributed_world_size")}


@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": 4},  # some other program's
        {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500},
        {"SLURM_NTASKS": 4, "SLURM_JOB_ID": 1},
    ],
)
def test_without_a_launcher_nothing_changes(monkeypatch, gpus, variables):
    set_environment(monkeypatch, **variables)
    args = parse(monkeypatch, gpus)
    assert world(args) == {**UNCHANGED, "distributed_world_size": max(1, gpus)}


def test_a_given_init_method_is_not_changed(monkeypatch):
    torchrun_environment(monkeypatch, rank=1, world_size=2, local_rank=1)
    flags = ("--distributed-init-method", "tcp://a:1", "--distributed-world-size", "16")
    assert world(parse(monkeypatch, 0, *flags)) == {
        **UNCHANGED, "distributed_init_method": "tcp://a:1", "distributed_world_size": 16,
    }


@pytest.mark.parametrize(
    "gpus, flags, backend, device",
    [
        (0, (), "gloo", 0),
        (0, ("--cpu",), "gloo", 0),
        (8, ("--cpu",), "gloo", 0),
        (1, (), "nccl", 0),  # a node with one GPU, or each process sees its own alone
        (8, (), "nccl", 3),
        (8, ("--distributed-world-size", "16"), "nccl", 3),
        (0, ("--distributed-backend", "mpi"), "mpi", 0),
    ],
)
def test_a_rank_joins_the_launchers_group(monkeypatch, gpus, flags, backend, device):
    torchrun_environment(monkeypatch, rank=11, world_size=16, local_rank=3)
    args = parse(monkeypatch, gpus, *flags)
    assert world(args) == {
        "distributed_init_method": "env://", "distributed_rank": 11, "distributed_no_spawn": True,
        "distributed_backend": backend, "distributed_world_size": 16,
    }
    assert args.device_id == device


@settings(max_examples=15)  # fairseq takes its time to make a parser
@given(
    gpus=st.integers(2, 9), nodes=st.integers(1, 4), rank=st.integers(0, 35), local=st.booleans()
)
def test_on_nodes_with_several_gpus_the_result_is_fairseqs_own(gpus, nodes, rank, local):
    rank %= gpus * nodes
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch)
        plain = parse(monkeypatch, gpus)
        torchrun_environment(monkeypatch, rank, gpus * nodes, rank % gpus if local else "")
        joined = parse(monkeypatch, gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        infer_init_method(plain)
        assert world(joined) == world(plain)
        assert joined.device_id == plain.device_id == rank % gpus


@pytest.mark.parametrize("asked, gpus", [(3, 0), (1, 0), (8, 8), (4, 8)])
def test_a_world_size_that_contradicts_the_launcher_is_refused(monkeypatch, asked, gpus):
    torchrun_environment(monkeypatch, rank=0, world_size=2, local_rank=0)
    with pytest.raises(Refusal, match=f"--distributed-world-size {asked} contradicts WORLD_SIZE=2"):
        parse(monkeypatch, gpus, "--distributed-world-size", str(asked))


def test_invalid_launcher_variables_are_refused(monkeypatch):
    torchrun_environment(monkeypatch, rank="first", world_size=2, local_rank=1)
    with pytest.raises(Refusal, match="RANK=first in the environment is not a number"):
        parse(monkeypatch, 0)


@pytest.mark.parametrize(
    "variables, world_size, says",
    [
        ({"WORLD_SIZE": 2}, 1, "torchrun started 2 .* set RANK, MASTER_ADDR, MASTER_PORT"),
        ({"SLURM_STEP_NUM_TASKS": 4, "SLURM_NTASKS": 4}, 1, "srun started 4 .*RANK=.SLURM_PROCID"),
        ({"OMPI_COMM_WORLD_SIZE": 3}, 2, "mpirun started 3 .*RANK=.OMPI_COMM_WORLD_RANK"),
        ({"PMI_SIZE": 2}, 1, "mpirun started 2 .*RANK=.PMI_RANK"),
        # four times torchrun with two processes each, that know nothing of each other
        ({"SLURM_STEP_NUM_TASKS": 4, "WORLD_SIZE": 2}, 2, "srun started 4 .* world size is 2"),
    ],
)
def test_more_processes_than_ranks_are_refused(
    monkeypatch, variables, world_size, says
):
    set_environment(monkeypatch, **variables)
    assert re.search(says, refusal(launch.check_launch, world_size))


@pytest.mark.parametrize(
    "variables, world_size",
    [
        ({}, 1),
        ({}, 8),
        ({"WORLD_SIZE": 16, "SLURM_STEP_NUM_TASKS": 2}, 16),  # srun starts a torchrun a node
        ({"SLURM_STEP_NUM_TASKS": 2}, 16),  # fairseq starts a process for each of a node's GPUs
        ({"SLURM_NTASKS": 16, "SLURM_JOB_ID": 5}, 1),  # a batch script is one process
        ({"WORLD_SIZE": 1, "PMI_SIZE": ""}, 1),
    ],
)
def test_as_many_processes_as_ranks_are_accepted(monkeypatch, variables, world_size):
    set_environment(monkeypatch, **variables)
    launch.check_launch(world_size)


@pytest.mark.parametrize("restarts, shared, refused", [
    (1, "True", True), (0, "True", False), (1, "False", False), (3, "", False),
])
def test_restarts_that_could_not_connect_are_refused(monkeypatch, restarts, shared, refused):
    set_environment(
        monkeypatch, TORCHELASTIC_MAX_RESTARTS=restarts, TORCHELASTIC_USE_AGENT_STORE=shared
    )
    if refused:
        with pytest.raises(Refusal, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
            launch.check_launch(1)
    else:
        launch.check_launch(1)


def assert_one_group_of_two(result):
    for rank in range(2):
        assert f"as rank {rank}\n" in result.said
    assert result.said.count("training on 2 devices") == 1 == result.said.count("training on ")
    assert len(logged(result.stdout + result.stderr, "train_num_updates")) == 1


@pytest.mark.slow
def test_launch_real_torchrun_with_flags(corpus, tmp_path):
    result = run(
        *TORCHRUN, "fairseq-train", corpus.data, *TRAIN, "--ddp-backend", "legacy_ddp",
        "--max-update", 2, "--save-dir", tmp_path,
    )
    assert_one_group_of_two(result)


@pytest.mark.slow
def test_launch_real_torchrun_with_hydra(corpus, tmp_path):
    result = run(
        *TORCHRUN, *HYDRA, f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}",
        "+launch=torchrun_cpu",
    )
    assert_one_group_of_two(result)


@pytest.mark.slow
def test_launch_real_hydra_without_the_launch_group_is_refused(corpus, tmp_path):
    words = (*HYDRA, f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}")
    result = run(*TORCHRUN, *words, check=False)
    assert result.returncode == 1 and result.said.count("Traceback") == 1  # torchrun's own
    (line,) = set(result.refusals)
    assert "+launch=torchrun" in line and not list(tmp_path.glob("*.pt"))
    overrides = line.partition("which means ")[2].partition(";")[0]
    result = run(*TORCHRUN, *words, *shlex.split(overrides),
                 "distributed_training.distributed_backend=gloo")
    assert_one_group_of_two(result)


RESTARTED = """
if [ "$TORCHELASTIC_RESTART_COUNT" = 1 ]; then exec "$@" --max-update 3; fi
"$@" --max-update 2
exit 1
"""


@pytest.mark.slow
def test_launch_real_restart_resumes(corpus, tmp_path, monkeypatch):
    torchrun = (*TORCHRUN[:-1], "--max-restarts", 1, "--no-python")
    words = ("fairseq-train", corpus.data, *TRAIN, "--ddp-backend", "legacy_ddp",
             "--save-dir", tmp_path)
    result = run(*torchrun, *words, check=False)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in result.refusals[0]
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    result = run(*torchrun, "bash", "-c", RESTARTED, "bash", *words)
    assert result.said.count("training on 2 devices") == 2
    assert "checkpoint_last.pt (epoch 1 @ 2 updates)" in result.said
    assert logged(result.stdout + result.stderr, "train_num_updates")[-1] == 3

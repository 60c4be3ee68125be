"""What experts over ranks cannot be trained with: one line, said once, and every rank ends."""

import shutil

import pytest
from console import PLUGIN, TASK, TRAIN, run
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from rank_trainings import run_on, train_on
from refusals import refusal

from fairseq_taskmoe.checkpoint.convert_shards import reshard
from fairseq_taskmoe.distributed.layout import ExpertLayout, expert_layout
from fairseq_taskmoe.training.checks import check_expert_parallel, run_settings

__all__ = ["train_on"]  # fixtures

LEGACY = ("--ddp-backend", "legacy_ddp")
SPREAD = ExpertLayout(num_experts=4, world_size=2, size=2)
SHARDED = ("--moe-sharded-checkpoints",)
REFUSED_FLAGS = {
    "--ddp-backend pytorch_ddp": ("--ddp-backend legacy_ddp",),
    "--ddp-backend fully_sharded": ("--ddp-backend legacy_ddp",),
    "--optimizer adafactor": ("adam", "sgd"),
    "--fp16": ("--fp16-no-flatten-grads",),
    "--zero-sharding os": ("same weights",),
    "--amp": ("--bf16",),
    "--memory-efficient-fp16": ("--fp16-no-flatten-grads",),
    "--memory-efficient-bf16": ("--bf16",),
    "--use-bmuf": ("averages",),
    "--no-save-optimizer-state": ("--moe-sharded-checkpoints",),
    "--ema-fp32": ("--moe-sharded-checkpoints",),
}
NEEDED_BESIDE = {"--ema-fp32": ("--store-ema",)}
ADMITTED_FLAGS = [
    "", "--optimizer sgd", "--bf16", "--fp16 --fp16-no-flatten-grads", "--store-ema",
    "--checkpoint-activations", "--ddp-backend no_c10d",
    "--no-save --no-save-optimizer-state",
    "--moe-sharded-checkpoints --no-save-optimizer-state",
    "--moe-sharded-checkpoints --store-ema --ema-fp32",
]


def check_flags(*flags):
    """Run the checks of a command line's own configuration, for experts on two ranks."""
    words = ["data", "--user-dir", PLUGIN, *map(str, TRAIN), *LEGACY, *flags]
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))
    check_expert_parallel(run_settings(cfg.model), SPREAD, cfg.model.moe_sharded_checkpoints)


@pytest.mark.filterwarnings("ignore")  # hydra's, about how fairseq calls it
@pytest.mark.parametrize("flag", REFUSED_FLAGS)
def test_options_that_would_corrupt_experts_are_refused_with_an_alternative(flag):
    line = refusal(check_flags, *flag.split(), *NEEDED_BESIDE.get(flag, ()))
    for word in (*flag.split(), "experts are spread over 2 ranks", *REFUSED_FLAGS[flag]):
        assert word in line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flags", ADMITTED_FLAGS)
def test_supported_options_are_not_refused(flags):
    check_flags(*flags.split())


@pytest.mark.parametrize(
    "num_experts, ranks, size, names",
    [
        (4, 2, 4, "number of ranks, 2"),
        (4, 6, 4, "number of ranks, 6"),
        (6, 4, 4, "--moe-expert-count 6"),
        (6, 3, 0, "--moe-expert-parallel-size 0"),
    ],
)
def test_a_size_that_does_not_divide_is_refused(num_experts, ranks, size, names):
    line = refusal(expert_layout, num_experts, ranks, size)
    assert names in line and f"--moe-expert-parallel-size {size}" in line


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.pt*")}


@pytest.fixture
def refused_on(corpus, tmp_path):
    """Give a function that trains on ranks in vain: refused_on(ranks, folder, *flags) -> line."""

    def refused(ranks, folder, *flags):
        before = contents(folder)
        ended = run_on(
            ranks, tmp_path / "logs", "fairseq-train", corpus.data, *TRAIN, *LEGACY,
            "--max-update", 3, "--disable-validation", "--save-dir", folder, *flags, check=False,
        )
        assert ended.statuses == [2] * ranks, ended.said
        assert not any("Traceback" in said for said in ended.said)
        assert contents(folder) == before
        (line,) = ended.refusals
        assert line in ended.said[0]
        return line

    return refused


def test_all_ranks_end_after_a_refusal(refused_on, tmp_path):
    line = refused_on(4, tmp_path / "out", "--moe-expert-parallel-size", 3)
    assert "--moe-expert-parallel-size 3 does not divide the number of ranks, 4" in line


def test_fewer_experts_than_choices_are_refused(refused_on, tmp_path):
    line = refused_on(2, tmp_path / "out", "--moe-expert-count", 2, "--moe-top-k", 3)
    assert "--moe-top-k 3" in line and "--moe-expert-count 2" in line


@pytest.mark.slow
def test_under_torchrun_the_refusal_is_printed_once(corpus, tmp_path):
    result = run(
        "torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", "fairseq-train",
        corpus.data, *TRAIN, *LEGACY, "--max-update", 3, "--save-dir", tmp_path / "out",
        "--optimizer", "adafactor", check=False,
    )
    assert result.returncode == 1 and result.said.count("Traceback") == 1  # torchrun's own
    (line,) = result.refusals
    assert "--optimizer adafactor" in line and not contents(tmp_path / "out")


@pytest.fixture(scope="module")
def checkpoint(train_on):
    return train_on(1, "to-refuse", "--max-update", 1, "--disable-validation").file(1)


def shards(checkpoint, ranks, folder):
    folder.mkdir()
    reshard(str(checkpoint), ranks, str(folder / "checkpoint_last.pt"))
    return folder


def test_resuming_with_another_number_of_experts_is_refused(refused_on, checkpoint, tmp_path):
    line = refused_on(
        2, tmp_path / "out", "--restore-file", checkpoint, "--moe-expert-count", 8
    )
    assert "--moe-expert-count 4, this one has 8" in line


def test_resuming_shards_with_another_number_of_experts_is_refused(
    refused_on, checkpoint, tmp_path
):
    folder = shards(checkpoint, 2, tmp_path / "two")
    line = refused_on(2, folder, *SHARDED, "--moe-expert-count", 8)
    assert "--moe-expert-count 4, this one has 8" in line


def test_shards_of_two_runs_are_refused(refused_on, checkpoint, tmp_path):
    folder, other = (shards(checkpoint, 2, tmp_path / name) for name in ("one", "other"))
    shutil.copy(other / "checkpoint_last-rank-1.pt", folder)
    line = refused_on(2, folder, *SHARDED)
    assert f"{folder}/checkpoint_last-rank-1.pt is of another run" in line


def test_a_missing_shard_is_named(refused_on, checkpoint, tmp_path):
    folder = shards(checkpoint, 2, tmp_path / "two")
    (folder / "checkpoint_last-rank-1.pt").unlink()
    assert f"{folder}/checkpoint_last-rank-1.pt is missing" in refused_on(2, folder, *SHARDED)


def test_four_shards_on_two_ranks_are_refused(refused_on, checkpoint, tmp_path):
    folder = shards(checkpoint, 4, tmp_path / "four")
    line = refused_on(2, folder, *SHARDED)
    assert "4 shards" in line and "2 ranks" in line and "taskmoe reshard" in line


def test_shards_without_the_flag_are_refused(refused_on, checkpoint, tmp_path):
    folder = shards(checkpoint, 2, tmp_path / "two")
    assert "taskmoe consolidate" in refused_on(2, folder)


def test_translating_with_a_shard_is_refused(checkpoint, corpus, tmp_path):
    folder = shards(checkpoint, 2, tmp_path / "two")
    ended = run_on(
        1, tmp_path / "logs", "fairseq-generate", corpus.data, *TASK, "-s", "en", "-t",
        "de", "--path", folder / "checkpoint_last-rank-0.pt", "--cpu", check=False,
    )
    (line,) = ended.refusals
    assert ended.statuses == [2] and "Traceback" not in ended.said[0]
    assert "one of 2 shards" in line and "taskmoe consolidate" in line

"""On two ranks, a run that was stopped and resumed is the run that never stopped, to the last bit.

With half precision, averages of weights and recomputed activations, in one file and in shards.
"""

import pytest
import torch
from rank_trainings import (
    ROUTERS,
    assert_close,
    everything,
    read,
    train_on,
    without_key_biases,
)

from fairseq_taskmoe.checkpoint.convert_shards import consolidate, reshard
from fairseq_taskmoe.checkpoint.shards import shard_file

__all__ = ["train_on"]  # fixtures

STOP, LAST = 3, 6
NUM_EXPERTS = 4
EMA = ("--store-ema", "--ema-decay", 0.9, "--checkpoint-activations")
VARIANTS = {
    # fairseq cannot overflow on CPU: it asks CUDA for the time, so the scale stays small
    "fp16": ("--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", 4),
    "bf16": ("--bf16",),
    "ema": EMA,
    "shards": ("--moe-sharded-checkpoints", *EMA, "--ema-fp32"),
}
COMMON = (*ROUTERS, "--clip-norm", 0.5, "--disable-validation", "--activation-fn", "gelu")


@pytest.fixture(scope="module")
def never_stopped(train_on):
    def trained(variant):
        flags = (*COMMON, *VARIANTS[variant], "--update-freq", 2, "--max-update", LAST)
        return train_on(2, f"{variant}-never-stopped", *flags)

    return trained


def stem(training, update):
    """Return what --restore-file names: the file, or what its shards have in common."""
    file = training.file(update)
    return file.with_name(file.name.replace("-rank-0", ""))


def saved_files(training, update):
    file = training.file(update)
    both = [file, file.with_name(file.name.replace("-rank-0", "-rank-1"))]
    return [read(each) for each in (both if "-rank-" in file.name else [file])]


def in_one_file(training, folder):
    """Return the last checkpoint, consolidated if it is one of shards."""
    path = stem(training, LAST)
    if not path.exists():
        consolidate(str(path), str(folder / f"{training.folder.name}.pt"))
        path = folder / f"{training.folder.name}.pt"
    return read(path)


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_training_equals_training_in_one_go(train_on, never_stopped, variant):
    whole = never_stopped(variant)
    resumed = train_on(
        2, f"{variant}-resumed", *COMMON, *VARIANTS[variant], "--update-freq", 2,
        "--max-update", LAST, "--restore-file", stem(whole, STOP),
    )
    sentences = whole.trained_on()
    assert resumed.trained_on() == {u: sentences[u] for u in range(STOP + 1, LAST + 1)}
    files = [saved_files(training, LAST) for training in (whole, resumed)]
    for one, other in zip(*files, strict=True):
        assert_identical(everything(one), everything(other))
    first, *_ = files[0]
    for name, tensor in everything(first).items():
        if ".experts." in name and tensor.dim() > 1:
            assert len(tensor) == NUM_EXPERTS // len(files[0]), name
    if variant in ("fp16", "bf16"):
        assert_rounded_from_masters(first, {"fp16": torch.float16, "bf16": torch.bfloat16}[variant])


def assert_rounded_from_masters(saved, dtype):
    """The weights were trained in dtype, and nothing was lost of what they are rounded from."""
    tensors = everything(saved)
    for name in saved["task_state"]["parameter_names"]:
        master = tensors[f"fp32_master of {name}"]
        assert torch.equal(master.to(dtype).float(), tensors[name]), name
        assert not torch.equal(master, tensors[name]), name


@pytest.mark.slow
def test_averaged_checkpoints_contain_all_experts(train_on, never_stopped):
    """As on one rank, which holds them all; and they have moved on with the weights."""
    flags = (*COMMON, *VARIANTS["ema"], "--update-freq", 4, "--max-update", LAST)
    alone = train_on(1, "ema-alone", *flags)
    one, other = (everything(run.saved(LAST)) for run in (alone, never_stopped("ema")))
    assert_close(without_key_biases(one), without_key_biases(other), 1e-3)
    before = everything(never_stopped("ema").saved(STOP))
    moved = [name for name in other if name.startswith("ema ") and ".experts." in name]
    assert moved
    for name in moved:
        for expert, earlier in zip(other[name], before[name], strict=True):
            assert not torch.equal(expert, earlier), name
        assert not torch.equal(other[name], other[name.removeprefix("ema ")])


@pytest.mark.slow
def test_consolidated_shards_are_the_ordinary_checkpoint(never_stopped, tmp_path):
    whole = everything(in_one_file(never_stopped("shards"), tmp_path))
    averages = {name: whole.pop(name) for name in list(whole) if name.startswith("ema_fp32")}
    assert_identical(whole, everything(never_stopped("ema").saved(LAST)))
    for name, average in averages.items():  # in a float32 run they are the averages themselves
        assert torch.equal(average, whole[name.replace("ema_fp32_params ", "ema ")]), name


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ema", "shards"])
def test_four_ranks_resume_from_a_checkpoint_of_two(train_on, never_stopped, tmp_path, variant):
    """From one file, or from shards that reshard has made."""
    whole = never_stopped(variant)
    restored = stem(whole, STOP)
    if variant == "shards":
        restored = tmp_path / "checkpoint_1_3.pt"
        reshard(str(stem(whole, STOP)), 4, str(restored))
        assert read(shard_file(str(restored), 3))["model"]
    resumed = train_on(
        4, f"{variant}-to-four", *COMMON, *VARIANTS[variant], "--update-freq", 1,
        "--max-update", LAST, "--restore-file", restored,
    )
    updates = range(STOP + 1, LAST + 1)
    for name in ("loss", "gnorm"):
        expected = whole.measured(name, updates)
        assert resumed.measured(name, updates) == pytest.approx(expected, rel=1e-5, abs=0)
    one, other = (in_one_file(training, tmp_path) for training in (whole, resumed))
    assert_close(
        without_key_biases(everything(one)), without_key_biases(everything(other)), 1e-3
    )

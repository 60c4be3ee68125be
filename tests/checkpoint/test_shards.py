"""Checkpoints of one file and of one per rank: what one way cuts, the other puts together again.

E experts; W ranks, in expert-parallel groups of N.
"""

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from console import generate, hypotheses, refused, run, stir
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_taskmoe.checkpoint import convert_shards
from fairseq_taskmoe.checkpoint.convert_shards import consolidate, reshard
from fairseq_taskmoe.checkpoint.shards import shard_file, shard_files
from fairseq_taskmoe.distributed.layout import ExpertLayout
from fairseq_taskmoe.errors import Refusal

OPTIMIZERS = ("adam", "adam, step tensors", "momentum", "sgd", "none", "not saved")


def make_checkpoint(
    num_experts: int = 4, width: int = 3, optimizer: str = "adam", averaged: bool = False,
    half: bool = False,
) -> Dict[str, Any]:
    """Return a checkpoint in the form of fairseq's, with two stacks of experts among the rest."""
    dtype = torch.float16 if half else torch.float32
    shapes = {
        "encoder.embed_tokens.weight": (7, width),
        "encoder.layers.0.moe.experts.fc1.weight": (num_experts, 2 * width, width),
        "encoder.layers.0.moe.experts.fc1.bias": (num_experts, 1, 2 * width),
        "encoder.layers.0.moe.router.gate.weight": (num_experts, width),
        "decoder.layers.0.fc1.bias": (1,),
    }
    model = OrderedDict((name, torch.randn(shape).to(dtype)) for name, shape in shapes.items())
    model["decoder.embed_tokens.weight"] = model["encoder.embed_tokens.weight"]  # tied
    model._metadata = {"": {"version": 3}}
    extra: Dict[str, Any] = {"train_iterator": {"epoch": 2}, "val_loss": float("nan")}
    if averaged:
        extra["ema"] = OrderedDict((name, weight + 1) for name, weight in model.items())
        extra["ema_fp32_params"] = {name: ema.float() for name, ema in extra["ema"].items()}
    checkpoint = {
        "args": None,
        "cfg": {
            "model": {"moe_expert_count": num_experts, "moe_expert_parallel_size": 2},
            "checkpoint": {"checkpoint_suffix": ""},
        },
        "model": model,
        "optimizer_history": [{"num_updates": 5}, {"num_updates": 30}],
        "task_state": {
            "task_table": {"lang_pairs": ["en-de"], "groups": {}}, "parameter_names": list(shapes),
        },
        "extra_state": extra,
    }
    if optimizer != "not saved":
        checkpoint["last_optimizer_state"] = optimizer_state(model, list(shapes), optimizer)
    return checkpoint


def optimizer_state(model: Dict[str, Any], names: List[str], optimizer: str) -> Any:
    if optimizer == "none":
        return None
    state: Dict[int, Any] = {}
    for i, name in enumerate(names if optimizer != "sgd" else ()):
        moments = {key: torch.randn(model[name].shape) for key in ("exp_avg", "exp_avg_sq")}
        state[i] = {
            "adam": {"step": 30, **moments},
            "adam, step tensors": {"step": torch.tensor(30.0), **moments},
            "momentum": {"momentum_buffer": moments["exp_avg"]},
        }[optimizer]
    groups = [{"lr": 0.1, "params": [0, 1]}, {"lr": 0.2, "params": [2, 3, 4]}]
    return {"state": state, "param_groups": groups, "loss_scale": 128.0}


def load(file: Path) -> Dict[str, Any]:
    return torch.load(file, weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Compare types, keys and their order, attributes, numbers, and tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        assert getattr(one, "_metadata", None) == getattr(other, "_metadata", None), where
        for key in one:
            assert_same(one[key], other[key], f"{where} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where} {i}")
    elif isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    else:
        assert repr(one) == repr(other), where  # NaN, too


def shared_memory(checkpoint: Dict[str, Any]) -> Dict[str, List[str]]:
    """Return which weights are stored once under several names."""
    extra = checkpoint["extra_state"]
    names: Dict[int, List[str]] = {}
    for part in (checkpoint["model"], extra.get("ema", {}), extra.get("ema_fp32_params", {})):
        for name, weight in part.items():
            names.setdefault(weight.data_ptr(), []).append(name)
    return {shared[0]: shared for shared in names.values()}


def without_run(shard: Dict[str, Any]) -> Dict[str, Any]:
    shard["task_state"]["expert_shard"].pop("run")
    return shard


@st.composite
def layouts(draw) -> ExpertLayout:
    size = draw(st.integers(1, 4))
    return ExpertLayout(
        size * draw(st.integers(1, 3)), size * draw(st.integers(1, 3)), size
    )


@pytest.mark.slow
@settings(max_examples=40)
@given(layouts(), st.sampled_from(OPTIMIZERS), st.booleans(), st.booleans(), st.integers(1, 3))
def test_consolidate_undoes_reshard(layout, optimizer, averaged, half, width):
    made = make_checkpoint(layout.num_experts, width, optimizer, averaged, half)
    with tempfile.TemporaryDirectory() as folder:
        one, other, shards = (Path(folder, name) for name in ("one.pt", "other.pt", "shards.pt"))
        torch.save(made, one)
        reshard(str(one), layout.world_size, str(shards), layout.size)
        consolidate(str(shards), str(other))
        assert_same(load(one), load(other))
        assert shared_memory(load(one)) == shared_memory(load(other))


@pytest.mark.slow
@settings(max_examples=15)
@given(
    st.sampled_from([(1, 1), (4, 4), (6, 3), (6, 2), (8, 4), (12, 12)]),
    st.sampled_from([(1, 1), (3, 3), (4, 2), (5, 1), (6, 6), (12, 12)]),
    st.sampled_from(OPTIMIZERS),
)
def test_other_shards_come_out_of_shards_as_of_the_whole(before, after, optimizer):
    with tempfile.TemporaryDirectory() as folder:
        one, first, direct, around = (
            Path(folder, name) for name in ("one.pt", "first.pt", "direct.pt", "around.pt")
        )
        torch.save(make_checkpoint(12, optimizer=optimizer, averaged=True), one)
        reshard(str(one), before[0], str(first), before[1])
        reshard(str(first), after[0], str(direct), after[1])
        reshard(str(one), after[0], str(around), after[1])
        assert len(shard_files(str(direct))) == after[0]
        for rank in range(after[0]):
            shards = [load(Path(shard_file(str(path), rank))) for path in (direct, around)]
            assert shards[0]["task_state"]["expert_shard"]["run"] != "", "as every set has"
            assert_same(*map(without_run, shards))


def test_a_shard_holds_its_rank_s_experts_and_rank_0_all_else(tmp_path):
    whole = make_checkpoint(12, averaged=True)
    torch.save(whole, tmp_path / "one.pt")
    reshard(str(tmp_path / "one.pt"), 8, str(tmp_path / "last.pt"), 4)
    shards = [load(tmp_path / f"last-rank-{rank}.pt") for rank in range(8)]
    assert len({shard["task_state"]["expert_shard"]["run"] for shard in shards}) == 1
    fc1 = "encoder.layers.0.moe.experts.fc1.weight"
    experts = [name for name in whole["model"] if ".moe.experts." in name]
    for rank, shard in enumerate(shards):
        record = shard["task_state"]["expert_shard"]
        assert (record["rank"], record["world_size"], record["size"]) == (rank, 8, 4)
        assert list(shard["model"]) == (experts if rank else list(whole["model"]))
        assert list(shard["extra_state"]["ema"]) == list(shard["model"])
        assert list(shard["extra_state"]["ema_fp32_params"]) == list(shard["model"])
        optimizer = shard["last_optimizer_state"]
        assert list(optimizer["state"]) == ([1, 2] if rank else [0, 1, 2, 3, 4])
        assert optimizer["param_groups"] == whole["last_optimizer_state"]["param_groups"]
        first = rank % 4 * 3
        own = slice(first, first + 3)
        assert torch.equal(shard["model"][fc1], whole["model"][fc1][own])
        moments = optimizer["state"][1], whole["last_optimizer_state"]["state"][1]
        assert torch.equal(moments[0]["exp_avg_sq"], moments[1]["exp_avg_sq"][own])
        assert optimizer["state"][1]["step"] == 30


def test_a_slice_is_stored_without_the_experts_around_it(tmp_path):
    torch.save(make_checkpoint(8, width=40), tmp_path / "one.pt")
    reshard(str(tmp_path / "one.pt"), 8, str(tmp_path / "last.pt"))
    sizes = [(tmp_path / f"last-rank-{rank}.pt").stat().st_size for rank in range(8)]
    weights = 3 * 4 * (2 * 40 * 40 + 2 * 40)  # an expert's, and its moments'
    assert weights < sizes[7] < weights + 8000


# -- a real run


@pytest.fixture(scope="session")
def trained(train) -> Path:
    return train(
        "sharded", "--max-update", 3, "--disable-validation", "--moe-expert-count", 12,
        "--store-ema", "--ema-fp32",
    )


@pytest.mark.parametrize("layout", [(1, 1), (2, 2), (4, 2), (4, 4), (6, 3), (12, 12), (5, 1)])
def test_a_run_s_checkpoint_survives_both_ways(trained, tmp_path, layout):
    reshard(str(trained), layout[0], str(tmp_path / "checkpoint_last.pt"), layout[1])
    (tmp_path / "checkpoint_last-rank-0.pt").stat()
    consolidate(shard_file(str(tmp_path / "checkpoint_last.pt"), layout[0] - 1),
                str(tmp_path / "whole.pt"))
    one, other = load(trained), load(tmp_path / "whole.pt")
    assert one["last_optimizer_state"]["state"] and one["extra_state"]["ema_fp32_params"]
    assert_same(one, other)
    assert shared_memory(one) == shared_memory(other)


@pytest.mark.slow
def test_a_consolidated_file_is_generated_from_as_the_original(trained, tmp_path, corpus):
    """Through the commands, from shards with the configuration that a sharded run leaves."""
    stirred = stir(trained, tmp_path / "stirred.pt")
    resharded = run("taskmoe", "reshard", stirred, "--ranks", 4, "--out", tmp_path / "last.pt")
    assert len(resharded.stderr.splitlines()) == 4  # a line of progress for each
    for rank in range(4):
        file = tmp_path / f"last-rank-{rank}.pt"
        shard = torch.load(file, weights_only=False)
        shard["cfg"]["checkpoint"]["checkpoint_suffix"] = f"-rank-{rank}"
        shard["cfg"]["model"].update(moe_sharded_checkpoints=True, moe_expert_parallel_size=4)
        torch.save(shard, file)
    whole = tmp_path / "whole.pt"
    run("taskmoe", "consolidate", tmp_path / "last-rank-2.pt", "--out", whole)
    cfg = load(whole)["cfg"]
    assert cfg["checkpoint"]["checkpoint_suffix"] == ""
    assert cfg["model"]["moe_sharded_checkpoints"] is False
    assert cfg["model"]["moe_expert_parallel_size"] is None
    flags = ("--beam", 2, "--max-len-b", 10)
    expected = hypotheses(generate(corpus.data, "en-de", stirred, *flags).stdout)
    assert len(set(expected.values())) > 10
    assert hypotheses(generate(corpus.data, "en-de", whole, *flags).stdout) == expected


# -- mistakes


@pytest.fixture
def shards(tmp_path) -> Path:
    """Give the name, without ranks, of shards of 4 ranks in groups of 2; beside it one.pt."""
    torch.save(make_checkpoint(), tmp_path / "one.pt")
    reshard(str(tmp_path / "one.pt"), 4, str(tmp_path / "last.pt"), 2)
    return tmp_path / "last.pt"


def edit(file: Path, change) -> None:
    checkpoint = load(file)
    change(checkpoint)
    torch.save(checkpoint, file)


def refusal(function, *arguments: Any) -> str:
    with pytest.raises(Refusal) as refused_with:
        function(*map(str, arguments[:1]), *arguments[1:])
    assert len(refused_with.value.message.splitlines()) == 1
    return refused_with.value.message


def other_update(checkpoint):
    checkpoint["optimizer_history"][-1]["num_updates"] = 31


def other_step(checkpoint):
    checkpoint["last_optimizer_state"]["state"][1]["step"] = 29


def missing_experts(checkpoint):
    del checkpoint["model"]["encoder.layers.0.moe.experts.fc1.bias"]


def too_few_experts(checkpoint):
    name = "encoder.layers.0.moe.experts.fc1.bias"
    checkpoint["model"][name] = checkpoint["model"][name][:1]
    checkpoint["last_optimizer_state"] = None


def other_width(checkpoint):
    name = "encoder.layers.0.moe.experts.fc1.bias"
    checkpoint["model"][name] = torch.zeros(2, 1, 5)
    checkpoint["last_optimizer_state"] = None


def nonsense_record(checkpoint):
    checkpoint["task_state"]["expert_shard"] = {"rank": 1, "world_size": True, "size": 0}


@pytest.mark.parametrize(
    "change, told",
    [
        (other_update, ["foreign", "its update is 31", "30"]),
        (other_step, ["foreign", "step of encoder.layers.0.moe.experts.fc1.weight"]),
        (missing_experts, ["encoder.layers.0.moe.experts.fc1.bias"]),
        (too_few_experts, ["encoder.layers.0.moe.experts.fc1.bias", "1 experts", "2"]),
        (other_width, ["foreign", "encoder.layers.0.moe.experts.fc1.bias"]),
        (nonsense_record, ["damaged"]),
    ],
)
@pytest.mark.parametrize("rank", [1, 3])  # one that would be read, and a replica
def test_a_shard_that_does_not_fit_is_named(shards, tmp_path, change, told, rank):
    file = shard_file(str(shards), rank)
    edit(Path(file), change)
    out = tmp_path / "whole.pt"
    for message in (
        refusal(consolidate, shards, str(out)), refusal(reshard, shards, 2, str(out)),
    ):
        assert message.startswith(f"{file}: ")
        assert all(words in message for words in told), message
    assert not out.exists()


def test_shards_that_are_missing_exchanged_or_of_other_runs_are_named(shards, tmp_path):
    files = [Path(shard_file(str(shards), rank)) for rank in range(4)]
    out = str(tmp_path / "whole.pt")
    reshard(str(tmp_path / "one.pt"), 4, str(tmp_path / "b.pt"), 2)
    reshard(str(tmp_path / "one.pt"), 4, str(tmp_path / "c.pt"), 4)
    reshard(str(tmp_path / "one.pt"), 2, str(tmp_path / "d.pt"), 2)
    before = files[1].read_bytes()

    def message(named: Path) -> str:
        return refusal(consolidate, named, out)

    files[1].write_bytes((tmp_path / "b-rank-1.pt").read_bytes())
    assert f"{files[1]}: a foreign shard: its run is" in message(shards)
    # the one that is named is taken as the one that is right
    assert f"{files[0]}: a foreign shard: its run is" in message(files[1])
    files[1].write_bytes((tmp_path / "d-rank-1.pt").read_bytes())
    edit(files[1], lambda shard: shard["task_state"]["expert_shard"].update(
        run=load(files[0])["task_state"]["expert_shard"]["run"]))
    assert f"{files[1]}: a foreign shard: its number of ranks is 2" in message(shards)
    files[1].write_bytes((tmp_path / "one.pt").read_bytes())
    assert f"{files[1]}: a foreign shard: its run is none, a whole checkpoint" in message(shards)
    files[1].write_bytes(files[3].read_bytes())
    assert f"{files[1]}: holds the shard of rank 3" in message(shards)
    files[1].write_bytes(before[: len(before) // 2])
    assert f"{files[1]}: truncated" in message(shards)
    files[1].unlink()
    assert message(shards) == f"{files[1]}: missing shard, one of 4"
    assert message(files[1]) == f"{files[1]}: no such checkpoint"
    files[1].write_bytes(before)
    files[0].rename(tmp_path / "renamed.pt")
    assert f"{tmp_path / 'renamed.pt'}: a shard, which is no longer" in message(
        tmp_path / "renamed.pt")
    assert message(shards) == f"{files[0]}: missing shard, one of 4"
    assert not os.path.exists(out)


def test_what_is_no_shard_or_cannot_be_cut_is_refused(tmp_path):
    one, out = tmp_path / "one.pt", str(tmp_path / "last.pt")
    whole = make_checkpoint()

    def message(change, *arguments: Any) -> str:
        changed = copy.deepcopy(whole)
        change(changed)
        torch.save(changed, one)
        return refusal(reshard, one, *(arguments or (4, out)))

    def nothing(checkpoint):
        pass

    def dense(checkpoint):
        checkpoint["cfg"]["model"]["moe_expert_count"] = 0

    def dense_weights(checkpoint):
        checkpoint["last_optimizer_state"] = None
        for name in [name for name in checkpoint["model"] if "experts" in name]:
            del checkpoint["model"][name]

    def unnamed(checkpoint):
        del checkpoint["task_state"]["parameter_names"]

    def flattened(checkpoint):
        checkpoint["last_optimizer_state"] = {
            "state": {0: {"exp_avg": torch.zeros(99)}}, "param_groups": [{"params": [0]}]}

    def row_statistics(checkpoint):
        checkpoint["last_optimizer_state"]["state"][1]["exp_avg_sq"] = torch.zeros(4, 6)

    assert "without experts" in message(dense)
    assert "without experts" in message(dense_weights)
    assert "older version" in message(unnamed)
    assert "flattened" in message(flattened)
    assert "exp_avg_sq" in message(row_statistics)
    assert "--moe-expert-parallel-size 3 does not divide" in message(nothing, 4, out, 3)
    assert "does not divide --moe-expert-count 4" in message(nothing, 8, out, 8)
    assert message(nothing, 0, out) == "--ranks 0: give 1 or more"
    assert "without -rank-N" in message(nothing, 4, str(tmp_path / "last-rank-0.pt"))
    assert refusal(consolidate, one, out) == f"{one}: already one file, with all experts"
    assert sorted(os.listdir(tmp_path)) == ["one.pt"]
    # no optimizer state, no need to know its order
    edit(one, lambda saved: (unnamed(saved), saved["last_optimizer_state"]["state"].clear()))
    reshard(str(one), 4, out)


def test_an_existing_output_is_refused_before_any_work(shards, tmp_path):
    (tmp_path / "whole.pt").write_text("precious")
    shutil.copy(shard_file(str(shards), 3), tmp_path / "other-rank-9.pt")
    words = ("consolidate", "no-such.pt", "--out", tmp_path / "whole.pt")
    messages = [
        refused(run("taskmoe", *words, check=False)),
        refusal(reshard, "no-such.pt", 2, str(shards)),
        # a lone shard of a larger set would look as if it belonged to the new one
        refusal(reshard, "no-such.pt", 2, str(tmp_path / "other.pt")),
    ]
    for message, named in zip(messages, ("whole", "last-rank-0", "other-rank-9"), strict=True):
        assert f"{named}.pt exists; nothing was overwritten" in message
    assert (tmp_path / "whole.pt").read_text() == "precious"


# -- killed, out of space, out of memory


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path):
    torch.save(make_checkpoint(width=120), tmp_path / "one.pt")
    out = tmp_path / "new" / "last.pt"
    command = f"ulimit -f 200; taskmoe reshard {tmp_path / 'one.pt'} --ranks 2 --out {out}"
    line = refused(run("bash", "-c", command, check=False))
    assert str(out.parent) in line
    assert not out.parent.exists()


def test_all_shards_appear_together_or_none(tmp_path, monkeypatch):
    torch.save(make_checkpoint(), tmp_path / "one.pt")
    write, seen = convert_shards.write, []

    def write_three(checkpoint, part):
        seen.append(shard_files(str(tmp_path / "last.pt")))
        if len(seen) == 4:
            raise KeyboardInterrupt
        write(checkpoint, part)

    monkeypatch.setattr(convert_shards, "write", write_three)
    with pytest.raises(KeyboardInterrupt):
        reshard(str(tmp_path / "one.pt"), 4, str(tmp_path / "last.pt"))
    assert seen == [[], [], [], []]
    assert os.listdir(tmp_path) == ["one.pt"]


@pytest.fixture(scope="session")
def large(share) -> Path:
    """Give a checkpoint of 48 MB, two thirds of it experts' moments."""

    def make(folder: Path) -> None:
        folder.mkdir()
        torch.save(make_checkpoint(8, width=500), folder / "one.pt")

    return share("large", make) / "one.pt"


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_whole_files_or_none(large, tmp_path):
    shards = tmp_path / "last.pt"
    reshard(str(large), 4, str(shards))
    moments = random.Random(1)
    for attempt in range(3):
        out = tmp_path / f"whole{attempt}.pt"
        words = [Path(sys.executable).parent / "taskmoe", "consolidate", shards, "--out", out]
        process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        process.stderr.readline()  # it has begun to read experts
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.stderr.close()
        process.wait()
        if out.exists():
            assert_same(load(out), load(large))
        else:
            consolidate(str(shards), str(out))
        out.unlink()


MEASURE = """
import re, sys
from fairseq_taskmoe.checkpoint.convert_shards import consolidate, reshard
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
for call in {calls}:
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    eval(call)
    print(status("VmHWM") - before)
"""


def peaks(*calls: str) -> List[int]:
    """Return by how many bytes calls make their process grow, mapped pages of files included."""
    printed = run(sys.executable, "-c", MEASURE.format(calls=calls)).stdout
    return [int(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_memory_holds_one_output_and_one_shard(large, tmp_path):
    shards, whole, new = (str(tmp_path / name) for name in ("last.pt", "whole.pt", "new.pt"))
    cut, joined, moved = peaks(
        f"reshard({str(large)!r}, 8, {shards!r})",
        f"consolidate({shards!r}, {whole!r})",
        f"reshard({shards!r}, 4, {new!r})",
    )
    shard, new_shard = (os.path.getsize(shard_file(name, 0)) for name in (shards, new))
    slack = 12e6
    assert cut < 2 * shard + slack
    assert joined < os.path.getsize(whole) + shard + slack
    assert moved < new_shard + shard + slack
    # with room for neither all inputs nor all outputs
    assert 2 * shard + slack < 0.6 * os.path.getsize(large)

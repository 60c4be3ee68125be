"""`taskmoe bench` measures equal work, says on what, and refuses what it cannot run."""

import json

import pytest
import torch
from console import refused, run
from fairseq.data import Dictionary

from fairseq_taskmoe.benchmarks.measure import Timing, alternate
from fairseq_taskmoe.benchmarks.memory import peak_bytes
from fairseq_taskmoe.benchmarks.train_step import Load, build, random_batch
from fairseq_taskmoe.data.task_table import TaskTable

SMALL = ("--arch", "tiny", "--tokens", 64, "--length", 8, "--vocab-size", 100, "--repeats", 2,
         "--moe-expert-count", 4, "--threads", 1)


def test_report_names_speed_of_each_variant_and_the_circumstances(tmp_path):
    out = tmp_path / "bench.json"
    printed = run("taskmoe", "bench", "train", *SMALL, "--out", out,
                  "--variants", "dense_equal,token_token").stdout
    report = json.loads(out.read_text())
    assert report["variants"]["dense_equal"]["speed_of_reference"] == 1
    assert report["variants"]["token_token"]["seconds"] > 0
    assert report["hardware"]["threads"] == 1 and report["settings"]["tokens"] == 64
    assert "token_token" in printed


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--variants", "dense,sparse"), "--variants sparse"),
        (("--repeats", 1), "--repeats"),
        (("--tokens", 4), "--tokens"),
        pytest.param(
            ("--device", "cuda"), "no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, named):
    assert named in refused(run("taskmoe", "bench", "train", *SMALL, *flags, check=False))


def test_reference_does_the_work_of_the_chosen_experts():
    load, table = Load("tiny", 4, 100, 64, 8), TaskTable.from_pairs(["en-de", "de-en"])
    dictionary = Dictionary()
    for word in range(96):
        dictionary.add_symbol(str(word))
    dense = build("dense_equal", load, dictionary, table)
    routed = build("target_target", load, dictionary, table)
    widths = [layer.fc1.out_features for layer in dense.encoder.layers]
    experts = routed.encoder.layers[1].moe.experts.fc1.weight
    assert widths == [128, 2 * experts.size(1)]
    batch = random_batch(load, dictionary, table, "cpu")
    assert batch["target"].shape == (8, 8)
    assert batch["net_input"]["task_ids"].unique().numel() == 2


def test_variants_take_turns_and_the_burn_in_is_left_out():
    calls = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timings = alternate(variants, repeats=3, device="cpu", burn_in=1)
    assert calls == ["a", "b"] * 4
    assert all(len(timing.seconds) == 3 for timing in timings.values())
    assert Timing([1.0, 2.0, 10.0]).median == 2.0


LAYER = ("--moe-expert-count", 4, "--embed-dim", 16, "--ffn-dim", 32, "--tokens", 64, "--length", 4,
         "--tasks", 2, "--repeats", 2, "--threads", 1)


def test_layers_are_measured_beside_a_dense_one_of_the_same_work(tmp_path):
    out = tmp_path / "layer.json"
    run("taskmoe", "bench", "layer", *LAYER, "--variants", "token,task,fairscale", "--out", out)
    rows = json.loads(out.read_text())["variants"]
    products = 3 * 2 * 64 * 2 * 2 * 16 * 32  # forward and both gradients, two matrices, two experts
    assert rows["dense"]["flops"] == products
    gate = 2 * 2 * 16 * 4  # a task's or token's scores, and the gradient of the gate's weights
    assert rows["task"]["flops"] - products < rows["token"]["flops"] - products
    assert rows["token"]["flops"] - products <= 2 * gate * 64
    assert rows["fairscale"]["flops"] > products
    assert all(row["seconds"] > 0 and row["extra_bytes"] > 0 for row in rows.values())


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--variants", "dense,moe"), "--variants moe"),
        (("--moe-top-k", 5), "--moe-top-k 5"),
        (("--tokens", 4), "--tokens"),
    ],
)
def test_layers_that_cannot_be_measured_are_refused(flags, named):
    assert named in refused(run("taskmoe", "bench", "layer", *LAYER, *flags, check=False))


def test_peak_of_memory_is_what_is_held_at_once():
    weight = torch.nn.Parameter(torch.ones(100, 100))

    def step():
        weight.grad = None
        first = weight * 2  # 40,000 bytes, freed at once
        del first
        weight.exp().sum().backward()  # as many, kept for backward

    assert 40_000 <= peak_bytes(step, [weight], "cpu") < 45_000

"""`taskmoe bench layer`: equal work is measured, and unequal work shows."""

import json

import pytest
import torch
from console import run

from fairseq_taskmoe.benchmarks.layer import bench as layers
from fairseq_taskmoe.benchmarks.layer.bench import LayerLoad, bench_layer, make_case
from fairseq_taskmoe.benchmarks.layer.peers import nllb_layer, nllb_topk_layer
from fairseq_taskmoe.benchmarks.resources import flops
from fairseq_taskmoe.cli import run_verb
from fairseq_taskmoe.errors import Refusal

FLAGS = ("--embed-dim", 16, "--ffn-dim", 32, "--tokens", 64, "--length", 4, "--tasks", 2,
         "--repeats", 2, "--threads", 1)
LOAD = LayerLoad(num_experts=4, embed_dim=16, ffn_dim=32, tokens=64, length=4, num_tasks=2)
PRODUCTS = 3 * 2 * 64 * 2 * 2 * 16 * 32  # forward and both gradients, two matrices, two experts


@pytest.mark.slow
def test_layers_are_measured_beside_a_dense_one_of_the_same_work(tmp_path):
    out = tmp_path / "layer.json"
    printed = run("taskmoe", "bench", "layer", *FLAGS, "--moe-expert-count", 4,
                  "--variants", "token,task,fairscale", "--out", out)
    rows = json.loads(out.read_text())["variants"]
    assert rows["dense"]["flops"] == PRODUCTS
    gate = 2 * 2 * 16 * 4  # a task's or token's scores, and the gradient of the gate's weights
    assert rows["task"]["flops"] - PRODUCTS < rows["token"]["flops"] - PRODUCTS
    assert rows["token"]["flops"] - PRODUCTS <= 2 * gate * 64
    assert rows["fairscale"]["flops"] > PRODUCTS
    assert all(row["seconds"] > 0 and row["extra_bytes"] > 0 for row in rows.values())
    assert rows["dense"]["memory_of_reference"] == 1
    one_expert = 4 * (2 * 16 * 32 + 16 + 32)
    assert rows["dense"]["weight_bytes"] == 2 * one_expert - 4 * 16  # one output bias
    assert rows["token"]["weight_bytes"] == 4 * one_expert + 4 * 4 * 16
    assert rows["token"]["gradient_bytes"] == rows["token"]["weight_bytes"]
    assert printed.stderr == ""


@pytest.mark.slow
def test_growth_with_the_number_of_experts_is_reported(tmp_path):
    out = tmp_path / "layer.json"
    printed = run("taskmoe", "bench", "layer", *FLAGS, "--moe-expert-count", "8,4", "--out", out,
                  "--variants", "task,dense,token").stdout
    report = json.loads(out.read_text())
    assert list(report["variants"]) == ["task@4", "task@8", "dense", "token@4", "token@8"]
    for name in ("task", "token"):
        seconds = [report["variants"][f"{name}@{count}"]["seconds"] for count in (4, 8)]
        assert report["growth"][name] == {"4": 1.0, "8": seconds[1] / seconds[0]}
    assert "task: time by number of experts" in printed


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--variants", "dense,moe"), "--variants moe"),
        (("--moe-top-k", 5, "--moe-expert-count", "4,8"), "--moe-top-k 5"),
        (("--moe-top-k", 1, "--variants", "nllb"), "--moe-top-k 1"),
        (("--moe-expert-count", "4,,8"), "--moe-expert-count 4,,8"),
        (("--tokens", 4), "--tokens"),
    ],
)
def test_layers_that_cannot_be_measured_are_refused(flags, named):
    with pytest.raises(Refusal) as refused:  # in this process: there are many
        run_verb([str(word) for word in ("bench", "layer", *FLAGS, *flags)])
    assert named in refused.value.message


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_reported_and_the_others_go_on(monkeypatch):
    build_layer = layers.build

    def too_large(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Attempt to allocate 20.00 GiB")

    def build(name, *rest):
        module, forward = build_layer(name, *rest)
        return module, too_large if name == "token" else forward

    monkeypatch.setattr(layers, "build", build)
    load = LayerLoad(4, 16, 32, 2, 64, 4, 2)
    variants = layers.list_variants(["dense", "token", "task"], [4])
    rows = bench_layer(variants, load, 2, "cpu")["variants"]
    assert [row["fits"] for row in rows.values()] == [True, False, True]
    assert "seconds" not in rows["token"] and rows["task"]["speed_of_reference"] > 0


# -- Hugging Face's NLLB-MoE layer


def top_2_mixture(layer, x):
    """A loop over tokens and experts: the reference."""
    rows = x.flatten(0, 1)
    probs = layer.router.classifier(rows).softmax(dim=1)
    out = []
    for row, prob in zip(rows, probs, strict=True):
        gates, experts = prob.topk(2)
        out.append(sum(
            gate / gates.sum() * layer.experts[f"expert_{expert}"](row)
            for gate, expert in zip(gates, experts, strict=True)
        ))
    return torch.stack(out).view_as(x)


def test_nllb_topk_is_the_top_2_mixture_and_costs_what_it_should():
    pytest.importorskip("transformers")
    layer, forward = nllb_topk_layer(LOAD)
    x = torch.randn(16, 4, 16)
    torch.testing.assert_close(forward(x), top_2_mixture(layer, x))
    counted = flops(make_case("nllb_topk", LOAD, "cpu").step)
    assert counted - PRODUCTS == 3 * 2 * 64 * 16 * 4  # the gate


def test_nllb_as_installed_runs_two_experts_on_every_row_many_times():
    """As docs/performance.md says; if this fails, Hugging Face has fixed it."""
    pytest.importorskip("transformers")
    layer, forward = nllb_layer(LOAD)
    x = torch.randn(16, 4, 16)
    rows = {f"expert_{number}": 0 for number in range(4)}
    for name in rows:
        layer.experts[name].register_forward_hook(
            lambda module, args, _, name=name: rows.update({name: args[0].size(0)})
        )
    output = forward(x)
    assert rows == {"expert_0": 3 * 64, "expert_1": 64, "expert_2": 0, "expert_3": 0}
    assert not torch.allclose(output, top_2_mixture(layer, x), atol=1e-3)
    counted = flops(make_case("nllb", LOAD, "cpu").step)
    assert counted - PRODUCTS * 4 // 2 == 3 * 2 * 64 * 16 * 4  # E experts a token instead of two

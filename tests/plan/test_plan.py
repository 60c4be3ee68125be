"""Plans: every part of the estimate against a real small model, optimizer, file or draw."""

import argparse
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fairseq import optim
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.utils import move_to_cpu
from helpers import make_batch, make_config, make_model, make_task, random_sentences
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from refusals import refusal
from torch.profiler import ProfilerActivity, profile

from fairseq_taskmoe.cli import Parser
from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)
from fairseq_taskmoe.distributed.layout import expert_layout
from fairseq_taskmoe.plan.activations import SentenceShape, measure_activations
from fairseq_taskmoe.plan.memory import checkpoint_sizes, local_parameters, state_bytes
from fairseq_taskmoe.plan.parameters import build_on_meta
from fairseq_taskmoe.plan.traffic import (
    all_reduce_bytes,
    busiest_rank,
    busiest_rank_by_chance,
    exchange_bytes,
    expected_remote_ranks,
)
from fairseq_taskmoe.verbs import plan

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WIDER = {
    "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 160, "decoder_embed_dim": 48,
    "decoder_ffn_embed_dim": 160, "encoder_layers": 3, "decoder_layers": 3, "moe_freq": 2,
    "share_all_embeddings": True,
}


def on_meta(task, **overrides):
    return build_on_meta(make_config(**overrides), len(task.dictionary), task.task_table)


@pytest.fixture
def planned(capsys):
    """Give a function that runs the verb for a tiny model: planned(*words) -> its JSON."""

    def planned(*words, device="h200"):
        parser = Parser(allow_abbrev=False)
        plan.add_arguments(parser)
        machine = ("--device", device) if device else ()
        plan.run(parser.parse_args([
            "--arch", "transformer_task_moe_tiny", "--vocab-size", "100", "--max-tokens", "256",
            "--num-pairs", "8", *machine, *words, "--format", "json",
        ]))
        return json.loads(capsys.readouterr().out)

    return planned


# Parameters and the optimizer's state

@pytest.mark.parametrize("size", [1, 2, 6])
def test_ranks_hold_the_model_once(size):
    task = make_task()
    sizes = {"moe_expert_count": 6, "share_all_embeddings": True}
    model = make_model(task, **sizes)
    layout = expert_layout(6, 12, size)
    local = local_parameters(on_meta(task, **sizes), layout)
    real = sum(parameter.numel() for parameter in model.parameters())
    assert local.total == real
    assert local.num_shared + size * local.num_experts == real
    assert local.num_experts == sum(
        p.numel() for name, p in model.named_parameters() if ".moe.experts." in name
    ) // size


def settings_of(optimizer, precision):
    own = {
        "adam": {"tpu": False}, "nag": {"momentum": 0.99, "weight_decay": 0.0},
        "sgd": {"momentum": 0.0, "weight_decay": 0.0}, "adagrad": {"weight_decay": 0.0},
        "adafactor": {
            "adafactor_eps": "(1e-30, 1e-3)", "clip_threshold": 1.0, "decay_rate": -0.8,
            "beta1": None, "scale_parameter": True, "relative_step": False, "warmup_init": False,
            "weight_decay": 0.0,
        },
    }[optimizer]
    return OmegaConf.create({
        "optimizer": {"_name": optimizer, "lr": [0.001], **own},
        "common": {
            "bf16": precision == "bf16", "fp16": precision == "fp16", "fp16_scale_window": 1,
            "fp16_no_flatten_grads": True, "fp16_init_scale": 1, "fp16_scale_tolerance": 0.0,
            "threshold_loss_scale": None, "min_loss_scale": 1e-4,
        },
        "optimization": {"update_freq": [1]},
    })


def trained(optimizer, precision, **overrides):
    """Return a real model and its fairseq optimizer after an update by some gradient."""
    model = make_model(**overrides).to(DTYPES[precision])
    parameters = list(model.parameters())
    cfg = settings_of(optimizer, precision)
    if precision == "fp32":
        built = optim.build_optimizer(cfg.optimizer, parameters)
    else:
        built = FP16Optimizer.build_optimizer(cfg, parameters)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.01)
    built._needs_sync = True
    built.step()
    return model, built


def size_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    "optimizer, precision",
    [("adam", "fp32"), ("adam", "bf16"), ("adam", "fp16"), ("adafactor", "fp32"),
     ("adafactor", "bf16"), ("sgd", "fp32"), ("nag", "bf16"), ("adagrad", "fp32")],
)
def test_state_is_as_large_as_a_real_optimizers(optimizer, precision):
    model, built = trained(optimizer, precision)
    parameters = list(model.parameters())
    local = local_parameters(on_meta(make_task()), expert_layout(5, 1))
    expected = state_bytes(local.shared + local.experts, precision, optimizer)
    assert expected["weights"] == size_of(parameters)
    assert expected["gradients"] == size_of(parameter.grad for parameter in parameters)
    masters = [] if precision == "fp32" else built.fp32_params
    assert expected["fp32 masters"] == size_of(masters)
    assert expected["fp32 gradients"] == size_of(master.grad for master in masters)
    states = [value for state in built.optimizer.state.values() for value in state.values()
              if torch.is_tensor(value) and value.dim() > 0]
    assert expected["optimizer state"] == size_of(states)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
def test_files_are_as_large_as_real_ones(optimizer, shared):
    overrides = {"share_all_embeddings": shared, "moe_expert_count": 4}
    model, built = trained(optimizer, "bf16", **overrides)
    whole = {"model": model.state_dict(), "optimizer": built.state_dict()}
    written = io.BytesIO()
    torch.save(move_to_cpu(whole), written)  # as fairseq does; from bf16 it copies as from a GPU
    local = local_parameters(on_meta(make_task(), **overrides), expert_layout(4, 2))
    sizes = checkpoint_sizes(local, expert_layout(4, 2), optimizer)
    overhead = 1500 * len(list(model.parameters()))  # names, and a zip entry for each tensor
    assert sizes["whole"] < len(written.getvalue()) < sizes["whole"] + overhead
    if shared is False:
        assert sizes["shard_0"] + sizes["shard"] == sizes["whole"]


# Activations

def real_step(cfg, sources, targets, dtype):
    """Return a function that computes the loss of a real small model."""
    task = make_task()
    model = make_model(task, **cfg).train().to(dtype)
    criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
    batch = make_batch(
        random_sentences(sources), random_sentences(targets),
        [i % len(task.task_table.lang_pairs) for i in range(len(sources))],
    )
    return lambda: criterion(model, batch)


def allocations(run):
    """Return what torch's allocator gave (and took, negative) while run() ran, in order."""
    run()  # fills caches that stay
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = run()
    events = profiled.profiler.kineto_results.events()
    del kept
    return [event.nbytes() for event in events if event.name() == "[memory]"]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "overrides, dtype",
    [
        ({}, torch.float32),
        (WIDER, torch.float32),
        (WIDER, torch.bfloat16),
        ({**WIDER, "dropout": 0.1, "activation_dropout": 0.1}, torch.float32),
        ({**WIDER, "encoder_moe_router": "token", "decoder_moe_router": "sentence"},
         torch.float32),
        ({**WIDER, "moe_expert_count": 16, "moe_top_k": 1, "encoder_normalize_before": True,
          "decoder_moe_router": "token"}, torch.bfloat16),
        ({**WIDER, "moe_top_k": 4, "moe_expert_ffn_dim": 300}, torch.float32),
        ({**WIDER, "moe_expert_count": 0}, torch.float32),
    ],
    ids=["small", "wider", "bf16", "dropout", "token-sentence", "top-1", "top-4", "dense"],
)
def test_activations_agree_with_the_allocator(overrides, dtype, checkpointed):
    cfg = {**overrides, "checkpoint_activations": checkpointed}
    task = make_task()
    estimated = measure_activations(
        make_config(**cfg), len(task.dictionary), task.task_table, SentenceShape(14, 10), 24,
        dtype, mask_bytes=dtype.itemsize,
    ).total
    real = sum(allocations(real_step(cfg, [14] * 24, [10] * 24, dtype)))
    if not checkpointed:
        assert estimated == pytest.approx(real, rel=0.02)
        return
    # beside what autograd holds, each layer keeps the state of the CPU's random generator (a GPU's
    # has 16 bytes), and its route: much beside layers as narrow as these
    layers = cfg.get("encoder_layers", 2) + cfg.get("decoder_layers", 2)
    real -= layers * torch.get_rng_state().numel()
    assert estimated == pytest.approx(real, rel=0.15)


def test_activations_of_ragged_sentences_agree_by_tokens():
    """Estimated for sentences of equal length; padding is what the real batch has more."""
    task = make_task()
    cfg = make_config(**WIDER)
    estimated = measure_activations(
        cfg, len(task.dictionary), task.task_table, SentenceShape(12, 12), 24, torch.float32
    ).total
    real = sum(allocations(real_step(WIDER, [11, 12, 13] * 8, [13, 12, 11] * 8, torch.float32)))
    assert estimated == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("flags", [(), ("--checkpoint-activations",)])
def test_the_sum_of_the_parts_bounds_the_peak_of_a_step(planned, flags):
    sizes = {
        "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 128, "decoder_embed_dim": 64,
        "decoder_ffn_embed_dim": 128, "share_all_embeddings": True, "moe_freq": 2,
        "moe_expert_count": 4, "checkpoint_activations": bool(flags),
    }
    compute = real_step(sizes, [16] * 32, [16] * 32, torch.float32)

    def step():
        loss = compute()[0]
        loss.backward()
        return loss

    memory = planned(
        "--vocab-size", str(len(make_task().dictionary)), "--ranks", "1", "--length", "16",
        "--max-tokens", "512", "--dropout", "0", "--moe-expert-count", "4", *flags,
    )["memory"]
    bound = sum(memory[part] for part in ("gradients", "activations", "working memory"))
    peak = max(itertools.accumulate(allocations(step)))
    assert 0.5 * bound < peak < bound


# Traffic

@given(st.integers(1, 6), st.integers(1, 4), st.data())
@settings(max_examples=25, deadline=None)
def test_expected_ranks_are_those_of_random_routing(size, per_rank, data):
    num_experts = size * per_rank
    top_k = data.draw(st.integers(1, min(3, num_experts)))
    expected = expected_remote_ranks(expert_layout(num_experts, size, size), top_k)
    draws = torch.rand(4000, num_experts, generator=torch.Generator().manual_seed(1))
    places = draws.topk(top_k, dim=1).indices // per_rank
    visited = torch.zeros(len(draws), size).scatter_(1, places, 1.0)
    assert expected == pytest.approx(float(visited[:, 1:].sum(dim=1).mean()), abs=0.06)
    assert 0 <= expected <= min(top_k, size - 1)


def test_bytes_of_an_exchange_by_hand():
    # 10 tokens are sent to 1.5 other ranks each: 15 rows there and 15 back, forward and backward,
    # of 8 values of 2 bytes, in 3 layers
    token = exchange_bytes(3, 10, 10, 8, 2, 2, 4, 1.5, routed_ahead=False)
    assert token.rows == 3 * 4 * 15 * 8 * 2
    # forward and backward 15 times 5 floats; 3 integers for each of 3 others
    assert token.facts == 3 * (2 * 15 * 5 * 4 + 3 * 3 * 8)
    assert token.collectives == 3 * (4 + 3)
    # two sentences of five tokens, all layers' routes at once
    task = exchange_bytes(3, 10, 2, 8, 2, 2, 4, 1.5, routed_ahead=True)
    assert task.rows == token.rows
    assert task.facts == 3 * (2 * 3 * 5 * 4 + 3 * 3 * 8)
    assert task.collectives == 3 * 4 + 3
    # forward once more
    recomputed = exchange_bytes(3, 10, 2, 8, 2, 2, 4, 1.5, True, checkpointed=True)
    assert recomputed.rows == 1.5 * task.rows
    assert recomputed.facts == task.facts
    assert exchange_bytes(3, 10, 2, 8, 2, 2, 1, 0.0, True).total == 0


def test_gradients_go_around_the_ring_twice():
    assert all_reduce_bytes(100.0, 1) == 0
    assert all_reduce_bytes(100.0, 4) == 150.0


def test_the_busiest_rank():
    layout = expert_layout(4, 4)
    assert busiest_rank(layout, [[0, 1], [2, 3]]) == 1.0
    # rank 0 computes 3 of 6 rows, the mean of 4 ranks is 1.5
    assert busiest_rank(layout, [[0, 1], [0, 2], [0, 3]]) == 2.0
    assert busiest_rank(expert_layout(4, 4, 1), [[0, 1], [0, 2]]) == 1.0
    # half of all tokens share a group: each of its 2 experts has a quarter of all rows, of 16 ranks
    one_group = [0] * 16 + list(range(1, 17))
    assert 4.0 <= busiest_rank_by_chance(expert_layout(16, 16), 2, one_group) < 5.5


# The command

def test_experts_of_a_group_and_what_fits(planned):
    report = planned("--ranks", "8", "--precision", "bf16")  # 4 experts
    assert report["layout"] == {
        "ranks": 8, "expert_group": 4, "copies_of_the_experts": 2,
        "experts_of_a_layer_on_a_rank": 1,
    }
    assert report["traffic"]["all_reduce_experts"] == report["parameters"]["experts_on_a_rank"] * 2
    assert report["memory_total"] == sum(report["memory"].values())
    assert not any("fit" in warning for warning in report["warnings"])
    small = planned("--ranks", "8", "--memory-gib", "0.1", "--runtime-gib", "0")
    assert not any("fit" in warning for warning in small["warnings"])
    smaller = planned("--ranks", "8", "--memory-gib", "0.001")
    assert "does not fit" in smaller["warnings"][0]
    assert "--moe-sharded-checkpoints" in smaller["warnings"][1]
    sharded = planned("--ranks", "8", "--memory-gib", "0.001", "--moe-sharded-checkpoints")
    assert [w for w in smaller["warnings"] if "sharded" not in w] == sharded["warnings"]


def test_micro_batches_and_recomputation(planned):
    once = planned("--ranks", "4")
    twice = planned("--ranks", "4", "--update-freq", "2")
    assert twice["traffic"]["exchange"] == 2 * once["traffic"]["exchange"]
    assert twice["traffic"]["all_reduce_shared"] == once["traffic"]["all_reduce_shared"]
    assert twice["memory"] == once["memory"]
    recomputed = planned("--ranks", "4", "--checkpoint-activations")
    assert recomputed["memory"]["activations"] < once["memory"]["activations"]
    assert recomputed["traffic"]["exchange"] == pytest.approx(
        1.5 * once["traffic"]["exchange"], rel=0.02
    )


def test_one_rank_and_dense_models_exchange_nothing(planned):
    for words in (("--ranks", "1"), ("--ranks", "4", "--moe-expert-count", "0"),
                  ("--ranks", "4", "--moe-expert-parallel-size", "1")):
        report = planned(*words)
        assert report["traffic"]["exchange"] == 0


def test_a_rank_with_much_more_load_than_the_mean_is_warned_of(planned):
    words = ("--ranks", "32", "--moe-expert-count", "32", "--decoder-moe-router", "token")
    report = planned(*words)
    assert report["busiest_rank"]["encoder"] > 4
    assert report["busiest_rank"]["decoder"] == 1
    assert [warning.partition(":")[0] for warning in report["warnings"]] == ["encoder"]
    assert planned(*words, "--busiest", "1.5")["warnings"] == []


@pytest.mark.parametrize(
    "words, named",
    [
        (("--ranks", "8", "--moe-expert-parallel-size", "3"), "--moe-expert-parallel-size 3"),
        (("--ranks", "0"), "--ranks 0"),
        (("--ranks", "1", "--update-freq", "-1"), "--update-freq -1"),
        (("--ranks", "1", "--memory-gib", "nan"), "--memory-gib nan"),
        (("--ranks", "1", "--runtime-gib", "-1"), "--runtime-gib -1"),
        (("--ranks", "1", "--moe-top-k", "9"), "--moe-top-k 9"),
        (("--ranks", "1", "--arch", "transformer"), "--arch transformer"),
    ],
)
def test_bad_input_is_refused_by_name(words, named, planned):
    assert named in refusal(planned, *words)


def test_the_memory_of_a_gpu_must_be_known(planned):
    assert "--memory-gib or --device" in refusal(planned, "--ranks", "2", device=None)
    known = planned("--ranks", "2", "--memory-gib", "40", device=None)
    assert known["memory_total"] == planned("--ranks", "2")["memory_total"] > 0


def test_text_names_every_assumption(capsys):
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    plan.run(parser.parse_args([
        "--arch", "transformer_task_moe_tiny", "--vocab-size", "50", "--max-tokens", "64",
        "--ranks", "2", "--device", "a100",
    ]))
    text = capsys.readouterr().out
    for named in ("--memory-gib 79", "--ranks-per-node 8", "--length 32", "--source-ratio 1",
                  "--runtime-gib 2", "fp32 masters", "all reduce experts"):
        assert named in text


def test_help_answers_at_once():
    command = [Path(sys.executable).parent / "taskmoe", "plan", "--help"]
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - start)
    assert "--moe-expert-count" in shown.stdout
    assert min(seconds) < 0.5

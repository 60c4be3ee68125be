"""The criterion: its loss by formula, sums over micro-batches, and what it logs."""

import math

import pytest
import torch
from criterion_cases import add_up, make_criterion, reduced, slice_batch
from helpers import LANG_PAIRS, make_model, make_task, random_sentences

PAD = 1
LAYERS = {"encoder_layers": 2, "decoder_layers": 1}
TASKS = [2, 0, 3, 2, 1]


def sentences():
    """Return sources, targets and tasks; no task 1 when the last sentence is left out."""
    return random_sentences([7, 3, 5, 9, 4]), random_sentences([4, 8, 5, 6, 2]), TASKS


def smoothed_nll(model, batch, eps):
    """Return the sums of label-smoothed and of plain NLL: eps goes to the other words in parts."""
    logits, _ = model(**batch["net_input"])
    log_probs = logits.log_softmax(-1)[batch["target"] != PAD]
    words = batch["target"][batch["target"] != PAD]
    smooth = torch.full_like(log_probs, eps / (log_probs.size(1) - 1))
    smooth.scatter_(1, words.unsqueeze(1), 1 - eps)
    plain = log_probs.gather(1, words.unsqueeze(1))
    return -(smooth * log_probs).sum(), -plain.sum()


def layers_of(model, batch):
    _, extra = model(**batch["net_input"])
    return extra["encoder_gate_stats"] + extra["gate_stats"]


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("reduction, divisor", [(None, 1), ("sum", 1), ("mean", 3)])
def test_loss_is_nll_plus_sample_size_times_gate_losses(sentence_avg, reduction, divisor):
    model = make_model(router="token", **LAYERS)
    batch = slice_batch(sentences(), slice(None))
    criterion = make_criterion(sentence_avg=sentence_avg, moe_gate_loss_reduction=reduction)
    loss, sample_size, log = criterion(model, batch)
    assert sample_size == (5 if sentence_avg else 25)
    layers = layers_of(model, batch)
    assert len(layers) == 3
    gate_loss = sum(0.5 * stats.balance + 0.2 * stats.z_loss for stats in layers) / divisor
    nll, plain = smoothed_nll(model, batch, eps=0.1)
    torch.testing.assert_close(loss, nll + sample_size * gate_loss)
    torch.testing.assert_close(log["loss"], loss.detach())
    torch.testing.assert_close(log["nll_loss"], plain.detach())
    assert (log["ntokens"], log["nsentences"], log["sample_size"]) == (25, 5, sample_size)


def test_gate_losses_with_weight_zero_are_only_logged():
    model = make_model(router="token", **LAYERS)
    batch = slice_batch(sentences(), slice(None))
    criterion = make_criterion(moe_gate_loss_wt=0.0, moe_z_loss_wt=0.0)
    loss, _, log = criterion(model, batch)
    torch.testing.assert_close(loss, smoothed_nll(model, batch, eps=0.1)[0])
    assert log["moe_encoder_balance"] > 0


def test_loss_of_task_routing_does_not_depend_on_micro_batches():
    # one task in both: the balance loss, a mean over the tokens of a micro-batch, is the same
    model = make_model(router="target", **LAYERS)
    criterion = make_criterion()
    sources, targets, _ = sentences()
    examples = (sources, targets, [1] * 5)
    whole, size, _ = criterion(model, slice_batch(examples, slice(None)))
    parts = [criterion(model, slice_batch(examples, rows)) for rows in (slice(2), slice(2, 5))]
    assert sum(part[1] for part in parts) == size
    torch.testing.assert_close(sum(part[0] for part in parts), whole)


@pytest.mark.parametrize("training", [True, False])
def test_logs_add_up_over_micro_batches(training):
    model = make_model(router="target", **LAYERS).train(training)
    criterion = make_criterion()
    examples = sentences()
    batches = [slice_batch(examples, rows) for rows in (slice(2), slice(2, 5))]
    logs = [criterion(model, batch)[2] for batch in batches]
    values = reduced(criterion, logs)
    assert values == reduced(criterion, [add_up(logs)])
    whole = criterion(model, slice_batch(examples, slice(None)))[2]
    for name in ("nll_loss", "ntokens", "nsentences", "sample_size", "moe_decoder_load"):
        torch.testing.assert_close(add_up(logs)[name], whole[name])

    sizes = [batch["ntokens"] for batch in batches]
    balances = [
        torch.stack([stats.balance for stats in layers_of(model, batch)[:2]]).mean()
        for batch in batches
    ]
    mean = sum(size * b.item() for size, b in zip(sizes, balances, strict=True)) / sum(sizes)
    assert values["moe_encoder_balance"] == pytest.approx(mean, abs=1e-3)


def test_losses_per_task_are_those_of_its_sentences_alone():
    model = make_model(router="pair", **LAYERS)
    criterion = make_criterion()
    examples = sentences()
    log = criterion(model, slice_batch(examples, slice(None)))[2]
    losses, counts = [0.0] * 4, [0] * 4
    for i, task in enumerate(TASKS):
        alone = criterion(model, slice_batch(examples, slice(i, i + 1)))[2]
        losses[task] += float(alone["nll_loss"])
        counts[task] += alone["ntokens"]
    assert log["nll_loss_by_task"].tolist() == pytest.approx(losses, rel=1e-4)
    assert log["ntokens_by_task"].tolist() == counts


def test_validation_logs_the_loss_of_every_direction_in_bits_per_token():
    task = make_task()
    model, criterion = make_model(task, router="pair", **LAYERS), make_criterion(task)
    examples = sentences()
    logs = [
        criterion(model, slice_batch(examples, rows))[2]
        for rows in (slice(1), slice(1, 3), slice(3, 4))
    ]
    values = reduced(criterion, logs, task)
    total = add_up(logs)
    for i in (0, 2, 3):
        expected = total["nll_loss_by_task"][i] / total["ntokens_by_task"][i] / math.log(2)
        assert values[f"nll_loss_{LANG_PAIRS[i]}"] == pytest.approx(expected.item(), abs=1e-3)
    assert f"nll_loss_{LANG_PAIRS[1]}" not in values, "a direction without data has no loss"


def test_training_logs_no_losses_per_task():
    model = make_model(router="pair", **LAYERS).train()
    log = make_criterion()(model, slice_batch(sentences(), slice(None)))[2]
    assert not any("by_task" in name for name in log)


@pytest.mark.parametrize("training", [True, False])
def test_dense_model_logs_nothing_of_experts_and_has_no_gate_loss(training):
    model = make_model(moe_expert_count=0).train(training)
    criterion = make_criterion()
    batch = slice_batch(sentences(), slice(None))
    loss, _, log = criterion(model, batch)
    torch.testing.assert_close(loss, smoothed_nll(model, batch, eps=0.1)[0])
    assert not any(name.startswith("moe_") for name in log)
    assert not any(name.startswith("moe_") for name in reduced(criterion, [log]))


def test_stack_without_experts_logs_none():
    model = make_model(encoder_moe_router="dense", decoder_moe_router="token")
    criterion = make_criterion()
    values = reduced(criterion, [criterion(model, slice_batch(sentences(), slice(None)))[2]])
    assert {name for name in values if name.startswith("moe_")} == {
        f"moe_decoder_{name}"
        for name in (
            "balance", "z_loss", "entropy", "overflow", "used_experts", "unused_experts"
        )
    }


def test_logs_have_a_name_for_each_stack():
    model = make_model(router="sentence")
    criterion = make_criterion()
    values = reduced(criterion, [criterion(model, slice_batch(sentences(), slice(None)))[2]])
    assert {name for name in values if name.startswith("moe_")} == {
        f"moe_{stack}_{name}"
        for stack in ("encoder", "decoder")
        for name in (
            "balance", "z_loss", "entropy", "overflow", "used_experts", "unused_experts"
        )
    }


def test_overflow_is_logged_as_a_fraction():
    model = make_model(router="token", moe_capacity_factor=0.5).train()
    criterion = make_criterion()
    batch = slice_batch(sentences(), slice(None))
    values = reduced(criterion, [criterion(model, batch)[2]])
    overflow = torch.stack([stats.overflow for stats in layers_of(model, batch)[2:]])
    assert 0.1 < float(overflow.mean()) < 1
    assert values["moe_decoder_overflow"] == pytest.approx(float(overflow.mean()), abs=1e-3)


def test_expert_is_unused_if_no_micro_batch_uses_it():
    sizes = {"loss": 1.0, "nll_loss": 1.0, "ntokens": 5, "nsentences": 1, "sample_size": 5}
    means = dict.fromkeys(
        ("moe_encoder_balance", "moe_encoder_z_loss", "moe_encoder_entropy",
         "moe_encoder_overflow"), torch.tensor(5.0)
    )
    # (layers, experts): each micro-batch leaves two of four experts of each layer alone; together
    # they leave out none in the first layer, and two in the second
    loads = ([[5, 5, 0, 0], [5, 5, 0, 0]], [[0, 0, 5, 5], [5, 5, 0, 0]])
    logs = [
        {**sizes, **means, "moe_encoder_load": torch.tensor(load, dtype=torch.float)}
        for load in loads
    ]
    values = reduced(make_criterion(), logs)
    assert values["moe_encoder_unused_experts"] == 1.0
    assert values["moe_encoder_used_experts"] == 3.0


def test_dummy_batches_alone_are_logged_without_a_crash():
    model = make_model(router="token")
    criterion = make_criterion()
    log = criterion(model, slice_batch(sentences(), slice(None)))[2]
    nothing = {name: 0 * value for name, value in log.items()}
    values = reduced(criterion, [nothing])
    assert not any(name.startswith("moe_") for name in values)


def test_ignored_prefix_is_not_in_the_loss():
    model = make_model(router="pair", **LAYERS)
    examples = sentences()
    weights = {"moe_gate_loss_wt": 0.0, "moe_z_loss_wt": 0.0}
    batch = slice_batch(examples, slice(None))
    loss, _, log = make_criterion(ignore_prefix_size=1, **weights)(model, batch)
    batch["target"] = batch["target"].clone()
    batch["target"][:, 0] = PAD
    torch.testing.assert_close(loss, smoothed_nll(model, batch, eps=0.1)[0])
    torch.testing.assert_close(log["nll_loss_by_task"].sum(), log["nll_loss"])
    assert log["ntokens_by_task"].sum() == 20


def test_accuracy_is_reported_on_request():
    model = make_model(router="token")
    batch = slice_batch(sentences(), slice(None))
    criterion = make_criterion(report_accuracy=True)
    log = criterion(model, batch)[2]
    logits, _ = model(**batch["net_input"])
    real = batch["target"] != PAD
    assert log["total"] == 25
    assert log["n_correct"] == (logits.argmax(-1) == batch["target"])[real].sum()


@pytest.mark.parametrize("router", ["token", "sentence", "target", "random"])
def test_model_trains_under_autocast(router):
    # what --amp does, on the CPU
    model = make_model(router=router).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = make_criterion()(model, slice_batch(sentences(), slice(None)))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("router", ["token", "sentence", "target", "random"])
def test_model_trains_in_half_precision(router, dtype):
    # what --bf16 and --fp16 do, on the CPU
    model = make_model(router=router).to(dtype).train()
    loss, _, log = make_criterion()(model, slice_batch(sentences(), slice(None)))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    assert torch.isfinite(log["loss"])

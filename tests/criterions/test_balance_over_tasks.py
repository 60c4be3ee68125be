"""Batches of one task: the balance loss is that of all tasks together, and spreads them as well."""

import numpy as np
import pytest
import torch
from criterion_cases import make_criterion
from epoch_cases import load_task
from helpers import make_batch, make_model, make_task, ragged_mask, random_sentences, routing_inputs

from fairseq_taskmoe.data.task_local_batches import OneTaskBatches
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.gate_losses import gate_stats
from fairseq_taskmoe.modules.moe_layer import MoELayer
from fairseq_taskmoe.modules.routers import RouterOptions, TaskRouter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
N, E, C = 16, 32, 32  # tasks, experts, width


def make_router(groups=None, top_k=2):
    groups = torch.arange(N) if groups is None else groups
    return TaskRouter(C, E, RouterOptions(top_k=top_k), groups, int(groups.max()) + 1)


def route(router, task_ids, lengths, task_tokens=None):
    """Return the routing of sentences of these tasks and lengths, and their mask."""
    mask = ragged_mask(lengths)
    inputs = routing_inputs(mask, torch.as_tensor(task_ids))._replace(task_tokens=task_tokens)
    return router(torch.zeros(*mask.shape, C), inputs), mask


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("groups", [torch.arange(N), torch.arange(N) % 5], ids=["pairs", "groups"])
def test_balance_over_tasks_equals_the_loss_of_a_batch_of_all_tasks(groups, top_k):
    router = make_router(groups, top_k)
    lengths = torch.randint(1, 9, (N,))
    whole = gate_stats(*route(router, range(N), lengths.tolist())).balance
    over_tasks = router.balance_over_tasks(lengths)
    torch.testing.assert_close(over_tasks, whole)
    weights = [router.gate.weight, router.embed_tasks.weight]
    for one, other in zip(
        torch.autograd.grad(over_tasks, weights), torch.autograd.grad(whole, weights), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_tasks_without_tokens_do_not_count():
    router = make_router()
    tokens = torch.tensor([5, 0, 3])  # and nothing of the tasks behind them
    mixed = gate_stats(*route(router, [0, 2], [5, 3])).balance
    torch.testing.assert_close(router.balance_over_tasks(tokens), mixed)


def train(batches, task_tokens, steps=150):
    """Train a router by the balance loss of its layer alone; return the experts that tasks use."""
    router = make_router()
    layer = MoELayer(router, Experts(E, C, 1, "relu", 0.0, 0))
    optimizer = torch.optim.Adam(router.parameters(), 0.02)
    for step in range(steps):
        task_ids = batches(step)
        mask = torch.ones(len(task_ids), 1, dtype=torch.bool)
        inputs = routing_inputs(mask, task_ids)._replace(task_tokens=task_tokens)
        loss = layer(torch.zeros(len(task_ids), 1, C), inputs)[1].balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(set(route(router, range(N), [1] * N)[0].expert_ids.flatten().tolist()))


@pytest.mark.slow
def test_tasks_use_as_many_experts_as_with_mixed_batches():
    """Sixteen tasks, one a batch. The loss of such a batch alone leaves more experts unused."""
    used = {"mixed": [], "one task": [], "one task, without": []}
    tokens = torch.ones(N, dtype=torch.long)
    for seed in range(3):
        for name, batches, task_tokens in (
            ("mixed", lambda step: torch.arange(N), None),
            ("one task", lambda step: torch.full((4,), step % N), tokens),
            ("one task, without", lambda step: torch.full((4,), step % N), None),
        ):
            torch.manual_seed(seed)
            used[name].append(train(batches, task_tokens))
    for mixed, one in zip(used["mixed"], used["one task"], strict=True):
        assert one >= mixed
    assert sum(used["one task, without"]) < sum(used["mixed"])


# -- on the way from the data to the loss


def test_each_batch_contains_the_token_counts_of_all_tasks(corpus):
    task = load_task(corpus, "--sampling-method", "temperature")
    dataset = OneTaskBatches(task.dataset("train"))
    batches = task.get_batch_iterator(
        dataset, max_tokens=300, max_positions=task.max_positions(), ignore_invalid_inputs=True,
        seed=1, epoch=2,
    )
    counted, received = np.zeros(4), set()
    for batch in batches.next_epoch_itr():
        net_input = batch["net_input"]
        (task_id,) = set(net_input["task_ids"].tolist())
        counted[task_id] += int(net_input["src_lengths"].sum()) + batch["ntokens"]
        received.add(tuple(net_input["task_tokens"].tolist()))
    assert received == {tuple(counted)}
    assert dataset.collater([]) in (None, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_only_training_uses_it_in_both_stacks(dtype, checkpoint_activations):
    task = make_task()
    model = make_model(
        task, encoder_moe_router="pair", decoder_moe_router="target",
        checkpoint_activations=checkpoint_activations,
    ).to(dtype)
    batch = make_batch(random_sentences([5, 3]), random_sentences([4, 6]), task_ids=[2, 2])
    tokens = torch.tensor([40, 30, 20, 10])
    batch["net_input"]["task_tokens"] = tokens
    for stack in (model.encoder, model.decoder):
        wanted = [layer.moe.router.balance_over_tasks(tokens) for layer in stack.layers]
        for training in (True, False):
            _, extra = model.train(training)(**batch["net_input"])
            stats = extra["encoder_gate_stats" if stack is model.encoder else "gate_stats"]
            found = [layer_stats.balance for layer_stats in stats]
            assert (found == wanted) == training
    # the gates of tasks that are not in the batch learn from it, too
    model.train()
    model.zero_grad()
    criterion = make_criterion(task)
    criterion(model, batch)[0].backward()
    grads = model.encoder.layers[0].moe.router.embed_tasks.weight.grad
    assert (grads.abs().sum(dim=1) > 0).all()


def test_token_routers_keep_the_loss_of_their_batch():
    model = make_model(encoder_moe_router="token", decoder_moe_router="pair").train()
    batch = make_batch(random_sentences([5, 3]), random_sentences([4, 6]), task_ids=[2, 2])
    _, without = model(**batch["net_input"])
    batch["net_input"]["task_tokens"] = torch.tensor([40, 30, 20, 10])
    _, extra = model(**batch["net_input"])
    one, other = (each["encoder_gate_stats"][0].balance for each in (without, extra))
    torch.testing.assert_close(one, other)

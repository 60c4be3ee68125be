"""Routers: what each looks at, how it chooses, and what it leaves alone at evaluation."""

import pytest
import torch
from helpers import (
    ROUTERS,
    make_model,
    make_task,
    ragged_mask,
    random_sentences,
    routing_inputs,
)
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.modules.fixed_routers import RandomRouter, StaticRouter, hash_sentences
from fairseq_taskmoe.modules.routers import (
    RouterOptions,
    SentenceRouter,
    TaskRouter,
    TokenRouter,
    masked_mean,
)

B, S, C, E, N = 3, 6, 8, 5, 4
LENGTHS = (6, 2, 4)
POLICIES = ("all", "random", "sampling")


def token_router(**options):
    return TokenRouter(C, E, RouterOptions(**options))


def same_token(times):
    """Return one token (1, S, C) many times over, and what routers see of it."""
    x = torch.randn(1, 1, C).expand(1, times, C)
    return x, routing_inputs(torch.ones(1, times, dtype=torch.bool))


# -- what routers look at


def test_task_router_depends_only_on_the_task():
    router = TaskRouter(C, E, RouterOptions(), torch.arange(N), N)
    task_ids = torch.tensor([3, 0, 1])
    seen = router(
        torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS), task_ids, torch.arange(B))
    )
    other = routing_inputs(
        ragged_mask([1, 2, 9]), task_ids, torch.arange(B) + 99, torch.randn(B, C)
    )
    torch.testing.assert_close(router(torch.randn(B, 9, C), other), seen)


def test_task_router_depends_only_on_the_group():
    router = TaskRouter(C, E, RouterOptions(), torch.tensor([0, 1, 0, 1]), 2)
    inputs = routing_inputs(ragged_mask([4] * 4), torch.arange(4))
    probs = router(torch.randn(4, 4, C), inputs).probs
    torch.testing.assert_close(probs[:2], probs[2:])
    assert not torch.allclose(probs[0], probs[1])


def test_token_router_decides_for_each_token_by_itself():
    router = token_router()
    x = torch.randn(B, S, C)
    inputs = routing_inputs(ragged_mask(LENGTHS))
    routing = router(x, inputs)
    assert routing.expert_ids.shape == (B, S, 2)
    torch.testing.assert_close(routing.probs, router.gate(x).softmax(-1))
    order = torch.randperm(S)
    shuffled = router(x[:, order], inputs)
    torch.testing.assert_close(shuffled.gates, routing.gates[:, order])


def test_sentence_router_reads_the_mean_of_real_tokens():
    router = SentenceRouter(C, E, RouterOptions())
    x, mask = torch.randn(B, S, C), ragged_mask(LENGTHS)
    means = torch.stack([x[i, mask[i]].mean(dim=0) for i in range(B)])
    torch.testing.assert_close(masked_mean(x, mask), means)
    routing = router(x, routing_inputs(mask))
    assert routing.expert_ids.shape == (B, 1, 2)
    torch.testing.assert_close(routing.probs[:, 0], router.gate(means).softmax(-1))


@pytest.mark.parametrize("left_pad", [True, False])
def test_sentence_router_does_not_depend_on_padding(left_pad):
    router = SentenceRouter(C, E, RouterOptions())
    x = torch.randn(1, 4, C)
    alone = router(x, routing_inputs(ragged_mask([4])))
    padding = 1e3 * torch.randn(1, 3, C)
    padded = torch.cat([padding, x] if left_pad else [x, padding], dim=1)
    mask = ragged_mask([4, 7], left_pad)[:1]
    torch.testing.assert_close(router(padded, routing_inputs(mask)), alone)


def test_sentence_router_of_the_decoder_reads_the_source_and_not_the_target():
    router = SentenceRouter(C + 2, E, RouterOptions())
    source_means = torch.randn(B, C + 2)
    routing = router(
        torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS), source_means=source_means)
    )
    torch.testing.assert_close(routing.probs[:, 0], router.gate(source_means).softmax(-1))


# -- gates


@pytest.mark.parametrize("top_k", [2, 3, E])
def test_gates_of_several_experts_are_their_probabilities_normalised(top_k):
    routing = token_router(top_k=top_k)(
        torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS))
    )
    best, expert_ids = routing.probs.sort(dim=-1, descending=True)
    assert torch.equal(routing.expert_ids, expert_ids[..., :top_k])
    best = best[..., :top_k]
    torch.testing.assert_close(routing.gates, best / best.sum(dim=-1, keepdim=True))


def test_single_gate_is_the_raw_probability_and_has_a_gradient():
    router = token_router(top_k=1)
    routing = router(torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS)))
    torch.testing.assert_close(routing.gates[..., 0], routing.probs.max(dim=-1).values)
    routing.gates.sum().backward()
    assert router.gate.weight.grad.norm() > 0.01


def test_log_partition_is_that_of_the_logits():
    router = token_router()
    x = torch.randn(B, S, C)
    routing = router(x, routing_inputs(ragged_mask(LENGTHS)))
    torch.testing.assert_close(routing.log_partition, router.gate(x).logsumexp(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_is_in_float32_where_weights_are_half(dtype):
    router = token_router().to(dtype)
    x = torch.randn(B, S, C).to(dtype)
    routing = router(x, routing_inputs(ragged_mask(LENGTHS)))
    assert routing.gates.dtype == dtype
    assert routing.probs.dtype == routing.log_partition.dtype == torch.float32
    logits = x.float() @ router.gate.weight.float().t()
    torch.testing.assert_close(routing.probs, logits.softmax(-1))


def test_softmax_is_in_float32_under_autocast():
    router = token_router()
    x, inputs = torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS))
    expected = router(x, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(router(x, inputs), expected)


# -- second-expert policies


def test_policy_random_keeps_the_second_expert_with_probability_two_g():
    router = token_router(second_expert_policy="random")
    x, inputs = same_token(4000)
    sure = router.eval()(x, inputs)
    drawn = router.train()(x, inputs)
    assert torch.equal(drawn.expert_ids, sure.expert_ids)
    torch.testing.assert_close(drawn.gates[..., 0], sure.gates[..., 0])
    kept = drawn.gates[..., 1] > 0
    torch.testing.assert_close(drawn.gates[..., 1], sure.gates[..., 1] * kept)
    share = 2 * sure.gates[0, 0, 1]
    assert 0.2 < share < 0.9, "a share that a test can tell from always and never"
    torch.testing.assert_close(kept.float().mean(), share, atol=0.04, rtol=0)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_policy_random_always_keeps_the_first_expert(top_k):
    router = token_router(second_expert_policy="random", top_k=top_k).train()
    routing = router(torch.randn(40, S, C), routing_inputs(ragged_mask([S] * 40)))
    assert (routing.gates[..., 0] > 0).all()


def test_policy_sampling_draws_the_second_expert_from_the_rest():
    router = token_router(second_expert_policy="sampling").train()
    x, inputs = same_token(4000)
    routing = router(x, inputs)
    probs = routing.probs[0, 0]
    first = int(probs.argmax())
    assert (routing.expert_ids[..., 0] == first).all()
    rest = probs.index_fill(0, torch.tensor(first), 0)
    drawn = routing.expert_ids[0, :, 1].bincount(minlength=E) / x.size(1)
    torch.testing.assert_close(drawn, rest / rest.sum(), atol=0.04, rtol=0)


@given(top_k=st.integers(1, E), seed=st.integers(0, 99))
def test_policy_sampling_draws_distinct_experts_with_gates_of_their_own(top_k, seed):
    torch.manual_seed(seed)
    router = token_router(second_expert_policy="sampling", top_k=top_k).train()
    routing = router(torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS)))
    distinct = routing.expert_ids.sort(dim=-1).values.diff(dim=-1)
    assert (distinct > 0).all()
    chosen = routing.probs.gather(-1, routing.expert_ids)
    if top_k > 1:
        chosen = chosen / chosen.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(routing.gates, chosen)


@pytest.mark.parametrize("policy", POLICIES)
def test_all_policies_take_the_best_experts_at_evaluation(policy):
    router = token_router(second_expert_policy=policy).eval()
    reference = token_router().eval()
    reference.load_state_dict(router.state_dict())
    x, inputs = torch.randn(B, S, C), routing_inputs(ragged_mask(LENGTHS))
    torch.testing.assert_close(router(x, inputs), reference(x, inputs))


def test_jitter_scales_the_key_by_at_most_its_size():
    router = TokenRouter(E, E, RouterOptions(jitter=0.1)).train()
    with torch.no_grad():
        router.gate.weight.copy_(torch.eye(E))  # logits are the key
    x = torch.rand(B, S, E) + 1
    routing = router(x, routing_inputs(ragged_mask(LENGTHS)))
    scale = (routing.probs.log() + routing.log_partition.unsqueeze(-1)) / x
    assert (scale - 1).abs().max() < 0.1 + 1e-5
    assert scale.min() < 0.95 and scale.max() > 1.05


def test_no_jitter_at_evaluation():
    router = token_router(jitter=0.5).eval()
    x = torch.randn(B, S, C)
    routing = router(x, routing_inputs(ragged_mask(LENGTHS)))
    torch.testing.assert_close(routing.probs, router.gate(x).softmax(-1))


@pytest.mark.parametrize("training, dropped", [(True, 4), (False, 2)])
def test_capacity_is_set_separately_for_training_and_evaluation(training, dropped):
    router = token_router(top_k=1, capacity_factor=E * 2 / 6, eval_capacity_factor=E * 4 / 6)
    x, inputs = same_token(6)  # all want one expert, which takes two of them, or four
    gates = router.train(training)(x, inputs).gates
    assert (gates == 0).flatten().tolist() == [False] * (6 - dropped) + [True] * dropped


def test_gate_of_the_other_expert_is_unchanged_after_a_drop():
    router = token_router(capacity_factor=1.0)
    x, inputs = torch.randn(B, S, C), routing_inputs(ragged_mask([S] * B))
    whole = router.eval()(x, inputs).gates
    gates = router.train()(x, inputs).gates
    assert (gates == 0).any()
    torch.testing.assert_close(gates, whole * (gates > 0))


# -- routers without a gate


@given(
    task=st.integers(0, 40),
    shape=st.integers(1, 9).flatmap(lambda e: st.tuples(st.just(e), st.integers(1, e))),
)
def test_static_router_assigns_experts_in_turn(task, shape):
    num_experts, top_k = shape
    router = StaticRouter(num_experts, top_k, torch.arange(41))
    inputs = routing_inputs(ragged_mask([3]), torch.tensor([task]))
    routing = router(torch.randn(1, 3, C), inputs)
    expected = [(top_k * task + i) % num_experts for i in range(top_k)]
    assert routing.expert_ids.flatten().tolist() == expected
    torch.testing.assert_close(routing.gates, torch.full((1, 1, top_k), 1 / top_k))
    torch.testing.assert_close(routing.probs.sum(), torch.tensor(1.0))


def test_random_router_chooses_experts_uniformly():
    router = RandomRouter(E, 2, layer_seed=3)
    hashes = hash_sentences(torch.randint(4, 99, (2000, 5)), torch.ones(2000, 5).bool())
    inputs = routing_inputs(ragged_mask([5] * 2000), sentence_hashes=hashes)
    for training in (True, False):
        routing = router.train(training)(torch.zeros(2000, 5, C), inputs)
        assert (routing.expert_ids[..., 0] != routing.expert_ids[..., 1]).all()
        assert (routing.gates == 0.5).all()
        share = routing.expert_ids.flatten().bincount(minlength=E) / 4000
        torch.testing.assert_close(share, torch.full((E,), 1 / E), atol=0.03, rtol=0)


def test_random_router_draws_new_experts_only_in_training():
    router = RandomRouter(E, 2, layer_seed=0)
    x = torch.zeros(40, S, C)
    inputs = routing_inputs(ragged_mask([S] * 40), sentence_hashes=torch.randint(2**60, (40,)))
    ids = [router.train()(x, inputs).expert_ids for _ in range(2)]
    assert not torch.equal(*ids)
    ids = [router.eval()(x, inputs).expert_ids for _ in range(2)]
    assert torch.equal(*ids)


def test_random_router_does_not_depend_on_other_sentences():
    router = RandomRouter(E, 2, layer_seed=0).eval()
    hashes = torch.randint(2**60, (7,))
    together = router(
        torch.randn(7, S, C), routing_inputs(ragged_mask([S] * 7), sentence_hashes=hashes)
    )
    for i in range(7):
        inputs = routing_inputs(ragged_mask([S]), sentence_hashes=hashes[i : i + 1])
        alone = router(torch.randn(1, S, C), inputs)
        assert torch.equal(alone.expert_ids[0], together.expert_ids[i])


def test_random_routers_of_different_layers_differ():
    inputs = routing_inputs(ragged_mask([S] * 40), sentence_hashes=torch.randint(2**60, (40,)))
    ids = [
        RandomRouter(E, 2, layer_seed)
        .eval()(torch.zeros(40, S, C), inputs)
        .expert_ids for layer_seed in (0, 1)
    ]
    agree = (ids[0] == ids[1]).all(dim=-1).float().mean()
    assert agree < 0.3, "by chance one in twenty"


@given(
    length=st.integers(1, 9), left=st.integers(0, 4), right=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_hash_of_a_sentence_ignores_the_amount_and_side_of_padding(length, left, right, seed):
    torch.manual_seed(seed)
    (sentence,) = random_sentences([length])
    padded = torch.nn.functional.pad(sentence, (left, right), value=1).unsqueeze(0)
    alone = hash_sentences(sentence.unsqueeze(0), torch.ones(1, length, dtype=torch.bool))
    assert torch.equal(hash_sentences(padded, padded != 1), alone)


def test_hash_of_a_sentence_depends_on_its_words_and_their_order():
    sentences = torch.tensor([[5, 6, 7, 2], [6, 5, 7, 2], [5, 6, 8, 2], [5, 5, 7, 2]])
    hashes = hash_sentences(sentences, torch.ones_like(sentences, dtype=torch.bool))
    assert len(set(hashes.tolist())) == 4


# -- all of them


@pytest.mark.parametrize("router", ROUTERS)
def test_model_with_any_router_is_built_without_allocating_weights(router):
    with torch.device("meta"):
        model = make_model(make_task(), router=router)
    assert all(parameter.is_meta for parameter in model.parameters())

"""The MoE layer against a loop over tokens, the dense network, and finite differences."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import ragged_mask, routing_inputs
from torch.func import functional_call

from fairseq_taskmoe.modules.dispatchers import LocalDispatcher
from fairseq_taskmoe.modules.expert_assignments import ExpertAssignments
from fairseq_taskmoe.modules.experts import Experts, StackedLinear
from fairseq_taskmoe.modules.fixed_routers import RandomRouter, StaticRouter
from fairseq_taskmoe.modules.moe_layer import MoELayer
from fairseq_taskmoe.modules.routers import (
    RouterOptions,
    RouterOutput,
    SentenceRouter,
    TaskRouter,
    TokenRouter,
)

C, WIDTH, E, N = 6, 10, 5, 4
LENGTHS = (7, 2, 4)
KINDS = ("token", "sentence", "task", "static", "random")


def make_layer(kind="token", num_experts=E, activation_fn="relu", **options):
    options = RouterOptions(**options)
    if kind == "static":
        router = StaticRouter(num_experts, options.top_k, torch.arange(N))
    elif kind == "random":
        router = RandomRouter(num_experts, options.top_k, layer_seed=0)
    elif kind == "task":
        router = TaskRouter(C, num_experts, options, torch.arange(N), N)
    else:
        router = {"token": TokenRouter, "sentence": SentenceRouter}[kind](C, num_experts, options)
    return MoELayer(router, Experts(num_experts, C, WIDTH, activation_fn))


def make_inputs(left_pad=True):
    """Return x (B, S, C) with padding, and what routers see of it."""
    mask = ragged_mask(LENGTHS, left_pad)
    x = torch.randn(*mask.shape, C, requires_grad=True)
    return x, routing_inputs(mask, torch.tensor([2, 0, 3]), torch.tensor([11, 22, 33]))


def loop(layer, x, inputs):
    """Send each token to each of its experts, one by one: the slow and plain MoE layer."""
    routing = layer.router(x, inputs)
    fc1, fc2 = layer.experts.fc1, layer.experts.fc2
    out = torch.zeros_like(x)
    for b, s in inputs.token_mask.nonzero().tolist():
        row = s if routing.gates.size(1) == x.size(1) else 0
        for expert, gate in zip(routing.expert_ids[b, row], routing.gates[b, row], strict=True):
            if gate == 0:
                continue
            hidden = F.linear(x[b, s], fc1.weight[expert], fc1.bias[expert, 0])
            hidden = layer.experts.activation_fn(hidden)
            answer = F.linear(hidden, fc2.weight[expert], fc2.bias[expert, 0])
            place = F.one_hot(torch.tensor(b * x.size(1) + s), x[..., 0].numel())
            out = out + (place.view(*x.shape[:2], 1) * (gate * answer))
    return out


def output_and_gradients(layer, forward, x, direction):
    """Return forward(x), and the gradients of its product with direction."""
    out = forward(x)
    inputs = [x, *layer.parameters()]
    return out, torch.autograd.grad((out * direction).sum(), inputs, materialize_grads=True)


OPTIONS = [
    pytest.param({"top_k": 1}, id="top-1"),
    pytest.param({"top_k": 2}, id="top-2"),
    pytest.param({"top_k": 3}, id="top-3"),
    pytest.param({"top_k": 2, "capacity_factor": 0.6}, id="dropped-by-capacity"),
    pytest.param({"top_k": 2, "second_expert_policy": "random"}, id="dropped-at-random"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_a_loop_over_tokens_and_experts(kind, options):
    layer = make_layer(kind, **options).train()
    x, inputs = make_inputs(left_pad=kind != "token")
    direction = torch.randn_like(x)

    torch.manual_seed(5)  # the same draws for both
    expected = output_and_gradients(layer, lambda x: loop(layer, x, inputs), x, direction)
    torch.manual_seed(5)
    found = output_and_gradients(layer, lambda x: layer(x, inputs)[0], x, direction)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["token", "sentence"])
def test_options_of_the_loop_do_drop_choices(kind):
    x, inputs = make_inputs()
    num_choices = make_layer(kind)(x, inputs)[1].load.sum()
    for options in ({"capacity_factor": 0.6}, {"second_expert_policy": "random"}):
        layer = make_layer(kind, **options).train()
        drawn = [layer(x, inputs)[1] for _ in range(20)]
        assert min(stats.load.sum() for stats in drawn) < num_choices
        # what a policy does not draw is no overflow
        assert (max(stats.overflow for stats in drawn) > 0) == ("capacity_factor" in options)


@pytest.mark.parametrize("activation_fn", ["relu", "gelu"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_top_1_is_the_dense_network(kind, activation_fn):
    layer = make_layer(kind, num_experts=1, activation_fn=activation_fn, top_k=1)
    fc1, fc2 = nn.Linear(C, WIDTH), nn.Linear(WIDTH, C)
    with torch.no_grad():
        for stacked, linear in ((layer.experts.fc1, fc1), (layer.experts.fc2, fc2)):
            linear.weight.copy_(stacked.weight[0])
            linear.bias.copy_(stacked.bias[0, 0])
    x, inputs = make_inputs()
    real = inputs.token_mask.unsqueeze(2)

    out = layer(x, inputs)[0]
    dense = fc2(layer.experts.activation_fn(fc1(x))) * real
    torch.testing.assert_close(out, dense)

    direction = torch.randn_like(x)
    stacked = (layer.experts.fc1, layer.experts.fc2)
    found = torch.autograd.grad(
        (out * direction).sum(), [x, *(p for linear in stacked for p in linear.parameters())]
    )
    expected = torch.autograd.grad(
        (dense * direction).sum(), [x, fc1.weight, fc1.bias, fc2.weight, fc2.bias]
    )
    for gradient, dense_gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, dense_gradient.view_as(gradient))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_effect_and_zero_output(kind):
    layer = make_layer(kind).eval()
    x, inputs = make_inputs()
    padding = ~inputs.token_mask
    expected, stats = layer(x, inputs)
    assert (expected[padding] == 0).all()
    other = torch.where(padding.unsqueeze(2), 1e3 * torch.randn_like(x), x)
    out, other_stats = layer(other, inputs)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(other_stats, stats)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gets_no_gradient(kind):
    x, inputs = make_inputs()
    out, stats = make_layer(kind)(x, inputs)
    (out.square().sum() + stats.balance + stats.z_loss).backward()
    assert (x.grad[~inputs.token_mask] == 0).all()
    assert (x.grad[inputs.token_mask] != 0).any()


def test_token_with_all_choices_dropped_has_zero_output():
    layer = make_layer(top_k=1, capacity_factor=0.1).train()  # room for one or two tokens each
    x, inputs = make_inputs()
    routing = layer.router(x, inputs)
    dropped = (routing.gates == 0).all(dim=-1) & inputs.token_mask
    out = layer(x, inputs)[0]
    assert dropped.any()
    assert torch.equal((out == 0).all(dim=-1), dropped | ~inputs.token_mask)


def test_batch_of_only_padding_works():
    layer = make_layer()
    x = torch.randn(2, 3, C, requires_grad=True)
    out, stats = layer(x, routing_inputs(torch.zeros(2, 3, dtype=torch.bool)))
    (out.sum() + stats.balance + stats.z_loss).backward()
    assert not out.any() and torch.isfinite(torch.stack([s.sum() for s in stats[:-1]])).all()
    assert all(not p.grad.any() for p in layer.parameters())


# -- the stacked linear map


def assignments_of(counts, num_rows):
    """Return assignments with random gates, of rows that differ within an expert."""
    rows = torch.cat([torch.randperm(num_rows)[:n].sort().values for n in counts])
    gates = torch.rand(len(rows), 1, dtype=torch.double, requires_grad=True)
    return ExpertAssignments(rows, gates, torch.tensor(counts).cumsum(0).int())


def test_gradients_of_experts_without_rows_are_zero():
    experts = Experts(4, 20, 10, "tanh").double()
    for _ in range(5):
        garbage = torch.full_like(experts.fc1.weight, float("nan"))
        del garbage  # the allocator gives this memory out again
        experts.zero_grad()
        rows = torch.randn(6, 20, dtype=torch.double)
        experts(rows, assignments_of([0, 4, 0, 2], 6)).sum().backward()
        for parameter in experts.parameters():
            assert not parameter.grad[[0, 2]].any()
            assert parameter.grad[[1, 3]].all()


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 5, 0], [0, 0, 0], [4, 4, 4]])
@pytest.mark.parametrize("activation_fn", ["relu", "tanh"])
def test_gradients_of_experts(counts, activation_fn):
    experts = Experts(3, 4, 2, activation_fn).double()
    assignments = assignments_of(counts, num_rows=5)
    rows = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    names, parameters = zip(*experts.named_parameters(), strict=True)

    def forward(rows, gates, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return functional_call(experts, named, (rows, assignments._replace(gates=gates)))

    assert torch.autograd.gradcheck(forward, (rows, assignments.gates, *parameters))


def test_gradients_of_planned_gates():
    mask = ragged_mask([3, 2])
    dispatcher = LocalDispatcher()
    expert_ids = torch.tensor([2, 0, 1, 2, 0, 1, 1, 0, 2, 1, 0, 2]).view(2, 3, 2)
    weights = torch.randn(10, 1, dtype=torch.double)

    def forward(gates):
        routing = RouterOutput(expert_ids, gates, torch.zeros(2, 3, 3), None)
        (plan,) = dispatcher.plan([routing], mask)
        assert not plan.assignments.gates[10:].any()  # padding
        return plan.assignments.gates[:10] * weights

    gates = torch.rand(2, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (gates,))


def test_experts_are_initialised_as_linear_maps_are():
    linear = StackedLinear(8, 100, 400)
    reference = nn.Linear(100, 400)
    for stacked, dense in ((linear.weight, reference.weight), (linear.bias, reference.bias)):
        assert stacked.abs().max() <= 0.1
        torch.testing.assert_close(stacked.std(), dense.std(), rtol=0.1, atol=0)
    assert len({float(w[0, 0]) for w in linear.weight.detach()}) == 8


def test_first_weights_of_an_expert_do_not_depend_on_how_many_there_are():
    stacks = []
    for num_experts in (2, 6):
        torch.manual_seed(3)
        stacks.append(StackedLinear(num_experts, 4, 5))
    for name in ("weight", "bias"):
        few, many = (getattr(stack, name) for stack in stacks)
        assert torch.equal(few, many[:2])


# -- precision, copies


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_in_half_precision_is_near_to_full_precision(kind, dtype):
    layer = make_layer(kind).to(dtype)
    full = copy.deepcopy(layer).float()
    x, inputs = make_inputs()
    x = x.detach().to(dtype).requires_grad_()
    for each in (layer, full):
        each.eval()
    out, stats = layer(x, inputs)
    assert out.dtype == dtype and stats.balance.dtype == torch.float32
    expected, _ = full(x.float(), inputs)
    torch.testing.assert_close(out.float(), expected, atol=0.03, rtol=0.03)
    (out.float().sum() + stats.balance).backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.dtype == dtype and torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_layer_under_autocast_is_near_to_full_precision(kind):
    layer = make_layer(kind).eval()
    x, inputs = make_inputs()
    expected, expected_stats = layer(x, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out, stats = layer(x, inputs)
    torch.testing.assert_close(out.float(), expected, atol=0.03, rtol=0.03)
    assert stats.balance.dtype == torch.float32
    torch.testing.assert_close(stats, expected_stats, atol=0.01, rtol=0.01)
    (out.float().sum() + stats.balance + stats.z_loss).backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == torch.float32 and torch.isfinite(parameter.grad).all()


def test_experts_under_autocast_compute_in_half_precision():
    experts = Experts(2, C, WIDTH)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            out = experts(torch.randn(3, C, dtype=dtype), assignments_of([1, 2], 3))
        assert out.dtype == torch.bfloat16


def test_statistics_under_autocast_are_as_precise_as_without():
    layer = make_layer("token").eval()
    mask = ragged_mask([2001, 700])  # numbers that bfloat16 cannot count to
    x, inputs = torch.randn(*mask.shape, C), routing_inputs(mask)
    _, expected = layer(x, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        _, stats = layer(x, inputs)
    torch.testing.assert_close(stats, expected)


def test_deep_copy_has_the_same_outputs_and_separate_parameters():
    layer = make_layer().eval()
    x, inputs = make_inputs()
    out = layer(x, inputs)[0]
    out.sum().backward()
    duplicate = copy.deepcopy(layer)
    torch.testing.assert_close(duplicate(x, inputs)[0], out)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert not duplicate(x, inputs)[0].any()
    torch.testing.assert_close(layer(x, inputs)[0], out)

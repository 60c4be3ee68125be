"""Experts and their loss equal a slow reference, however they are computed."""

import pytest
import torch
from dispatcher_cases import (
    POLICIES,
    ROUTERS,
    TOLERANCES,
    compare,
    draw_case,
    garbage_of_empty_groups,
    make_batch,
    make_layers,
)

from fairseq_taskmoe.modules.expert_assignments import sort_by_expert
from fairseq_taskmoe.modules.expert_execution import (
    Execution,
    choose_execution,
    compute_capability,
    supports_grouped_mm,
)
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.routers import RoutingInputs

BLOCK, NUM_BLOCKS = 50, 8
SHAPE = (32, 2048, 512)
A100, HOPPER, BLACKWELL = (8, 0), (9, 0), (10, 0)


@pytest.mark.parametrize("block", range(NUM_BLOCKS))
def test_all_experts_on_one_device_equal_the_slow_reference(block):
    """Outputs and gradients; dispatcher_cases.py says what differs from case to case."""
    with garbage_of_empty_groups():
        for seed in range(block * BLOCK, (block + 1) * BLOCK):
            compare(draw_case(seed, world_size=1))


def test_the_cases_cover_what_can_differ():
    cases = [draw_case(seed, 1) for seed in range(BLOCK * NUM_BLOCKS)]
    for execution in Execution:
        for dtype in TOLERANCES:
            some = [case for case in cases if (case.execution, case.dtype) == (execution, dtype)]
            assert {case.router for case in some} == set(ROUTERS)
            assert {case.options.second_expert_policy for case in some} == set(POLICIES)
            assert {case.options.capacity_factor for case in some} == {0.0, 0.7}
            assert {case.options.top_k for case in some} == {1, 2, 3}
            assert {case.num_experts for case in some} == {1, 2, 4, 7}
            assert {case.label_smoothing for case in some} == {0.0, 0.1}
            assert {case.scale for case in some} == {1.0, 8.0}
            assert {len(case.idle) for case in some} == {0, 1, 2}  # rank 0 without a token


def test_the_cases_have_underflowed_gates_dropped_choices_and_experts_without_rows():
    underflowed = dropped = unused = 0
    for seed in range(BLOCK * NUM_BLOCKS):
        case = draw_case(seed, 1)
        x, inputs = make_batch(case, 0)
        for layer in make_layers(case, None):
            routing = layer.router(x, inputs)
            gates = routing.probs.gather(-1, routing.expert_ids)
            underflowed += case.dtype == torch.float16 and bool(
                ((gates > 0) & (routing.gates == 0) & (routing.overflow is None)).any()
            )
            dropped += bool((routing.gates == 0).any())
            (plan,) = layer.dispatcher.plan([routing], inputs.token_mask)
            unused += 0 in plan.assignments.counts() and inputs.token_mask.any()
    assert min(underflowed, dropped, unused) > 20


def test_a_row_that_comes_twice_to_an_expert_counts_twice():
    experts = Experts(2, 4, 8, execution=Execution.CPU_LOOP)
    rows, gates = torch.randn(3, 4), torch.full((3, 2), 0.5)
    ids = torch.tensor([[1, 1], [0, 1], [0, 0]])
    (assignments,) = sort_by_expert([ids], [gates], [2])
    ids = torch.tensor([[1], [0], [0]])
    (once,) = sort_by_expert([ids], [2 * gates[:, :1]], [2])
    out = experts(rows, assignments)
    torch.testing.assert_close(out[[0, 2]], experts(rows, once)[[0, 2]])


@pytest.mark.parametrize("execution", Execution)
def test_padding_may_hold_anything(execution):
    case = draw_case(0, 1)._replace(
        router="token", num_experts=4, execution=execution, dtype=torch.float32, num_layers=1
    )
    (layer,) = make_layers(case, None)
    x, inputs = make_batch(case, 0)
    mask = inputs.token_mask
    mask[0, 0] = False
    x = x.detach().masked_fill(~mask.unsqueeze(2), float("inf")).requires_grad_()
    routing = layer.eval().router(x.detach().nan_to_num(0, 0, 0), inputs)
    (plan,) = layer.dispatcher.plan([routing], mask)
    out = layer.experts(x.flatten(0, 1), plan.assignments).view_as(x)
    assert out.isfinite().all() and not out[~mask].any()
    out.sum().backward()
    for tensor in (x, *layer.experts.parameters()):
        assert tensor.grad.isfinite().all()


# -- the choice by device, type and size


@pytest.mark.parametrize("changes, grouped", [
    ({}, True),
    ({"capability": BLACKWELL}, True),
    ({"capability": A100}, False),
    ({"capability": (0, 0)}, False),  # no NVIDIA GPU
    ({"dtype": torch.float32}, False),
    ({"dtype": torch.float16}, False),
    ({"has_grouped_mm": False}, False),  # torch < 2.9
    ({"num_rows": 0}, False),
    ({"shape": (1023, 2048, 512)}, True),
    ({"shape": (1024, 2048, 512)}, False),
    ({"shape": (32, 2044, 512)}, False),
    ({"shape": (32, 2048, 508)}, False),
])  # fmt: skip
def test_conditions_for_grouped_mm(changes, grouped):
    facts = {"shape": SHAPE, "dtype": torch.bfloat16, "num_rows": 1, "capability": HOPPER,
             "has_grouped_mm": True, **changes}
    assert supports_grouped_mm(**facts) is grouped


def test_without_grouped_mm_a_loop_is_chosen():
    weight = torch.empty(2, 8, 8)
    assert choose_execution(weight, torch.bfloat16, 1) is Execution.CPU_LOOP
    assert choose_execution(weight.to("meta"), torch.bfloat16, 1) is Execution.DEVICE_LOOP
    assert compute_capability(torch.device("cpu")) == (0, 0)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_gpu_gives_the_results_of_the_cpu(device, dtype):
    """With what is chosen for the device, and with the loop of GPUs."""
    for execution in (None, Execution.DEVICE_LOOP):
        torch.manual_seed(0)
        here = Experts(6, 16, 32, "gelu").to(dtype)
        there = Experts(6, 16, 32, "gelu", execution=execution).to(device, dtype)
        there.load_state_dict(here.state_dict())
        ids, gates = torch.rand(40, 5).topk(2).indices, torch.rand(40, 2, dtype=dtype)  # 5 unused
        ids = ids.masked_fill(torch.rand(40, 2) < 0.3, 6)
        found = []
        for experts in (here, there):
            where = experts.fc1.weight.device
            rows = torch.linspace(-1, 1, 640).view(40, 16).to(where, dtype).requires_grad_()
            (assignments,) = sort_by_expert([ids.to(where)], [gates.to(where)], [6])
            out = experts(rows, assignments)
            out.float().sin().sum().backward()
            gradients = [rows.grad, *(p.grad for p in experts.parameters())]
            found.append([tensor.detach().float().cpu() for tensor in (out, *gradients)])
        for one, other in zip(*found, strict=True):
            assert (one - other).norm() <= TOLERANCES[dtype] * (one.norm() + 0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_layer_on_gpu_drops_the_same_choices_as_on_cpu(device):
    case = draw_case(1, 1)._replace(router="token", num_experts=4, dtype=torch.float32)
    (layer, *_) = make_layers(case, None)
    layer.experts.execution = None
    x, inputs = make_batch(case, 0)
    expected, _ = layer.eval()(x, inputs)
    layer.to(device)
    moved = RoutingInputs(*(each if each is None else each.to(device) for each in inputs))
    found, _ = layer(x.to(device), moved)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)

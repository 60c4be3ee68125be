"""Products in bfloat16 have few shapes, and the rows that are added change no result."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_taskmoe.modules import bf16_products, looped_products
from fairseq_taskmoe.modules.bf16_products import (
    onednn_rounds_float32,
    padded_bf16,
    padded_number,
)
from fairseq_taskmoe.modules.expert_assignments import sort_by_expert
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.linear import Linear

EPS = torch.finfo(torch.bfloat16).eps

pytestmark = pytest.mark.usefixtures("medium")


def assert_rounded_alike(found, expected, terms):
    """Compare results of float32 sums of this many products, rounded to bfloat16 at the end.

    Another kernel may add in another order, which changes a sum by less than a rounding step.
    """
    found, expected = found.float(), expected.float()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    atol = scale * torch.finfo(torch.float32).eps * (terms + 1)
    torch.testing.assert_close(found, expected, rtol=EPS, atol=atol)


def test_padded_numbers_are_few_and_near():
    numbers = [padded_number(n) for n in range(1, 8193)]
    assert all(padded % 16 == 0 for padded in numbers)
    assert all(n <= padded < n + max(16, n / 4) for n, padded in enumerate(numbers, 1))
    assert len(set(numbers)) == 4 + 4 * 7  # 16 to 64, and four for each doubling up to 8,192
    assert [padded_number(n) for n in (0, 1, 16, 17, 64, 65, 129)] == [0, 16, 16, 32, 64, 80, 160]


def test_padding_is_zeros_and_needs_no_copy_if_there_is_none():
    rows = torch.randn(33, 5)
    padded = padded_bf16(rows)
    assert padded.shape == (48, 5)
    assert torch.equal(padded[:33], rows.bfloat16()) and not padded[33:].any()
    assert padded_bf16(padded) is padded


@given(
    n=st.integers(0, 90), size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(), narrow_input=st.booleans(),
)
@settings(max_examples=40)
def test_a_padded_map_is_the_map_without_padding(n, size, bias, narrow_input):
    module = Linear(*size, bias, keep_bf16_output=True)
    x = torch.randn(n, size[0], dtype=torch.bfloat16 if narrow_input else torch.float32)
    grad = torch.randn(n, size[1]).bfloat16()
    x.requires_grad_()
    out = module(x)
    out.backward(grad)
    plain_x, weight = x.detach().bfloat16(), module.weight.detach().bfloat16()
    plain_bias = module.bias.detach().bfloat16() if bias else None
    assert_rounded_alike(out, F.linear(plain_x, weight, plain_bias), size[0])
    assert_rounded_alike(x.grad, grad @ weight, size[1])
    assert_rounded_alike(module.weight.grad, grad.t() @ plain_x, n)
    if bias:
        torch.testing.assert_close(module.bias.grad, grad.float().sum(dim=0))


def of_experts(counts, order):
    """Return outputs and gradients of experts, the first of which have the given rows each."""
    torch.manual_seed(0)
    experts = Experts(len(counts), 24, 20)
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).unsqueeze(1)
    if order == "scattered":
        ids = ids[torch.randperm(len(ids))]
    gates = torch.rand(len(ids), 1, requires_grad=True)
    rows = torch.randn(len(ids), 24, requires_grad=True)
    (assignments,) = sort_by_expert([ids], [gates], [len(counts)])
    out = experts(rows, assignments)
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
    return [out.detach(), rows.grad, gates.grad, *(p.grad for p in experts.parameters())]


@pytest.mark.parametrize("order", ["adjacent", "scattered"])
@pytest.mark.parametrize("counts", [[0, 1, 16], [17, 33, 0], [70, 5, 15]])
def test_padded_experts_are_the_experts_without_padding(monkeypatch, counts, order):
    found = of_experts(counts, order)
    monkeypatch.setattr(looped_products, "padded_number", lambda n: n)
    expected = of_experts(counts, order)
    for one, two in zip(found, expected, strict=True):
        # hidden units that round differently by one step change the sums after them by as much
        scale = float(two.abs().max()) * EPS
        torch.testing.assert_close(one, two, rtol=2 * EPS, atol=2 * scale)


class Products(TorchDispatchMode):
    """The shapes of matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::mm", "aten::addmm"):
            self.shapes.add(tuple(tuple(arg.shape) for arg in args[-2:]))
        return func(*args, **(kwargs or {}))


def test_rows_of_many_numbers_give_few_shapes_of_products():
    module = Linear(8, 12)
    with Products() as products:
        for n in range(129, 257):
            module(torch.randn(n, 8, requires_grad=True)).sum().backward()
    assert len(products.shapes) == 4 * 3  # padded numbers, and forward and both gradients


def test_small_matrices_keep_products_in_float32(monkeypatch):
    monkeypatch.setattr(bf16_products, "LEAST_ELEMENTS", 65)
    module, x = Linear(8, 8), torch.randn(5, 8)
    assert torch.equal(module(x), F.linear(x, module.weight, module.bias))


def test_other_products_of_the_process_stay_in_float32():
    assert torch.get_float32_matmul_precision() == "medium"
    assert not onednn_rounds_float32()  # so that attention keeps its fused kernel
    torch.set_float32_matmul_precision("medium")
    assert onednn_rounds_float32()  # as torch's own setting would have it

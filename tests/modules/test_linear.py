"""Products in bfloat16 where --float32-matmul-precision medium asks for them, on any CPU."""

import pytest
import torch
import torch.nn as nn
from helpers import make_model, make_task, ragged_batch

from fairseq_taskmoe.modules.bf16_products import set_matmul_precision, use_bf16_matmul
from fairseq_taskmoe.modules.expert_assignments import sort_by_expert
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.linear import Linear, narrow_weights

CLOSE = {"rtol": 0.02, "atol": 0.02}  # of numbers around 1; bfloat16 has 8 bits


def with_gradients(module, *inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = module(*inputs)
    direction = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out, *torch.autograd.grad((out.float() * direction).sum(),
                                      [*inputs, *module.parameters()])]


@pytest.mark.parametrize("shape", [(5, 16), (2, 5, 16), (16,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep_bf16_output", [True, False])
def test_bf16_products_are_close_and_parameters_keep_their_type(
    medium, shape, bias, keep_bf16_output
):
    torch.manual_seed(0)
    module, x = Linear(16, 12, bias, keep_bf16_output), torch.randn(*shape)
    found = with_gradients(module, x)
    assert found[0].dtype == (torch.bfloat16 if keep_bf16_output else torch.float32)
    assert {tensor.dtype for tensor in found[1:]} == {torch.float32}
    set_matmul_precision("highest")
    expected = with_gradients(module, x)
    torch.testing.assert_close([tensor.float() for tensor in found], expected, **CLOSE)
    assert not torch.equal(found[0].float(), expected[0])  # it was really rounded


@pytest.mark.parametrize("device, dtype, precision, has_instructions, used", [
    ("cpu", torch.float32, "medium", True, True),
    ("cpu", torch.float32, "medium", False, False),
    ("cpu", torch.float32, "high", True, False),
    ("cpu", torch.bfloat16, "medium", True, False),
    ("meta", torch.float32, "medium", True, False),  # on a GPU torch's setting is enough
])  # fmt: skip
def test_where_bfloat16_is_used(medium, device, dtype, precision, has_instructions, used):
    set_matmul_precision(precision)
    weight = torch.empty(2, 2, device=device, dtype=dtype)
    assert use_bf16_matmul(weight, has_instructions) is used


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_other_precisions_are_the_map_of_torch(precision):
    module, x = Linear(16, 12), torch.randn(5, 16)
    set_matmul_precision(precision)
    found = with_gradients(module, x)
    set_matmul_precision("highest")
    torch.testing.assert_close(found, with_gradients(module, x))


def test_other_types_are_not_changed(medium):
    for dtype in (torch.float64, torch.bfloat16):
        module, x = Linear(16, 12).to(dtype), torch.randn(5, 16, dtype=dtype)
        assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))


def test_gradient_adds_up_over_micro_batches_in_float32(medium):
    module, x = Linear(16, 12), torch.randn(5, 16)
    for _ in range(3):
        module(x).sum().backward()
    once = with_gradients(module, x)[0].new_ones(5, 12).bfloat16().t() @ x.bfloat16()
    torch.testing.assert_close(module.weight.grad, 3 * once.float())


def test_experts_are_close_with_gradients_of_the_parameters_type(medium):
    torch.manual_seed(0)
    experts, rows = Experts(4, 16, 24), torch.randn(30, 16)
    chosen, gates = torch.rand(30, 4).topk(2).indices, torch.rand(30, 2)
    (assignments,) = sort_by_expert([chosen], [gates], [4])

    class OfRows(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = experts

        def forward(self, rows):
            return self.experts(rows, assignments)

    found = with_gradients(OfRows(), rows)
    set_matmul_precision("highest")
    expected = with_gradients(OfRows(), rows)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.equal(found[0], expected[0])
    set_matmul_precision("medium")
    narrow_weights(experts)
    assert torch.equal(experts(rows, assignments), found[0])
    assert experts.fc2.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("router", ["token", "target"])
def test_model_of_medium_precision_is_close_in_outputs_and_gradients(medium, router):
    model, batch = make_model(make_task(), router), ragged_batch()

    def run():
        model.zero_grad()
        logits, _ = model(**batch["net_input"])
        logits.float().log_softmax(-1).square().mean().backward()
        # a token that routes elsewhere after rounding would be far off: none does here
        return logits.detach().float(), [p.grad.clone() for p in model.parameters() if
                                         p.grad is not None]

    narrow_logits, narrow = run()
    set_matmul_precision("highest")
    logits, gradients = run()
    assert (narrow_logits - logits).norm() < 0.02 * logits.norm()
    difference = sum((a - b).square().sum() for a, b in zip(narrow, gradients, strict=True))
    assert difference < 0.05**2 * sum(b.square().sum() for b in gradients)


def test_narrow_weights_give_the_products_of_wide_ones(medium):
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "embed": nn.Embedding(12, 16), "up": Linear(16, 24, keep_bf16_output=True),
        "down": Linear(24, 16), "out": Linear(16, 12, bias=False),
    })
    model["out"].weight = model["embed"].weight  # as with --share-all-embeddings
    x = torch.randn(5, 16)

    def run():
        return model["out"](model["down"](model["up"](x)))

    expected = run()
    narrow_weights(model)
    assert torch.equal(run(), expected)
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert types.pop("embed.weight") == torch.float32
    assert {dtype for name, dtype in types.items() if "weight" in name} == {torch.bfloat16}
    set_matmul_precision("highest")  # stored weights keep their type
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_weights_stay_wide_at_other_precisions(medium, precision):
    set_matmul_precision(precision)
    module = Linear(16, 12)
    narrow_weights(module)
    assert module.weight.dtype == torch.float32

"""The loss from logits is fairseq's loss from log-probabilities, with its gradient."""

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.modules import label_smoothed_loss
from fairseq_taskmoe.modules.label_smoothed_loss import label_smoothed_nll, row_chunks

PAD = 1


def example(rows, words, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, words, generator=generator)
    target = torch.randint(words, (rows,), generator=generator)
    return logits.requires_grad_(), target


@given(
    rows=st.integers(1, 20),
    words=st.integers(2, 50),
    epsilon=st.sampled_from([0.0, 0.1, 0.3]),
    chunk=st.sampled_from([1, 60, 2**19]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradient_are_fairseqs_whatever_the_chunks(rows, words, epsilon, chunk, seed):
    logits, target = example(rows, words, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_smoothed_loss, "CHUNK_ELEMENTS", chunk)
        loss, nll = label_smoothed_nll(logits, target, epsilon, PAD)
        weights = torch.arange(1.0, rows + 1)
        (gradient,) = torch.autograd.grad((weights * loss).sum(), logits)
    expected, expected_nll = label_smoothed_nll_loss(
        logits.log_softmax(-1), target.unsqueeze(1), epsilon, ignore_index=PAD, reduce=False
    )
    expected, expected_nll = expected.squeeze(1), expected_nll.squeeze(1)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(nll, expected_nll, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_gradient_by_finite_differences_of_large_logits():
    logits, target = example(4, 6, seed=2)
    logits = (10 * logits).detach().requires_grad_()
    loss, _ = label_smoothed_nll(logits, target, 0.1, PAD)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for row, word in ((0, 0), (1, 3), (3, 5)):
        step = torch.zeros_like(logits)
        step[row, word] = 1e-2
        up = label_smoothed_nll(logits + step, target, 0.1, PAD)[0].sum().item()
        down = label_smoothed_nll(logits - step, target, 0.1, PAD)[0].sum().item()
        assert gradient[row, word].item() == pytest.approx((up - down) / 2e-2, abs=1e-2)


def test_half_precision_logits_give_a_float32_loss_and_their_own_gradient():
    logits, target = example(5, 9, seed=0)
    rounded = logits.detach().bfloat16().requires_grad_()
    loss, nll = label_smoothed_nll(rounded, target, 0.1, PAD)
    loss.sum().backward()
    assert loss.dtype == nll.dtype == torch.float32
    assert rounded.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype, rounding", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("margin", [6, 9, 12, 15])
def test_gradient_in_half_precision_is_rounded_only_twice(dtype, rounding, epsilon, margin):
    # where a prediction is nearly certain p is near to the target: their difference counts
    logits, target = example(200, 1000, seed=1)
    logits = logits.detach() / 3
    logits[torch.arange(200), target] += margin
    rounded = logits.to(dtype).requires_grad_()
    weights = torch.linspace(1, 3, 200)
    (weights * label_smoothed_nll(rounded, target, epsilon, PAD)[0]).sum().backward()
    exact = rounded.detach().double().requires_grad_()
    loss, _ = label_smoothed_nll_loss(
        exact.log_softmax(-1), target.unsqueeze(1), epsilon, ignore_index=PAD, reduce=False
    )
    (weights * loss.squeeze(1)).sum().backward()
    error = (rounded.grad.double() - exact.grad).abs()
    # of a softmax in float32 over 1,000 words, 1 - p has an error of some roundings of 2^-24
    smallest = (2**-24 if dtype == torch.float16 else 0) + 32 * 2**-24 * weights.unsqueeze(1)
    assert (error <= 2.01 * rounding * exact.grad.abs() + smallest).all()


def test_loss_scale_recovers_probabilities_below_float16():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.float16, requires_grad=True)  # p = 2e-9
    loss, _ = label_smoothed_nll(logits, torch.tensor([0]), 0.0, PAD)
    (loss.sum() * 2**15).backward()
    expected = 2**15 * torch.sigmoid(torch.tensor(-20.0)).item()
    assert logits.grad[0, 1].item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("on_cpu, step", [(True, 52), (False, 70), (None, 52)])
def test_rows_are_processed_in_blocks(on_cpu, step, monkeypatch):
    monkeypatch.setattr(label_smoothed_loss, "CHUNK_ELEMENTS", 529)
    chunks = row_chunks(torch.empty(200, 10), gpu_rows=70, on_cpu=on_cpu)
    assert [row for rows in chunks for row in range(200)[rows]] == list(range(200))
    assert chunks[0] == slice(0, step)

"""Interleaved timings, operations as torch counts them, and peaks of memory."""

import torch

from fairseq_taskmoe.benchmarks.measure import Timing, alternate
from fairseq_taskmoe.benchmarks.resources import flops, peak_bytes


def test_variants_take_turns_and_the_burn_in_is_left_out():
    calls = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timings = alternate(variants, repeats=3, device="cpu", burn_in=1)
    assert calls == ["a", "b"] * 4
    assert all(len(timing.seconds) == 3 for timing in timings.values())
    assert Timing([1.0, 2.0, 10.0]).median == 2.0


def test_operations_of_attention_are_counted_on_cpu_as_for_a_gpu():
    q, k, v = (torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 5 * 5 * 8

    def attend():
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    assert flops(attend) == (2 + 5) * product


def test_operations_of_grouped_products_are_those_of_their_rows():
    rows, weights = torch.randn(64, 32).bfloat16(), torch.randn(4, 32, 16).bfloat16()
    ends = torch.tensor([16, 16, 48, 64], dtype=torch.int32)
    assert flops(lambda: torch._grouped_mm(rows, weights, offs=ends)) == 2 * 64 * 32 * 16
    other = torch.randn(64, 16).bfloat16()
    assert flops(lambda: torch._grouped_mm(rows.t(), other, offs=ends)) == 2 * 64 * 32 * 16
    columns = rows.t()  # (32, 64), shared out among 4 matrices (16, 32)
    turned = weights.transpose(1, 2)
    assert flops(lambda: torch._grouped_mm(turned, columns, offs=ends)) == 2 * 64 * 32 * 16
    assert flops(lambda: torch._grouped_mm(turned, weights)) == 4 * 2 * 16 * 32 * 16


def test_peak_of_memory_is_what_is_held_at_once():
    weight = torch.nn.Parameter(torch.ones(100, 100))

    def step():
        weight.grad = None
        first = weight * 2  # 40,000 bytes, freed at once
        del first
        weight.exp().sum().backward()  # as many, kept for backward

    assert 40_000 <= peak_bytes(step, [weight], "cpu") < 45_000

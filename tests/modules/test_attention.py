"""Attention by masks and kernels of either device gives the same."""

import pytest
import torch

from fairseq_taskmoe.modules.attention import MultiheadAttention, attention_kernel, attention_mask
from fairseq_taskmoe.modules.bf16_products import set_matmul_precision


def test_mask_of_a_gpu_without_padding_is_all_true():
    tokens = torch.ones(2, 5, dtype=torch.bool)
    assert attention_mask(tokens, on_cpu=True) is None
    mask = attention_mask(tokens, on_cpu=False)
    assert mask.shape == (2, 1, 1, 5) and mask.all()
    attention, x = MultiheadAttention(8, 2, 0.0, 8), torch.randn(2, 5, 8)
    keys, values = attention.keys_values(x)
    torch.testing.assert_close(
        attention.attend(x, keys, values, mask), attention.attend(x, keys, values, None)
    )


@pytest.mark.parametrize("on_cpu", [True, False])
def test_padding_is_hidden(on_cpu):
    tokens = torch.tensor([[False, True, True], [True, True, True]])
    attention, x = MultiheadAttention(8, 2, 0.0, 8).eval(), torch.randn(2, 3, 8)
    out = attention.attend(x, *attention.keys_values(x), attention_mask(tokens, on_cpu))
    alone = attention.attend(x[:1, 1:], *attention.keys_values(x[:1, 1:]))
    torch.testing.assert_close(out[:1, 1:], alone)


@pytest.mark.parametrize("device, precision", [("cpu", "highest"), ("cpu", "medium"),
                                               ("cuda", "medium")])
def test_all_kernels_compute_attention(device, precision):
    queries, keys, values = torch.randn(3, 2, 2, 5, 4)  # (B, H, T, D) each
    expected = (queries @ keys.transpose(2, 3) / 2).softmax(dim=3) @ values
    torch.set_float32_matmul_precision(precision)  # torch's own setting
    with attention_kernel(device):
        found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    set_matmul_precision("highest")
    torch.testing.assert_close(found, expected)

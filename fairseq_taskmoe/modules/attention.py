"""Multi-head attention, batch first, with torch's fused kernel.

Parameter names and shapes are those of fairseq's MultiheadAttention: checkpoints are
interchangeable. Shapes: B sentences, T queries, S keys, C model width, H heads, D = C / H.
"""

from contextlib import nullcontext
from typing import ContextManager, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .bf16_products import onednn_rounds_float32
from .linear import Linear


class MultiheadAttention(nn.Module):
    """Attention in two steps: keys and values can be cached between decoding steps."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, memory_dim: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.k_proj = Linear(memory_dim, embed_dim)
        self.v_proj = Linear(memory_dim, embed_dim)
        self.q_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as fairseq: with a smaller gain if q, k and v have the same input size."""
        gain = 2**-0.5 if self.k_proj.in_features == self.q_proj.in_features else 1.0
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def keys_values(self, memory: Tensor) -> Tuple[Tensor, Tensor]:
        """Return keys and values (B, H, S, D) of memory (B, S, C)."""
        return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Optional[Tensor] = None,
        causal: bool = False,
    ) -> Tensor:
        """Return the attention output (B, T, C) of x (B, T, C) over keys and values (B, H, S, D).

        mask (B, 1, 1, S) is True at keys to attend to; with causal, query t attends to keys 0..t.
        """
        queries = self._split(self.q_proj(x))
        with attention_kernel(x.device.type):
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0, is_causal=causal,
            )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention weights (H, B, T, S) of x (B, T, C), for alignments."""
        queries = self._split(self.q_proj(x))
        scores = torch.matmul(queries, keys.transpose(2, 3)) * queries.size(3) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1, dtype=torch.float32).transpose(0, 1)

    def _split(self, x: Tensor) -> Tensor:
        """Return x (B, T, C) as heads (B, H, T, D)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def attention_mask(token_mask: Tensor, on_cpu: Optional[bool] = None) -> Optional[Tensor]:
    """Return token_mask (B, S) as a mask (B, 1, 1, S) for attend, or None if nothing is padding.

    On a GPU there is always a mask, since the host would have to wait for the GPU to find out.
    on_cpu defaults to whether token_mask is on a CPU.
    """
    on_cpu = token_mask.device.type == "cpu" if on_cpu is None else on_cpu
    if on_cpu and bool(token_mask.all()):
        return None
    return token_mask[:, None, None, :]


def attention_kernel(device_type: str) -> ContextManager[None]:
    """Return the context that selects torch's attention kernel.

    The fused CPU kernel multiplies small tiles. If torch's setting lets oneDNN convert each tile to
    bfloat16 separately, the kernel is up to 15 times slower.
    """
    if device_type == "cpu" and onednn_rounds_float32():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()

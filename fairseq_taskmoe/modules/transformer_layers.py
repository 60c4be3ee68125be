"""Transformer layers whose feed-forward network may be a mixture of experts.

Batch first. Dense layers have the parameter names of fairseq's own layers. Shapes: B sentences,
S source and T target positions, C model width.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
from fairseq.incremental_decoding_utils import FairseqIncrementalState
from fairseq.modules import LayerNorm
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .activation import activation
from .attention import MultiheadAttention
from .dropout import Dropout
from .gate_losses import GateStats
from .hypotheses import reorder_sentences
from .linear import Linear
from .moe_layer import MoELayer, Route
from .routers import RoutingInputs

IncrementalState = Dict[str, Dict[str, Optional[Tensor]]]


class LayerShape(NamedTuple):
    """The settings that the layers of one stack share."""

    embed_dim: int
    num_heads: int
    normalize_before: bool
    activation_fn: str
    dropout: float
    attention_dropout: float
    activation_dropout: float


class TransformerLayer(nn.Module):
    """Self-attention, and a dense feed-forward network of width ffn_dim or the given MoE layer.

    Each is a residual block with layer normalisation before (pre-norm) or after it (post-norm).
    """

    def __init__(self, shape: LayerShape, ffn_dim: int, moe: Optional[MoELayer]):
        super().__init__()
        self.normalize_before = shape.normalize_before
        self.self_attn = MultiheadAttention(
            shape.embed_dim, shape.num_heads, shape.attention_dropout, shape.embed_dim
        )
        self.self_attn_layer_norm = LayerNorm(shape.embed_dim)
        self.dropout = Dropout(shape.dropout)
        self.final_layer_norm = LayerNorm(shape.embed_dim)
        self.activation_fn = activation(shape.activation_fn)
        self.activation_dropout = Dropout(shape.activation_dropout)
        self.moe = moe
        if moe is None:
            self.fc1 = Linear(shape.embed_dim, ffn_dim, keep_bf16_output=True)
            self.fc2 = Linear(ffn_dim, shape.embed_dim)

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Return the input of a residual block, normalised with pre-norm."""
        return norm(x) if self.normalize_before else x

    def after(self, norm: nn.Module, residual: Tensor, x: Tensor) -> Tensor:
        """Add x to the residual, normalised with post-norm."""
        x = residual + self.dropout(x)
        return x if self.normalize_before else norm(x)

    def feed_forward(
        self, x: Tensor, routing: Optional[RoutingInputs], route: Optional[Route],
        with_stats: bool = True,
    ) -> Tuple[Tensor, Optional[GateStats]]:
        """Run the feed-forward block on x (B, S, C), with a precomputed route if there is one."""
        inner = self.before(self.final_layer_norm, x)
        stats = None
        if self.moe is not None:
            inner, stats = self.moe(inner, routing, route, with_stats)
        else:
            hidden = self.activation_fn(self.fc1(inner))
            inner = self.fc2(self.activation_dropout(hidden))
        return self.after(self.final_layer_norm, x, inner), stats


def run_layer(layer: nn.Module, recompute: bool, *inputs: Any) -> Any:
    """Return a layer's outputs, with its activations recomputed in backward if asked."""
    return checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)


class TransformerEncoderLayer(TransformerLayer):
    """A layer of the encoder."""

    def forward(
        self,
        x: Tensor,
        key_mask: Optional[Tensor],
        routing: Optional[RoutingInputs],
        route: Optional[Route] = None,
    ) -> Tuple[Tensor, Optional[GateStats]]:
        """Encode x (B, S, C); key_mask (B, 1, 1, S) is True at tokens, or None without padding."""
        inner = self.before(self.self_attn_layer_norm, x)
        keys, values = self.self_attn.keys_values(inner)
        inner = self.self_attn.attend(inner, keys, values, key_mask)
        x = self.after(self.self_attn_layer_norm, x, inner)
        return self.feed_forward(x, routing, route)


class TransformerDecoderLayer(FairseqIncrementalState, TransformerLayer):
    """A layer of the decoder, with attention to earlier target tokens and to the encoder output."""

    get_incremental_state: Callable[..., Any]  # fairseq's, which has no type hints
    set_incremental_state: Callable[..., Any]

    def __init__(
        self, shape: LayerShape, ffn_dim: int, moe: Optional[MoELayer], memory_dim: int
    ):
        super().__init__(shape, ffn_dim, moe)
        self.encoder_attn = MultiheadAttention(
            shape.embed_dim, shape.num_heads, shape.attention_dropout, memory_dim
        )
        self.encoder_attn_layer_norm = LayerNorm(shape.embed_dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_mask: Optional[Tensor],
        routing: Optional[RoutingInputs],
        route: Optional[Route] = None,
        incremental_state: Optional[IncrementalState] = None,
        need_weights: bool = False,
    ) -> Tuple[Tensor, Optional[GateStats], Optional[Tensor]]:
        """Decode x (B, T, C), or with incremental_state its last position (B, 1, C).

        memory (B, S, C) is the encoder output, and memory_mask (B, 1, 1, S) is True at its tokens;
        in a beam search x has a row for each hypothesis, and those of a sentence are adjacent.
        Returns the output, the routing statistics and, with need_weights, the weights (H, B, T, S)
        of attention to the memory.
        """
        inner = self.before(self.self_attn_layer_norm, x)
        keys, values = self._past_keys_values(inner, incremental_state)
        inner = self.self_attn.attend(inner, keys, values, causal=incremental_state is None)
        x = self.after(self.self_attn_layer_norm, x, inner)

        inner = self.before(self.encoder_attn_layer_norm, x)
        keys, values = self._memory_keys_values(memory, incremental_state)
        queries = inner.view(keys.size(0), -1, inner.size(2))  # all hypotheses of a sentence
        weights = None
        if need_weights:
            weights = self.encoder_attn.weights(queries, keys, memory_mask)
            weights = weights.reshape(weights.size(0), *inner.shape[:2], -1)
        inner = self.encoder_attn.attend(queries, keys, values, memory_mask).view_as(x)
        x = self.after(self.encoder_attn_layer_norm, x, inner)

        # the statistics of single decoding steps are not used
        x, stats = self.feed_forward(x, routing, route, with_stats=incremental_state is None)
        return x, stats, weights

    def _past_keys_values(
        self, x: Tensor, incremental_state: Optional[IncrementalState]
    ) -> Tuple[Tensor, Tensor]:
        """Return the keys and values of self-attention, those of earlier steps first."""
        keys, values = self.self_attn.keys_values(x)
        if incremental_state is not None:
            past = self.get_incremental_state(incremental_state, "past")
            if past is not None:
                keys = torch.cat([past["keys"], keys], dim=2)
                values = torch.cat([past["values"], values], dim=2)
            self.set_incremental_state(incremental_state, "past", {"keys": keys, "values": values})
        return keys, values

    def _memory_keys_values(
        self, memory: Tensor, incremental_state: Optional[IncrementalState]
    ) -> Tuple[Tensor, Tensor]:
        """Return the keys and values of the memory, projected once for all decoding steps."""
        if incremental_state is None:
            return self.encoder_attn.keys_values(memory)
        cached = self.get_incremental_state(incremental_state, "memory")
        if cached is None:
            keys, values = self.encoder_attn.keys_values(memory)
            cached = {"keys": keys, "values": values}
            self.set_incremental_state(incremental_state, "memory", cached)
        return cached["keys"], cached["values"]

    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> IncrementalState:
        """Reorder the cached keys and values: row i becomes the former row new_order[i] (R',)."""
        past, memory = (
            self.get_incremental_state(incremental_state, name) for name in ("past", "memory")
        )
        if past is not None and memory is not None:
            num_hypotheses = past["keys"].size(0) // max(1, memory["keys"].size(0))
            for key, value in memory.items():
                memory[key] = reorder_sentences(value, new_order, num_hypotheses)
            for key, value in past.items():
                past[key] = value.index_select(0, new_order)
        return incremental_state

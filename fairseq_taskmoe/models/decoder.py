"""The decoder, which predicts the next tokens from previous ones and the encoder output.

Shapes: B sentences (hypotheses), S source and T target positions, C model width, V words.
"""

import math
from typing import Any, Dict, List, Optional, Tuple

import torch.nn as nn
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import LayerNorm, PositionalEmbedding
from torch import Tensor

from ..data.task_table import TaskTable
from ..distributed.expert_groups import ExpertGroups
from ..modules.attention import attention_mask
from ..modules.dropout import Dropout
from ..modules.linear import Linear
from ..modules.moe_layer import route_ahead
from ..modules.routers import RoutingInputs
from ..modules.transformer_layers import IncrementalState, TransformerDecoderLayer, run_layer
from .build_layers import build_moe_layer, dense_dim, layer_shape
from .encoder import EncoderOut


class TaskMoeDecoder(FairseqIncrementalDecoder):
    """Transformer decoder with MoE layers."""

    def __init__(
        self, cfg: Any, dictionary: Dictionary, embed_tokens: nn.Embedding, table: TaskTable,
        groups: Optional[ExpertGroups] = None,
    ):
        super().__init__(dictionary)
        dim = cfg.decoder_embed_dim
        self.padding_idx = dictionary.pad()
        self.max_target_positions = cfg.max_target_positions
        self.checkpoint_activations = cfg.checkpoint_activations
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(dim)
        self.embed_positions = PositionalEmbedding(
            cfg.max_target_positions, dim, self.padding_idx, learned=cfg.decoder_learned_pos
        )
        self.layernorm_embedding = LayerNorm(dim) if cfg.layernorm_embedding else None
        self.dropout = Dropout(cfg.dropout)
        shape = layer_shape(cfg, "decoder")
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(
                shape, dense_dim(cfg, "decoder", i),
                build_moe_layer(cfg, "decoder", i, table, groups),
                cfg.encoder_embed_dim,
            )
            for i in range(cfg.decoder_layers)
        )
        self.layer_norm = LayerNorm(dim) if cfg.decoder_normalize_before else None
        self.output_projection = Linear(
            dim, len(dictionary), bias=cfg.decoder_output_bias, keep_bf16_output=True
        )
        if cfg.decoder_output_bias:
            nn.init.zeros_(self.output_projection.bias)
        if cfg.share_decoder_input_output_embed or cfg.share_all_embeddings:
            self.output_projection.weight = embed_tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, mean=0, std=dim**-0.5)
        self.need_attn = False

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: Optional[IncrementalState] = None,
        features_only: bool = False,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, List[Any]]]:
        """Return logits (B, T, V) or features (B, T, C), and a dictionary.

        With incremental_state only the last of prev_output_tokens (B, T) is computed. The
        dictionary contains `attn`, the mean weights (B, T, S) of one layer's attention to the
        source if alignments are requested, `inner_states`, and `gate_stats` of the MoE layers.
        """
        if full_context_alignment:
            raise NotImplementedError("full-context alignment is not supported")
        x, extra = self.extract_features(
            prev_output_tokens, encoder_out, incremental_state, alignment_layer, alignment_heads
        )
        return (x if features_only else self.output_layer(x)), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: Optional[IncrementalState] = None,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
    ) -> Tuple[Tensor, Dict[str, List[Any]]]:
        """As forward, without the output layer."""
        positions = self.embed_positions(prev_output_tokens, incremental_state=incremental_state)
        if incremental_state is not None:
            prev_output_tokens = prev_output_tokens[:, -1:]
            positions = positions[:, -1:]
        x = self.embed_scale * self.embed_tokens(prev_output_tokens) + positions
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        x = self.dropout(x)

        memory = encoder_out["encoder_out"][0].transpose(0, 1)
        memory_mask = attention_mask(~encoder_out["encoder_padding_mask"][0])
        routing = RoutingInputs(
            task_ids=next(iter(encoder_out["task_ids"]), None),
            token_mask=prev_output_tokens.ne(self.padding_idx),
            sentence_hashes=encoder_out["sentence_hashes"][0],
            source_means=encoder_out["source_means"][0],
            task_tokens=next(iter(encoder_out["task_tokens"]), None),
        )
        aligned = self._aligned_layer(alignment_layer)
        attn, states, gate_stats = None, [x.transpose(0, 1)], []
        routes = route_ahead(self.layers, x, routing)
        for i, (layer, route) in enumerate(zip(self.layers, routes, strict=True)):
            x, stats, weights = run_layer(
                layer, self.checkpoint_activations and self.training,
                x, memory, memory_mask, routing, route, incremental_state, i == aligned,
            )
            states.append(x.transpose(0, 1))
            if stats is not None:
                gate_stats.append(stats)
            if weights is not None:
                attn = weights[:alignment_heads].mean(dim=0)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x, {"attn": [attn], "inner_states": states, "gate_stats": gate_stats}

    def output_layer(self, features: Tensor) -> Tensor:
        """Project features (B, T, C) to logits (B, T, V)."""
        return self.output_projection(features)

    def max_positions(self) -> int:
        """Return the maximum number of target tokens."""
        return min(self.max_target_positions, self.embed_positions.max_positions)

    def make_generation_fast_(self, need_attn: bool = False, **unused: Any) -> None:
        """Compute attention weights at generation if alignments are printed."""
        self.need_attn = need_attn

    def _aligned_layer(self, alignment_layer: Optional[int]) -> Optional[int]:
        if alignment_layer is not None:
            return alignment_layer
        return len(self.layers) - 1 if self.need_attn and not self.training else None

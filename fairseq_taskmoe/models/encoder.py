"""The encoder, whose output includes the inputs of the decoder's routers.

Shapes: B sentences, S source positions, C model width.
"""

import math
from typing import Any, Dict, List, Optional

import torch.nn as nn
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder
from fairseq.modules import LayerNorm, PositionalEmbedding
from torch import Tensor

from ..data.task_table import TaskTable
from ..distributed.expert_groups import ExpertGroups
from ..modules.attention import attention_mask
from ..modules.dropout import Dropout
from ..modules.fixed_routers import hash_sentences
from ..modules.hypotheses import begins_search, reorder_sentences
from ..modules.moe_layer import route_ahead
from ..modules.routers import RoutingInputs, masked_mean
from ..modules.transformer_layers import TransformerEncoderLayer, run_layer
from .build_layers import build_moe_layer, dense_dim, layer_shape

EncoderOut = Dict[str, List[Any]]
# keys of an EncoderOut with a row for each hypothesis, and with time as the first dimension
ROUTER_INPUTS = ("task_ids", "source_means", "sentence_hashes")
TIME_FIRST = ("encoder_out", "encoder_states")


class TaskMoeEncoder(FairseqEncoder):
    """Transformer encoder with MoE layers."""

    def __init__(
        self, cfg: Any, dictionary: Dictionary, embed_tokens: nn.Embedding, table: TaskTable,
        groups: Optional[ExpertGroups] = None,
    ):
        super().__init__(dictionary)
        dim = cfg.encoder_embed_dim
        self.padding_idx = dictionary.pad()
        self.max_source_positions = cfg.max_source_positions
        self.checkpoint_activations = cfg.checkpoint_activations
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(dim)
        self.embed_positions = PositionalEmbedding(
            cfg.max_source_positions, dim, self.padding_idx, learned=cfg.encoder_learned_pos
        )
        self.layernorm_embedding = LayerNorm(dim) if cfg.layernorm_embedding else None
        self.dropout = Dropout(cfg.dropout)
        shape = layer_shape(cfg, "encoder")
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(
                shape, dense_dim(cfg, "encoder", i),
                build_moe_layer(cfg, "encoder", i, table, groups)
            )
            for i in range(cfg.encoder_layers)
        )
        self.layer_norm = LayerNorm(dim) if cfg.encoder_normalize_before else None

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        task_ids: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
        task_tokens: Optional[Tensor] = None,
    ) -> EncoderOut:
        """Encode src_tokens (B, S) of the tasks task_ids (B,); src_lengths follows from padding.

        task_tokens (N,) is given with batches of one task: data/task_local_batches.py.

        Returns fairseq's dictionary of lists. Additional keys are `task_ids`, `source_means` and
        `sentence_hashes`, inputs of the decoder's routers with a row for each sentence, and
        `gate_stats` with one GateStats for each MoE layer.
        """
        token_mask = src_tokens.ne(self.padding_idx)
        key_mask = attention_mask(token_mask)
        hashes = hash_sentences(src_tokens, token_mask)
        routing = RoutingInputs(task_ids, token_mask, hashes, None, task_tokens)
        x, embedding = self.embed(src_tokens)
        x = x * token_mask.unsqueeze(2)
        states, gate_stats = [x] if return_all_hiddens else [], []
        routes = route_ahead(self.layers, x, routing)
        recompute = self.checkpoint_activations and self.training
        for layer, route in zip(self.layers, routes, strict=True):
            x, stats = run_layer(layer, recompute, x, key_mask, routing, route)
            if stats is not None:
                gate_stats.append(stats)
            if return_all_hiddens:
                states.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return {
            "encoder_out": [x.transpose(0, 1)],  # S x B x C, as everywhere in fairseq
            "encoder_padding_mask": [~token_mask],  # B x S
            "encoder_embedding": [embedding],  # B x S x C
            "encoder_states": [state.transpose(0, 1) for state in states],  # List[S x B x C]
            "src_tokens": [],
            "src_lengths": [token_mask.sum(dim=1, keepdim=True).int()],  # B x 1
            "task_ids": [] if task_ids is None else [task_ids],  # B
            "source_means": [masked_mean(x, token_mask)],  # B x C
            "sentence_hashes": [routing.sentence_hashes],  # B
            "task_tokens": [] if task_tokens is None else [task_tokens],  # N
            "gate_stats": gate_stats,
        }

    def embed(self, src_tokens: Tensor) -> Any:
        """Return the layers' input (B, S, C), and the scaled token embeddings."""
        embedding = self.embed_scale * self.embed_tokens(src_tokens)
        x = embedding + self.embed_positions(src_tokens)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return self.dropout(x), embedding

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Return encoder_out for the rows new_order (R',): sentences, or hypotheses of a search.

        At the start of a beam search, only the inputs of routers are repeated for hypotheses
        (modules/hypotheses.py): attention needs each sentence once.
        """
        num_sentences = encoder_out["encoder_padding_mask"][0].size(0)
        num_hypotheses = encoder_out["sentence_hashes"][0].size(0) // max(1, num_sentences)
        begins = num_hypotheses == 1 and begins_search(new_order, num_sentences)
        reordered: EncoderOut = {}
        for key, values in encoder_out.items():
            if key in ("gate_stats", "task_tokens"):  # not rows of sentences
                reordered[key] = values
            elif key in ROUTER_INPUTS:
                reordered[key] = [value.index_select(0, new_order) for value in values]
            elif begins:
                reordered[key] = values
            else:
                dim = 1 if key in TIME_FIRST else 0
                reordered[key] = [
                    reorder_sentences(value, new_order, num_hypotheses, dim) for value in values
                ]
        return reordered

    def max_positions(self) -> int:
        """Return the maximum number of source tokens."""
        return min(self.max_source_positions, self.embed_positions.max_positions)

"""Other libraries' MoE layers, for comparison; imported when they are measured.

Each function returns a module, and a function from x (B, S, C) to the module's output.
"""

from typing import Any, Callable, Dict, Tuple

import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

Peer = Tuple[nn.Module, Callable[[Tensor], Tensor]]


def fairscale_layer(shape: Any) -> Peer:
    """fairscale's MOELayer with its GShard top-2 gate: tokens beyond twice the mean are dropped."""
    from fairscale.nn.moe import MOELayer, Top2Gate

    if not dist.is_initialized():  # it wants a process group, if only of one rank
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    experts = nn.ModuleList(_network(shape) for _ in range(shape.num_experts))
    layer = MOELayer(Top2Gate(shape.embed_dim, shape.num_experts), experts)
    return layer, layer


def nllb_layer(shape: Any) -> Peer:
    """Hugging Face's NLLB-MoE layer as it is, without a capacity.

    In transformers 5 it hands the router's 0/1 mask (tokens, E) to experts that take it for E
    expert numbers of each token: each token visits the experts 0 and 1, E times instead of twice.
    """
    layer = _nllb(shape)
    return layer, lambda x: layer(x)


def nllb_topk_layer(shape: Any) -> Peer:
    """Hugging Face's NLLB-MoE router and experts, used as the experts' code is meant to be.

    They get each token's two expert numbers and gates (tokens, 2): the top-2 mixture.
    """
    layer = _nllb(shape)

    def forward(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        _, probs, _ = layer.router(rows)
        gates, expert_ids = probs.topk(2, dim=1)
        return layer.experts(rows, expert_ids, gates).view_as(x)

    return layer, forward


def _nllb(shape: Any) -> Any:
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    config = NllbMoeConfig(
        d_model=shape.embed_dim, num_experts=shape.num_experts, expert_capacity=shape.tokens,
        activation_dropout=0.0, moe_token_dropout=0.0, router_dtype=shape.dtype,
    )
    return NllbMoeSparseMLP(config, shape.ffn_dim)


def switch_layer(shape: Any) -> Peer:
    """Hugging Face's Switch layer: one expert a token, half of the others' computation."""
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        SwitchTransformersSparseMLP,
    )

    config = SwitchTransformersConfig(
        d_model=shape.embed_dim, d_ff=shape.ffn_dim, num_experts=shape.num_experts,
        expert_capacity=shape.tokens, dropout_rate=0.0, router_jitter_noise=0.0,
        router_dtype=shape.dtype,
    )
    layer = SwitchTransformersSparseMLP(config)
    return layer, lambda x: layer(x)


def _network(shape: Any) -> nn.Module:
    return nn.Sequential(
        nn.Linear(shape.embed_dim, shape.ffn_dim), nn.ReLU(),
        nn.Linear(shape.ffn_dim, shape.embed_dim),
    )


PEERS: Dict[str, Callable[[Any], Peer]] = {
    "fairscale": fairscale_layer, "nllb": nllb_layer, "nllb_topk": nllb_topk_layer,
    "switch": switch_layer,
}

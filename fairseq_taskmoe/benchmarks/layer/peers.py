"""MoE layers of other libraries, which are imported when they are measured.

Each function returns a module, and a function from x (B, S, C) to the module's output.
"""

from typing import Any, Callable, Dict, Tuple

import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

Peer = Tuple[nn.Module, Callable[[Tensor], Tensor]]


def fairscale_layer(load: Any) -> Peer:
    """Return fairscale's MOELayer with its GShard top-2 gate.

    The capacity of an expert is twice the mean load; further tokens are dropped.
    """
    from fairscale.nn.moe import MOELayer, Top2Gate

    if not dist.is_initialized():  # the layer needs a process group, which may have one rank
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    experts = nn.ModuleList(_network(load) for _ in range(load.num_experts))
    layer = MOELayer(Top2Gate(load.embed_dim, load.num_experts), experts)
    return layer, layer


def nllb_layer(load: Any) -> Peer:
    """Return Hugging Face's NLLB-MoE layer as installed, without a capacity.

    In transformers 5 it passes the router's 0/1 mask (tokens, E) to experts that expect expert
    numbers: each token is computed by the experts 0 and 1, E times instead of twice.
    """
    layer = _nllb(load)
    return layer, lambda x: layer(x)


def nllb_topk_layer(load: Any) -> Peer:
    """Return Hugging Face's NLLB-MoE router and experts, called as the experts' code expects.

    The experts get each token's two expert numbers and gates (tokens, 2): the top-2 mixture.
    """
    layer = _nllb(load)

    def forward(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        _, probs, _ = layer.router(rows)
        gates, expert_ids = probs.topk(2, dim=1)
        return layer.experts(rows, expert_ids, gates).view_as(x)

    return layer, forward


def _nllb(load: Any) -> Any:
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    config = NllbMoeConfig(
        d_model=load.embed_dim, num_experts=load.num_experts, expert_capacity=load.tokens,
        activation_dropout=0.0, moe_token_dropout=0.0, router_dtype=load.dtype,
    )
    return NllbMoeSparseMLP(config, load.ffn_dim)


def _network(load: Any) -> nn.Module:
    return nn.Sequential(
        nn.Linear(load.embed_dim, load.ffn_dim), nn.ReLU(),
        nn.Linear(load.ffn_dim, load.embed_dim),
    )


PEERS: Dict[str, Callable[[Any], Peer]] = {
    "fairscale": fairscale_layer, "nllb": nllb_layer, "nllb_topk": nllb_topk_layer,
}

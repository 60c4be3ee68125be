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
    """Hugging Face's NLLB-MoE layer without a capacity."""
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    config = NllbMoeConfig(
        d_model=shape.embed_dim, num_experts=shape.num_experts, expert_capacity=shape.tokens,
        activation_dropout=0.0, moe_token_dropout=0.0, router_dtype=shape.dtype,
    )
    layer = NllbMoeSparseMLP(config, shape.ffn_dim)
    return layer, lambda x: layer(x)


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
    "fairscale": fairscale_layer, "nllb": nllb_layer, "switch": switch_layer,
}

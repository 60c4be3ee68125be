"""How long a step may take: operations over speed and bytes over bandwidth, nothing overlapping."""

from typing import Dict, NamedTuple, Optional

import torch.nn as nn

from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..modules.experts import Experts
from .activations import SentenceShape

GIB = 2**30
# Bytes that fairseq's Adam moves in device memory for one parameter and update: passes over its
# moments, master and gradient in float32, and in half precision copies of weight and gradient
OPTIMIZER_TRAFFIC = {"fp32": 80, "fp16": 100, "bf16": 100}


class Device(NamedTuple):
    """A GPU and its links, as its maker states them: peaks that no program reaches."""

    tflops: Optional[float]  # matrix products in the precision of training, without sparsity
    memory_gib: Optional[float]
    memory_gbs: Optional[float]  # 10^9 bytes a second from and to its own memory
    node_gbs: Optional[float]  # to the other GPUs of the node, one direction
    network_gbs: Optional[float]  # to other nodes, for one GPU, one direction: an adapter each


def known_device(name: str, precision: str) -> Device:
    """Return a known device: SXM modules with NVLink, and the network of the maker's DGX systems.

    float32 is without TF32, as torch multiplies by default. v100 has no bf16.
    """
    reduced = precision != "fp32"
    return {
        "h200": Device(989.0 if reduced else 67.0, 139.0, 4800.0, 450.0, 50.0),
        "h100": Device(989.0 if reduced else 67.0, 79.0, 3350.0, 450.0, 50.0),
        "a100": Device(312.0 if reduced else 19.5, 79.0, 2039.0, 300.0, 25.0),
        "v100": Device(
            None if precision == "bf16" else 125.0 if reduced else 15.7, 31.0, 900.0, 150.0, 12.5
        ),
    }[name]


class Flops(NamedTuple):
    """Operations of one forward pass of a rank: two for each product of a weight and a value."""

    layers: float  # all but experts and output projection: attention, dense networks
    experts: Dict[str, float]  # of each stack, for the mean rank
    output: float

    def step(self, busiest: Dict[str, float], checkpointed: bool) -> float:
        """Return those of forward and backward on the rank that is busiest in every layer.

        Backward takes twice as many as forward; layers are run forward twice where their
        activations are recomputed. The output projection is not.
        """
        layers = self.layers + sum(busiest[stack] * n for stack, n in self.experts.items())
        return (4 if checkpointed else 3) * layers + 3 * self.output


def forward_flops(
    model: TransformerTaskMoeModel, shape: SentenceShape, num_sentences: float, top_k: int
) -> Flops:
    """Count the matrix products of num_sentences sentences, from the modules of a model.

    Routers of sentences and tasks, element-wise work and embeddings count as nothing; causal
    attention as if it read the future too.
    """
    layers, experts = 0.0, {"encoder": 0.0, "decoder": 0.0}
    tokens = {"encoder": num_sentences * shape.source, "decoder": num_sentences * shape.target}
    output = 0.0
    for stack in ("encoder", "decoder"):
        for name, module in getattr(model, stack).named_modules():
            if isinstance(module, Experts):
                each = sum(p[0].numel() for p in module.parameters() if p.size(1) > 1)
                experts[stack] += 2 * top_k * each * tokens[stack]
            elif name == "output_projection":
                output = 2 * module.weight.numel() * tokens[stack]
            elif isinstance(module, nn.Linear) and ".router." not in name:
                of_memory = name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
                layers += 2 * module.weight.numel() * tokens["encoder" if of_memory else stack]
        attended = {"encoder": shape.source, "decoder": shape.source + shape.target}[stack]
        for layer in getattr(model, stack).layers:
            width = layer.self_attn.q_proj.weight.size(0)
            layers += 4 * attended * width * tokens[stack]  # scores, and the sum of values
    return Flops(layers, experts, output)


def link_seconds(num_bytes: float, peers: int, peers_in_node: int, device: Device) -> float:
    """Return the time to send num_bytes evenly to peers, some of them in the same node."""
    if peers == 0:
        return 0.0
    assert device.node_gbs is not None and device.network_gbs is not None
    near = num_bytes * peers_in_node / peers
    return near / (device.node_gbs * 1e9) + (num_bytes - near) / (device.network_gbs * 1e9)

"""A dense sub-network in CTranslate2's format, built from its specification alone.

One layer after the other is quantized and its pages are given back, so that a large model is never
in memory twice. Layers keep their own widths.
"""

import math
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor
from tqdm import tqdm

from ..data.languages import make_dictionary
from ..engines.ctranslate2_cpu import ctranslate2, specs
from ..errors import refuse
from ..host import release_pages
from ..names import OUTPUT_BIAS
from .extract import Subnet
from .to_fairseq import refuse_routed

ACTIVATIONS = {
    "relu": specs.common_spec.Activation.RELU,
    "gelu": specs.common_spec.Activation.GELU,
    "gelu_accurate": specs.common_spec.Activation.GELUTanh,
    "gelu_fast": specs.common_spec.Activation.GELUTanh,
    "tanh": specs.common_spec.Activation.Tanh,
    "swish": specs.common_spec.Activation.SWISH,
}
QUANTIZATIONS = specs.model_spec.ACCEPTED_MODEL_TYPES
# of what is not quantized: biases, layer norms, positions
REST = {
    "int8_float16": "float16", "int8_bfloat16": "bfloat16", "float16": "float16",
    "bfloat16": "bfloat16",
}
PADDING_IDX = 1


def check_quantization(quantization: str, device: str) -> None:
    """Refuse a type that a device, `cpu` or `cuda`, does not compute with."""
    if quantization not in QUANTIZATIONS:
        refuse(f"--quantization {quantization}: choose one of {', '.join(QUANTIZATIONS)}")
    if device == "cuda" and ctranslate2.get_cuda_device_count() == 0:
        return  # meant for another machine
    supported = ctranslate2.get_supported_compute_types(device)
    if quantization not in supported:
        refuse(f"--quantization {quantization}: this machine's {device} does not compute with it, "
               f"but with {', '.join(sorted(supported))}; for a GPU elsewhere: --device cuda")


def write_ctranslate2(subnet: Subnet, quantization: str, folder: Path) -> None:
    """Write model.bin, config.json and the vocabulary of a dense sub-network to a folder.

    Takes the weights out of subnet.state one by one: they are not needed twice.
    """
    refuse_routed(subnet.routed, "ctranslate2")
    if subnet.model_cfg["activation_fn"] not in ACTIVATIONS:
        refuse(f"--activation-fn {subnet.model_cfg['activation_fn']} is none of those that "
               f"CTranslate2 has: {', '.join(ACTIVATIONS)}")
    export = _Export(subnet, quantization)
    spec = export.spec()
    spec.validate()
    spec.optimize()  # of what is quantized already this only leaves out what is there twice
    spec.save(str(folder))


class _Export:
    """Fills in a specification from the state of a sub-network."""

    def __init__(self, subnet: Subnet, quantization: str):
        self.subnet = subnet
        self.state = subnet.state
        self.quantization = quantization
        self.rest = getattr(torch, REST.get(quantization, "float32"))
        self.tables: Dict[int, specs.common_spec.EmbeddingsSpec] = {}

    def spec(self) -> specs.transformer_spec.TransformerSpec:
        spec = specs.transformer_spec.TransformerSpec(
            self._stack("encoder", specs.transformer_spec.TransformerEncoderSpec),
            self._stack("decoder", specs.transformer_spec.TransformerDecoderSpec),
        )
        self._fill_stack(spec.encoder, "encoder", spec.encoder.embeddings[0])
        self._fill_stack(spec.decoder, "decoder", spec.decoder.embeddings)
        self._table(spec.decoder.projection, "decoder.output_projection.weight")
        if OUTPUT_BIAS in self.state:
            spec.decoder.projection.bias = self.state[OUTPUT_BIAS].to(self.rest)
        symbols = make_dictionary(self.subnet.words, self.subnet.tags).symbols
        spec.register_source_vocabulary(symbols)
        spec.register_target_vocabulary(symbols)
        spec.config.decoder_start_token = spec.config.eos_token  # as everywhere in fairseq
        spec.config.add_source_eos = True
        return spec

    def _stack(self, stack: str, kind: Any) -> Any:
        cfg = self.subnet.model_cfg
        spec = kind(
            cfg[f"{stack}_layers"],
            cfg[f"{stack}_attention_heads"],
            pre_norm=cfg[f"{stack}_normalize_before"],
            activation=ACTIVATIONS[cfg["activation_fn"]],
            layernorm_embedding=cfg["layernorm_embedding"],
        )
        dim = cfg[f"{stack}_embed_dim"]
        spec.scale_embeddings = 1.0 if cfg["no_scale_embedding"] else math.sqrt(dim)
        return spec

    def _fill_stack(
        self, spec: Any, stack: str, embeddings: specs.common_spec.EmbeddingsSpec
    ) -> None:
        self._table(embeddings, f"{stack}.embed_tokens.weight")
        spec.position_encodings.encodings = self._positions(stack).to(self.rest).contiguous()
        for name in ("layer_norm", "layernorm_embedding"):
            if f"{stack}.{name}.weight" in self.state:
                self._norm(getattr(spec, name), f"{stack}.{name}")
        for i, layer in self._progress(stack, spec.layer):
            prefix = f"{stack}.layers.{i}"
            self._attention(layer.self_attention, f"{prefix}.self_attn", ["qkv", "out"])
            if stack == "decoder":
                self._attention(layer.attention, f"{prefix}.encoder_attn", ["q", "kv", "out"])
            self._norm(layer.ffn.layer_norm, f"{prefix}.final_layer_norm")
            self._linear(layer.ffn.linear_0, f"{prefix}.fc1")
            self._linear(layer.ffn.linear_1, f"{prefix}.fc2")

    def _progress(self, stack: str, layers: Any) -> Iterator[Any]:
        return tqdm(
            enumerate(layers), f"convert {stack}", len(layers), leave=False, disable=None
        )

    def _attention(
        self, spec: specs.attention_spec.MultiHeadAttentionSpec, prefix: str, parts: Any
    ) -> None:
        """Fill in attention; parts: which projections are one product in CTranslate2."""
        self._norm(spec.layer_norm, f"{prefix}_layer_norm")
        for linear, names in zip(spec.linear, parts, strict=True):
            letters = [names] if names == "out" else list(names)
            self._linear(linear, *(f"{prefix}.{name}_proj" for name in letters))

    def _linear(self, spec: specs.common_spec.LinearSpec, *prefixes: str) -> None:
        """Fill in one linear map, of the rows of several."""
        weights = [self.state.pop(f"{prefix}.weight") for prefix in prefixes]
        # numpy arrays are written with one copy in memory, tensors with two
        spec.weight = torch.cat([weight.float() for weight in weights]).numpy()
        biases = [self.state[f"{prefix}.bias"].to(self.rest) for prefix in prefixes]
        spec.bias = torch.cat(biases)
        self._quantize(spec, weights)

    def _table(self, spec: Any, name: str) -> None:
        """Fill in an embedding or the output layer; those that are one stay one."""
        table = self.state[name]
        done = self.tables.get(table.data_ptr())
        if done is None:
            # integers are made in place, which the checkpoint's own memory is not for
            spec.weight = table.to(torch.float32, copy=True).numpy()
            self._quantize(spec, [table])
            self.tables[table.data_ptr()] = spec
        else:
            spec.weight, spec.weight_scale = done.weight, done.weight_scale

    def _quantize(self, spec: specs.model_spec.LayerSpec, read: Any) -> None:
        release_pages(read)
        spec.validate()
        spec.optimize(self.quantization)

    def _norm(self, spec: specs.common_spec.LayerNormSpec, prefix: str) -> None:
        spec.gamma = self.state[f"{prefix}.weight"].to(self.rest)
        spec.beta = self.state[f"{prefix}.bias"].to(self.rest)

    def _positions(self, stack: str) -> Tensor:
        """Return the positional embeddings (P, C) from the first position on."""
        cfg = self.subnet.model_cfg
        learned: Optional[Tensor] = self.state.get(f"{stack}.embed_positions.weight")
        if learned is None:
            side = {"encoder": "source", "decoder": "target"}[stack]
            number = cfg[f"max_{side}_positions"] + PADDING_IDX + 1
            learned = SinusoidalPositionalEmbedding.get_embedding(
                number, cfg[f"{stack}_embed_dim"], PADDING_IDX
            )
        return learned[PADDING_IDX + 1 :]

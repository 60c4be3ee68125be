"""The memory that forward keeps for backward, measured by running the model's own code.

The model is built on the meta device, and then all its weights are views of a single zero: forward
can run, and 13 billion parameters take no memory. The tensors that autograd saves are counted for
one and for two sentences. Their size grows linearly, since fused attention keeps no weight matrix.
"""

import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
import torch.nn as nn
from omegaconf import OmegaConf
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..criterions.moe_label_smoothed_cross_entropy import MoeLabelSmoothedCrossEntropyCriterion
from ..data.task_table import TaskTable
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..modules.attention import MultiheadAttention
from ..modules.dropout import Dropout
from ..modules.experts import Experts
from .parameters import build_on_meta

Parts = Dict[Tuple[str, ...], float]  # bytes by () | (layer,) | (layer, experts)


class Activations(NamedTuple):
    """Bytes that are kept from forward to backward."""

    total: float
    experts: Dict[str, float]  # part of the total in the experts of each stack
    largest_layer: float  # the maximum for one layer, whether or not it is recomputed
    largest_layer_experts: float
    largest_layer_stack: str


class SentenceShape(NamedTuple):
    """The lengths of the measured sentence, in tokens."""

    source: int
    target: int


def measure_activations(
    cfg: Any,
    vocab_size: int,
    table: TaskTable,
    shape: SentenceShape,
    num_sentences: float,
    dtype: torch.dtype,
    mask_bytes: int = 1,
) -> Activations:
    """Return the bytes that num_sentences sentences keep, without a capacity limit.

    One and two sentences are measured; the difference is added for each further sentence. Dropout
    keeps mask_bytes for each element: torch's GPU kernel one byte, this project's CPU kernel an
    element of dtype. Dropout of attention weights keeps nothing in fused kernels.
    """

    def measure(checkpointed: bool) -> Parts:
        # no capacity: with weights of zero all tokens choose the same experts
        changed = {"checkpoint_activations": checkpointed, "moe_capacity_factor": 0.0}
        model = _model_without_weights(
            OmegaConf.merge(cfg, changed), vocab_size, table, dtype, mask_bytes
        )
        one, two = (saved_bytes(model, _training_loss(model, shape, n)) for n in (1, 2))
        return {
            part: one.get(part, 0) + (num_sentences - 1) * (size - one.get(part, 0))
            for part, size in two.items()
        }

    parts = measure(checkpointed=False)
    inside = {name[0]: size for name, size in parts.items() if len(name) > 1}
    layers = {
        layer: sum(size for name, size in parts.items() if name[:1] == (layer,))
        for layer in {name[0] for name in parts if name}
    }
    largest = max(sorted(layers), key=lambda name: layers[name])
    experts = {
        stack: sum(size for layer, size in inside.items() if layer.startswith(stack))
        for stack in ("encoder", "decoder")
    }
    if cfg.checkpoint_activations:
        parts, experts = measure(checkpointed=True), dict.fromkeys(experts, 0.0)
    return Activations(
        sum(parts.values()), experts, layers[largest], inside.get(largest, 0.0),
        largest.partition(".")[0],
    )


def saved_bytes(model: nn.Module, run: Callable[[], Any]) -> Parts:
    """Return the bytes that autograd holds after run(), for each part of a model.

    A part is the path of the running modules: () | (layer,) | (layer, experts). Parameters and
    buffers are not counted; a storage that is saved several times is counted once.
    """
    known = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    saved: List[Tuple[weakref.ref, Tuple[str, ...]]] = []
    with _part_names(model) as part:

        def pack(tensor: Tensor) -> "_Saved":
            kept = _Saved(tensor)
            saved.append((weakref.ref(kept), tuple(part)))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            result = run()
    sizes: Parts = {}
    for reference, name in saved:
        kept = reference()
        if kept is None:  # the graph of this tensor no longer exists
            continue
        storage = kept.tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            sizes[name] = sizes.get(name, 0) + storage.nbytes()
    del result
    return sizes


class _Saved:
    """A saved tensor, which exists as long as its graph."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


@contextmanager
def _part_names(model: nn.Module) -> Iterator[List[str]]:
    """Yield a list with the names of the running layer and of its running experts."""
    running: List[str] = []
    handles = []
    layers = {
        f"{stack}.{i}": layer
        for stack in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, stack).layers)
    }
    experts = {name: m for name, m in model.named_modules() if isinstance(m, Experts)}
    for name, module in {**layers, **experts}.items():
        handles += [
            module.register_forward_pre_hook(lambda *_, name=name: running.append(name)),
            module.register_forward_hook(lambda *_: (running.pop(), None)[1]),
        ]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _model_without_weights(
    cfg: Any, vocab_size: int, table: TaskTable, dtype: torch.dtype, mask_bytes: int
) -> TransformerTaskMoeModel:
    model = build_on_meta(cfg, vocab_size, table).train()
    _share_one_zero(model, dtype)
    for module in model.modules():
        if isinstance(module, MultiheadAttention):
            module.dropout = 0.0
        for name, child in module.named_children():
            if isinstance(child, Dropout) and child.p > 0:
                setattr(module, name, _SizedDropout(mask_bytes))
    return model


def _training_loss(
    model: TransformerTaskMoeModel, shape: SentenceShape, num_sentences: int
) -> Callable[[], Any]:
    """Return a function that computes the loss of sentences of equal words, without padding."""
    dictionary = model.decoder.dictionary
    task: Any = SimpleNamespace(target_dictionary=dictionary, task_table=model.task_table)
    criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
    word = len(dictionary) - 1
    source, target = (torch.full((num_sentences, length), word) for length in shape)
    sample = {
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((num_sentences,), shape.source),
            "prev_output_tokens": target,
            "task_ids": torch.zeros(num_sentences, dtype=torch.long),
        },
        "target": target,
        "ntokens": target.numel(),
    }
    return lambda: criterion(model, sample)


def _share_one_zero(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace the tensors of a model on the meta device by readable ones that take no memory."""
    zeros = {True: torch.zeros((), dtype=dtype), False: torch.zeros((), dtype=torch.long)}
    for module in model.modules():
        own = {**module._parameters, **module._buffers}
        for name, tensor in own.items():
            if tensor is not None and tensor.is_meta:
                zero = zeros[tensor.is_floating_point()].expand(tensor.shape)
                is_weight = isinstance(tensor, nn.Parameter)
                setattr(module, name, nn.Parameter(zero) if is_weight else zero)


class _SizedDropout(nn.Module):
    """Keeps a mask for backward as dropout does, and returns its input."""

    def __init__(self, mask_bytes: int):
        super().__init__()
        self.mask_bytes = mask_bytes

    def forward(self, x: Tensor) -> Tensor:
        return _KeepMask.apply(x, self.mask_bytes)


class _KeepMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask_bytes: int) -> Tensor:
        ctx.save_for_backward(torch.empty(x.numel() * mask_bytes, dtype=torch.uint8))
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        return grad, None

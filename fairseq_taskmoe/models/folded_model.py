"""A model folded for one direction: its task-routed MoE layers as dense ones, all else shared."""

import copy
from typing import TypeVar

import torch.nn as nn

from ..modules.folding import fold_layer
from ..modules.transformer_layers import TransformerLayer

Model = TypeVar("Model", bound=nn.Module)


def fold_model(model: Model, task_id: int) -> Model:
    """Return a model that computes what `model` computes for one task, without routing it.

    Layers that route by the text stay as they are. The two models share every other parameter, and
    the given one is not changed: a full model in memory serves many directions, one by one.
    """
    folded = share(model)
    for name in ("encoder", "decoder"):
        stack = share(model.get_submodule(name))
        layers = model.get_submodule(f"{name}.layers").children()
        stack._modules["layers"] = nn.ModuleList(_fold(layer, task_id) for layer in layers)
        folded._modules[name] = stack
    return folded


def _fold(layer: nn.Module, task_id: int) -> nn.Module:
    assert isinstance(layer, TransformerLayer)
    linears = None if layer.moe is None else fold_layer(layer.moe, task_id)
    if linears is None:
        return layer
    folded = share(layer)
    folded._modules["moe"] = None
    folded._modules.update(linears)
    return folded


def share(module: Model) -> Model:
    """Return a module with the same children, whose own children can be replaced."""
    shared = copy.copy(module)
    shared._modules = dict(module._modules)
    return shared

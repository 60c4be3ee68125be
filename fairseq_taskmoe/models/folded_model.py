"""Folding the task-routed MoE layers of a model into dense layers for one direction."""

import copy
from typing import TypeVar

import torch.nn as nn

from ..modules.folding import fold_layer
from ..modules.transformer_layers import TransformerLayer

Model = TypeVar("Model", bound=nn.Module)


def fold_model(model: Model, task_id: int) -> Model:
    """Return a model with the output of `model` for one task, with its MoE layers folded.

    Layers that route by the text are not changed. The two models share all other parameters, and
    the given one is not changed, so it can be folded for one direction after another.
    """
    folded = shallow_copy(model)
    for name in ("encoder", "decoder"):
        stack = shallow_copy(model.get_submodule(name))
        layers = model.get_submodule(f"{name}.layers").children()
        stack._modules["layers"] = nn.ModuleList(_fold(layer, task_id) for layer in layers)
        folded._modules[name] = stack
    return folded


def _fold(layer: nn.Module, task_id: int) -> nn.Module:
    assert isinstance(layer, TransformerLayer)
    linears = None if layer.moe is None else fold_layer(layer.moe, task_id)
    if linears is None:
        return layer
    folded = shallow_copy(layer)
    folded._modules["moe"] = None
    folded._modules.update(linears)
    return folded


def shallow_copy(module: Model) -> Model:
    """Return a module with the same children, which can be replaced in the copy."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied

"""The models whose decoding is compared, with the same random weights where they correspond.

`extracted`, `padded`, `stock_widths`, `task` and `task_routed` compute the same function. The other
variants have the same attention and embeddings, and `token_token` also the same experts. Routed and
folded models share the memory of their weights.
"""

from functools import partial
from typing import Any, Callable, Dict, NamedTuple, Sequence

import torch
import torch.nn as nn
from fairseq.models import build_model
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from torch import Tensor

from ...checkpoint.contents import TrainedModel
from ...models.build_layers import build_router
from ...models.config import ARCHITECTURES, TransformerTaskMoeConfig
from ...models.folded_model import fold_model, shallow_copy
from ...models.transformer_task_moe import TransformerTaskMoeModel
from ...modules.folding import fold_experts
from ...modules.moe_layer import MoELayer
from ...names import STACKS
from ...subnet.extract import Subnet, extract_subnet
from ...subnet.to_fairseq import stock_checkpoint
from ...tasks.translation_task_moe import TranslationTaskMoeTask
from .gates import even_out
from .search import (
    SERVED,
    DecodingLoad,
    StockTask,
    generation,
    make_batch,
    random_targets,
)

REFERENCE = "token_token"
SAMPLE = 64  # sentences whose mean state is removed from the gates
VARIANTS = {
    "dense": "ordinary widths",
    REFERENCE: "each token routed, dropless",
    "task": "target/target, folded for one direction as `taskmoe evaluate` does",
    "task_routed": "target/target through the routers",
    "token_task": "token/target: tokens routed in the encoder, the decoder folded",
    "extracted": "the extracted sub-network: a dense model of unequal widths",
    "padded": "the same in fairseq's own transformer, zero-padded to the widest layer",
    "stock_widths": "fairseq's own layers given the unequal widths",
}


class DecodingVariant(NamedTuple):
    """A model that is ready to translate, and the task that builds its search."""

    model: nn.Module
    task: FairseqTask


def make_config(load: DecodingLoad, num_experts: int, router: str) -> Any:
    """Return the configuration of an architecture with the same router in both stacks."""
    settings = {
        **ARCHITECTURES[load.arch],
        "moe_expert_count": num_experts, "encoder_moe_router": router, "decoder_moe_router": router,
        "max_source_positions": max(1024, load.length),
        "max_target_positions": max(1024, load.output_length + 1),
    }
    own = OmegaConf.from_dotlist(list(load.model))
    return OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), settings, own)


def build_own(
    cfg: Any, task: TranslationTaskMoeTask, load: DecodingLoad
) -> TransformerTaskMoeModel:
    """Return a model with random weights, which are the same for every call."""
    torch.manual_seed(1)
    model = TransformerTaskMoeModel.build_model(cfg, task).to(load.device, _dtype(load))
    return model.eval().requires_grad_(False)


def build_variants(
    names: Sequence[str], num_experts: int, load: DecodingLoad, task: TranslationTaskMoeTask
) -> Dict[str, DecodingVariant]:
    """Return the variants of one number of experts."""
    cfg = make_config(load, num_experts, "target")
    routed = build_own(cfg, task, load)
    stock = StockTask(task.dictionary)
    trained = TrainedModel.parse({
        "cfg": {"model": OmegaConf.to_container(cfg, enum_to_str=True), "task": {}},
        "model": routed.state_dict(), "task_state": task.state_dict(),
    })
    subnet = extract_subnet(trained, [SERVED])
    fold = partial(fold_model, task_id=task.task_table.task_id(SERVED))
    # only the requested variants are built: extracted models have their own weights
    make: Dict[str, Callable[[], DecodingVariant]] = {
        "dense": lambda: DecodingVariant(_one_expert(routed), task),
        REFERENCE: lambda: DecodingVariant(_routed_by_token(routed, cfg, STACKS, task, load), task),
        "token_task": lambda: DecodingVariant(
            fold(_routed_by_token(routed, cfg, ["encoder"], task, load)), task
        ),
        "task": lambda: DecodingVariant(fold(routed), task),
        "task_routed": lambda: DecodingVariant(routed, task),
        "extracted": lambda: DecodingVariant(_extracted(subnet, task, load), task),
        "padded": lambda: DecodingVariant(_stock(trained, subnet, stock, load), stock),
        "stock_widths": lambda: DecodingVariant(
            _with_widths(_stock(trained, subnet, stock, load), subnet, load), stock
        ),
    }
    return {name: make[name]() for name in names}


def _with_layers(
    model: TransformerTaskMoeModel, change: Callable[[str, int, Any], Any]
) -> TransformerTaskMoeModel:
    """Return a model whose MoE layers are change(stack, number, layer); the rest is shared."""
    changed = shallow_copy(model)
    for name in STACKS:
        stack = shallow_copy(model.get_submodule(name))
        layers: Any = model.get_submodule(f"{name}.layers")
        stack._modules["layers"] = nn.ModuleList(
            layer if layer.moe is None else change(name, i, shallow_copy(layer))
            for i, layer in enumerate(layers)
        )
        changed._modules[name] = stack
    return changed


def _routed_by_token(
    model: TransformerTaskMoeModel, cfg: Any, stacks: Sequence[str], task: TranslationTaskMoeTask,
    load: DecodingLoad,
) -> TransformerTaskMoeModel:
    """Return the model with token routers in stacks, whose gates use experts about evenly."""
    by_token = OmegaConf.merge(cfg, {f"{stack}_moe_router": "token" for stack in stacks})
    torch.manual_seed(2)

    def change(stack: str, i: int, layer: Any) -> Any:
        if stack not in stacks:
            return layer
        router = build_router(by_token, stack, i, task.task_table).to(load.device, _dtype(load))
        layer._modules["moe"] = MoELayer(router.requires_grad_(False).eval(), layer.moe.experts)
        return layer

    routed = _with_layers(model, change)
    even_out(routed, make_batch(task, SAMPLE, load), random_targets(SAMPLE, load))
    return routed


def _one_expert(model: TransformerTaskMoeModel) -> TransformerTaskMoeModel:
    """Return the model with the first expert of each layer as its dense network."""

    def change(stack: str, i: int, layer: Any) -> Any:
        first = {name: stack[:1] for name, stack in layer.moe.experts.state_dict().items()}
        set_feed_forward(layer, fold_experts(first, torch.ones(1)))
        layer._modules["moe"] = None
        return layer

    return _with_layers(model, change)


def _extracted(
    subnet: Subnet, task: TranslationTaskMoeTask, load: DecodingLoad
) -> TransformerTaskMoeModel:
    """Return the model of `taskmoe extract --format taskmoe`."""
    cfg = OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), subnet.model_cfg)
    model = build_own(cfg, task, load)
    model.load_state_dict(subnet.state)
    return model


def _stock(trained: TrainedModel, subnet: Subnet, task: StockTask, load: DecodingLoad) -> nn.Module:
    """Return the model of `taskmoe extract --format fairseq`, as fairseq-generate runs it."""
    checkpoint = stock_checkpoint(trained, subnet)
    model = build_model(OmegaConf.create(checkpoint["cfg"]["model"]), task, from_checkpoint=True)
    model.to(load.device, _dtype(load)).eval().requires_grad_(False)
    model.load_state_dict(checkpoint["model"])
    model.prepare_for_inference_(OmegaConf.create({"generation": vars(generation(load))}))
    return model


def _with_widths(model: nn.Module, subnet: Subnet, load: DecodingLoad) -> nn.Module:
    """Replace the feed-forward networks of fairseq's layers by those of the sub-network."""
    for stack in STACKS:
        layers: Any = model.get_submodule(f"{stack}.layers")
        for i, layer in enumerate(layers):
            names = [f"{fc}.{part}" for fc in ("fc1", "fc2") for part in ("weight", "bias")]
            own = {name: subnet.state[f"{stack}.layers.{i}.{name}"] for name in names}
            # folded weights are float32, whatever the model's precision
            set_feed_forward(
                layer, {name: own[name].to(load.device, _dtype(load)) for name in names}
            )
    return model


def set_feed_forward(layer: nn.Module, weights: Dict[str, Tensor]) -> None:
    """Replace fc1 and fc2 of a transformer layer."""
    for name in ("fc1", "fc2"):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        linear = nn.utils.skip_init(nn.Linear, weight.size(1), weight.size(0))
        linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        layer._modules[name] = linear


def _dtype(load: DecodingLoad) -> torch.dtype:
    return getattr(torch, load.dtype)

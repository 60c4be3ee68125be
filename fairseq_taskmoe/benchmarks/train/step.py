"""A training step as in fairseq-train: forward, loss, backward, and the update of the parameters.

A full step normalises and clips the gradients and uses fairseq's own optimizers.
"""

from typing import Any, Callable, Dict, List

import torch
from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FairseqOptimizer
from fairseq.optim.adam import FairseqAdamConfig
from omegaconf import OmegaConf
from torch.nn import Parameter

from ...modules.bf16_products import set_matmul_precision
from ...training.fused_adam import use_fused_adam
from .models import TrainedModel, TrainingVariant

CLIP_NORM = 1.0
LEARNING_RATE = 5e-4


Phase = Callable[[Dict[str, Any]], None]  # of a batch


def training_step(
    trained: TrainedModel, variant: TrainingVariant, full: bool, dtype: torch.dtype
) -> Dict[str, Phase]:
    """Return the phases of a step: forward_backward, and in a full step also update."""
    model, criterion = trained
    optimizer = build_optimizer(list(model.parameters()), dtype) if full else None
    if optimizer is not None and variant.name != "stock":
        use_fused_adam(optimizer)

    def forward_backward(batch: Dict[str, Any]) -> None:
        set_matmul_precision(variant.precision)
        if variant.name == "stock":  # it does not accept task ids
            inputs = dict(batch["net_input"])
            del inputs["task_ids"]
            batch = {**batch, "net_input": inputs}
        model.zero_grad(set_to_none=True) if optimizer is None else optimizer.zero_grad()
        loss, _, _ = criterion(model, batch)
        loss.backward() if optimizer is None else optimizer.backward(loss)

    phases: Dict[str, Phase] = {"forward_backward": forward_backward}
    if optimizer is not None:
        phases["update"] = lambda batch: update(optimizer, batch["ntokens"])
    return phases


def build_optimizer(parameters: List[Parameter], dtype: torch.dtype) -> FairseqOptimizer:
    """Return the optimizer of `--optimizer adam --adam-betas (0.9,0.98)`.

    In bfloat16 it is that of --bf16, which keeps and updates a float32 copy of the parameters.
    """
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.optimization.lr = [LEARNING_RATE]
    adam = OmegaConf.structured(FairseqAdamConfig(adam_betas="(0.9, 0.98)"))
    adam._name, adam.tpu, adam.lr = "adam", False, [LEARNING_RATE]
    cfg.optimizer = adam
    if dtype == torch.float32:
        return optim.build_optimizer(cfg.optimizer, parameters)
    cfg.common.bf16 = True
    return optim.FP16Optimizer.build_optimizer(cfg, parameters)


def update(optimizer: FairseqOptimizer, sample_size: Any) -> None:
    """Normalise and clip the gradients, and run the optimizer."""
    optimizer.multiply_grads(1.0 / float(sample_size))
    norm = optimizer.clip_grad_norm(CLIP_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError("gradients are Nan/Inf")
    optimizer.step()

"""An update of the parameters as fairseq-train does it, with fairseq's own optimizers."""

from typing import Any, List

import torch
from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FairseqOptimizer
from fairseq.optim.adam import FairseqAdamConfig
from omegaconf import OmegaConf
from torch.nn import Parameter

CLIP_NORM = 1.0
LEARNING_RATE = 5e-4


def build_optimizer(parameters: List[Parameter], dtype: torch.dtype) -> FairseqOptimizer:
    """Return what `--optimizer adam --adam-betas (0.9,0.98)` is, with --bf16 where dtype says so.

    In bfloat16 fairseq keeps and updates a float32 copy of the parameters.
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
    """Normalise and clip gradients, and take the optimizer's step: the end of fairseq's step."""
    optimizer.multiply_grads(1.0 / float(sample_size))
    norm = optimizer.clip_grad_norm(CLIP_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError("gradients are Nan/Inf")
    optimizer.step()

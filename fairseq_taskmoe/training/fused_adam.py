"""The update of fairseq's Adam in one pass over memory, for float32 parameters on CPU.

fairseq's own code reads and writes all moments and parameters several times, for all experts
whether they were used or not. States, and therefore checkpoints, are the same.
"""

import math
from collections import defaultdict
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import torch
from fairseq.optim.adam import Adam
from torch.optim import Optimizer


def use_fused_adam(optimizer: Any) -> None:
    """Make the optimizer of fairseq's `adam` update in one pass; others stay as they are."""
    inner = optimizer.optimizer
    if type(inner) is Adam and all(
        parameter.device.type == "cpu" and parameter.dtype == torch.float32
        for group in inner.param_groups for parameter in group["params"]
    ):
        inner.step = partial(Optimizer.profile_hook_step(fused_step), inner)  # with its hooks


@torch.no_grad()
def fused_step(adam: Adam, closure: Optional[Callable[[], Any]] = None) -> Any:
    """Do what adam.step(closure) does."""
    loss = None if closure is None else closure()
    for group in adam.param_groups:
        by_step: Dict[int, List[Any]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = adam.state[parameter]
            if not state:
                state.update(
                    step=0, exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
            for name in ("exp_avg", "exp_avg_sq"):  # of a checkpoint in half precision
                state[name] = state[name].to(parameter)
            state["step"] += 1
            gradient = parameter.grad
            if gradient.stride() != parameter.stride():  # the kernel goes through memory in order
                gradient = torch.empty_like(parameter).copy_(gradient)
            by_step[state["step"]].append(
                (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
            )
        for step, tensors in by_step.items():
            beta1, beta2 = group["betas"]
            parameters, gradients, moments, squares = map(list, zip(*tensors, strict=True))
            steps = [torch.tensor(float(step)) for _ in tensors]
            torch._fused_adamw_(
                parameters, gradients, moments, squares, [], steps, lr=group["lr"], beta1=beta1,
                beta2=beta2, weight_decay=group["weight_decay"], amsgrad=False, maximize=False,
                # fairseq adds eps before it corrects the bias of the squares
                eps=group["eps"] / math.sqrt(1 - beta2**step),
            )
    return loss

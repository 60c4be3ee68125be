"""What a training run needs beyond fairseq's trainer, which is used as it is.

The task hands each micro-batch through here.
"""

import logging
from functools import partial
from typing import Any, Callable, Optional

import torch.nn as nn

from ..checkpoint.master_weights import KEY, has_masters, keep_master_weights
from .expert_groups import ExpertGroups
from .expert_state import ExpertState, prepare_loaded_moments
from .gradients import clip_grad_norm, reduce_expert_gradients

logger = logging.getLogger(__name__)


class RankFailed(SystemExit):
    """An error of this rank alone ends its process, and with it the run.

    As an ordinary exception the trainer would swallow it (out of memory), or would save a crash
    file in a collective call that the other ranks do not make: they would wait for ever.
    """

    def __init__(self, cause: BaseException):
        super().__init__(1)
        self.cause = cause


class TrainingSteps:
    """Keeps master weights, and experts that are spread over ranks, right in training and saving.

    Args:
        groups: None where every rank holds all experts
        sharded: whether each rank saves its own experts
    """

    def __init__(self, groups: Optional[ExpertGroups], sharded: bool):
        self.groups = groups
        self.sharded = sharded
        self.attached = False
        self.state: Optional[ExpertState] = None

    def micro_batch(
        self, backward: Callable[[], Any], model: nn.Module, optimizer: Any,
        ema_model: Optional[nn.Module],
    ) -> Any:
        """Run backward, which computes a micro-batch's gradients, and return what it returns."""
        if not self.attached:
            self._attach(model, optimizer, ema_model)
        if self.groups is None or self.state is None:
            return backward()
        self.state.release()
        try:
            result = backward()
        except Exception as error:
            logger.exception("rank %d failed, and with it the run", self.groups.rank)
            raise RankFailed(error) from error
        if not model.accumulate_grads:  # the last micro-batch of an update
            reduce_expert_gradients(model.parameters(), self.groups)
        return result

    def _attach(self, model: nn.Module, optimizer: Any, ema_model: Optional[nn.Module]) -> None:
        """Take over, once, what fairseq has built and loaded since the run's start."""
        self.attached = True
        if self.groups is None:
            keep_master_weights(optimizer)
            return
        prepare_loaded_moments(optimizer.optimizer, self.groups, self.sharded)
        keep_master_weights(optimizer)
        inner = getattr(optimizer, "fp32_optimizer", optimizer)
        inner.clip_grad_norm = partial(clip_grad_norm, list(inner.params), self.groups)
        module = model.get_submodule("module.module")  # inside fairseq's wrapper and its proxy
        self.state = ExpertState(
            self.groups, self.sharded, module, optimizer.optimizer, ema_model,
            (KEY,) if has_masters(optimizer) else (),
        )

"""What a training run needs beyond fairseq's trainer, which is used as it is.

The task hands each micro-batch through here.
"""

from functools import partial
from typing import Any, Callable, NoReturn, Optional

import torch
import torch.nn as nn
from torch import Tensor

from ..distributed.agreement import num_ranks, rank
from ..distributed.expert_groups import ExpertGroups
from ..distributed.expert_state import ExpertState, prepare_loaded_moments
from ..distributed.gradients import clip_grad_norm, reduce_expert_gradients
from ..distributed.lost_ranks import RankMonitor
from ..errors import Refusal
from .master_weights import KEY, has_masters, keep_master_weights


class RankFailed(Exception):
    """An error of this rank alone, which ends its process, and with it the run.

    Raised in the error's place: the trainer would swallow it (out of memory), or would save a crash
    file in a collective call that the other ranks do not make, and they would wait for ever.
    """


class TrainingSteps:
    """Keeps master weights, and experts that are spread over ranks, right in training and saving.

    Args:
        groups: None where every rank holds all experts
        sharded: whether each rank saves its own experts
        monitor: to tell the other ranks of an error
    """

    def __init__(
        self, groups: Optional[ExpertGroups], sharded: bool, monitor: Optional[RankMonitor]
    ):
        self.groups = groups
        self.sharded = sharded
        self.monitor = monitor
        self.attached = False
        self.state: Optional[ExpertState] = None

    def micro_batch(
        self, backward: Callable[[], Any], model: nn.Module, optimizer: Any,
        ema_model: Optional[nn.Module], is_dummy: bool = False,
    ) -> Any:
        """Run backward, which computes a micro-batch's gradients, and return what it returns.

        That is (loss, sample size, logging output). A dummy batch, whose gradients are zero, keeps
        company to those of other ranks: its sizes and sums are returned as zeros.
        """
        if not self.attached:
            self._attach(model, optimizer, ema_model)
        if self.state is not None:
            self.state.release()
        result = self.together(partial(self._compute_gradients, backward, model))
        return zeros_like(result) if is_dummy else result

    def _compute_gradients(self, backward: Callable[[], Any], model: nn.Module) -> Any:
        result = backward()
        # the last micro-batch of an update
        if self.groups is not None and not model.accumulate_grads:
            reduce_expert_gradients(model.parameters(), self.groups)
        return result

    def together(self, step: Callable[[], Any]) -> Any:
        """Run a step that all ranks make together; an error of one ends them all."""
        if num_ranks() == 1:
            return step()
        try:
            return step()
        except Refusal:
            raise
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if self.monitor is not None:
            self.monitor.fail(error)
        raise RankFailed(f"rank {rank()} failed, and with it the run") from error

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
        if self.sharded:
            optimizer.clip_grad_norm = self._without_crash_file(optimizer.clip_grad_norm)
        while "module" in dict(model.named_children()):  # inside fairseq's wrappers
            model = model.get_submodule("module")
        self.state = ExpertState(
            self.groups, self.sharded, model, optimizer.optimizer, ema_model,
            (KEY,) if has_masters(optimizer) else (),
        )

    def _without_crash_file(self, clip: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Let a norm that is not finite end the run here.

        The trainer would first save crash.pt: each rank its shard, all of them in one file.
        """

        def clip_or_fail(*args: Any, **kwargs: Any) -> Tensor:
            try:
                norm = clip(*args, **kwargs)
                if not norm.isfinite():
                    raise FloatingPointError("gradients are NaN or infinite")
            except FloatingPointError as error:
                self._fail(error)
            return norm

        return clip_or_fail


def zeros_like(value: Any) -> Any:
    """Return numbers and tensors as zeros, in tuples and dictionaries as well."""
    if isinstance(value, tuple):
        return tuple(map(zeros_like, value))
    if isinstance(value, dict):
        return {key: zeros_like(each) for key, each in value.items()}
    return torch.zeros_like(value) if torch.is_tensor(value) else type(value)()

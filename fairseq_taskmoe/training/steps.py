"""Additions to the updates of fairseq's trainer; the task passes each micro-batch through here."""

from functools import partial
from typing import Any, Callable, Optional

import torch
import torch.nn as nn
from torch import Tensor

from ..distributed.agreement import num_ranks, rank
from ..distributed.expert_groups import ExpertGroups
from ..distributed.expert_state import ExpertState, prepare_loaded_moments
from ..distributed.gradients import clip_grad_norm, reduce_expert_gradients
from ..errors import Refusal
from .freezing import FrozenTasks, frozen_rows, hold_rows
from .fused_adam import use_fused_adam
from .master_weights import KEY, has_masters, keep_master_weights


class RankFailed(RuntimeError):
    """An error of one rank, which ends its process; then the launcher ends the others.

    It replaces the original error, because for that fairseq's trainer would either continue (out of
    memory), or save a crash file in a collective call in which the other ranks do not take part, so
    that all would wait. The trainer raises other RuntimeErrors unchanged.
    """

    def __init__(self, error: Exception):
        super().__init__(f"rank {rank()} failed with {type(error).__name__}")


class TrainingSteps:
    """Handles expert parallelism and master weights in training steps and in saving.

    Args:
        groups: None if every rank holds all experts
        sharded: whether each rank saves its own experts
    """

    def __init__(self, groups: Optional[ExpertGroups], sharded: bool):
        self.groups = groups
        self.sharded = sharded
        self.frozen: Optional[FrozenTasks] = None
        self.attached = False
        self.state: Optional[ExpertState] = None

    def micro_batch(
        self, backward: Callable[[], Any], model: nn.Module, optimizer: Any,
        ema_model: Optional[nn.Module], is_dummy: bool = False,
    ) -> Any:
        """Run backward, which computes the gradients of a micro-batch, and return its result.

        That is (loss, sample size, logging output). A dummy batch, which a rank without data runs
        in step with the other ranks, has zero gradients, and its result is replaced by zeros.
        """
        if not self.attached:
            self._attach(model, optimizer, ema_model)
        if self.state is not None:
            self.state.release()
        result = self.together(partial(self._compute_gradients, backward, model))
        return zeros_like(result) if is_dummy else result

    def _compute_gradients(self, backward: Callable[[], Any], model: nn.Module) -> Any:
        result = backward()
        # after the last micro-batch of an update
        if self.groups is not None and not model.accumulate_grads:
            reduce_expert_gradients(model.parameters(), self.groups)
        return result

    def together(self, step: Callable[[], Any]) -> Any:
        """Run a step of all ranks; with several ranks, an error ends the process."""
        if num_ranks() == 1:
            return step()
        try:
            return step()
        except Refusal:
            raise
        except Exception as error:
            raise RankFailed(error) from error

    def _attach(self, model: nn.Module, optimizer: Any, ema_model: Optional[nn.Module]) -> None:
        """Set up, once, what fairseq has built and loaded since the start of the run."""
        self.attached = True
        use_fused_adam(optimizer)
        while "module" in dict(model.named_children()):  # of fairseq's wrappers
            model = model.get_submodule("module")
        if self.groups is not None:
            prepare_loaded_moments(optimizer.optimizer, self.groups, self.sharded)
        keep_master_weights(optimizer)
        if self.frozen is not None:
            hold_rows(frozen_rows(model, self.frozen), optimizer)
        if self.groups is None:
            return
        inner = getattr(optimizer, "fp32_optimizer", optimizer)
        inner.clip_grad_norm = partial(clip_grad_norm, list(inner.params), self.groups)
        if self.sharded:
            optimizer.clip_grad_norm = self._without_crash_file(optimizer.clip_grad_norm)
        self.state = ExpertState(
            self.groups, self.sharded, model, optimizer.optimizer, ema_model,
            (KEY,) if has_masters(optimizer) else (),
        )

    def _without_crash_file(self, clip: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a function that ends the run if the norm is not finite.

        Otherwise the trainer would save crash.pt, in which all ranks overwrite each other's shard.
        """

        def clip_or_fail(*args: Any, **kwargs: Any) -> Tensor:
            try:
                norm = clip(*args, **kwargs)
                if not norm.isfinite():
                    raise FloatingPointError("gradients are NaN or infinite")
            except FloatingPointError as error:
                raise RankFailed(error) from error
            return norm

        return clip_or_fail


def zeros_like(value: Any) -> Any:
    """Return zeros for numbers and tensors, also in tuples and dictionaries."""
    if isinstance(value, tuple):
        return tuple(map(zeros_like, value))
    if isinstance(value, dict):
        return {key: zeros_like(each) for key, each in value.items()}
    return torch.zeros_like(value) if torch.is_tensor(value) else type(value)()

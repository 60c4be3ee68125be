"""The start of a training run, on any number of ranks: checks, process groups, files to resume."""

import logging
import uuid
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

import torch.distributed as dist

from ..checkpoint.first_save import note_finished_save
from ..checkpoint.usable import make_usable
from ..errors import Refusal, refuse
from .checks import check_saving, check_spread, run_settings
from .expert_groups import ExpertGroups
from .launch import check_launch
from .layout import ExpertLayout, expert_layout
from .lost_ranks import watch_ranks
from .training_steps import TrainingSteps

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """What a training run knows of its ranks."""

    layout: ExpertLayout
    rank: int
    run_id: str  # the same on all ranks, another at each start
    sharded: bool
    update_freq: Sequence[int]
    groups: Optional[ExpertGroups]  # None where every rank holds all experts
    steps: TrainingSteps
    save_dir: str

    def shard(self) -> Any:
        """Return what a file of this rank says of itself."""
        return {
            "rank": self.rank, "world_size": self.layout.world_size, "size": self.layout.size,
            "run": self.run_id,
        }

    def finish_save(self, num_updates: int) -> None:
        """Wait until the shards of all ranks are there: a collective call."""
        if dist.is_initialized():
            dist.barrier()
        if self.rank == 0:
            note_finished_save(self.save_dir)
            logger.info("all ranks have saved their shards @ %d updates", num_updates)


def start_run(cfg: Any, num_experts: int) -> Run:
    """Start a training run: a collective call.

    Refuses, on all ranks, what would go wrong later or in silence.

    Args:
        cfg: the model's section of the run's configuration
        num_experts: of each MoE layer; 0 without such layers
    """
    settings = run_settings(cfg)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    check_launch(world_size)
    monitor = watch_ranks()
    check_saving(settings)
    layout = expert_layout(num_experts, world_size, cfg.moe_expert_parallel_size)
    sharded = cfg.moe_sharded_checkpoints
    if sharded and world_size > 1 and layout.size == 1:
        refuse(
            "--moe-sharded-checkpoints: every rank would save all experts, since "
            f"--moe-expert-count {layout.num_experts} and {world_size} ranks have no common divisor"
            " (or --moe-expert-parallel-size is 1)"
        )
    if layout.size > 1:
        check_spread(settings, layout, sharded)
    if sharded and settings.checkpoint:
        # by these fairseq's trainer saves and loads on every rank, each its own file
        cfg.base_layers = 1
        settings.checkpoint["checkpoint_suffix"] = f"-rank-{rank}"
    if settings.checkpoint:
        num_shards = world_size if sharded else None
        on_first_rank(lambda: make_usable(settings.checkpoint, num_shards))
    run_id = on_first_rank(lambda: uuid.uuid4().hex)
    groups = ExpertGroups(layout) if layout.size > 1 else None
    update_freq = settings.optimization.get("update_freq") or [1]
    steps = TrainingSteps(groups, sharded, monitor)
    save_dir = settings.checkpoint.get("save_dir", "")
    return Run(layout, rank, run_id, sharded, update_freq, groups, steps, save_dir)


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Do work on rank 0 and return its result on all ranks; a refusal ends them all."""
    if not dist.is_initialized():
        return work()
    told: List[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told = [work(), None]
        except Refusal as refusal:
            told = [None, refusal.message]
            dist.broadcast_object_list(told, 0)
            raise
    dist.broadcast_object_list(told, 0)
    if told[1] is not None:
        raise Refusal(told[1])  # rank 0 has said it
    return told[0]

"""The start of a training run on any number of ranks: checks, recovery, process groups."""

import logging
import uuid
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch.distributed as dist
from omegaconf import OmegaConf

from ..checkpoint.same_model import check_loaded
from ..devices import choose_device
from ..distributed.agreement import num_ranks, on_first_rank, rank
from ..distributed.expert_groups import ExpertGroups
from ..distributed.launch import check_launch
from ..distributed.layout import ExpertLayout, expert_layout
from ..host import keep_freed_memory
from ..models.router_kinds import ROUTERS, TASK_ROUTERS
from ..names import STACKS
from .checks import check_expert_parallel, check_saving, run_settings
from .counterparts import Names
from .first_save import note_finished_save
from .freezing import check_freezing, check_resumed, find_frozen_tasks, freeze_parameters
from .init_shared import init_shared_weights
from .resume import recover_latest_checkpoint
from .steps import TrainingSteps
from .take_over import Start, check_start, taken_over

logger = logging.getLogger(__name__)


class TrainingRun(NamedTuple):
    """The ranks of a training run, and what training steps and saves need."""

    layout: ExpertLayout
    rank: int
    run_id: str  # the same on all ranks, a new one at each start
    sharded: bool
    update_freq: Sequence[int]
    groups: Optional[ExpertGroups]  # None if every rank holds all experts
    steps: TrainingSteps
    save_dir: str
    names: Names
    start: Start

    def state(self) -> Dict[str, List[str]]:
        """Return what a run that goes on from a checkpoint of this one needs to know."""
        state, frozen = {}, self.steps.frozen
        if self.start.new_symbols:
            state["new_symbols"] = list(self.start.new_symbols)
        if frozen is not None:
            state["frozen_tasks"] = [self.names.table.trained[i] for i in frozen.task_ids]
        return state

    def shard(self) -> Any:
        """Return the description of this rank's shard, for its checkpoint."""
        return {
            "rank": self.rank, "world_size": self.layout.world_size, "size": self.layout.size,
            "run": self.run_id,
        }

    def finish_save(self, num_updates: int) -> None:
        """Wait until all ranks have saved their shards: a collective call."""
        if dist.is_initialized():
            dist.barrier()
        if self.rank == 0:
            note_finished_save(self.save_dir)
            logger.info("all ranks have saved their shards @ %d updates", num_updates)


def start_run(names: Names, num_experts: int) -> TrainingRun:
    """Start a training run: a collective call.

    Refuses, on all ranks, what would fail later or silently.

    Args:
        names: of the model to train; names.cfg is the model's section of the run's configuration
        num_experts: number of experts of each MoE layer; 0 without such layers
    """
    cfg = names.cfg
    settings = run_settings(cfg)
    if num_experts and rank() == 0:
        _warn_without_gate_losses(cfg, settings.criterion)
    sharded = cfg.moe_sharded_checkpoints
    check_launch(num_ranks())

    def check() -> ExpertLayout:
        check_saving(settings)
        layout = expert_layout(num_experts, num_ranks(), cfg.moe_expert_parallel_size)
        check_expert_parallel(settings, layout, sharded)
        return layout

    layout = on_first_rank(check)
    if choose_device(bool(settings.common.get("cpu"))).type == "cpu":
        keep_freed_memory()
    if sharded and settings.checkpoint:
        # with these fairseq's trainer saves and loads a separate file on each rank
        cfg.base_layers = 1
        settings.checkpoint["checkpoint_suffix"] = f"-rank-{rank()}"
    if settings.checkpoint:
        num_shards = num_ranks() if sharded else None
        on_first_rank(lambda: recover_latest_checkpoint(settings.checkpoint, num_shards))
        stored_reduction = on_first_rank(partial(check_loaded, cfg, settings.checkpoint))
        _set_gate_loss_reduction(settings.criterion, stored_reduction)
    start: Start = on_first_rank(partial(check_start, settings, names))
    run_id = on_first_rank(lambda: uuid.uuid4().hex)
    groups = ExpertGroups(layout) if layout.size > 1 else None
    update_freq = settings.optimization.get("update_freq") or [1]
    steps = TrainingSteps(groups, sharded)
    save_dir = settings.checkpoint.get("save_dir", "")
    return TrainingRun(
        layout, rank(), run_id, sharded, update_freq, groups, steps, save_dir, names, start
    )


def prepare_weights(run: TrainingRun, model: Any, freeze_tasks: Optional[str]) -> None:
    """Prepare a new model for what it starts from, and freeze what gets no updates.

    A collective call with --init-shared-from. freeze_tasks are language pairs.
    """
    cfg, start = run.names.cfg, run.start
    if start.counterparts is not None:
        model.take_over = partial(taken_over, start.counterparts, str(cfg.init_experts) == "copy")
    if cfg.init_shared_from:
        init_shared_weights(model, run.names)
    tasks = find_frozen_tasks(freeze_tasks, run.names, start)
    if tasks is not None:
        check_freezing(run_settings(cfg))
    freeze_parameters(model, cfg.freeze, tasks)
    check_resumed(model, start)
    run.steps.frozen = tasks


def _warn_without_gate_losses(cfg: Any, criterion: Any) -> None:
    name = getattr(criterion, "_name", None) or getattr(criterion, "criterion", None)
    routers = {str(getattr(cfg, f"{stack}_moe_router")) for stack in STACKS}
    learned = sorted(r for r in routers if r in TASK_ROUTERS or ROUTERS[r].learns_from_text)
    if name and not name.startswith("moe_") and learned:
        logger.warning(
            "--criterion %s leaves out the gate losses, without which a learned router (%s) can "
            "send all tokens to a few experts; use moe_label_smoothed_cross_entropy",
            name, ", ".join(learned),
        )


def _set_gate_loss_reduction(criterion: Any, stored: Optional[str]) -> None:
    """Set the default of --moe-gate-loss-reduction: that of the resumed checkpoint, or sum.

    It is written into the configuration of the criterion, and thus into checkpoints.
    """
    if OmegaConf.is_config(criterion) and criterion.get("moe_gate_loss_reduction", "") is None:
        criterion.moe_gate_loss_reduction = stored or "sum"
        if stored == "mean":
            logger.warning(
                "gate losses are averaged over MoE layers, as in the resumed checkpoint; "
                "--moe-gate-loss-reduction sum adds them up, the default of new runs"
            )

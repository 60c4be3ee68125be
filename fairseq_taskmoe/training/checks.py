"""Options that a training run must not have, each with its reason."""

from argparse import Namespace
from typing import Any, Dict, NamedTuple, Optional

from omegaconf import DictConfig, OmegaConf

from ..distributed.layout import ExpertLayout
from ..errors import refuse

# These update each weight by its own gradients only, so experts may be on any rank
ELEMENTWISE = ("adadelta", "adagrad", "adam", "adamax", "nag", "sgd")


class RunSettings(NamedTuple):
    """Sections of fairseq's configuration, as dictionaries; empty for missing ones."""

    common: Dict[str, Any]
    distributed_training: Dict[str, Any]
    optimization: Dict[str, Any]
    checkpoint: Dict[str, Any]
    ema: Dict[str, Any]
    criterion: Any  # a Namespace if the criterion has no dataclass
    optimizer: Optional[str]


def run_settings(cfg: DictConfig) -> RunSettings:
    """Return the settings of the run whose configuration has the section cfg."""
    root: Any = cfg._get_root() if OmegaConf.is_config(cfg) else {}
    sections = {name: root.get(name) or {} for name in RunSettings._fields[:-1]}
    optimizer = root.get("optimizer")
    # the section of an optimizer without a dataclass, such as sgd, is the whole command line
    name = "optimizer" if isinstance(optimizer, Namespace) else "_name"
    return RunSettings(**sections, optimizer=getattr(optimizer, name, None))


def check_saving(run: RunSettings) -> None:
    """Refuse what would leave broken checkpoints, on any number of ranks."""
    if run.checkpoint.get("write_checkpoints_asynchronously"):
        refuse(
            "--write-checkpoints-asynchronously: fairseq then writes files in place, which a kill "
            "leaves incomplete, and makes no checkpoint_last.pt to resume from; leave it out"
        )


def check_expert_parallel(run: RunSettings, layout: ExpertLayout, sharded: bool) -> None:
    """Refuse what would corrupt or lose experts with expert parallelism."""
    if layout.size == 1:
        if sharded and layout.world_size > 1:
            refuse(
                "--moe-sharded-checkpoints: every rank would save all experts, since "
                f"--moe-expert-count {layout.num_experts} and {layout.world_size} ranks have no "
                "common divisor (or --moe-expert-parallel-size is 1)"
            )
        return
    spread = f"experts are spread over {layout.size} ranks"
    backend = run.distributed_training.get("ddp_backend")
    if backend not in ("legacy_ddp", "no_c10d"):
        refuse(
            f"--ddp-backend {backend}: {spread}, and it would mix the gradients of different "
            "experts; give --ddp-backend legacy_ddp, or --moe-expert-parallel-size 1"
        )
    if run.optimizer not in ELEMENTWISE:
        refuse(
            f"--optimizer {run.optimizer}: {spread}, and on a part of them it computes other "
            f"updates than on all; use one of {', '.join(ELEMENTWISE)}"
        )
    common, saving = run.common, run.checkpoint
    reasons = {
        "--zero-sharding os": (
            run.distributed_training.get("zero_sharding") == "os",
            "it distributes the optimizer's state as if all ranks had the same weights",
        ),
        "--use-bmuf": (
            run.optimization.get("use_bmuf"), "it averages the weights of ranks"
        ),
        "--memory-efficient-fp16": (
            common.get("memory_efficient_fp16"), "use --fp16 --fp16-no-flatten-grads"
        ),
        "--memory-efficient-bf16": (common.get("memory_efficient_bf16"), "use --bf16"),
        "--amp": (
            common.get("amp"), "each rank would skip updates by its own overflows; use --bf16"
        ),
        "--fp16": (
            common.get("fp16") and not common.get("fp16_no_flatten_grads"),
            "flattened gradients lose the mark of experts; add "
            "--fp16-no-flatten-grads",
        ),
        "--quantization-config-path": (
            common.get("quantization_config_path"), "it replaces the optimizer during training"
        ),
        "--model-parallel-size": (
            common.get("model_parallel_size", 1) > 1, "they cannot be combined"
        ),
        "--no-save-optimizer-state": (
            saving.get("no_save_optimizer_state") and not saving.get("no_save") and not sharded,
            "fairseq then has no hook to gather them before saving; add --moe-sharded-checkpoints",
        ),
        "--ema-fp32": (
            run.ema.get("store_ema") and run.ema.get("ema_fp32") and not sharded,
            "its float32 weights cannot be gathered for a file; add --moe-sharded-checkpoints",
        ),
    }
    for flag, (is_given, reason) in reasons.items():
        if is_given:
            refuse(f"{flag}: {spread}, and {reason}")

"""What a training run must not be started with, each with its reason."""

from argparse import Namespace
from typing import Any, Dict, NamedTuple, Optional

from omegaconf import DictConfig, OmegaConf

from ..distributed.layout import ExpertLayout
from ..errors import refuse

# They step each weight by its own gradients alone, so that experts may be anywhere
ELEMENTWISE = ("adadelta", "adagrad", "adam", "adamax", "nag", "sgd")


class Settings(NamedTuple):
    """The sections of fairseq's configuration, as dictionaries; empty where there is none."""

    common: Dict[str, Any]
    distributed_training: Dict[str, Any]
    optimization: Dict[str, Any]
    checkpoint: Dict[str, Any]
    ema: Dict[str, Any]
    criterion: Any  # a Namespace where the criterion has no dataclass
    optimizer: Optional[str]


def run_settings(cfg: DictConfig) -> Settings:
    """Return the settings of the run that a section of its configuration belongs to."""
    root: Any = cfg._get_root() if OmegaConf.is_config(cfg) else {}
    sections = {name: root.get(name) or {} for name in Settings._fields[:-1]}
    optimizer = root.get("optimizer")
    # one without a dataclass of its own, such as sgd, has the whole command line for its section
    name = "optimizer" if isinstance(optimizer, Namespace) else "_name"
    return Settings(**sections, optimizer=getattr(optimizer, name, None))


def check_saving(run: Settings) -> None:
    """Refuse what would leave broken checkpoints behind, on any number of ranks."""
    if run.checkpoint.get("write_checkpoints_asynchronously"):
        refuse(
            "--write-checkpoints-asynchronously: fairseq then writes files in place, so that a "
            "kill leaves half of one, and makes no checkpoint_last.pt to resume from; leave it out"
        )


def check_spread(run: Settings, layout: ExpertLayout, sharded: bool) -> None:
    """Refuse what would corrupt experts that are spread over ranks, or lose them."""
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
            f"--ddp-backend {backend}: {spread}, and only legacy_ddp leaves their gradients apart; "
            "give --ddp-backend legacy_ddp, or --moe-expert-parallel-size 1"
        )
    if run.optimizer not in ELEMENTWISE:
        refuse(
            f"--optimizer {run.optimizer}: {spread}, and it would step a part of them differently "
            f"from the whole; use one of {', '.join(ELEMENTWISE)}"
        )
    common, saving = run.common, run.checkpoint
    reasons = {
        "--zero-sharding os": (
            run.distributed_training.get("zero_sharding") == "os",
            "it spreads the optimizer's state as if all ranks had the same weights",
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
            "flattened gradients lose the mark that keeps experts apart; add "
            "--fp16-no-flatten-grads",
        ),
        "--quantization-config-path": (
            common.get("quantization_config_path"), "it builds the optimizer anew in mid-training"
        ),
        "--model-parallel-size": (
            common.get("model_parallel_size", 1) > 1, "they are not made for each other"
        ),
        "--no-save-optimizer-state": (
            saving.get("no_save_optimizer_state") and not saving.get("no_save") and not sharded,
            "fairseq then gives no moment to gather them for a file; add --moe-sharded-checkpoints",
        ),
        "--ema-fp32": (
            run.ema.get("store_ema") and run.ema.get("ema_fp32") and not sharded,
            "its float32 weights cannot be gathered for a file; add --moe-sharded-checkpoints",
        ),
    }
    for flag, (is_given, reason) in reasons.items():
        if is_given:
            refuse(f"{flag}: {spread}, and {reason}")

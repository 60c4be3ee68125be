"""Flags that the benchmarks have in common, and the settings of their process."""

import argparse
import os
from typing import Collection, List, Optional


def add_arguments(parser: argparse.ArgumentParser, repeats: int = 7) -> None:
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"measured steps; default: {repeats}"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--out", metavar="FILE.json", help="write the measurements here")


def quiet_profiler() -> None:
    """Silence torch's profiler, which counts memory; must be called before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME=VALUE[,..]",
        help="changes of the architecture, such as encoder_layers=2,decoder_embed_dim=192",
    )
    add_expert_counts(parser)


def model_settings(text: str) -> List[str]:
    """Return the settings in --model; refuses those that the configuration does not have."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ...errors import refuse
    from ...models.config import TransformerTaskMoeConfig

    settings = [setting for setting in text.split(",") if setting]
    try:
        own = OmegaConf.from_dotlist(settings)
        OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), own)
    except OmegaConfBaseException as error:
        refuse(f"--model {text}: {str(error).splitlines()[0]}")
    return settings


def add_expert_counts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--moe-expert-count", default="32", metavar="E[,E]",
        help="experts in an MoE layer; MoE variants are measured with each number; default: 32",
    )


def expert_counts(args: argparse.Namespace, least: int) -> List[int]:
    """Return the numbers of --moe-expert-count, without duplicates."""
    from ...errors import refuse

    words = args.moe_expert_count.split(",")
    if not all(word.isdecimal() and int(word) >= least for word in words):
        refuse(f"--moe-expert-count {args.moe_expert_count}: give numbers of {least} or more")
    return sorted({int(word) for word in words})


def chosen_variants(args: argparse.Namespace, known: Collection[str]) -> List[str]:
    """Return --variants; refuses an unknown one."""
    from ...errors import refuse

    variants = args.variants.split(",")
    for name in variants:
        if name not in known:
            refuse(f"--variants {name}: choose from {', '.join(known)}")
    return variants


def check_device(args: argparse.Namespace) -> None:
    """Refuse --device cuda if there is no GPU."""
    import torch

    from ...errors import refuse

    if args.device == "cuda" and not torch.cuda.is_available():
        refuse("--device cuda: this machine has no GPU that torch can use")


def ratio(value: Optional[float]) -> str:
    """Return the text of a ratio, a dash if there is no reference."""
    return "-" if value is None else f"{value:.2f}"


def prepare(args: argparse.Namespace) -> None:
    """Set this process's threads, and keep freed memory as training does."""
    import torch

    from ...host import keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()

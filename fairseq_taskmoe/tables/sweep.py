"""What a report of `taskmoe bench decode` measured: of which model, on what, how steadily."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, Optional

from .table import UNSTEADY, Measured

Report = dict[str, Any]


class Stack(NamedTuple):
    """The sizes of an encoder or a decoder."""

    layers: int
    width: int
    feed_forward: int


# of models/config.py's ARCHITECTURES, which would load torch
SIZES = {"tiny": Stack(2, 64, 128), "base": Stack(6, 512, 2048), "big": Stack(6, 1024, 8192)}
TITLES = {"tiny": "tiny Transformer", "base": "Transformer-Base", "big": "Transformer-Big"}
FIELDS = ("layers", "embed_dim", "ffn_embed_dim")  # of a stack, as --model names them


def stacks(report: Report) -> tuple[Stack, Stack]:
    """Return the sizes of a sweep's encoder and decoder: the architecture's, or its --model's."""
    own, known = _own_settings(report), SIZES[report["settings"]["arch"]]
    encoder, decoder = (
        Stack(*(int(own.get(f"{stack}_{field}", size))
               for field, size in zip(FIELDS, known, strict=True)))
        for stack in ("encoder", "decoder")
    )
    return encoder, decoder


def is_of_architecture(report: Report, arch: str) -> bool:
    """Tell whether a sweep's model has the sizes and the layers of an architecture."""
    other_layers = any(name.startswith("moe_") for name in _own_settings(report))
    return stacks(report) == (SIZES[arch], SIZES[arch]) and not other_layers


def architecture(report: Report) -> str:
    """Name a sweep's model with its sizes."""
    encoder, decoder = stacks(report)
    if encoder != decoder:
        told = " and ".join(
            f"{name} of {stack.layers} layers, width {stack.width}, "
            f"feed-forward {stack.feed_forward}"
            for name, stack in (("encoder", encoder), ("decoder", decoder))
        )
    else:
        told = (f"{encoder.layers} + {decoder.layers} layers, width {encoder.width}, "
                f"feed-forward {encoder.feed_forward}")
    names = [TITLES[arch] for arch in SIZES if is_of_architecture(report, arch)]
    return f"{names[0] if names else 'Transformer'} ({told})"


def conditions(report: Report, rows: Iterable[dict[str, Any]]) -> str:
    """Return what was measured in these rows of a report, and on what."""
    settings = report["settings"]
    more = [f"{name}={value}" for name, value in _own_settings(report).items()
            if not name.endswith(FIELDS)]
    lengths = [settings.get(name) for name in ("length", "output_length")]
    parts = [
        architecture(report), *more, f"{_listed(row['experts'] for row in rows)} experts",
        f"vocabulary of {settings['vocab_size']}" if "vocab_size" in settings else "",
        f"{lengths[0]} tokens into {lengths[1]}" if all(lengths) else "",
        f"beam {settings['beam']}", settings["dtype"], device(report),
        f"{settings['repeats']} repeats" if "repeats" in settings else "",
    ]
    return ", ".join(part for part in parts if part)


def device(report: Report) -> str:
    """Return what a report was measured on, and how much of it."""
    settings, machine = report["settings"], report["hardware"]
    processes = settings.get("processes")
    if settings["device"] == "cuda":
        told = str(machine["gpus"][0])
        return f"{processes} x {told}" if processes else told
    told = str(machine["cpu"])
    if processes:
        return f"{processes} processes on {told}"
    if "threads" not in machine:
        return told
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''} on {told}"


def peak(
    rows: Iterable[dict[str, Any]], variants: Collection[Optional[str]]
) -> Optional[dict[str, Any]]:
    """Return the row of the best batch size, of some variants with the fewest experts measured."""
    fitting = [row for row in rows if row["fits"] and row["variant"] in variants]
    if not fitting:
        return None
    fewest = min(row["experts"] for row in fitting)
    return max((row for row in fitting if row["experts"] == fewest),
               key=lambda row: row["tokens_per_second"])


def speed(row: Optional[dict[str, Any]]) -> Optional[Measured]:
    """Return tokens/s of a row, and how much they varied."""
    return Measured(row["tokens_per_second"], row.get("spread")) if row else None


def unsteady_note() -> str:
    return (f"~: half the distance of the quartiles of the repeats is more than {UNSTEADY:.0%} of "
            "their median")


def _own_settings(report: Report) -> dict[str, str]:
    given = report["settings"].get("model") or ()
    return {name: value for name, _, value in (setting.partition("=") for setting in given)}


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(str(number) for number in sorted(set(numbers)))

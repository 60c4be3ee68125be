"""The model, the device and the conditions of a report of `taskmoe bench decode`."""

from typing import Any, Collection, Dict, Iterable, NamedTuple, Optional, Tuple

from .table import UNSTEADY, Measurement

Report = Dict[str, Any]


class StackSizes(NamedTuple):
    """The sizes of an encoder or a decoder."""

    layers: int
    width: int
    feed_forward: int


# as in ARCHITECTURES of models/config.py, which would import torch
SIZES = {
    "tiny": StackSizes(2, 64, 128), "base": StackSizes(6, 512, 2048),
    "big": StackSizes(6, 1024, 8192),
}
TITLES = {"tiny": "tiny Transformer", "base": "Transformer-Base", "big": "Transformer-Big"}
FIELDS = ("layers", "embed_dim", "ffn_embed_dim")  # the names of StackSizes' fields in --model


def stacks(report: Report) -> Tuple[StackSizes, StackSizes]:
    """Return the sizes of the measured encoder and decoder: those of --arch, changed by --model."""
    changed, default = _model_settings(report), SIZES[report["settings"]["arch"]]
    encoder, decoder = (
        StackSizes(*(int(changed.get(f"{stack}_{field}", size))
                     for field, size in zip(FIELDS, default, strict=True)))
        for stack in ("encoder", "decoder")
    )
    return encoder, decoder


def is_of_architecture(report: Report, arch: str) -> bool:
    """Tell whether the measured model has the sizes and the layers of an architecture."""
    other_layers = any(name.startswith("moe_") for name in _model_settings(report))
    return stacks(report) == (SIZES[arch], SIZES[arch]) and not other_layers


def architecture(report: Report) -> str:
    """Return the name and the sizes of the measured model."""
    encoder, decoder = stacks(report)
    if encoder != decoder:
        sizes = " and ".join(
            f"{name} of {stack.layers} layers, width {stack.width}, "
            f"feed-forward {stack.feed_forward}"
            for name, stack in (("encoder", encoder), ("decoder", decoder))
        )
    else:
        sizes = (f"{encoder.layers} + {decoder.layers} layers, width {encoder.width}, "
                 f"feed-forward {encoder.feed_forward}")
    names = [TITLES[arch] for arch in SIZES if is_of_architecture(report, arch)]
    return f"{names[0] if names else 'Transformer'} ({sizes})"


def conditions(report: Report, rows: Iterable[Dict[str, Any]]) -> str:
    """Return the model, the settings and the device of these rows of a report."""
    settings = report["settings"]
    more = [f"{name}={value}" for name, value in _model_settings(report).items()
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
    """Return the device of a report, with the number of processes or threads."""
    settings, machine = report["settings"], report["hardware"]
    processes = settings.get("processes")
    if settings["device"] == "cuda":
        gpu = str(machine["gpus"][0])
        return f"{processes} x {gpu}" if processes else gpu
    cpu = str(machine["cpu"])
    if processes:
        return f"{processes} processes on {cpu}"
    if "threads" not in machine:
        return cpu
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''} on {cpu}"


def peak(
    rows: Iterable[Dict[str, Any]], variants: Collection[Optional[str]]
) -> Optional[Dict[str, Any]]:
    """Return the fastest row of the given variants with the fewest experts measured."""
    fitting = [row for row in rows if row["fits"] and row["variant"] in variants]
    if not fitting:
        return None
    fewest = min(row["experts"] for row in fitting)
    return max((row for row in fitting if row["experts"] == fewest),
               key=lambda row: row["tokens_per_second"])


def speed(row: Optional[Dict[str, Any]]) -> Optional[Measurement]:
    """Return tokens/s of a row with their spread."""
    return Measurement(row["tokens_per_second"], row.get("spread")) if row else None


def unsteady_note() -> str:
    return (f"~: half the interquartile range of the repeats is more than {UNSTEADY:.0%} of their "
            "median")


def _model_settings(report: Report) -> Dict[str, str]:
    given = report["settings"].get("model") or ()
    return {name: value for name, _, value in (setting.partition("=") for setting in given)}


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(str(number) for number in sorted(set(numbers)))

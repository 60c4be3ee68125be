"""List the flags that this plugin adds to fairseq-train and fairseq's other commands.

`fairseq-train --help` does not show them: fairseq answers it before it adds the flags of the chosen
task, architecture and criterion. `--format markdown` writes docs/flags.md.
"""

import argparse
import re
import textwrap
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

INTRODUCTION = """\
# Flags

<!-- written by `taskmoe flags --format markdown` -->

These are the flags of this plugin's task, architectures and criteria, which `taskmoe flags` prints.
`fairseq-train --help` does not show them, because fairseq answers `--help` before it adds the flags
of the chosen task, architecture and criterion. In YAML the names have underscores: `--moe-top-k` is
`model.moe_top_k`. On the command line of `fairseq-hydra-train` write `++model.moe_top_k=1`; without
`++` only settings that a YAML file contains can be changed. A criterion also has the flags of the
criterion above it.

`taskmoe VERB --help` explains the flags of each `taskmoe` command. [Translate and
deploy](deploy.md#flags-at-inference) says which flags inference needs.
"""


class Flag(NamedTuple):
    names: str  # --source-lang, -s
    default: str
    help: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["text", "markdown"], default="text")


def run(args: argparse.Namespace) -> None:
    from .. import register  # noqa: F401

    if args.format == "text":
        print("\n\n".join(_text(*section) for section in sections()))
    else:
        print("\n".join([INTRODUCTION, *(_markdown(*section) for section in sections())]), end="")


def sections() -> List[Tuple[str, List[Flag]]]:
    """Return the flags of each part, under the flag that chooses it.

    Criteria build on each other: flags of an earlier one are not repeated.
    """
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

    from ..models.config import ARCHITECTURES, TransformerTaskMoeConfig
    from ..tasks.config import TranslationTaskMoeConfig

    sizes = ", ".join(f"_{size}" for size in ARCHITECTURES)
    found = [
        ("--task translation_task_moe", flags_of(TranslationTaskMoeConfig())),
        (f"--arch transformer_task_moe, {sizes}",
         flags_of(TransformerTaskMoeConfig(), ARCHITECTURES)),
    ]
    for name in CRITERION_DATACLASS_REGISTRY:
        if name.startswith("moe_"):
            earlier = {flag for _, flags in found for flag in flags}
            flags = flags_of(CRITERION_DATACLASS_REGISTRY[name]())
            found.append((f"--criterion {name}", [flag for flag in flags if flag not in earlier]))
    return found


def flags_of(
    settings: Any, sizes: Mapping[str, Dict[str, Any]] = MappingProxyType({})
) -> List[Flag]:
    """Return the flags that fairseq makes of a dataclass, with the defaults of named sizes."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    parser = argparse.ArgumentParser(add_help=False)
    gen_parser_from_dataclass(parser, settings)
    flags = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or not action.option_strings:
            continue
        by_size = [
            f"_{size}: {_value(values[action.dest])}" for size, values in sizes.items()
            if values.get(action.dest, action.default) != action.default
        ]
        default = "; ".join([_value(action.default), *by_size])
        choices = f"; one of {', '.join(action.choices)}" if action.choices else ""
        flags.append(Flag(", ".join(action.option_strings), default, f"{action.help}{choices}"))
    return flags


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-" if value is None else str(value)


def _text(title: str, flags: List[Flag]) -> str:
    lines = [f"{title}:"]
    for flag in flags:
        lines.append(f"  {flag.names}  [default: {flag.default}]")
        lines += textwrap.wrap(flag.help, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _markdown(title: str, flags: List[Flag]) -> str:
    from ..text_tables import markdown_table

    rows = [
        [f"`{flag.names}`", flag.default, re.sub(r"([*_|<\[])", r"\\\1", flag.help)]
        for flag in flags
    ]
    table = markdown_table(["flag", "default", "meaning"], rows, [False] * 3)
    return "\n".join([f"## `{title}`", "", *table, ""])

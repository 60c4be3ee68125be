"""Count the parameters of a checkpoint, or of an architecture without allocating its weights.

    taskmoe params checkpoints/checkpoint_best.pt
    taskmoe params --arch transformer_task_moe_base --vocab-size 64000 --moe-expert-count 32
"""

import argparse
import ast
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from ..errors import refuse
from .arguments import check_least, pairs_in_flag, refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", help="checkpoint of transformer_task_moe")
    parser.add_argument("--arch", metavar="NAME", help="such as transformer_task_moe_base")
    parser.add_argument(
        "--vocab-size", type=int, metavar="N",
        help="rows of the embedding: words, language tags and 4 special symbols",
    )
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="comma-separated, for the task embeddings (default: the paper's 30 WMT directions)",
    )
    parser.add_argument(
        "--num-pairs", type=int, metavar="N", help="instead: N directions into and from English"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    for name in ("--max-source-positions", "--max-target-positions"):
        parser.add_argument(name, type=int, metavar="N", help="for learned positions; default 1024")
    group = parser.add_argument_group("model flags, as in fairseq-train; --arch changes defaults")
    add_model_flags(group, model_flags())


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    words = given_model_flags(args)
    if bool(args.checkpoint) == bool(args.arch):
        refuse("name a checkpoint, or --arch and --vocab-size")
    others = ("vocab_size", "lang_pairs", "num_pairs", "max_source_positions",
              "max_target_positions")
    given = [name for name in others if getattr(args, name) is not None]
    described = [f"--{name.replace('_', '-')}" for name in given] + words
    if args.checkpoint and described:
        refuse(f"{described[0]} requires --arch: a checkpoint has its own configuration")

    from .. import register  # noqa: F401
    from ..plan.parameters import report_architecture, report_checkpoint

    if args.checkpoint:
        report = report_checkpoint(args.checkpoint)
    else:
        report = report_architecture(model_config(args, words), args.vocab_size, task_table(args))
    if args.format == "json":
        import json

        print(json.dumps(report.to_json(), indent=2))
    else:
        print(report.to_text())


class ModelFlag(NamedTuple):
    """A flag of the model, as fairseq-train has it."""

    default: Any
    help: str

    @property
    def is_switch(self) -> bool:
        return self.default is False


def add_model_flags(group: argparse._ArgumentGroup, flags: Dict[str, ModelFlag]) -> None:
    """Add the model's flags, which model_flags gives; those not given are None or False."""
    for name, flag in flags.items():
        if flag.is_switch:
            kind: Dict[str, Any] = {"action": "store_true", "help": flag.help}
        else:
            default = "" if flag.default is None else f"; default: {flag.default}"
            kind = {"metavar": "X", "help": flag.help + default}
        group.add_argument("--" + name.replace("_", "-"), **kind)


def model_flags() -> Dict[str, ModelFlag]:
    """Return the flags of transformer_task_moe, with the defaults of --arch transformer_task_moe.

    They are read from the source code of the dataclass, since importing it would load torch.
    """
    source = Path(__file__).parents[1] / "models" / "config.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    texts = {
        ast.unparse(node.targets[0]): node.value.value for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    config = next(
        node for node in body
        if isinstance(node, ast.ClassDef) and node.name == "TransformerTaskMoeConfig"
    )
    return {
        # the default, and a text or a format of one of the texts above
        ast.unparse(node.target): ModelFlag(
            *(eval(ast.unparse(value), texts) for value in node.value.args)
        )
        for node in config.body
        # II(...) takes the value from a flag of another component; SUPPRESS hides a flag
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "option" and "SUPPRESS" not in ast.unparse(node)
    }


def given_model_flags(args: argparse.Namespace) -> List[str]:
    """Return the model's flags on the command line, as arguments for fairseq's own parser."""
    values = {name: getattr(args, name) for name in model_flags()}
    return [
        "--" + name.replace("_", "-") + ("" if value is True else f"={value}")
        for name, value in values.items()
        if value is not None and value is not False
    ]


def model_config(args: argparse.Namespace, words: List[str]) -> Any:
    """Return the configuration that fairseq-train would build from --arch and the model's flags."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
    from omegaconf import OmegaConf

    from ..models.config import TransformerTaskMoeConfig

    known = [a for a, name in ARCH_MODEL_NAME_REGISTRY.items() if name == "transformer_task_moe"]
    if args.arch not in known:
        refuse(f"--arch {args.arch}: choose from {', '.join(sorted(known))}")
    chosen = parse_model_flags("params", words)
    ARCH_CONFIG_REGISTRY[args.arch](chosen)
    for name in ("max_source_positions", "max_target_positions"):
        setattr(chosen, name, getattr(args, name) or 1024)
    return OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), vars(chosen))


def parse_model_flags(verb: str, words: List[str]) -> argparse.Namespace:
    """Return the values of the model's flags in words, as fairseq's own parser reads them."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    from ..models.config import TransformerTaskMoeConfig
    from .arguments import Parser

    parser = Parser(
        prog=f"taskmoe {verb}", argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    gen_parser_from_dataclass(parser, TransformerTaskMoeConfig(), delete_default=True)
    return parser.parse_args(words)


def task_table(args: argparse.Namespace) -> Any:
    """Return the task table of the model's pairs."""
    from ..data.languages import NUM_SPECIAL
    from ..data.task_table import TaskTable, load_task_groups
    from ..plan.parameters import WMT_PAIRS, pairs_with_english

    if args.vocab_size is None or args.vocab_size < NUM_SPECIAL:
        refuse(f"--arch needs --vocab-size N, rows of the embedding, at least {NUM_SPECIAL}")
    check_least(args, num_pairs=1)
    if args.num_pairs and args.lang_pairs:
        refuse("give one of --num-pairs and --lang-pairs")
    pairs = pairs_with_english(args.num_pairs) if args.num_pairs else WMT_PAIRS
    table = TaskTable.from_pairs(pairs_in_flag(args) or pairs)
    if args.moe_task_groups:
        table = table.with_groups(load_task_groups(args.moe_task_groups))
    return table

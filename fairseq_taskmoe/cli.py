"""The `taskmoe` command: one verb for each tool.

A verb is a module with a docstring (its description), add_arguments(parser) and run(args). Only the
requested verb is imported, and it imports torch and fairseq only inside run, so that --help is
fast.
"""

import argparse
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import Any, List, NamedTuple

from .errors import Refusal, command, end_command, refuse
from .paths import check_paths
from .verbs.arguments import Parser
from .version import __version__


class Verb(NamedTuple):
    module: str
    summary: str


VERBS = {
    "user-dir": Verb("user_dir", "print the folder for fairseq's --user-dir"),
    "evaluate": Verb("evaluate", "translate and score all directions of a test set"),
    "compare": Verb("compare", "test systems against a baseline, by paired bootstrap"),
    "extract": Verb("extract", "extract the model for one or several directions"),
    "translate": Verb("translate", "translate text with an extracted model"),
    "serve": Verb("serve", "HTTP service over extracted models"),
    "distill": Verb("distill", "translate training data with a teacher model"),
    "average": Verb("average", "average the weights of checkpoints, experts included"),
    "upcycle": Verb("upcycle", "make a mixture of experts out of a dense model"),
    "import-hf": Verb("import_hf", "make a checkpoint out of a model of Hugging Face"),
    "consolidate": Verb("consolidate", "merge the shards of all ranks into one checkpoint"),
    "reshard": Verb("reshard", "split a checkpoint into shards for a number of ranks"),
    "params": Verb("params", "count the parameters of a checkpoint or an architecture"),
    "plan": Verb("plan", "estimate memory and traffic of training on N GPUs"),
    "routing": Verb("routing", "routing statistics and figures"),
    "tabulate": Verb("tabulate", "tables and figures of the paper, from results files"),
    "flags": Verb("flags", "list the flags that this plugin adds to fairseq's commands"),
    "bench": Verb("bench.verb", "measure throughput"),
}


def parse_verb(words: List[str]) -> str:
    """Return the verb at the start of words; handles --help, --version and errors, and exits."""
    width = max(map(len, VERBS))
    verbs = [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    parser = Parser(
        prog="taskmoe",
        usage="taskmoe [--help] [--version] VERB ...",
        description="Tools for Task-level Mixture-of-Experts translation models.",
        epilog="\n".join(["verbs:", *verbs, "", "`taskmoe VERB --help` describes a verb."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"taskmoe {__version__}")
    parser.add_argument(
        "--print-completion", choices=["bash", "zsh", "tcsh"], action=PrintCompletion,
        help="print a script that completes verbs and flags in this shell",
    )
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help=argparse.SUPPRESS)
    known = 2 if words[:1] == ["--print-completion"] else 1
    return parser.parse_args(words[:known]).verb


class PrintCompletion(argparse.Action):
    """Prints a completion script, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, args: Any, shell: Any, *_: Any) -> None:
        import shtab

        complete = argparse.ArgumentParser(prog="taskmoe")
        verbs = complete.add_subparsers()
        for name, verb in VERBS.items():
            module = import_module(f".verbs.{verb.module}", __package__)
            module.add_arguments(verbs.add_parser(name, help=verb.summary))
        print(shtab.complete(complete, shell))
        parser.exit()


def run_verb(words: List[str]) -> None:
    verb = parse_verb(words)
    module = import_module(f".verbs.{VERBS[verb].module}", __package__)
    parser = Parser(
        prog=f"taskmoe {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation could change its meaning when flags are added
    )
    module.add_arguments(parser)
    args = parser.parse_args(words[1:])
    check_paths(args)
    try:
        module.run(args)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in ("", __package__):
            raise
        refuse(f"{verb} needs the Python package {package}, which is not installed")


def main() -> None:
    """Entry point of the console script."""
    # importing fairseq would print the debug messages and deprecations of all libraries
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="fairscale")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # where there is no GPU
    try:
        try:
            with command():
                run_verb(sys.argv[1:])
        finally:
            print(end="", flush=True)  # raise BrokenPipeError here, not when Python shuts down
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as in `taskmoe params ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as problem:  # missing file, no permission, full disk
        named = f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem)
        end_command(Refusal(named))

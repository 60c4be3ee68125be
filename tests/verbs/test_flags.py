"""`taskmoe flags` against the parser that fairseq-train builds, and the reference in docs/."""

import re

import console
from fairseq import options
from forked_processes import ROOT

CHOSEN = ("--task", "translation_task_moe", "--arch", "transformer_task_moe_big", "--criterion",
          "moe_word_distillation")


def test_the_reference_is_what_the_command_writes():
    written = console.run("taskmoe", "flags", "--format", "markdown").stdout
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == written


def test_the_flags_that_the_plugin_adds_to_fairseq_train_are_listed():
    parser = options.get_training_parser()
    own = {flag for action in parser._actions for flag in action.option_strings}
    options.parse_args_and_arch(parser, ["data", *CHOSEN])
    added = {flag for action in parser._actions for flag in action.option_strings} - own
    said = console.run("taskmoe", "flags").stdout
    shown = re.findall(r"^  (-.*)  \[", said, re.M)
    listed = {flag for names in shown for flag in names.split(", ")}
    assert listed < added  # the others are those of fairseq's optimizers and dictionaries
    ours = {flag for flag in added if re.search("moe|langtok|distill|eval-bleu|encoder", flag)}
    assert ours < listed


def test_defaults_of_named_architectures_are_shown():
    listed = console.run("taskmoe", "flags").stdout
    assert "--moe-expert-count  [default: 32; _tiny: 4; _big: 128]" in listed
    assert "--encoder-normalize-before  [default: off; _base: on; _big: on]" in listed

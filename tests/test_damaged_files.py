"""Every verb on every kind of file that it reads, damaged: one line that names it, or its work.

A drawn sample of all combinations runs each time; TASKMOE_DAMAGE=all runs them all, a number draws
so many, and TASKMOE_DAMAGE_SEED draws those of an earlier run, whose seed a failure prints.
TASKMOE_DAMAGE_BYTES=2 changes other bytes and entries than it does by default.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import pytest
from damage import (
    DAMAGES,
    Outcome,
    digest_of,
    outcome,
    run_fairseq,
    run_main,
    run_verb,
)
from damage_world import CPU, SEARCH, TRAINING
from fairseq_cli import generate, interactive, train, validate

from fairseq_taskmoe.serving.service import model_folders, open_models
from preprocess import binarize, sentencepiece_model
from preprocess import run as preprocess_run

SIDES = ("en", "de")
DICTIONARIES = [f"data/dict.{lang}.txt" for lang in SIDES]
TEST, TRAIN, VALID = (
    [f"data/{split}.en-de.{lang}.{end}" for lang in SIDES for end in ("idx", "bin")]
    for split in ("test", "train", "valid")
)

# whose content, not its form, may be wrong: what else a line can name
OTHER_NAMES = {
    "groups.yaml": ["--moe-task-groups"],
    "pairs.txt": ["--lang-pairs", "has no dict."],
    "train.en-de.en": ["--vocab-size"],
    "train.en-de.de": ["--vocab-size"],
    "manifest.json": ["is broken: "],
    "spm.sample.txt": ["vocab_size"],
    **dict.fromkeys(["a.pt", "token.pt", "checkpoint_last.pt"], ["the checkpoint is of another"]),
    "run.json": ["exists; nothing was overwritten"],
    "results.json": ["evaluation was translated with", "its results have no direction"],
}
# goes on with what is there, as far as it is whole
GOES_ON = ("distill on", "evaluate again", "preprocess.run goes on", "fairseq-train resumes")
# steps that are done stay for the next run
KEPT = {
    "preprocess.run": ("new/text", "new/work", "new/spm.", "new/dict.txt"),
    "preprocess.binarize": ("new.work",),
    "preprocess.sentencepiece_model": ("new/spm.sample.txt",),
}


class Case(NamedTuple):
    """A command, and the files that it reads of the folder that it runs on."""

    name: str
    call: Callable[..., None]
    files: Sequence[str]


def verb(name: str, files: Sequence[str], *words: Any) -> Case:
    return Case(name, run_verb(*words), files)


def translating(name: str, verb_name: str, *words: Any, files: Sequence[str] = ()) -> Case:
    """Return a verb that translates the test set."""
    return verb(
        name, [*DICTIONARIES, *TEST, "a.pt", *files], verb_name, "FOLDER/data", "--path",
        "FOLDER/a.pt", "--out", "FOLDER/new", *CPU, *words,
    )


def extracting(name: str, files: Sequence[str], *words: Any) -> Case:
    return verb(name, files, "extract", "FOLDER/a.pt", "--lang-pair", "en-de", "--out",
                "FOLDER/new", *words)


def model_files(name: str) -> List[str]:
    files = {
        "fairseq": ["model.pt", "dict.de.txt", "dict.en.txt"], "taskmoe": ["model.pt"],
        "ctranslate2": ["model.bin", "config.json", "shared_vocabulary.json"],
        "huggingface": ["model.safetensors", "config.json", "tokenizer.json"],
    }[name]
    return [f"models/{name}/{file}" for file in ["manifest.json", "spm.model", *files]]


def open_served(folder: Path) -> None:
    """Open the models of a folder as `taskmoe serve` does."""
    open_models(model_folders(folder / "models/ctranslate2"), "cpu", 1)


RUN = [f"runs/{row}/evaluation/{file}" for row in ("a", "b") for file in (
    "results.json", "hypotheses/test.en-de.de", "references/test.en-de.de")]
EXPERIMENT = [f"experiment/{file}" for file in (
    "languages.yaml", "dense_base/params.json", "throughput.json", "communication.json",
    "significance.json", "token_token/evaluation/results.json",
    "bilingual/en-de/evaluation/results.json")]
PARAMS = ("params", "--arch", "transformer_task_moe_tiny", "--vocab-size", 100, "--lang-pairs",
          "en-de,de-en", "--moe-expert-count", 4, "--decoder-moe-router", "group",
          "--moe-task-groups", "FOLDER/groups.yaml")
TEXT = [f"text/{split}.en-de.{lang}" for split in ("train", "test") for lang in SIDES]
RAW = [f"raw/{stem}.{lang}" for stem in ("train/en-de/first", "test/en-de") for lang in SIDES]

TRAINED = ("--path", "FOLDER/trained/checkpoint_last.pt", "-s", "en", "-t", "de")

CASES = [
    translating("evaluate", "evaluate", "--lang-pairs", "en-de"),
    translating("evaluate with floors", "evaluate", "--lang-pairs", "en-de", "--floors",
                files=TRAIN),
    translating("evaluate with references", "evaluate", "--lang-pairs", "en-de", "--references",
                "FOLDER/text", "--languages", "FOLDER/languages.yaml",
                files=[*TEXT[2:], "languages.yaml"]),
    verb("evaluate again", ["runs/a/evaluation/run.json",
                            "runs/a/evaluation/hypotheses/test.en-de.de"],
         "evaluate", "data", "--path", "a.pt", "--out", "runs/a/evaluation", *CPU),
    verb("routing", [*DICTIONARIES, *TEST, "token.pt"], "routing", "FOLDER/data", "--path",
         "FOLDER/token.pt", "--out", "FOLDER/new", "--cpu"),
    verb("routing of what is common", TEST, "routing", "FOLDER/data", "--path",
         "FOLDER/token.pt", "--out", "FOLDER/new", "--cpu", "--multi-parallel"),
    verb("routing --plot", ["routing-a/routing.npz"], "routing",
         "--plot", "FOLDER/routing-a"),
    verb("distill", [*DICTIONARIES, *TRAIN, "a.pt"], "distill", "FOLDER/data", "--path",
         "FOLDER/a.pt", "--lang-pairs", "en-de", "--out", "FOLDER/new", *CPU),
    verb("distill on", [f"stopped.part/{file}" for file in (
             "run.json", "chunks/en-de/000000.json", "chunks/en-de/000000.idx",
             "chunks/en-de/000000.bin")],
         "distill", "data", "--path", "a.pt", "--out", "stopped", *CPU),
    verb("distill again", ["distilled/distillation.json"], "distill", "data", "--path", "a.pt",
         "--out", "distilled", *CPU),
    extracting("extract", ["a.pt", "spm.model"], "--sentencepiece-model", "FOLDER/spm.model"),
    extracting("extract and find pieces", ["spm.model"], "--format", "taskmoe"),
    extracting("extract for CTranslate2", ["a.pt"], "--format", "ctranslate2"),
    extracting("extract words of data", [*DICTIONARIES, *TRAIN], "--trim-vocabulary",
               "FOLDER/data"),
    extracting("extract words of text", TEXT[:1], "--trim-vocabulary",
               "FOLDER/text/train.en-de.en,FOLDER/text/train.en-de.de", "--sentencepiece-model",
               "FOLDER/spm.model"),
    extracting("extract counted words", ["counts.txt"], "--trim-vocabulary",
               "counts:FOLDER/counts.txt"),
    verb("extract and prune", ["token.pt", "routing-token/routing.npz"], "extract",
         "FOLDER/token.pt", "--lang-pair", "en-de", "--format", "taskmoe", "--prune",
         "FOLDER/routing-token/routing.npz", "--prune-keep", 0.5, "--out", "FOLDER/new"),
    Case("serve", open_served, model_files("ctranslate2")),
    *(verb(f"translate with {name}", [*model_files(name), "input.txt"], "translate",
           f"FOLDER/models/{name}", "--input", "FOLDER/input.txt", "--output", "FOLDER/new",
           "--beam", 1, "--max-len", 5)
      for name in ("fairseq", "taskmoe", "ctranslate2", "huggingface")),
    verb("upcycle", ["dense.pt"], "upcycle", "FOLDER/dense.pt", "--out", "FOLDER/new.pt",
         "--moe-expert-count", 2),
    verb("import-hf", [f"hf/{file}" for file in (
             "config.json", "model.safetensors", "vocab.json", "tokenizer_config.json",
             "sentencepiece.bpe.model")],
         "import-hf", "FOLDER/hf", "--lang-pairs", "en-de", "--out", "FOLDER/new"),
    verb("average", ["a.pt", "b.pt"], "average", "FOLDER/a.pt", "FOLDER/b.pt", "--out",
         "FOLDER/new.pt"),
    verb("consolidate", ["shards/last-rank-0.pt", "shards/last-rank-1.pt"], "consolidate",
         "FOLDER/shards/last-rank-0.pt", "--out", "FOLDER/new.pt"),
    verb("reshard a file", ["a.pt"], "reshard", "FOLDER/a.pt", "--ranks", 4, "--out",
         "FOLDER/new.pt"),
    verb("reshard shards", ["shards/last-rank-0.pt", "shards/last-rank-1.pt"], "reshard",
         "FOLDER/shards/last.pt", "--ranks", 4, "--out", "FOLDER/new.pt"),
    verb("params", ["a.pt"], "params", "FOLDER/a.pt"),
    verb("params of groups", ["groups.yaml"], *PARAMS),
    verb("plan of groups", ["groups.yaml"], "plan", *PARAMS[1:], "--ranks", 2, "--max-tokens",
         1000, "--device", "h200"),
    verb("compare", RUN, "compare", "FOLDER/runs/a/evaluation", "FOLDER/runs/b/evaluation",
         "--out", "FOLDER/new.json", "--samples", 10),
    verb("tabulate", EXPERIMENT, "tabulate", "FOLDER/experiment", "--out", "FOLDER/new"),
    Case("fairseq-train", run_fairseq(
        train.cli_main, "FOLDER/data", *TRAINING, "--save-dir", "FOLDER/new"),
        [*DICTIONARIES, *TRAIN, *VALID, "pairs.txt", "groups.yaml"]),
    Case("fairseq-train resumes", run_fairseq(
        train.cli_main, "FOLDER/data", *TRAINING, "--save-dir", "FOLDER/trained", "--max-update",
        2), ["trained/checkpoint_last.pt"]),
    Case("fairseq-train from shared weights", run_fairseq(
        train.cli_main, "FOLDER/data", *TRAINING, "--save-dir", "FOLDER/new",
        "--init-shared-from", "FOLDER/a.pt"), ["a.pt"]),
    Case("fairseq-generate", run_fairseq(
        generate.cli_main, "FOLDER/data", *TRAINED, *SEARCH), [*DICTIONARIES, *TEST]),
    Case("fairseq-interactive", run_fairseq(
        interactive.cli_main, "FOLDER/data", *TRAINED, *SEARCH, "--input", "FOLDER/input.txt"),
        DICTIONARIES),
    Case("fairseq-validate", run_fairseq(
        validate.cli_main, "FOLDER/data", *TRAINED, "--max-tokens", 300), [*DICTIONARIES, *VALID]),
    Case("preprocess.run", run_main(
        preprocess_run.main, "FOLDER/corpus.yaml", "--raw", "FOLDER/raw", "--out", "FOLDER/new",
        "--steps", "clean,dedup,sample,train,encode"), ["corpus.yaml", *RAW]),
    Case("preprocess.run goes on", run_main(
        preprocess_run.main, "FOLDER/corpus.yaml", "--raw", "FOLDER/raw", "--out",
        "FOLDER/prepared", "--steps", "clean,dedup,sample,train,encode"), [
            f"prepared/{file}" for file in (
                "spm.model", "dict.txt", "spm.sample.txt", "text/train.en-de.de",
                "text/test.en-de.en", "work/stages/dedup.en-de.txt",
                "work/stages/dedup.en-de.hashes", "work/dedup/held_out.npy",
                "work/dedup/en-de/keys", "work/clean/en-de/first.de")]),
    Case("preprocess.binarize", run_main(
        binarize.main, "FOLDER/text", "--pairs", "en-de", "--sentencepiece-model",
        "FOLDER/spm.model", "--dict", "FOLDER/dict.txt", "--out", "FOLDER/new"),
        [*TEXT, "spm.model", "dict.txt"]),
    Case("preprocess.sentencepiece_model", run_main(
        sentencepiece_model.main, "en=FOLDER/text/train.en-de.en", "de=FOLDER/text/train.en-de.de",
        "--out", "FOLDER/new", "--vocab-size", 250), TEXT[:2]),
]


def combinations() -> List[Tuple[Case, str, str]]:
    return [
        (case, file, damage) for case in CASES for file in case.files for damage in DAMAGES
        # what is in a whole checkpoint beside that, fairseq's trainer reads itself
        if not (case.name == "fairseq-train resumes" and "entry" in damage)
    ]


def chosen() -> Tuple[List[Tuple[Case, str, str]], int]:
    """Return what is to run, and the seed that it was drawn with."""
    wanted = os.environ.get("TASKMOE_DAMAGE", "40")
    seed = int(os.environ.get("TASKMOE_DAMAGE_SEED") or random.SystemRandom().randrange(10**6))
    every = combinations()
    only = os.environ.get("TASKMOE_DAMAGE_ONLY", "")
    every = [one for one in every if only in " / ".join([one[0].name, *one[1:]])]
    return every if wanted == "all" else random.Random(seed).sample(every, int(wanted)), seed


@pytest.mark.slow
def test_damaged_files_are_named_in_one_line_or_do_no_harm(world, tmp_path, capsys):
    chosen_ones, seed = chosen()
    other_bytes = os.environ.get("TASKMOE_DAMAGE_BYTES", "1")
    failures = []
    for case, file, damage in chosen_ones:
        folder = shutil.copytree(world, tmp_path / "folder")
        DAMAGES[damage](folder / file, random.Random(f"{other_bytes} {file} {damage}"))
        before = digest_of(folder)
        problem = None
        try:
            ended = outcome(case.call, folder, lambda: capsys.readouterr().err)
            problem = find_problem(case, ended, file, before, digest_of(folder))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:500]
        if problem is not None:
            failures.append(f"{case.name} / {file} / {damage}: {problem}")
            with capsys.disabled():
                print(failures[-1], flush=True)
        shutil.rmtree(folder)
    assert not failures, f"TASKMOE_DAMAGE_SEED={seed}\n" + "\n".join(failures)


def find_problem(case: Case, ended: Outcome, file: str, before: Any, after: Any) -> Any:
    if ended.line is None:
        return None
    name = os.path.basename(file).removesuffix(".bin").removesuffix(".idx")
    if not any(one in ended.line for one in [name, *OTHER_NAMES.get(name, [])]):
        return f"not named: {ended.line}"
    if case.name in GOES_ON:
        return None
    kept = {one for one in ended.new if one.startswith(KEPT.get(case.name, "none"))}
    # fairseq-train makes its folder before it calls the plugin
    folder = {"new"} if kept or case.name.startswith("fairseq-train") else set()
    left = ended.new - kept - folder
    if left:
        return f"left {sorted(left)[:5]} ({ended.line})"
    changed = [name for name, facts in before.items() if after.get(name) != facts]
    if changed:
        return f"changed {changed[:5]}"
    return None

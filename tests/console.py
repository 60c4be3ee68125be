"""Real console commands on a tiny corpus of real text, for the tests that need them.

Every command is a process of its own, with the output and the status of one that a user starts. The
corpus and the checkpoints that several tests need are made once in a run, by whichever worker of
pytest-xdist asks first.
"""

import csv
import fcntl
import json
import lzma
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import pytest
import sentencepiece
import torch
from forked_processes import ROOT, command_environment, fork_server

PLUGIN = str(ROOT / "fairseq_taskmoe")
TABLE = ROOT / "tests" / "corpora" / "interface-4.tsv.xz"
TASK = ("--user-dir", PLUGIN, "--task", "translation_task_moe")
LANG_PAIRS = "en-de,de-en,en-ru,ru-en"
NUM_TEST = 101
# zh has a tag and no training data: no route leads into it
TRAIN = (
    *TASK, "--lang-pairs", LANG_PAIRS, "--langs", "de,en,ru,zh", "--encoder-langtok", "tgt",
    "--arch", "transformer_task_moe_tiny", "--dropout", "0", "--max-source-positions", "128",
    "--max-target-positions", "128", "--criterion", "moe_label_smoothed_cross_entropy",
    "--label-smoothing", "0.1", "--optimizer", "adam", "--lr", "0.003", "--max-tokens", "1200",
    "--seed", "1", "--cpu", "--num-workers", "0", "--log-format", "json", "--log-interval", "1",
    "--no-epoch-checkpoints",
)
GENERATE = ("--cpu", "--num-workers", "0")
TIMEOUT = 300  # seconds until a command counts as one that hangs


class Result(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Return all of it: fairseq logs to either."""
        return self.stdout + self.stderr

    @property
    def refusals(self) -> List[str]:
        """Return the lines with which our own checks turned the user away."""
        return [line for line in self.stderr.splitlines() if line.startswith("taskmoe: error:")]


def run(
    *command: Any, stdin: str = "", cwd: Optional[Path] = None, check: bool = True,
    fresh: bool = False,
) -> Result:
    """Run a command of the Python environment that runs the tests.

    fairseq's commands and ours are forked from a process that has fairseq imported; as a new
    interpreter where fresh is true or the environment differs from that of the imports.
    """
    words = [str(word) for word in command]
    env = command_environment()
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        if fresh or not is_forked(words, env):
            ended = subprocess.run(
                words, cwd=cwd, env=env, timeout=TIMEOUT,
                stdin=files[0], stdout=files[1], stderr=files[2],
            )
            status = ended.returncode
        else:
            status = run_forked(words, env, cwd, files)
        said = []
        for file in files[1:]:
            file.seek(0)
            said.append(file.read())
    result = Result(status, *said)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(words)}\nended with {result.returncode}\n{result.said}")
    return result


def is_forked(words: List[str], env: Dict[str, str]) -> bool:
    """Return whether a command is ours or fairseq's, in the environment that the server has."""
    is_command = words[0] == "taskmoe" or words[0].startswith("fairseq-")
    if not is_command or words[:2] == ["taskmoe", "bench"]:  # which sets what its imports read
        return False
    changed = dict(env.items() ^ fork_server().environment.items())
    return all(name.startswith("PYTEST_") for name in changed)


def run_forked(words: List[str], env: Dict[str, str], cwd: Optional[Path], files: List[Any]) -> int:
    process = fork_server().start(words, env=env, cwd=cwd, stdin=files[0], stdout=files[1],
                                  stderr=files[2])
    status = process.wait(TIMEOUT)
    if status is None:
        process.kill()
        raise subprocess.TimeoutExpired(words, TIMEOUT)
    return status


def generate(data: Path, pair: str, checkpoint: Path, *flags: Any, **options: Any) -> Result:
    """Translate a test set with the plugin, and no more flags than a user needs."""
    source, target = pair.split("-")
    return run(
        "fairseq-generate", data, *TASK, "-s", source, "-t", target, "--path", checkpoint,
        *GENERATE, *flags, **options,
    )


class Hypothesis(NamedTuple):
    score: float
    text: str


def hypotheses(output: str) -> Dict[int, Hypothesis]:
    """Return the best hypothesis of each sentence that fairseq-generate printed."""
    found: Dict[int, Hypothesis] = {}
    for line in output.splitlines():
        if line.startswith("H-"):
            number, score, text = line.split("\t")
            assert number not in found
            found[int(number[2:])] = Hypothesis(float(score), text)
    return found


def assert_same_hypotheses(
    one: Dict[int, Hypothesis], other: Dict[int, Hypothesis], tolerance: float = 1e-4
) -> None:
    """Compare texts exactly, and scores: few updates leave models that say much the same."""
    assert {n: hypothesis.text for n, hypothesis in one.items()} == {
        n: hypothesis.text for n, hypothesis in other.items()
    }
    for number, hypothesis in one.items():
        assert hypothesis.score == pytest.approx(other[number].score, abs=tolerance)


def logged(output: str, key: str) -> List[float]:
    """Return the values that fairseq's JSON log gives for a key, in order."""
    values = []
    for line in output.splitlines():
        if "{" in line and line.endswith("}"):
            try:
                entry = json.loads(line[line.index("{"):])
            except ValueError:
                continue
            if key in entry:
                values.append(float(entry[key]))
    return values


def refused(result: Result) -> str:
    """Return the one line of a refusal: status 2, no traceback, nothing else from us."""
    assert result.returncode == 2, result.said
    assert "Traceback" not in result.said, result.said
    (line,) = result.refusals
    return line


class Corpus(NamedTuple):
    """Sentences of the shipped corpus: en-de and en-ru to train on, de-ru to test."""

    folder: Path

    @property
    def text(self) -> Path:
        return self.folder / "text"

    @property
    def data(self) -> Path:
        return self.folder / "data-bin"

    @property
    def groups(self) -> Path:
        """A file for --moe-task-groups."""
        return self.folder / "groups.yaml"

    @property
    def sentencepiece(self) -> Path:
        return self.folder / "spm.model"

    @property
    def dictionary(self) -> Path:
        return self.folder / "dict.txt"


def read_table() -> List[Dict[str, str]]:
    """Return 17,249 interface strings in en, de, ru and zh; some lack a translation."""
    with lzma.open(TABLE, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_text(folder: Path) -> None:
    """Write raw text of the pairs: 400 sentences to train on, 40 to validate, 101 to test."""
    rows = [r for r in read_table() if all(r.values()) and 4 <= len(r["en"].split()) <= 10]
    rows = rows[:: len(rows) // (400 + 40 + NUM_TEST)]
    splits = {"test": rows[:NUM_TEST], "valid": rows[NUM_TEST:][:40], "train": rows[-400:]}
    folder.mkdir()
    for split, chosen in splits.items():
        for pair in ("en-de", "en-ru"):
            for lang in pair.split("-"):
                lines = "".join(row[lang] + "\n" for row in chosen)
                (folder / f"{split}.{pair}.{lang}").write_text(lines, encoding="utf-8")


def binarize(text: Path, pairs: Sequence[str], made: Corpus, data: Path) -> None:
    """Cut raw text into pieces and binarize it, each pair for all splits that there are of it."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made.sentencepiece))
    pieces = data.with_name(data.name + ".pieces")
    pieces.mkdir()
    for file in text.iterdir():
        lines = file.read_text(encoding="utf-8").splitlines()
        encoded = "".join(" ".join(processor.encode_as_pieces(line)) + "\n" for line in lines)
        (pieces / file.name).write_text(encoded, encoding="utf-8")
    for pair in pairs:
        source, target = pair.split("-")
        prefixes = [
            word
            for split in ("train", "valid", "test")
            if (pieces / f"{split}.{pair}.{source}").exists()
            for word in (f"--{split}pref", pieces / f"{split}.{pair}")
        ]
        run(
            "fairseq-preprocess", "-s", source, "-t", target, "--destdir", data, "--srcdict",
            made.dictionary, "--tgtdict", made.dictionary, *prefixes,
        )


def make_corpus(folder: Path) -> None:
    folder.mkdir()
    made = Corpus(folder)
    write_text(made.text)
    train_pieces(made)
    binarize(made.text, ["en-de", "en-ru"], made, made.data)
    # the same sentences in all languages: a pair without training data needs no more commands
    for suffix in ("bin", "idx"):
        shutil.copy(made.data / f"test.en-de.de.{suffix}", made.data / f"test.de-ru.de.{suffix}")
        shutil.copy(made.data / f"test.en-ru.ru.{suffix}", made.data / f"test.de-ru.ru.{suffix}")
    shutil.copy(made.data / "dict.en.txt", made.data / "dict.zh.txt")
    made.groups.write_text("into-german: [de]\nothers: [en-ru, de-en, ru-en]\n")


def train_pieces(made: Corpus) -> None:
    """Train a small SentencePiece model, and write the dictionary of its pieces."""
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(str(file) for file in sorted(made.text.glob("train.*"))),
        model_prefix=str(made.folder / "spm"), vocab_size=600, character_coverage=1.0,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made.sentencepiece))
    words = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    made.dictionary.write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")


Share = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def share(tmp_path_factory) -> Share:
    """Give a function that makes a folder once for all workers of a run."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / name
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                part = root / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)  # of a test that failed
                make(part)
                part.rename(folder)
        return folder

    return made_once


@pytest.fixture(scope="session")
def corpus(share) -> Corpus:
    return Corpus(share("corpus", make_corpus))


Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train(share, corpus) -> Train:
    """Give a function that trains a model once in a run: train(name, *flags) -> its checkpoint.

    The log of the training is beside the checkpoint, in train.log.
    """

    def trained(name: str, *flags: Any) -> Path:
        def make(folder: Path) -> None:
            result = run("fairseq-train", corpus.data, *TRAIN, "--save-dir", folder, *flags)
            (folder / "train.log").write_text(result.said, encoding="utf-8")

        return share(name, make) / "checkpoint_last.pt"

    return trained


def stir(checkpoint: Path, stirred: Path) -> Path:
    """Write a checkpoint with noise on all weights: its translations tell sentences apart.

    A few updates leave a model that gives every sentence the same translation, which would hide
    mixed-up sentences, and whose experts hardly differ, which would hide mixed-up routes.
    """

    def add_noise(state: Dict[str, Any]) -> None:
        torch.manual_seed(1)
        for name, weight in state.items():
            if weight.dim() > 1 and "embed_tokens" not in name and "output_pro" not in name:
                weight += torch.randn_like(weight) * 2.0 * weight.std()
            elif name.endswith("bias"):
                weight += torch.randn_like(weight) * 0.3

    return edit_checkpoint(checkpoint, stirred, add_noise)


def edit_checkpoint(
    checkpoint: Path, edited: Path, change: Callable[[Dict[str, Any]], None]
) -> Path:
    """Write a checkpoint with its parameters changed in place."""
    saved = torch.load(checkpoint, weights_only=False)
    change(saved["model"])
    part = edited.with_suffix(f".{os.getpid()}")
    torch.save(saved, part)
    return part.rename(edited)  # another worker may be looking for it

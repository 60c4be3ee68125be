"""The installed `taskmoe` command, as a shell sees it."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from fairseq_taskmoe import __version__
from fairseq_taskmoe.cli import VERBS

TASKMOE = Path(sys.executable).parent / "taskmoe"


def taskmoe(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([TASKMOE, *words], capture_output=True, text=True)


def test_help_lists_every_verb():
    answer = taskmoe("--help")
    assert answer.returncode == 0
    for name, verb in VERBS.items():
        assert name in answer.stdout
        assert verb.summary in answer.stdout


def test_version():
    assert taskmoe("--version").stdout == f"taskmoe {__version__}\n"


def test_user_dir_is_the_package_folder():
    answer = taskmoe("user-dir")
    assert answer.returncode == 0
    folder = Path(answer.stdout.rstrip("\n"))
    assert folder.is_absolute()
    assert folder == Path(find_spec("fairseq_taskmoe").origin).resolve().parent


@pytest.mark.parametrize("verb", VERBS)
def test_verb_help_is_its_docstring(verb):
    answer = taskmoe(verb, "--help")
    assert answer.returncode == 0, answer.stderr
    module = import_module(f"fairseq_taskmoe.verbs.{VERBS[verb].module}")
    assert module.__doc__.splitlines()[0] in answer.stdout


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_does_not_load_torch(words):
    # -X importtime names every module that is imported, on stderr
    command = [sys.executable, "-X", "importtime", TASKMOE, *words]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "fairseq_taskmoe.cli" in imported
    assert not imported & {"torch", "fairseq", "numpy", "sacrebleu", "matplotlib"}


@pytest.mark.parametrize(
    "words, named",
    [
        ([], "VERB"),
        (["evalute"], "evalute"),
        (["user-dir", "--where"], "--where"),
        (["user-dir", "--he"], "--he"),
    ],
)
def test_mistakes_get_one_line_and_status_2(words, named):
    answer = taskmoe(*words)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("taskmoe")
    assert named in answer.stderr


def test_a_reader_that_left_is_no_error():
    process = subprocess.Popen(
        [TASKMOE, "user-dir"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    "raised, status, line",
    [
        ("KeyboardInterrupt()", 130, ""),
        ("Refusal('no such pair')", 2, "taskmoe: error: no such pair\n"),
        ("Refusal('no such pair', reported_by_rank_0=True)", 2, ""),
        (
            "PermissionError(13, 'Permission denied', 'out/results.json')",
            2,
            "taskmoe: error: out/results.json: Permission denied\n",
        ),
        (
            "ModuleNotFoundError(name='fire.core')",
            2,
            "taskmoe: error: user-dir needs the Python package fire, which is not installed\n",
        ),
    ],
)
def test_how_a_verb_may_end(raised, status, line):
    program = (
        "import sys; sys.argv = ['taskmoe', 'user-dir']\n"
        "from fairseq_taskmoe import cli\n"
        "from fairseq_taskmoe.errors import Refusal\n"
        "from fairseq_taskmoe.verbs import user_dir\n"
        f"def run(args): raise {raised}\n"
        "user_dir.run = run\n"
        "cli.main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (status, "", line)

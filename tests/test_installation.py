"""What people install: the wheel, the Docker image, a Python brought by uv, shell completion."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from console import ROOT, TASK, TIMEOUT

IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").replace("**/", "").split()
HERE = Path(sys.executable).parent


def command(*words, folder, **environment):
    """Run a command of this Python environment in a folder, and return what it printed."""
    ended = subprocess.run(
        [str(word) for word in words], cwd=folder, timeout=TIMEOUT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": "", "PATH": f"{HERE}:{os.environ['PATH']}", **environment},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what Docker copies."""
    return Path(shutil.copytree(
        ROOT, tmp_path_factory.mktemp("source") / "copy", ignore=shutil.ignore_patterns(*IGNORED)
    ))


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """Give a function that runs a command in an empty folder, with the installed wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    command(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, ".", folder=source)
    [wheel] = folder.glob("*.whl")
    command(*pip, "install", "--no-deps", "--target", folder / "site", wheel, folder=folder)
    empty = folder / "empty"
    empty.mkdir()
    return lambda *words: command(*words, folder=empty, PYTHONPATH=str(folder / "site"))


@pytest.mark.slow
def test_the_wheel_prepares_trains_and_translates_outside_the_clone(installed, corpus):
    package = Path(installed("taskmoe", "user-dir").strip())
    assert package.parent.name == "site"
    module = ("python", "-m", "fairseq_taskmoe.preprocess.run")
    assert "usage: python -m fairseq_taskmoe.preprocess.run" in installed(*module, "--help")
    text = [f"{lang}={corpus.text / f'train.en-{other}.{lang}'}"
            for other, lang in (("de", "en"), ("de", "de"), ("ru", "ru"))]
    pieces = ("python", "-m", "fairseq_taskmoe.preprocess.sentencepiece_model")
    installed(*pieces, *text, "--out", "pieces", "--vocab-size", 600)
    installed("python", "-m", "fairseq_taskmoe.preprocess.binarize", corpus.text, "--pairs",
              "en-de", "en-ru", "--sentencepiece-model", "pieces/spm.model", "--dict",
              "pieces/dict.txt", "--out", "data-bin")
    installed(
        "fairseq-hydra-train", "--config-dir", package / "configs", "--config-name",
        "target_target", "size=smoke", f"common.user_dir={package}", "task.data=data-bin",
        "checkpoint.save_dir=model", "optimization.max_update=2",
    )
    installed("fairseq-generate", "data-bin", *TASK[2:], "--user-dir", package, "-s", "en", "-t",
              "de", "--path", "model/checkpoint_last.pt", "--cpu", "--max-len-b", 3)


@pytest.mark.slow
def test_the_steps_of_the_docker_image_succeed(source):
    """Without Docker: its commands, offline, with what is installed here."""
    text = (source / "Dockerfile").read_text(encoding="utf-8")
    steps = re.findall(r"^RUN (.*)", text, re.MULTILINE)
    assert len(steps) == 3 and "FROM python:3.12" in text
    offline = {"PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    printed = [command("bash", "-c", step, folder=source, **offline) for step in steps]
    assert "Would install fairseq-taskmoe" in printed[-1]
    [last] = re.findall(r"CMD \[(.*)\]", text)
    words = last.replace('"', "").split(", ")
    assert "verbs:" in command(*words, folder=source, PYTHONPATH=str(source))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("with_uv", [True, False])
def test_uv_brings_a_python_where_none_fits(with_uv, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python3", "python3.11", "python3.12"):
        script(tools / name, "exit 1")
    if with_uv:  # makes a .venv whose Python fits and logs what it is to do
        script(tools / "uv", 'mkdir -p .venv/bin; echo "$@" > uv.log; cp python .venv/bin')
    script(tmp_path / "python", 'echo "$@" >> python.log')
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "other" / "kept").mkdir(parents=True)
    (tmp_path / ".venv").symlink_to("other")
    ended = subprocess.run(["make", "setup"], cwd=tmp_path, capture_output=True, text=True,
                           env={"PATH": f"{tools}:/usr/bin:/bin"})
    if with_uv:
        assert ended.returncode == 0 and "with Python 3.12 of uv" in ended.stdout, ended.stderr
        assert "--seed --python 3.12 .venv" in (tmp_path / "uv.log").read_text()
        assert "-m pip install" in (tmp_path / "python.log").read_text()
        assert not (tmp_path / ".venv").is_symlink()
    else:
        assert ended.returncode != 0 and "no Python 3.11 or 3.12" in ended.stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["kept"]


def test_bash_completes_verbs_and_flags(tmp_path):
    completion = command(HERE / "taskmoe", "--print-completion", "bash", folder=tmp_path,
                         PYTHONPATH=str(ROOT))
    (tmp_path / "completion").write_text(completion, encoding="utf-8")
    for words, expected in [("taskmoe ext", "extract"), ("taskmoe extract --quant",
                                                         "--quantization")]:
        program = (
            f"source completion; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
            "_shtab_taskmoe; echo ${COMPREPLY[@]}"
        )
        assert command("bash", "-c", program, folder=tmp_path).split() == [expected]

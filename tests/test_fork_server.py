"""A forked command ends and prints as the same command does in a new interpreter."""

import re
import signal
import time

import pytest
from console import GENERATE, LANG_PAIRS, TASK, TRAIN, run
from forked_processes import COMMANDS, ForkServer, fork_server
from torchrun_processes import is_alive

# what differs between any two runs: the time, and measurements of it
VARYING = (
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\"\w*(wps|ups|wall)\": \"[\d.]+\"",
    r"time: \d:\d\d:\d\d.\d+", r"\d+\.\d+(e-\d+)? ?(seconds|s\b|sentences/s|tokens/s)",
)
GATES = ("--encoder-moe-router", "target", "--decoder-moe-router", "target")


def without_times(text):
    for pattern in VARYING:
        text = re.sub(pattern, "...", text)
    # console scripts name the folder of the interpreter as it was installed
    return text.replace(str(COMMANDS.parent.resolve()), str(COMMANDS.parent))


@pytest.fixture(scope="module")
def checkpoint(train):
    return train("target-target", *GATES, "--max-update", 5)


CASES = {
    "a training": (
        "fairseq-train", "DATA", *TRAIN, *GATES, "--save-dir", "OUT", "--max-update", 2,
    ),
    "a translation": (
        "fairseq-generate", "DATA", *TASK, "-s", "en", "-t", "de", "--path", "CHECKPOINT",
        *GENERATE,
    ),
    "a validation": (
        "fairseq-validate", "DATA", *TASK, "--path", "CHECKPOINT", "--lang-pairs", LANG_PAIRS,
        "--langs", "de,en,ru,zh", "--encoder-langtok", "tgt", *GENERATE,
    ),
    "a refused training": ("fairseq-train", "DATA", *TRAIN, "--moe-top-k", 0, "--save-dir", "OUT"),
    "a traceback": ("fairseq-generate", "DATA", *TASK, "-s", "en", "-t", "de", "--path", "none.pt"),
    "a flag that is not known": ("fairseq-train", "DATA", *TRAIN, "--no-such-flag"),
    "help": ("fairseq-train", "--help"),
    "hydra": ("fairseq-hydra-train", "task=language_modeling"),
    "an extraction": ("taskmoe", "extract", "CHECKPOINT", "--lang-pair", "en-de", "--out", "OUT"),
    "a count": ("taskmoe", "params", "CHECKPOINT"),
    "a refused verb": ("taskmoe", "params", "none.pt"),
    "a mistake": ("taskmoe", "params", "--no-such-flag"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_output_and_status_are_those_of_a_new_interpreter(name, corpus, checkpoint, tmp_path):
    ended = []
    for fresh in (False, True):
        folder = tmp_path / ("fresh" if fresh else "forked")
        folder.mkdir()
        places = {"DATA": corpus.data, "CHECKPOINT": checkpoint, "OUT": folder / "out"}
        words = [places.get(word, word) for word in CASES[name]]
        result = run(*words, cwd=folder, check=False, fresh=fresh)
        ended.append([
            result.returncode,
            *(without_times(text.replace(str(folder), "FOLDER")) for text in result[1:]),
        ])
    assert ended[0] == ended[1]


@pytest.mark.parametrize(
    "program, status, said",
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('gone')", 1, "gone\n"),
        ("raise ValueError('no')", 1, 'Traceback (most recent call last):\n'
         '  File "<string>", line 1, in <module>\nValueError: no\n'),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, ""),
        ("import sys; print('unfinished', end='')", 0, "unfinished"),
        ("import atexit; atexit.register(print, 'at the end')", 0, "at the end\n"),
        ("import threading, time\n"
         "threading.Thread(target=lambda: (time.sleep(0.1), print('joined'))).start()", 0,
         "joined\n"),
        ("left = open(1, 'w', closefd=False); left.write('unfinished')", 0, "unfinished"),
    ],
)
def test_a_program_ends_as_in_an_interpreter(program, status, said, tmp_path):
    with open(tmp_path / "log", "w+") as log:
        process = fork_server().start(program=program, stdout=log, stderr=log)
        assert process.wait(60) == status
        log.seek(0)
        assert log.read() == said


def test_a_process_can_be_killed_and_waited_for():
    process = fork_server().start(program="import time; time.sleep(600)")
    assert process.wait(0) is None
    process.send(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.kill()  # no harm
    assert process.wait() == -signal.SIGTERM


def test_the_plugin_is_imported_by_each_command(tmp_path):
    program = "import sys; print([m for m in sys.modules if m.startswith('fairseq_taskmoe')])"
    with open(tmp_path / "log", "w+") as log:
        assert fork_server().start(program=program, stdout=log).wait(60) == 0
        log.seek(0)
        assert log.read() == "[]\n"


def test_a_lost_server_is_named():
    server = ForkServer()
    process = server.start(program="import time; time.sleep(600)")
    server.process.kill()
    with pytest.raises(RuntimeError, match="server that forks processes has ended"):
        process.wait(60)
    while is_alive(process.pid):
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="server that forks processes has ended"):
        for _ in range(100):
            server.start(program="")
            time.sleep(0.01)
    server.end()

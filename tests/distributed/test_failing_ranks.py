"""An error on one rank ends all ranks in time; a normal end is quick and silent."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, List

import pytest
from console import TRAIN, refused, run
from rank_trainings import read, run_on
from torchrun_processes import Torchrun

LIMIT = 30  # seconds in which all ranks have to end
FLAGS = (
    *TRAIN, "--ddp-backend", "legacy_ddp", "--moe-expert-count", 4, "--max-update", 4,
    "--batch-size", 8,
)
# In the n-th call of the decoder in training or validation, an error on one rank
ERROR = """
from fairseq_taskmoe.models.decoder import TaskMoeDecoder
forward, calls = TaskMoeDecoder.forward, {{True: 0, False: 0}}
def fail(self, *args, **kwargs):
    calls[self.training] += 1
    if os.environ["RANK"] == "1" and (self.training, calls[self.training]) == {moment}:
        raise {error}
    return forward(self, *args, **kwargs)
TaskMoeDecoder.forward = fail
"""
TRAINING, VALIDATION = (True, 3), (False, 2)
# In the third call of the decoder, one rank is killed
KILL = """
import signal
from fairseq_taskmoe.models.decoder import TaskMoeDecoder
forward, calls = TaskMoeDecoder.forward, []
def die(self, *args, **kwargs):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, *args, **kwargs)
TaskMoeDecoder.forward = die
"""
# In the third update, a weight of an expert that one rank holds is NaN
NAN = """
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask
train_step = TranslationTaskMoeTask.train_step
def spoil(self, sample, model, criterion, optimizer, update_num, *args, **kwargs):
    if os.environ["RANK"] == "1" and update_num == 2:
        experts = model.get_submodule("module.module.encoder.layers.1.moe.experts")
        experts.fc2.weight.data[1, 0, 0] = float("nan")
    return train_step(self, sample, model, criterion, optimizer, update_num, *args, **kwargs)
TranslationTaskMoeTask.train_step = spoil
"""


# Rank 0 is slow when the others have ended
SLOW_SCORING = """
import time
from fairseq_taskmoe.evaluation import evaluate as evaluation
score = evaluation.score_direction
def score_slowly(*args):
    time.sleep(4)
    return score(*args)
evaluation.score_direction = score_slowly
"""


def fail(data: Path, folder: Path, *flags: Any, prelude: str) -> List[str]:
    """Train on two ranks without a launcher, which fail; return their output."""
    started = time.monotonic()
    ended = run_on(
        2, folder / "logs", "fairseq-train", data, *FLAGS, "--save-dir", folder, *flags,
        prelude=prelude, check=False,
    )
    print(f"all ranks ended within {time.monotonic() - started:.1f} s of their start")
    assert ended.statuses == [1, 1], ended.said
    return ended.said


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment, error, flags",
    [
        (TRAINING, "RuntimeError('CUDA out of memory')", ()),
        (TRAINING, "RuntimeError('CUDA out of memory')", ("--moe-expert-parallel-size", 1)),
        (TRAINING, "ValueError('no such thing')", ()),
        (VALIDATION, "RuntimeError('CUDA out of memory')", ()),
    ],
)
def test_an_error_of_one_rank_ends_all(corpus, tmp_path, moment, error, flags):
    validation = ("--validate-interval-updates", 2) if moment == VALIDATION else (
        "--disable-validation",
    )
    _, said = fail(
        corpus.data, tmp_path, *flags, *validation,
        prelude=ERROR.format(moment=moment, error=error),
    )
    kind, text = error.rstrip("')").split("('")
    assert f"{kind}: {text}\n" in said and f"RankFailed: rank 1 failed with {kind}\n" in said
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_an_expert_that_is_nan_stops_all_ranks_together(corpus, tmp_path, sharded):
    flags = ("--moe-sharded-checkpoints",) if sharded else ()
    for said in fail(
        corpus.data, tmp_path, "--disable-validation", *flags, prelude=NAN
    ):
        assert "FloatingPointError: " in said
    crash = list(tmp_path.glob("*.pt"))
    if sharded:  # in one file they would be one rank's
        assert not crash
        return
    assert [file.name for file in crash] == ["crash.pt"]
    experts = read(crash[0])["model"]["encoder.layers.1.moe.experts.fc2.weight"]
    assert experts.size(0) == 4 and experts.isnan().flatten(1).any(1).tolist() == [
        False, False, False, True
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["error", "kill"])
def test_torchrun_ends_all_ranks_and_reports_the_one_that_failed(corpus, tmp_path, mode):
    program = tmp_path / "train.py"
    program.write_text("import os\nimport fairseq_taskmoe.register\n" + (
        ERROR.format(moment=TRAINING, error="ValueError('no such thing')") if mode == "error"
        else KILL
    ) + "from fairseq_cli.train import cli_main\ncli_main()\n")
    torchrun = Torchrun(
        2, tmp_path / "log", sys.executable, program, corpus.data, *FLAGS,
        "--disable-validation", "--no-save",
    )
    try:
        assert torchrun.wait(120) == 1, torchrun.said()
    finally:
        torchrun.kill()
    said = torchrun.said()
    status = 1 if mode == "error" else -signal.SIGKILL
    assert re.search(rf"rank +: 1 \(local_rank: 1\)\s+exitcode +: {status} ", said), said
    assert mode == "kill" or "[rank1]: ValueError: no such thing" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_if_torchrun_is_terminated_or_interrupted(corpus, tmp_path, number):
    torchrun = Torchrun(
        2, tmp_path / "log", "fairseq-train", corpus.data, *FLAGS, "--max-update", 10000,
        "--disable-validation", "--no-save",
    )
    try:
        torchrun.wait_until_said('"num_updates": "3"')
        assert len(torchrun.pids()) == 2
        os.kill(torchrun.process.pid, number)
        assert torchrun.wait(LIMIT) not in (0, None)
    finally:
        torchrun.kill()


def last_word(log: Path) -> float:
    """Return the seconds since the last output in a log."""
    return time.time() - log.stat().st_mtime


@pytest.mark.slow
def test_a_normal_end_is_quick_and_silent_under_torchrun(corpus, tmp_path):
    training = Torchrun(
        2, tmp_path / "log", "fairseq-train", corpus.data, *FLAGS, "--save-dir", tmp_path,
        "--valid-subset", "valid",
    )
    try:
        assert training.wait(120) == 0, training.said()
    finally:
        training.kill()
    assert "done training" in training.said()
    assert "taskmoe:" not in training.said() and "Traceback" not in training.said()
    seconds = last_word(training.log)
    print(f"fairseq-train has ended {seconds:.1f} s after its last output")
    assert seconds < 10

    evaluation = Torchrun(
        2, tmp_path / "evaluate.log", "taskmoe", "evaluate", corpus.data, "--path",
        tmp_path / "checkpoint_last.pt", "--out", tmp_path / "results", "--lang-pairs", "en-de",
        "--beam", 1, "--max-len-b", 5, "--cpu",
    )
    try:
        assert evaluation.wait(120) == 0, evaluation.said()
    finally:
        evaluation.kill()
    said = evaluation.said()
    assert "en-de" in said and "taskmoe:" not in said and "Traceback" not in said
    seconds = last_word(evaluation.log)
    print(f"taskmoe evaluate has ended {seconds:.1f} s after its last output")
    assert seconds < 10


@pytest.mark.slow
def test_other_ranks_may_end_while_rank_0_scores(corpus, train, tmp_path):
    run_on(
        2, tmp_path / "logs", "taskmoe", "evaluate", corpus.data, "--path",
        train("four-updates", "--max-update", 4, "--disable-validation"), "--out",
        tmp_path / "results", "--lang-pairs", "en-de", "--beam", 1, "--max-len-b", 5, "--cpu",
        prelude=SLOW_SCORING,
    )
    assert (tmp_path / "results" / "results.json").is_file()


# -- what is refused


@pytest.mark.parametrize("flags", [
    (), pytest.param(("--moe-expert-count", 0), marks=pytest.mark.slow),
])
def test_asynchronous_writes_are_refused(corpus, tmp_path, flags):
    (tmp_path / "iopath.py").touch()  # fairseq only looks whether there is one
    command = "import sys; sys.path.append(sys.argv.pop(1)); import fairseq_cli.train as train"
    result = run(
        sys.executable, "-c", f"{command}; train.cli_main()", tmp_path, corpus.data, *FLAGS,
        "--save-dir", tmp_path, "--write-checkpoints-asynchronously", *flags, check=False,
    )
    assert refused(result).startswith(
        "taskmoe: error: --write-checkpoints-asynchronously: fairseq then writes files in place"
    )
    assert not list(tmp_path.glob("*.pt"))

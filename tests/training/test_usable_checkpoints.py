"""At the start of training the newest whole checkpoint is under the name that fairseq looks for."""

import itertools
import logging
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from console import TRAIN, logged, run
from fairseq.dataclass.configs import CheckpointConfig
from forked_processes import start_function
from kills import ending, killed_at, save, save_for_ever, state, updates_of

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.training.first_save import MARK
from fairseq_taskmoe.training.resume import recover_latest_checkpoint

LENGTHS = {"empty": lambda n: 0, "one byte": lambda n: 1, "half": lambda n: n // 2,
           "without its end": lambda n: n - 30, "one byte short": lambda n: n - 1}


def truncate(path, length="half"):
    os.truncate(path, LENGTHS[length](path.stat().st_size))


def resume(folder, num_shards=None, **settings):
    recover_latest_checkpoint(CheckpointConfig(save_dir=str(folder), **settings), num_shards)


def refusal(folder, num_shards=None, **settings):
    """Return the refusal's line, and see that no file was touched."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(Refusal) as refused:
        resume(folder, num_shards, **settings)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "\n" not in refused.value.message
    return refused.value.message


def updates(folder, name="checkpoint_last", world_size=0):
    """Return the update of each rank's file."""
    return [updates_of(folder / (name + ending(rank, world_size)))
            for rank in range(world_size or 1)]


def write(path, *about):
    torch.save(state(*about), path)


def save_shards(folder, num_updates, run="run", world_size=2, **how):
    for rank in range(world_size):
        save(folder, num_updates, run, rank, world_size, **how)


# -- ordinary files


@pytest.mark.parametrize("length", LENGTHS)
def test_a_truncated_file_is_replaced_by_the_newest_whole_one(tmp_path, caplog, length):
    write(tmp_path / "checkpoint_1_40.pt", 40)
    write(tmp_path / "checkpoint_2_60.pt", 60)
    write(tmp_path / "checkpoint2.pt", 70)
    write(tmp_path / "checkpoint_last.pt", 80)
    write(tmp_path / "crash.pt", 90)
    write(tmp_path / "checkpoint_average.pt", 95)
    for name in ("checkpoint2.pt", "checkpoint_last.pt"):
        truncate(tmp_path / name, length)
    broken = (tmp_path / "checkpoint_last.pt").read_bytes()
    resume(tmp_path)
    assert updates(tmp_path) == [60]
    assert updates(tmp_path, "checkpoint_2_60") == [60]
    assert (tmp_path / "checkpoint_last.pt.broken").read_bytes() == broken
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    folder = f"{tmp_path}/"
    assert record.getMessage().replace(folder, "") == (
        "checkpoint_last.pt is broken: using checkpoint_2_60.pt of update 60 instead"
    )
    caplog.clear()
    resume(tmp_path)  # nothing is left to do
    assert not caplog.records


def test_a_complete_file_is_kept_although_another_has_more_updates(tmp_path, caplog):
    write(tmp_path / "checkpoint_last.pt", 10)
    write(tmp_path / "checkpoint_1_20.pt", 20)
    before = (tmp_path / "checkpoint_last.pt").stat()
    resume(tmp_path)
    after = (tmp_path / "checkpoint_last.pt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not caplog.records


def test_a_first_start_does_nothing(tmp_path):
    for num_shards in (None, 2):
        resume(tmp_path / "not made yet", num_shards)
        assert not list(tmp_path.iterdir())
        resume(tmp_path, num_shards)
    (note,) = tmp_path.iterdir()  # of shards alone: that none is to be missed yet
    assert note.name == MARK and not note.read_bytes()


def test_without_a_complete_checkpoint_training_is_refused(tmp_path):
    write(tmp_path / "checkpoint_last.pt", 20)
    write(tmp_path / "checkpoint_best.pt", 10)
    for file in tmp_path.iterdir():
        truncate(file)
    line = refusal(tmp_path)
    assert f"{tmp_path}/checkpoint_last.pt is broken" in line
    assert "no complete checkpoint" in line


def test_a_kill_before_the_first_checkpoint_last_loses_nothing(tmp_path):
    write(tmp_path / "checkpoint_1_10.pt", 10)
    for untouched in ({"finetune_from_model": "x.pt"}, {"continue_once": "x.pt"},
                      {"no_last_checkpoints": True}):
        resume(tmp_path, **untouched)
        assert updates(tmp_path) == [None]
    resume(tmp_path)
    assert updates(tmp_path) == [10]


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path):
    unfinished = ["checkpoint_last.pt.tmp", "checkpoint_1_10-rank-3.pt.tmp",
                  "checkpoint_best-rank-0.pt.previous.tmp", "checkpoint_last.pt.broken.tmp"]
    others = ["notes.tmp", "checkpoint_last.tmp", "model.pt.tmp", "checkpoint1.pt.mine"]
    for name in unfinished + others:
        (tmp_path / name).write_bytes(b"half")
    resume(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_given_restore_file_must_be_complete(tmp_path):
    write(tmp_path / "checkpoint_last.pt", 20)
    write(tmp_path / "other.pt", 10)
    other = str(tmp_path / "other.pt")
    resume(tmp_path, restore_file=other)
    truncate(tmp_path / "other.pt", "one byte short")
    assert f"--restore-file: {other} is broken" in refusal(tmp_path, restore_file=other)
    (tmp_path / "other.pt").unlink()
    assert f"--restore-file: {other} is missing" in refusal(tmp_path, restore_file=other)


def test_an_unreadable_file_is_refused_and_not_replaced(tmp_path, monkeypatch):
    write(tmp_path / "checkpoint_last.pt", 20)
    write(tmp_path / "checkpoint_1_10.pt", 10)

    def fail(path, **_):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(torch, "load", fail)
    assert "checkpoint_last.pt: Input/output error" in refusal(tmp_path)


@pytest.mark.slow
def test_after_a_kill_at_any_moment_training_resumes_from_the_last_finished_save(tmp_path):
    moments = random.Random(2)
    for _ in range(10):
        process = start_function(save_for_ever, tmp_path, 1_000_000)
        while not (tmp_path / "checkpoint_last.pt").exists():
            time.sleep(0.005)
            assert process.wait(0) is None
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        newest = max(filter(None, map(updates_of, tmp_path.glob("checkpoint*.pt"))))
        resume(tmp_path)
        assert newest - 10 <= updates(tmp_path)[0] <= newest
        truncate(tmp_path / "checkpoint_last.pt")
        resume(tmp_path)
        assert updates(tmp_path) == [newest]
        assert not list(tmp_path.glob("*.tmp"))
        for file in tmp_path.iterdir():
            file.unlink()


# -- shards


def states_after_kills(folder, rank):
    """Return what a kill can leave of a rank's files, at each moment of its save of update 20."""
    states = []
    for operation in itertools.count(1):
        here = folder / f"rank-{rank}" / str(operation)
        here.mkdir(parents=True)
        for num_updates in (5, 10):
            save(here, num_updates, "first", rank, 2, numbered=False)
        finished = not killed_at(operation, save, here, 20, "second", rank, 2, numbered=False)
        left = {file.name: file.read_bytes() for file in here.iterdir()}
        if left not in states:
            states.append(left)
        if finished:
            return states


@pytest.mark.slow
def test_after_kills_of_two_ranks_their_newest_common_save_is_resumed(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    by_rank = [states_after_kills(tmp_path, rank) for rank in range(2)]
    assert len(by_rank[0]) > 8
    both = tmp_path / "both"
    reached = set()
    for left in itertools.product(*by_rank):
        shutil.rmtree(both, ignore_errors=True)
        both.mkdir()
        for name, content in itertools.chain(*(files.items() for files in left)):
            (both / name).write_bytes(content)
        last, best = updates(both, world_size=2), updates(both, "checkpoint_best", 2)
        # best is written before last: where last is of two saves, it may be of the newer one
        expected = last[0] if last[0] == last[1] else max(min(last), min(best))
        reached.add((*last, expected))
        resume(both, 2)
        assert updates(both, world_size=2) == [expected] * 2
        assert updates(both, "checkpoint_best", 2) == [min(best)] * 2
        assert not list(both.glob("*.tmp"))
        # and again, though the next save was one rank's alone
        save(both, 30, "third", 1, 2, numbered=False)
        resume(both, 2)
        assert updates(both, world_size=2) == [expected] * 2
        assert updates(both, "checkpoint_best", 2) == [min(best)] * 2
    assert reached == {(10, 10, 10), (20, 10, 10), (20, 10, 20), (10, 20, 10), (10, 20, 20),
                       (20, 20, 20)}


@pytest.mark.parametrize("length", LENGTHS)
def test_a_truncated_shard_falls_back_to_the_newest_whole_save(tmp_path, caplog, length):
    save_shards(tmp_path, 10)
    save_shards(tmp_path, 20)
    truncate(tmp_path / "checkpoint_last-rank-1.pt", length)
    resume(tmp_path, 2)  # checkpoint_1_20 is whole
    assert updates(tmp_path, world_size=2) == [20, 20]
    assert "checkpoint_last-rank-1.pt is broken: using" in caplog.text
    for name in ("last", "1_20", "best"):
        truncate(tmp_path / f"checkpoint_{name}-rank-1.pt", length)
    resume(tmp_path, 2)
    assert updates(tmp_path, world_size=2) == [10, 10]
    assert updates(tmp_path, "checkpoint_best", 2) == [10, 10]


def test_a_save_of_the_same_run_is_preferred_to_more_updates(tmp_path):
    save_shards(tmp_path, 90, "old")
    save_shards(tmp_path, 10, "new")
    save_shards(tmp_path, 20, "new")
    truncate(tmp_path / "checkpoint_last-rank-0.pt")
    (tmp_path / "checkpoint_1_20-rank-0.pt").unlink()
    (tmp_path / "checkpoint_best-rank-0.pt").unlink()
    resume(tmp_path, 2)
    assert updates(tmp_path, world_size=2) == [10, 10]


def test_missing_shards_and_shards_of_other_runs_are_reported(tmp_path):
    save_shards(tmp_path, 10, numbered=False)
    one, other = (tmp_path / f"checkpoint_last-rank-{rank}.pt" for rank in (0, 1))
    for file in tmp_path.glob("checkpoint_best*"):
        file.unlink()
    write(other, 10, "elsewhere", 1, 2)
    assert f"{other} is of another run than {one}" in refusal(tmp_path, 2)
    write(other, 20, "run", 1, 2)
    assert f"{other} is of update 20, {one} of update 10" in refusal(tmp_path, 2)
    shutil.copy(one, other)
    assert f"{other} is not shard 1 of 2" in refusal(tmp_path, 2)
    other.unlink()
    assert f"{other} is missing" in refusal(tmp_path, 2)
    assert f"--restore-file: {other} is missing" in refusal(
        tmp_path, 2, restore_file=f"{tmp_path}/checkpoint_last.pt"
    )


def test_another_number_of_ranks_is_refused(tmp_path):
    save_shards(tmp_path, 10, world_size=4)
    wanted = f"{tmp_path}/checkpoint_last has 4 shards, this run has 2 ranks: `taskmoe reshard`"
    assert wanted in refusal(tmp_path, 2)
    assert "has 4 shards, this run has 8 ranks" in refusal(tmp_path, 8)
    assert "has 4 shards" in refusal(tmp_path, 2, restore_file=f"{tmp_path}/checkpoint_1_10.pt")
    resume(tmp_path, 4)


def test_files_of_the_other_kind_are_refused(tmp_path):
    save_shards(tmp_path, 10)
    assert "`taskmoe consolidate`" in refusal(tmp_path)
    assert "`taskmoe consolidate`" in refusal(
        tmp_path, restore_file=f"{tmp_path}/checkpoint_1_10.pt"
    )
    for file in tmp_path.iterdir():
        file.unlink()
    save(tmp_path, 10)
    assert "`taskmoe reshard`" in refusal(tmp_path, 2)


def test_fairseqs_own_suffix_is_part_of_the_names(tmp_path):
    write(tmp_path / "checkpoint_1_10-mine.pt", 10)
    write(tmp_path / "checkpoint_1_20.pt", 20)
    write(tmp_path / "checkpoint_last-mine.pt", 30)
    truncate(tmp_path / "checkpoint_last-mine.pt")
    resume(tmp_path, checkpoint_suffix="-mine")
    assert updates_of(tmp_path / "checkpoint_last-mine.pt") == 10
    for rank in (0, 1):
        write(tmp_path / f"checkpoint_1_10-x-rank-{rank}.pt", 10, "run", rank, 2)
    # fairseq has added the rank where ranks write their own files
    resume(tmp_path, 2, checkpoint_suffix="-x-rank-0")
    assert updates_of(tmp_path / "checkpoint_last-x-rank-1.pt") == 10


# -- the real command


@pytest.mark.slow
def test_fairseq_train_resumes_from_the_newest_whole_checkpoint(tmp_path, corpus):
    save_dir = tmp_path / "checkpoints"
    command = ("fairseq-train", corpus.data, *TRAIN, "--save-dir", save_dir,
               "--disable-validation", "--save-interval-updates", "2")
    run(*command, "--max-update", "5")
    truncate(save_dir / "checkpoint_last.pt")
    said = run(*command, "--max-update", "6").said
    assert "checkpoint_last.pt is broken: using" in said
    assert "checkpoint_1_4.pt of update 4 instead" in said
    assert logged(said, "num_updates")[:2] == [5, 6]
    for file in Path(save_dir).glob("checkpoint*.pt"):
        truncate(file)
    result = run(*command, "--max-update", "8", check=False)
    assert result.returncode != 0
    (line,) = result.refusals
    assert "checkpoint_last.pt is broken" in line

"""Checkpoint files are whole under their names, whenever the process that writes them is killed."""

import os
import random
import shutil
import time

import pytest
import torch
from fairseq.file_io import PathManager
from forked_processes import start_function
from kills import killed_at, save, save_for_ever, state, updates_of

NAMES = ("checkpoint_last", "checkpoint_best", "checkpoint_1_10", "checkpoint_1_20")


def copy(source, path):
    return PathManager.copy(str(source), str(path), overwrite=True)


def write(path, num_updates):
    torch.save(state(num_updates, "run", 0, 2), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [0, 2])
def test_a_kill_between_any_two_file_operations_leaves_whole_files(tmp_path, world_size):
    end = "-rank-0.pt" if world_size else ".pt"
    operation, finished, seen = 0, False, set()
    while not finished:
        operation += 1
        folder = tmp_path / str(operation)
        folder.mkdir()
        save(folder, 10, "run", 0, world_size)
        finished = not killed_at(operation, save, folder, 20, "run", 0, world_size)
        updates = [updates_of(folder / (name + end)) for name in NAMES]
        previous = updates_of(folder / f"checkpoint_last{end}.previous")
        assert updates in ([10, 10, 10, None], [10, 10, 10, 20], [10, 20, 10, 20],
                           [20, 20, 10, 20])
        if world_size:
            assert updates[0] == 10 or previous == 10
        else:
            assert previous is None
        seen.add(tuple(updates))
        # and what the kill left behind is in nobody's way
        save(folder, 30, "run", 0, world_size)
        assert updates_of(folder / f"checkpoint_last{end}") == 30
        if world_size:
            assert updates_of(folder / f"checkpoint_last{end}.previous") == updates[0]
        assert not list(folder.glob("checkpoint_*.tmp")) or updates[3] is None
    assert len(seen) == 4


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path):
    moments = random.Random(1)
    inside = 0  # kills while a file was being written
    for _ in range(20):
        process = start_function(save_for_ever, tmp_path, 1_500_000)
        while not (tmp_path / "checkpoint_last.pt").exists():
            time.sleep(0.005)
            assert process.wait(0) is None
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        files = list(tmp_path.glob("checkpoint*.pt"))
        assert {"checkpoint_last.pt", "checkpoint_best.pt"} <= {file.name for file in files}
        for file in files:
            assert updates_of(file)
        inside += any(tmp_path.glob("*.tmp"))
        for file in tmp_path.iterdir():
            file.unlink()
    assert inside >= 3


def test_the_shard_before_is_kept_for_names_that_are_used_again(tmp_path):
    for num_updates in (10, 20, 30):
        save(tmp_path, num_updates, "run", 1, 2)
        save(tmp_path, num_updates, "run", 1, 2)  # as a resumed run may
    kept = {file.name: updates_of(file) for file in tmp_path.glob("*.previous")}
    assert kept == {"checkpoint_last-rank-1.pt.previous": 30,
                    "checkpoint_best-rank-1.pt.previous": 30}
    save(tmp_path, 40, "run", 1, 2)
    save(tmp_path, 50, "run", 1, 2)
    assert updates_of(tmp_path / "checkpoint_last-rank-1.pt.previous") == 40


def test_copies_do_not_share_their_data(tmp_path):
    first = write(tmp_path / "checkpoint_1_10.pt", 10)
    last = tmp_path / "checkpoint_last.pt"
    assert copy(first, last)
    with open(last, "r+b") as stream:  # as a user would damage it
        stream.truncate(100)
    assert updates_of(first) == 10


def test_without_hard_links_the_shard_before_is_kept_too(tmp_path, monkeypatch):
    def refuse_link(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse_link)
    last = write(tmp_path / "checkpoint_last-rank-0.pt", 10)
    new = write(tmp_path / "checkpoint_1_20-rank-0.pt", 20)
    assert copy(new, last)
    assert updates_of(last) == 20
    assert updates_of(tmp_path / "checkpoint_last-rank-0.pt.previous") == 10
    assert not list(tmp_path.glob("*.tmp"))


def test_a_copy_that_fails_leaves_the_old_file_and_no_half_of_the_new(tmp_path, monkeypatch):
    def fill_disk(source, path):
        with open(path, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device", path)

    last, new = write(tmp_path / "checkpoint_last.pt", 10), write(tmp_path / "new.pt", 20)
    monkeypatch.setattr(shutil, "copyfile", fill_disk)
    with pytest.raises(OSError, match="No space"):
        copy(new, last)
    assert updates_of(last) == 10
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint_last.pt", "new.pt"]


def test_data_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def note_replace(source, path):
        done.append(("replace", os.path.basename(source)))
        replace(source, path)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    save(tmp_path, 10)
    for name in ("checkpoint_1_10.pt.tmp", "checkpoint_best.pt.tmp", "checkpoint_last.pt.tmp"):
        position = done.index(("replace", name))
        assert ("fsync", name) in done[:position]
        assert done[position + 1] == ("fsync", tmp_path.name)

"""A rank is killed at a random moment: the others end, no file is broken, and training goes on.

KILLS=20 in the environment: that many kills instead of six. SEED=... repeats the moments of a run,
as far as processes on a busy machine can.
"""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import pytest
import torch
from console import TRAIN
from fairseq.dataclass.configs import CheckpointConfig
from kills import save
from rank_processes import Ranks
from rank_trainings import read, run_on
from torchrun_processes import Torchrun

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.training.first_save import MARK, expect_first_save
from fairseq_taskmoe.training.resume import recover_latest_checkpoint

RANKS = 3
LIMIT = 30  # seconds in which all other ranks have to end
KILLS = int(os.environ.get("KILLS", "6"))
FLAGS = (
    *TRAIN, "--ddp-backend", "legacy_ddp", "--disable-validation", "--moe-expert-count", 12,
    "--save-interval-updates", 1, "--keep-interval-updates", 2, "--batch-size", 8,
)
# files of some megabytes, which take a good part of the time
LARGE = ("--encoder-ffn-embed-dim", 512, "--decoder-ffn-embed-dim", 512, "--max-update", 10000)
SHARDED = ("--moe-sharded-checkpoints",)
EVENTS = re.compile(
    r"(?P<saving>Preparing to save checkpoint)"
    r"|Saved checkpoint .* @ (?P<saved>\d+) updates"
    r"|all ranks have saved their shards @ (?P<all_saved>\d+) updates"
    r'|train_inner.*"num_updates": "(?P<trained>\d+)"'
    r"|Loaded checkpoint .* @ (?P<loaded>\d+) updates|(?P<new>No existing checkpoint found)"
)


class Forked:
    """The ranks of a command, without an agent that would end the survivors."""

    kind = "no launcher"

    def __init__(self, folder: Path, *words: Any):
        folder.mkdir()
        self.ranks = Ranks("", folder, RANKS, *words)

    def said(self) -> str:
        return "\n".join(map(self.ranks.said, range(RANKS)))

    def strike(self, rank: int) -> None:
        self.ranks.send(rank, signal.SIGKILL)

    def is_over(self, victim: int) -> bool:
        """Wait for the end; say whether all have ended, and none well."""
        statuses = self.ranks.statuses(LIMIT)
        return statuses[victim] == -signal.SIGKILL and not {0, None} & set(statuses)

    def kill(self) -> None:
        self.ranks.kill()


class Launched(Torchrun):
    """The ranks of a command under torchrun, which terminates the survivors."""

    kind = "torchrun"

    def __init__(self, folder: Path, *words: Any):
        folder.mkdir()
        super().__init__(RANKS, folder / "log", *words)

    def strike(self, rank: int) -> None:
        while len(self.pids()) < RANKS:  # they are being started
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)
        os.kill(self.pids()[rank], signal.SIGKILL)

    def is_over(self, victim: int) -> bool:
        return self.wait(LIMIT) not in (0, None)


class Log(NamedTuple):
    """What a log says."""

    new: bool = False  # training began with nothing
    loaded: Optional[int] = None  # the update with which training went on
    trained: int = 0
    saved: int = 0  # the last update that was announced to be saved
    saving: bool = False  # a save has begun and has not been announced

    @classmethod
    def read(cls, said: str, sharded: bool) -> "Log":
        log = cls()
        for found in EVENTS.finditer(said):
            kind, number = found.lastgroup, found[found.lastgroup or 0]
            if kind in ("new", "saving"):
                log = log._replace(**{kind: True})
            elif kind in ("trained", "loaded"):
                log = log._replace(**{kind: int(number)})
            elif kind == ("all_saved" if sharded else "saved"):
                log = log._replace(saved=int(number), saving=False)
        return log


class Moment(NamedTuple):
    """When to kill: some time after something has been said for the n-th time."""

    phase: str
    text: str
    times: int
    delay: float  # seconds

    @classmethod
    def draw(cls, phase: str, launcher: Any, draw: random.Random) -> "Moment":
        if phase == "saving":
            return cls(phase, "Saving checkpoint to", draw.randint(1, 4), draw.uniform(0, 0.1))
        if phase == "training":
            return cls(phase, "train_inner", draw.randint(1, 4), draw.uniform(0, 1))
        if launcher is Launched:
            return cls(phase, "", 1, draw.uniform(0, 8))
        # earlier, torch waits half an hour for ranks that never connect
        return cls(phase, "initialized host", RANKS, draw.uniform(0, 3))

    def wait(self, said: Callable[[], str]) -> None:
        deadline = time.monotonic() + 120
        while said().count(self.text) < self.times:
            assert time.monotonic() < deadline, said()
            time.sleep(0.005)
        time.sleep(self.delay)


def phases(kills: int, draw: random.Random) -> List[str]:
    """Return when to kill, in half of the cases while saving."""
    chosen = ["saving", "training", "saving", "start"] * kills
    chosen = chosen[:kills]
    draw.shuffle(chosen)
    return chosen


def names_killed_rank(said: str, rank: int) -> bool:
    """Return whether torchrun says which rank was killed."""
    return bool(re.search(rf"rank +: {rank} \(local_rank: {rank}\)\s+exitcode +: -9", said))


def assert_whole(folder: Path) -> int:
    """Read all of every checkpoint; return how many files of a write are left."""
    for file in folder.iterdir():
        if file.name.endswith((".pt", ".pt.previous", ".pt.broken")):
            assert file.name.startswith("checkpoint")
            saved = torch.load(file, weights_only=True)
            assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    return len(list(folder.glob("*.tmp")))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_after_a_kill_all_ranks_end_and_training_resumes(corpus, tmp_path, sharded):
    seed = os.environ.get("SEED", str(random.randrange(10**6)))
    draw = random.Random(f"{seed} {sharded}")
    folder = tmp_path / "checkpoints"
    flags = (*FLAGS, *LARGE, *(SHARDED if sharded else ()), "--save-dir", folder)
    saved = trained = 0

    def start(number, launcher):
        return launcher(tmp_path / str(number), "fairseq-train", corpus.data, *flags)

    def check(log):
        """Compare where training went on with what had been saved before."""
        if log.loaded is None:
            assert not (log.new and saved), f"{saved} updates were saved, and training restarted"
        else:
            assert saved <= log.loaded <= trained

    for number, phase in enumerate(phases(-(-KILLS // 2), draw)):
        launcher = Launched if number % 3 == 2 else Forked
        victim, moment = draw.randrange(RANKS), Moment.draw(phase, launcher, draw)
        ranks = start(number, launcher)
        try:
            moment.wait(ranks.said)
            ranks.strike(victim)
            struck = time.monotonic()
            is_over, seconds = ranks.is_over(victim), time.monotonic() - struck
            said = ranks.said()
        finally:
            ranks.kill()
        log = Log.read(said, sharded)
        unfinished = assert_whole(folder) if folder.exists() else 0
        print(
            f"seed {seed}, {launcher.kind}, {'shards' if sharded else 'one file'}: rank {victim} "
            f"killed {moment.delay:.3f} s after {moment.text!r} was said {moment.times} times; "
            f"resumed at {log.loaded}, trained {log.trained}, saved {log.saved}, "
            f"{'while saving' if log.saving else 'not while saving'}, {unfinished} files "
            f"unfinished; all ended after {seconds:.1f} s"
        )
        assert is_over, said
        assert launcher is Forked or names_killed_rank(said, victim), said
        check(log)
        saved = max(log.saved, log.loaded or 0, saved)
        trained = max(log.trained, trained)

    ranks = start("last", Forked)
    try:
        Moment("", "train_inner", 1, 0).wait(ranks.said)
        check(Log.read(ranks.said(), sharded))
    finally:
        ranks.kill()


# -- the first save of all

DIE_SAVING = """
import signal, time
from fairseq import checkpoint_utils
persist = checkpoint_utils.torch_persistent_save
def die(*args, **kwargs):
    if os.environ["RANK"] == "1":
        time.sleep(3)  # rank 0 has its shard by then
        os.kill(os.getpid(), signal.SIGKILL)
    persist(*args, **kwargs)
checkpoint_utils.torch_persistent_save = die
"""


@pytest.mark.slow
def test_after_a_kill_in_the_first_save_of_shards_training_restarts(corpus, tmp_path):
    folder = tmp_path / "checkpoints"
    words = ("fairseq-train", corpus.data, *FLAGS, *SHARDED, "--save-dir", folder)
    words = (*words, "--max-update", 2)
    run_on(2, tmp_path / "0", *words, prelude=DIE_SAVING, check=False)
    names = {file.name for file in folder.iterdir()}
    assert names == {MARK, "checkpoint_1_1-rank-0.pt", "checkpoint_last-rank-0.pt"}

    ended = run_on(2, tmp_path / "1", *words)
    assert "no earlier save was finished: training restarts" in ended.said[0]
    assert not (folder / MARK).exists()
    for rank in range(2):
        saved = read(folder / f"checkpoint_last-rank-{rank}.pt")
        assert saved["optimizer_history"][-1]["num_updates"] == 2


def usable(folder: Path, num_shards: Optional[int] = 2) -> None:
    recover_latest_checkpoint(CheckpointConfig(save_dir=str(folder)), num_shards)


def test_shards_of_an_unfinished_first_save_are_set_aside_and_lost_ones_are_not(tmp_path, caplog):
    expect_first_save(str(tmp_path))
    save(tmp_path, 10, "run", rank=1, world_size=2, numbered=False)
    shard = tmp_path / "checkpoint_last-rank-1.pt"
    content = shard.read_bytes()
    usable(tmp_path)
    assert not shard.exists() and (tmp_path / MARK).exists()
    assert (tmp_path / f"{shard.name}.broken").read_bytes() == content
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}/checkpoint_last-rank-0.pt is missing, and no earlier save was finished: "
        "training restarts"
    )

    save(tmp_path, 10, "run", rank=1, world_size=2, numbered=False)
    (tmp_path / MARK).unlink()
    with pytest.raises(Refusal, match="rank-0.pt is missing, and .* has no complete"):
        usable(tmp_path)
    assert shard.exists()


def test_a_complete_save_is_used_even_if_the_first_save_was_not_recorded(tmp_path):
    expect_first_save(str(tmp_path))
    for rank in range(2):
        save(tmp_path, 10, "run", rank, world_size=2)
    save(tmp_path, 20, "run", rank=1, world_size=2)
    usable(tmp_path)
    last = [tmp_path / f"checkpoint_last-rank-{rank}.pt" for rank in range(2)]
    assert [read(file)["optimizer_history"][0]["num_updates"] for file in last] == [10, 10]


def test_a_broken_ordinary_file_is_refused_where_shards_were_expected(tmp_path):
    expect_first_save(str(tmp_path))
    (tmp_path / "checkpoint_last.pt").write_bytes(b"broken")
    with pytest.raises(Refusal, match="checkpoint_last.pt is broken"):
        usable(tmp_path, None)

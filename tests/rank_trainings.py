"""Trainings on several ranks over gloo, and what they leave behind.

Each rank is a process that runs a command's own entry point, with the variables that torchrun sets.
torchrun itself, which costs seconds, is tested in test_launch.py.
"""

import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional

import pytest
import torch
from console import TRAIN, logged
from rank_processes import Ranks
from torch import Tensor

# Notes what is trained on, sentence by sentence: (update, task, number in the task's own data)
RECORD = """
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask
notes, train_step = open({file!r} + os.environ["RANK"], "w"), TranslationTaskMoeTask.train_step
def record(self, sample, model, criterion, optimizer, update_num, ignore_grad=False, **kwargs):
    if not ignore_grad:
        tasks, numbers = sample["net_input"]["task_ids"].tolist(), sample["id"].tolist()
        print([[update_num + 1, *sentence] for sentence in zip(tasks, numbers)], file=notes)
    return train_step(
        self, sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
TranslationTaskMoeTask.train_step = record
"""
# Many updates in an epoch, and few near ties of a router's choices; each update is saved
SMALL_UPDATES = ("--max-tokens", 300, "--save-interval-updates", 1)
# every update is saved, so that of an epoch's end too
EVERY_SAVE = tuple(flag for flag in TRAIN if flag != "--no-epoch-checkpoints")
ROUTERS = ("--encoder-moe-router", "target", "--decoder-moe-router", "token")


class Ended(NamedTuple):
    """How the ranks of a command ended, and what they said."""

    statuses: List[Optional[int]]
    said: List[str]

    @property
    def refusals(self) -> List[str]:
        lines = "\n".join(self.said).splitlines()
        return [line for line in lines if line.startswith("taskmoe: error:")]


def run_on(
    ranks: int, logs: Path, *command: Any, prelude: str = "", check: bool = True
) -> Ended:
    """Run a command as ranks of one group, each with its log in the new folder logs."""
    logs.mkdir(parents=True)
    processes = Ranks(prelude, logs, ranks, *command)
    try:
        statuses = processes.statuses(timeout=120)
    finally:
        processes.kill()
    ended = Ended(statuses, [processes.said(rank) for rank in range(ranks)])
    if check:
        assert statuses == [0] * ranks, "\n".join([str(command), *ended.said])
    return ended


class Training(NamedTuple):
    """The folder of a training, and how many ranks it ran on."""

    folder: Path
    ranks: int

    @property
    def log(self) -> str:
        """What rank 0 said."""
        return (self.folder / "logs" / "0.log").read_text()

    def file(self, update: int) -> Path:
        """Return the checkpoint of an update; the shard of rank 0 where there are shards."""
        for ending in (".pt", "-rank-0.pt"):
            for file in self.folder.glob(f"checkpoint_*_{update}{ending}"):
                return file
        for file in self.folder.glob("checkpoint[0-9]*.pt"):  # the last update of an epoch
            if num_updates(read(file)) == update:
                return file
        raise AssertionError(f"{self.folder}: no checkpoint of update {update}")

    def saved(self, update: int) -> Dict[str, Any]:
        return read(self.file(update))

    def measured(self, name: str, updates: Iterable[int]) -> List[float]:
        """Return a value that training measured in each update, not rounded as in the log."""
        values = []
        for update in updates:
            meters = self.saved(update)["extra_state"]["metrics"]["train"]
            (value,) = [state["val"] for _, key, _, state in meters if key == name]
            values.append(float(value))
        return values

    def trained_on(self) -> Dict[int, List[Any]]:
        """Return the sentences (task, number) of each update, in order of their numbers."""
        found: Dict[int, List[Any]] = {}
        for rank in range(self.ranks):
            for line in (self.folder / f"trained-{rank}").read_text().splitlines():
                for update, *sentence in json.loads(line):
                    found.setdefault(update, []).append(tuple(sentence))
        return {update: sorted(sentences) for update, sentences in found.items()}


TrainOn = Callable[..., Training]


@pytest.fixture(scope="module")
def train_on(share, corpus) -> TrainOn:
    """Give a function that trains once in a run of pytest: train_on(ranks, name, *flags).

    Later flags hold over earlier ones, which are those of EVERY_SAVE.
    """

    def trained(ranks: int, name: str, *flags: Any) -> Training:
        def make(folder: Path) -> None:
            run_on(
                ranks, folder / "logs", "fairseq-train", corpus.data, *EVERY_SAVE,
                "--ddp-backend", "legacy_ddp", "--save-dir", folder, *SMALL_UPDATES, *flags,
                prelude=RECORD.format(file=f"{folder}/trained-"),
            )

        training = Training(share(f"{name}-on-{ranks}", make), ranks)
        log = training.log
        assert f"training on {ranks} devices" in log and logged(log, "train_num_updates")
        return training

    return trained


def read(file: Path) -> Dict[str, Any]:
    return torch.load(file, weights_only=False)


def num_updates(saved: Dict[str, Any]) -> int:
    return saved["optimizer_history"][-1]["num_updates"]


def moments(saved: Dict[str, Any]) -> Dict[str, Tensor]:
    """Return the tensors of a checkpoint's optimizer state, named after their parameters."""
    names = saved["task_state"]["parameter_names"]
    return {
        f"{key} of {names[i]}": torch.as_tensor(value)
        for i, entries in saved["last_optimizer_state"]["state"].items()
        for key, value in entries.items()
    }


def everything(saved: Dict[str, Any]) -> Dict[str, Tensor]:
    """Return all tensors that training goes on from."""
    averages = {
        f"{part} {name}": tensor
        for part in ("ema", "ema_fp32_params")
        for name, tensor in saved["extra_state"].get(part, {}).items()
    }
    return {**saved["model"], **moments(saved), **averages}


def differences(one: Dict[str, Tensor], other: Dict[str, Tensor]) -> Dict[str, float]:
    """Return how far each tensor is from the other's, relative to the norm of one."""
    assert one.keys() == other.keys()
    found = {}
    for name, tensor in one.items():
        assert tensor.shape == other[name].shape and tensor.dtype == other[name].dtype, name
        distance = (tensor.double() - other[name].double()).norm()
        found[name] = float(distance / tensor.double().norm()) if distance else 0.0
    return found


def assert_close(one: Dict[str, Tensor], other: Dict[str, Tensor], tolerance: float) -> None:
    """Compare tensor by tensor, relative to its norm."""
    far = {name: far for name, far in differences(one, other).items() if not far <= tolerance}
    assert not far


def without_key_biases(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Leave out what has no gradient by symmetry: Adam makes steps of its rounding noise."""
    return {name: tensor for name, tensor in tensors.items() if "k_proj.bias" not in name}

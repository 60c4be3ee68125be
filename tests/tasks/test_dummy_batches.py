"""Ranks that have no batch where others have one go along with a dummy batch, which counts nowhere.

So an epoch on three ranks is one rank's, whatever number of batches it has.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pytest
from console import TRAIN
from rank_trainings import assert_close, read, run_on

# 160 sentences, of four directions, to train on and to validate with
FLAGS = (
    *TRAIN, "--train-subset", "valid", "--valid-subset", "valid", "--max-epoch", 1,
    "--max-tokens", 100000, "--ddp-backend", "legacy_ddp", "--optimizer", "sgd", "--lr", 0.5,
    "--moe-expert-count", 6, "--moe-gate-loss-wt", 0.1, "--moe-z-loss-wt", 0.01,
    "--encoder-moe-router", "target", "--decoder-moe-router", "token", "--activation-fn", "gelu",
)
# Writes down the sums that are logged, and what the real micro-batches of this rank send
NOTES = """
import json, torch
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask
reduce_metrics = TranslationTaskMoeTask.reduce_metrics
train_step = TranslationTaskMoeTask.train_step
notes = open({file!r} + os.environ["RANK"], "w")
def note_sums(self, logs, criterion):
    sums = {{key: sum(torch.as_tensor(log[key]).double() for log in logs) for key in logs[0]}}
    sums = {{key: total.tolist() for key, total in sums.items()}}
    print(json.dumps(["training" if criterion.training else "validation", sums]), file=notes)
    reduce_metrics(self, logs, criterion)
def note_sent(self, *args, ignore_grad=False, **kwargs):
    result = train_step(self, *args, ignore_grad=ignore_grad, **kwargs)
    sent = float(result[2]["moe_wire_bytes"])
    print(json.dumps(["dummy" if ignore_grad else "real", sent]), file=notes)
    return result
TranslationTaskMoeTask.reduce_metrics = note_sums
TranslationTaskMoeTask.train_step = note_sent
"""
WIRE = "moe_wire_bytes"


class Epoch(NamedTuple):
    """A training of one epoch."""

    folder: Path
    ranks: int

    def notes(self, kind: str, rank: int = 0) -> List[Any]:
        lines = (self.folder / f"notes-{rank}").read_text().splitlines()
        return [noted for noted_kind, noted in map(json.loads, lines) if noted_kind == kind]

    def numbers_of_batches(self, kind: str) -> List[int]:
        return [len(self.notes(kind, rank)) for rank in range(self.ranks)]

    def validation(self) -> Dict[str, Any]:
        """Return the sums of all steps, tensors flattened."""
        steps = self.notes("validation")
        totals: Dict[str, Any] = {}
        for key in steps[0]:
            values = [flat(step[key]) for step in steps]
            totals[key] = [sum(column) for column in zip(*values, strict=True)]
        return totals


def flat(value: Any) -> List[float]:
    return [each for part in value for each in flat(part)] if isinstance(value, list) else [value]


def train(data: Path, folder: Path, ranks: int, *flags: Any) -> Epoch:
    run_on(
        ranks, folder / "logs", "fairseq-train", data, *FLAGS, *flags,
        "--save-dir", folder, prelude=NOTES.format(file=f"{folder}/notes-"),
    )
    return Epoch(folder, ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch_size, update_freq, real, dummy",
    [
        (16, 2, [4, 3, 3], [0, 1, 1]),  # ten batches: an update of six and one of four
        (80, 1, [1, 1, 0], [0, 0, 1]),  # fewer batches than ranks
    ],
)
def test_an_epoch_of_three_ranks_equals_that_of_one(
    corpus, tmp_path, batch_size, update_freq, real, dummy
):
    flags = ("--batch-size", batch_size, "--batch-size-valid", batch_size)
    three = train(
        corpus.data, tmp_path / "3", 3, *flags, "--update-freq", update_freq
    )
    one = train(
        corpus.data, tmp_path / "1", 1, *flags, "--update-freq", 3 * update_freq
    )
    assert (three.numbers_of_batches("real"), three.numbers_of_batches("dummy")) == (real, dummy)
    assert one.numbers_of_batches("real") == [sum(real)]
    weights = [read(each.folder / "checkpoint_last.pt")["model"] for each in (one, three)]
    assert_close(*weights, 1e-4)

    updates = three.notes("training")
    assert len(updates) == len(one.notes("training")) > 0
    for alone, together in zip(one.notes("training"), updates, strict=True):
        assert alone.keys() == together.keys()
        for key in alone.keys() - {WIRE}:
            assert flat(together[key]) == pytest.approx(flat(alone[key]), rel=1e-4), key
    sent = sum(sum(three.notes("real", rank)) for rank in range(3))
    assert sum(update[WIRE] for update in updates) == sent > 0

    alone, together = one.validation(), three.validation()
    assert alone.keys() == together.keys() and "nll_loss_by_task" in alone
    for key in alone.keys() - {WIRE}:
        assert together[key] == pytest.approx(alone[key], rel=1e-4), key

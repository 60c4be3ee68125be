"""A run that goes on with 4, 2, 1 and 3 ranks is the run on one rank that never stopped."""

from collections import Counter

import pytest
from console import GENERATE, TASK, assert_same_hypotheses, hypotheses, stir
from rank_trainings import (
    ROUTERS,
    assert_close,
    everything,
    run_on,
    train_on,
    without_key_biases,
)

from fairseq_taskmoe.read_files import read_lines

__all__ = ["train_on"]  # fixtures

# 12 micro-batches an update: --update-freq 3, 6, 12, 4
STAGES = ((4, 2), (2, 5), (1, 8), (3, 13))  # ranks, last update
LAST = STAGES[-1][1]
FLAGS = (
    *ROUTERS, "--moe-expert-count", 12, "--max-tokens", 740, "--disable-validation",
    "--activation-fn", "gelu", "--clip-norm", 0.5, "--moe-gate-loss-reduction", "mean",
)
SEARCH = ("--beam", 2, "--max-len-a", 1, "--max-len-b", 5)


@pytest.fixture(scope="module")
def never_stopped(train_on):
    return train_on(1, "never-stopped", *FLAGS, "--update-freq", 12, "--max-update", LAST)


@pytest.fixture(scope="module")
def stages(train_on):
    """The trainings one after the other, each going on from the last file of the one before."""
    trainings = []
    for ranks, last in STAGES:
        resume = ()
        if trainings:
            resume = ("--restore-file", trainings[-1].file(STAGES[len(trainings) - 1][1]))
        trainings.append(train_on(
            ranks, f"until-{last}", *FLAGS, "--update-freq", 12 // ranks, "--max-update", last,
            *resume,
        ))
    return trainings


def updates_of_stages():
    firsts = [1, *(last + 1 for _, last in STAGES)]
    return [range(first, last + 1) for first, (_, last) in zip(firsts, STAGES, strict=False)]


@pytest.mark.slow
def test_the_loss_curve_continues(never_stopped, stages):
    for training, updates in zip(stages, updates_of_stages(), strict=True):
        for name in ("loss", "gnorm"):
            expected = never_stopped.measured(name, updates)
            assert training.measured(name, updates) == pytest.approx(expected, rel=1e-5, abs=0)
        one, other = (run.saved(updates[-1]) for run in (never_stopped, training))
        assert_close(
            without_key_biases(everything(one)), without_key_biases(everything(other)), 1e-3
        )


@pytest.mark.slow
def test_no_sentence_is_skipped_or_repeated(never_stopped, stages):
    trained = {}
    for training, updates in zip(stages, updates_of_stages(), strict=True):
        stage = training.trained_on()
        assert set(stage) == set(updates)
        trained.update(stage)
    assert trained == never_stopped.trained_on()
    epochs = [run.saved(update)["extra_state"]["train_iterator"]["epoch"]
              for run, updates in zip(stages, updates_of_stages(), strict=True)
              for update in updates]
    assert epochs == sorted(epochs) and epochs[-1] == 3
    all_sentences = [(task, number) for task in range(4) for number in range(400)]
    start = 0
    for epoch in (1, 2):
        end = epochs.index(epoch + 1) + 1  # the file of an epoch's end names the one to come
        seen = Counter(sentence for update in range(start + 1, end + 1)
                       for sentence in trained[update])
        assert seen == Counter(all_sentences)
        assert end not in [last for _, last in STAGES]  # stages end within epochs
        start = end


@pytest.mark.slow
def test_translations_from_each_checkpoint_are_the_same(
    never_stopped, stages, corpus, tmp_path
):
    def stirred(training, update):
        return stir(training.file(update), tmp_path / f"{training.folder.name}-{update}.pt")

    def translate(checkpoint):
        """By fairseq-generate, on one device."""
        words = ("fairseq-generate", corpus.data, *TASK, "-s", "en", "-t", "de", "--path",
                 checkpoint, *GENERATE, *SEARCH)
        (said,) = run_on(1, tmp_path / f"{checkpoint.stem}-logs", *words).said
        return hypotheses(said)

    for training, (_, last) in zip(stages, STAGES, strict=True):
        one, other = stirred(never_stopped, last), stirred(training, last)
        expected = translate(one)
        assert len({hypothesis.text for hypothesis in expected.values()}) > 20
        assert_same_hypotheses(expected, translate(other))

    def evaluate(ranks, *flags):
        """By taskmoe evaluate, with the experts of the last checkpoint spread over ranks."""
        out = tmp_path / "-".join(["on", str(ranks), *flags])
        run_on(
            ranks, tmp_path / f"{out.name}-logs", "taskmoe", "evaluate", corpus.data,
            "--path", other, "--out", out, "--cpu", "--lang-pairs", "ru-en", *SEARCH, *flags,
        )
        return read_lines(str(out / "hypotheses/test.ru-en.en"))

    expected_lines = evaluate(1)
    assert len(set(expected_lines)) > 20
    assert evaluate(2) == evaluate(3, "--no-folding") == expected_lines

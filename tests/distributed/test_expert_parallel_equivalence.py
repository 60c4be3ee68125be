"""Training with experts spread over ranks is the training of one rank that holds them all.

The same micro-batches make up an update whatever the number of ranks: ranks * --update-freq.
"""

import pytest
import torch
from console import TRAIN, logged, run
from rank_trainings import (
    ROUTERS,
    Training,
    assert_close,
    moments,
    train_on,
    without_key_biases,
)

__all__ = ["train_on"]  # fixtures

UPDATES = range(1, 11)
CLIP_NORM = 0.25  # every update is clipped
COMMON = (
    "--max-update", UPDATES[-1], "--clip-norm", CLIP_NORM, "--disable-validation",
    "--activation-fn", "gelu",  # at relu's kink, differences in rounding would become large ones
)
SGD = (*COMMON, "--optimizer", "sgd", "--lr", 0.5)
ADAM = COMMON
# name: flags, micro-batches in an update
MODELS = {
    "target-token": (ROUTERS, 4),
    # two layers a stack, so that several plans go round in one exchange
    "sentence-pair": (
        ("--encoder-moe-router", "sentence", "--decoder-moe-router", "pair", "--moe-freq", 1,
         "--moe-gate-loss-wt", 0.1), 4,
    ),
    "two-experts": ((*ROUTERS, "--moe-expert-count", 2), 4),
    "three-batches": (ROUTERS, 3),
    # batches of one task, whose balance loss is one over all tasks
    "task-local": (
        ("--encoder-moe-router", "pair", "--decoder-moe-router", "token",
         "--moe-task-local-batches", "--moe-gate-loss-wt", 1.0), 4,
    ),
}


@pytest.fixture(scope="module")
def train_model(train_on):
    def trained(optimizer: str, model: str, ranks: int, *more: str) -> Training:
        flags, micro_batches = MODELS[model]
        name = "-".join([optimizer, model, *(flag.strip("-") for flag in more)])
        rule = {"sgd": SGD, "adam": ADAM}[optimizer]
        update_freq = micro_batches // ranks
        return train_on(ranks, name, *rule, *flags, "--update-freq", update_freq, *more)

    return trained


def assert_same_course(training: Training, alone: Training) -> None:
    """Compare what each update was made of, its loss, and the norm of its gradients."""
    assert training.trained_on() == alone.trained_on() and set(alone.trained_on()) == set(UPDATES)
    for name in ("loss", "gnorm"):
        expected = alone.measured(name, UPDATES)
        assert training.measured(name, UPDATES) == pytest.approx(expected, rel=1e-5, abs=0)
    assert min(alone.measured("gnorm", UPDATES)) > CLIP_NORM
    assert logged(training.log, "clip")[-1] == 100


@pytest.mark.parametrize(
    "model, ranks, flags, group",
    [
        ("target-token", 2, (), 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("target-token", 4, (), 4),
            ("target-token", 4, ("--moe-expert-parallel-size", "2"), 2),
            ("target-token", 2, ("--moe-expert-parallel-size", "1"), 1),
            ("sentence-pair", 2, (), 2),
            ("sentence-pair", 4, (), 4),
            ("two-experts", 4, (), 2),
            ("three-batches", 3, (), 1),
            ("task-local", 2, (), 2),
            ("task-local", 4, (), 4),
        )),
    ],
)
def test_sgd_makes_the_same_parameters(train_model, model, ranks, flags, group):
    alone = train_model("sgd", model, 1)
    training = train_model("sgd", model, ranks, *flags)
    assert_same_course(training, alone)
    weights = training.saved(10)["model"]
    assert_close(alone.saved(10)["model"], weights, 1e-5)
    experts = "encoder.layers.1.moe.experts.fc1.weight"
    assert not torch.equal(weights[experts], alone.saved(1)["model"][experts])
    # what goes over the wire shows that experts were spread, and where each rank has them all
    assert (sum(logged(training.log, "moe_wire_mb")) > 0) == (group > 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, ranks", [("target-token", 2), ("target-token", 4), ("sentence-pair", 4)]
)
def test_adam_gives_the_same_loss_curve(train_model, model, ranks):
    alone, training = (train_model("adam", model, number) for number in (1, ranks))
    assert_same_course(training, alone)
    one, other = alone.saved(10), training.saved(10)
    assert_close(*(without_key_biases(saved["model"]) for saved in (one, other)), 1e-3)
    assert_close(*(without_key_biases(moments(saved)) for saved in (one, other)), 1e-3)
    assert any(".experts." in name for name in moments(other))


@pytest.mark.slow
def test_validation_is_that_of_one_rank(train_on):
    # the last ranks run out of batches, and go along with some that count for nothing
    flags = (*ROUTERS, "--max-update", 1, "--max-tokens-valid", 150, "--update-freq")
    alone, training = (train_on(ranks, "valid", *flags, 4 // ranks).log for ranks in (1, 4))
    for key in ("valid_loss", "valid_nll_loss_en-de", "valid_nll_loss_ru-en"):
        (expected,), (found,) = logged(alone, key), logged(training, key)
        assert found == pytest.approx(expected, abs=2e-3)  # the log has three digits


@pytest.mark.gpu
def test_two_gpus_make_the_parameters_of_one(corpus, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs for NCCL, and there are {torch.cuda.device_count()}")
    flags = (
        *(word for word in TRAIN if word != "--cpu"), *SGD, *ROUTERS, "--max-tokens", 300,
        "--ddp-backend", "legacy_ddp",
    )
    trainings = []
    for ranks in (1, 2):
        training = Training(tmp_path / str(ranks), ranks)
        (training.folder / "logs").mkdir(parents=True)
        said = run(
            "torchrun", "--standalone", "--nproc_per_node", ranks, "--no-python", "fairseq-train",
            corpus.data, *flags, "--distributed-world-size", ranks, "--update-freq", 4 // ranks,
            "--save-interval-updates", 1, "--save-dir", training.folder,
        ).said
        assert f"training on {ranks} devices" in said
        trainings.append(training)
    one, two = trainings
    for name in ("loss", "gnorm"):
        expected = one.measured(name, UPDATES)
        assert two.measured(name, UPDATES) == pytest.approx(expected, rel=1e-4)
    assert_close(one.saved(10)["model"], two.saved(10)["model"], 1e-4)

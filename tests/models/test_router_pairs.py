"""Every router in the encoder with every other in the decoder: train and translate, in one process.

The same router in both stacks goes through the console, in test_end_to_end.py.
"""

import itertools
import math

import pytest
import torch
from console import GENERATE, TASK, TRAIN, assert_same_hypotheses, hypotheses
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROUTERS = ("token", "sentence", "source", "target", "pair", "group", "static", "random")
LEARNED = ROUTERS[:6]
NUM_VALID = 40


def configure(parser, *flags):
    words = [str(flag) for flag in flags]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))


@pytest.fixture
def train_pair(corpus, tmp_path):
    """Give a function that trains two updates: the parameters after each, and the checkpoint."""

    def trained(encoder, decoder):
        train.main(configure(
            options.get_training_parser(), corpus.data, *TRAIN, "--encoder-moe-router", encoder,
            "--decoder-moe-router", decoder, "--moe-task-groups", corpus.groups, "--max-update", 2,
            "--save-interval-updates", 1, "--disable-validation", "--save-dir", tmp_path,
            "--log-format", "none", "--max-tokens", 600,
        ))
        saved = [
            torch.load(tmp_path / f"checkpoint_1_{n}.pt", weights_only=False)["model"]
            for n in (1, 2)
        ]
        return saved, tmp_path / "checkpoint_last.pt"

    return trained


@pytest.fixture
def translate(corpus, capsys):
    """Give a function that translates the validation set from English to German."""

    def translated(checkpoint, batch_size):
        capsys.readouterr()
        generate.main(configure(
            options.get_generation_parser(), corpus.data, *TASK, "-s", "en", "-t", "de", "--path",
            checkpoint, *GENERATE, "--gen-subset", "valid", "--beam", 2, "--max-len-b", 6,
            "--batch-size", batch_size,
        ))
        return hypotheses(capsys.readouterr().out)

    return translated


def router_pairs():
    """Return all pairs; those in which each router is once in each half are not slow."""
    neighbours = set(zip(ROUTERS, ROUTERS[1:] + ROUTERS[:1], strict=True))
    return [
        pytest.param(*pair, marks=() if pair in neighbours else pytest.mark.slow)
        for pair in itertools.permutations(ROUTERS, 2)
    ]


@pytest.mark.parametrize("encoder, decoder", router_pairs())
def test_pair_of_routers_trains_and_translates(encoder, decoder, train_pair, translate):
    (before, after), checkpoint = train_pair(encoder, decoder)
    assert all(torch.isfinite(parameter).all() for parameter in after.values())
    for stack, router in (("encoder", encoder), ("decoder", decoder)):
        changed = {
            name.split(".moe.")[1]
            for name, parameter in before.items()
            if name.startswith(stack) and ".moe." in name and not parameter.equal(after[name])
        }
        assert "experts.fc1.weight" in changed
        assert ("router.gate.weight" in changed) == (router in LEARNED)

    few, many = translate(checkpoint, 7), translate(checkpoint, NUM_VALID)
    assert sorted(few) == list(range(NUM_VALID))
    assert all(math.isfinite(hypothesis.score) for hypothesis in few.values())
    assert_same_hypotheses(few, many)

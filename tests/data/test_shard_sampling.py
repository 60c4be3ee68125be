"""Shards of training data, drawn from by fairseq's own functions: no pair starves in an epoch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from fairseq import options, tasks
from fairseq.data.multilingual.sampled_multi_dataset import default_virtual_size_func
from fairseq.data.multilingual.sampling_method import temperature_sampling
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from console import TRAIN, read_table  # noqa: E402

from preprocess import binarize, encode, sentencepiece_model  # noqa: E402
from preprocess.config import load_config  # noqa: E402
from preprocess.fetching.sources import read_sources  # noqa: E402
from preprocess.text_files import write_lines  # noqa: E402

WMT30 = ROOT / "examples" / "wmt30"
TEMPERATURE = 5.0
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq's use of hydra


@pytest.mark.parametrize(
    "lines, shards, wanted",
    [
        ([320, 90, 30], 4, [4, 2, 1]),
        ([320, 320, 0], 4, [4, 4, 1]),
        ([81, 80], 4, [4, 4]),
        ([1000, 1], 1, [1, 1]),
        ([2, 2], 4, [2, 2]),
    ],
)
def test_no_shard_is_larger_than_those_of_the_largest_pair(lines, shards, wanted):
    dealt = encode.shards_by_lines(dict(enumerate(lines)), shards)
    assert list(dealt.values()) == wanted
    largest = -(-max(lines) // shards)
    assert all(-(-lines[pair] // number) <= largest for pair, number in dealt.items())


class Sized:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def epoch_of(sizes, shards):
    """Return how many sentences an epoch draws, and of each pair what it has and what it draws.

    By fairseq's functions, for both directions of pairs with these sizes and numbers of shards.
    """
    ratios = np.array(temperature_sampling([size for size in sizes.values() for _ in "<>"],
                                           TEMPERATURE))
    here = [-(-size // shards[pair]) for pair, size in sizes.items()]
    total = default_virtual_size_func([Sized(size) for size in here for _ in "<>"], ratios)
    drawn = total * (ratios / ratios.sum())[::2]
    return total, dict(zip(sizes, zip(here, drawn, strict=True), strict=True))


def test_an_epoch_of_wmt30_repeats_no_pair_more_than_unsharded_data_does():
    """Published counts. As often as without shards in as many sentences, or hardly at all."""
    expected = read_sources(WMT30 / "sources.yaml").expected
    config = load_config(WMT30 / "corpus.yaml")
    sizes = {pair: expected[pair]["train"] for pair in config.pairs}
    unsharded, whole = epoch_of(sizes, dict.fromkeys(sizes, 1))
    total, dealt = epoch_of(sizes, encode.shards_by_lines(sizes, config.shards))
    for pair, (here, drawn) in dealt.items():
        in_as_many = whole[pair][1] / sizes[pair] * total / unsharded
        assert drawn / here <= max(1.06, in_as_many + 0.01), pair
        assert drawn / here <= 2 * whole[pair][1] / sizes[pair], pair
    # one shard in sixteen of every pair instead: the same small part, again and again
    total, even = epoch_of(sizes, dict.fromkeys(sizes, config.shards))
    assert even["en-gu"][1] / even["en-gu"][0] > 60 > 8 > dealt["en-gu"][1] / dealt["en-gu"][0]
    shared, size = (
        OmegaConf.load(ROOT / "configs" / "size" / f"{name}.yaml") for name in ("_shared", "wmt30")
    )
    folders = [f"runs/wmt30/data-bin/shard{number:02}" for number in range(config.shards)]
    assert size.task.data == ":".join(folders)
    assert shared.task.sampling_temperature == TEMPERATURE


# -- real data, through the task

LINES = {"en-de": 320, "en-ru": 90, "en-zh": 30}
DIRECTIONS = [d for pair in LINES for d in (pair, "-".join(reversed(pair.split("-"))))]
IN_AN_EPOCH = {"en-de": 80, "en-ru": 45, "en-zh": 30}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return folders of shards, and one of the same text without."""
    folder = tmp_path_factory.mktemp("shards")
    rows = read_table()
    text = folder / "text"
    for pair, number in LINES.items():
        lang = pair[3:]
        found = [(row["en"], row[lang]) for row in rows if row[lang]][:number]
        for language, lines in zip(pair.split("-"), zip(*found, strict=True), strict=True):
            write_lines(text / f"train.{pair}.{language}", lines)
    write_lines(folder / "sample", [row["en"] for row in rows[:400]])
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "sample"), model_prefix=str(folder / "spm"), vocab_size=300,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )
    model, dictionary = folder / "spm.model", folder / "dict.txt"
    sentencepiece_model.write_dictionary(model, folder / "sample", dictionary)
    for name, shards in (("whole", 1), ("dealt", 4)):
        binarize.main([
            str(text), "--pairs", *LINES, "--sentencepiece-model", str(model), "--dict",
            str(dictionary), "--out", str(folder / name), "--shards", str(shards),
        ])
    return {"whole": str(folder / "whole"),
            "dealt": ":".join(str(folder / "dealt" / f"shard{n:02}") for n in range(4))}


def load_epochs(path, epochs):
    """Yield the training dataset of each epoch of a run on this data."""
    flags = [*TRAIN, "--lang-pairs", ",".join(DIRECTIONS), "--sampling-method", "temperature",
             "--sampling-temperature", TEMPERATURE]
    words = [str(word) for word in (path, *flags)]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    task = tasks.setup_task(convert_namespace_to_omegaconf(args).task)
    for epoch in range(1, epochs + 1):
        task.load_dataset("train", epoch=epoch)
        yield task.dataset("train")


def test_every_epoch_reads_small_pairs_whole_and_large_ones_in_turn(data):
    whole = next(load_epochs(data["whole"], 1))
    directions = [key.removeprefix("main:") for key in whole.keys]
    assert sorted(directions) == sorted(DIRECTIONS)
    texts = {direction: [] for direction in directions}
    for dataset in load_epochs(data["dealt"], 4):
        assert dataset.keys == whole.keys
        # as if they were not dealt at all
        np.testing.assert_allclose(dataset.sample_ratios, whole.sample_ratios)
        for direction, pairs, drawn, unsharded in zip(
            directions, dataset.datasets, dataset.virtual_size_per_dataset,
            whole.virtual_size_per_dataset, strict=True,
        ):
            assert len(pairs) == IN_AN_EPOCH[pair_of(direction)]
            assert drawn / len(pairs) <= max(1.3, unsharded / LINES[pair_of(direction)])
            texts[direction].append(targets(pairs))
    for direction, pairs in zip(directions, whole.datasets, strict=True):
        number = LINES[pair_of(direction)] // IN_AN_EPOCH[pair_of(direction)]
        for first in range(0, 4, number):
            read = [text for shard in texts[direction][first : first + number] for text in shard]
            assert sorted(read) == sorted(targets(pairs))


def pair_of(direction):
    return direction if direction in LINES else "-".join(reversed(direction.split("-")))


def targets(pairs):
    return [tuple(pairs[i]["target"].tolist()) for i in range(len(pairs))]

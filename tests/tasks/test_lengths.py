"""Lengths are checked before work starts, in what a tag leaves of them; nothing is lost unsaid."""

import re

import numpy as np
import pytest
import torch
from console import hypotheses
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_commands import EOS, PAIRS, TRAIN, write_data

from fairseq_taskmoe.distillation.distill import distill
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.evaluate import evaluate
from fairseq_taskmoe.evaluation.translate import Batching, Search
from fairseq_taskmoe.routing.collect import write_routing

TAG = ("--encoder-langtok", "tgt")
GENERATE = ("--task", "translation_task_moe", "-s", "en", "-t", "de", "--cpu")
SKIP = "--skip-invalid-size-inputs-valid-test"


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Data whose last sentence of en-de is long: 30 source tokens, 20 target tokens."""
    folder = tmp_path_factory.mktemp("lengths")
    sizes = {"en": 30, "de": 20}
    return write_data(folder / "data", train=sizes, valid=sizes, test=sizes)


@pytest.fixture
def trained(long, commands):
    """Give a function that trains for one update: trained(name, flags) -> the checkpoint."""

    def train(name, *flags):
        save_dir = long.parent / name
        if not save_dir.exists():
            commands.run("train", long, *TRAIN, *TAG, "--max-tokens", 60, "--disable-validation",
                         "--save-dir", save_dir, *flags)
        return save_dir / "checkpoint_last.pt"

    return train


def task_of(data, *flags):
    words = [str(data), *TRAIN, *map(str, flags), "--max-tokens", "60"]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    return task


# -- --truncate-source


@pytest.mark.parametrize("tag", [(), TAG, ("--encoder-langtok", "src", "--decoder-langtok")])
def test_truncated_sources_with_tag_have_the_maximum_length(tag, long, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fairseq-train"])
    whole = task_of(long, *tag)
    cut = task_of(long, *tag, "--truncate-source", "--max-source-positions", 8)
    for task in (whole, cut):
        task.load_dataset("valid")
    assert np.array(whole.dataset("valid").sizes)[:, 0].max() == 30 + bool(tag)
    assert np.array(cut.dataset("valid").sizes)[:, 0].max() == 8
    for before, after in zip(whole.dataset("valid"), cut.dataset("valid"), strict=True):
        before, after = before["source"].tolist(), after["source"].tolist()
        assert after == (before if len(before) <= 8 else [*before[:7], EOS])


def test_training_on_truncated_sources_leaves_none_out(long, commands, caplog):
    with caplog.at_level("WARNING", logger="fairseq"):
        commands.run("train", long, *TRAIN, *TAG, "--truncate-source", "--max-source-positions", 8,
                     "--max-tokens", 60, "--save-dir", commands.folder / "model")
    assert "invalid sizes" not in caplog.text and "left out" not in caplog.text


def test_truncated_sources_are_translated(trained, long, commands):
    """Also where --max-source-positions is not given again: the checkpoint knows its limit."""
    checkpoint = trained("eight", "--truncate-source", "--max-source-positions", 8)
    said = commands.run("generate", long, *GENERATE, "--path", checkpoint, "--truncate-source")
    in_set = hypotheses(said)
    (typed,) = [line.split("\t")[1] for line in said.splitlines() if line.startswith("S-11\t")]
    assert typed.split()[0] == "__de__" and len(typed.split()) == 7
    words = Dictionary.load(str(long / "dict.en.txt"))
    task_words = words.string(torch.tensor(stored(long, "test")[11]))
    text = commands.folder / "text"
    text.write_text(task_words + "\n")
    said = commands.run("interactive", long, *GENERATE, "--path", checkpoint, "--truncate-source",
                        "--input", text)
    assert f"S-0\t{typed}\n" in said
    assert hypotheses(said)[0] == in_set[11]


def stored(data, split):
    from fairseq.data.data_utils import load_indexed_dataset

    dataset = load_indexed_dataset(str(data / f"{split}.en-de.en"))
    return [dataset[i].tolist() for i in range(len(dataset))]


# -- training and validation


def test_training_says_how_many_sentences_it_leaves_out(long, commands, caplog):
    with caplog.at_level("WARNING", logger="fairseq"):
        commands.run("train", long, *TRAIN, *TAG, "--max-tokens", 25, "--disable-validation",
                     "--save-dir", commands.folder / "model")
    assert re.search("1 samples have invalid sizes and will be skipped", caplog.text)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--max-tokens", 25),
         r"1 of the 24 sentences of the set valid have more than 25 source or 25 target tokens "
         r"\(--max-tokens 25, or --max-tokens-valid\): number 11 of en-de, counted from 0"),
        (("--max-tokens", 60, "--max-tokens-valid", 25), "--max-tokens 25, or --max-tokens-valid"),
        (("--max-tokens", 60, "--max-source-positions", 16),
         r"16 source or 1024 target tokens \(--max-source-positions, --max-target-positions\)"),
        (("--batch-size", 4, "--max-target-positions", 19), "1024 source or 19 target tokens"),
    ],
)
def test_a_long_validation_sentence_is_refused_before_training_or_left_out(
    flags, words, long, commands, caplog
):
    save_dir = commands.folder / "model"
    command = ("train", long, *TRAIN, *TAG, "--save-dir", save_dir, *flags)
    with pytest.raises(Refusal, match=f"{words}.*{SKIP} leaves them out"):
        commands.run(*command)
    assert list(save_dir.iterdir()) == []
    with caplog.at_level("WARNING", logger="fairseq_taskmoe"):
        commands.run(*command, SKIP)
    assert re.search(f"{words}.*: left out", caplog.text)
    assert (save_dir / "checkpoint_last.pt").exists()


def test_a_set_without_short_sentences_is_refused(long, commands):
    command = ("train", long, *TRAIN, *TAG, "--save-dir", commands.folder / "model")
    with pytest.raises(Refusal, match="no sentence of the set train is left to train on"):
        commands.run(*command, "--max-tokens", 2, "--disable-validation")
    with pytest.raises(Refusal, match="no other sentence is left to validate on"):
        commands.run(*command, "--max-tokens", 60, "--max-tokens-valid", 2, SKIP)


# -- references


@pytest.mark.parametrize("positions", [
    "learned", pytest.param("sinusoidal", marks=pytest.mark.slow),
])
def test_references_within_the_positions_are_scored(positions, trained, long, commands):
    flags = ("--decoder-learned-pos",) if positions == "learned" else ()
    checkpoint = trained(positions, "--max-target-positions", 16, *flags)
    command = ("generate", long, *GENERATE, "--path", checkpoint, "--score-reference")
    if positions == "sinusoidal":
        said = commands.run(*command)
        assert sorted(hypotheses(said)) == list(range(12))
    else:
        with pytest.raises(Refusal, match="set test has 1 reference.* more than 16 tokens.*er 11,"):
            commands.run(*command)
    # translating has no need of them
    said = commands.run("generate", long, *GENERATE, "--path", checkpoint, "--max-len-b", 5)
    assert sorted(hypotheses(said)) == list(range(12))
    said = commands.run(
        "generate", long, *GENERATE, "--path", checkpoint, "--max-len-b", 5, "--prefix-size", 19
    )
    assert sorted(hypotheses(said)) == list(range(12))


@pytest.mark.slow
def test_routing_reads_no_reference_beyond_the_positions(trained, long, tmp_path):
    checkpoint = str(trained("learned", "--max-target-positions", 16, "--decoder-learned-pos"))
    with pytest.raises(Refusal, match="the test set of en-de has 1 reference"):
        write_routing(str(long), checkpoint, str(tmp_path / "routing"), cpu=True)
    write_routing(str(long), checkpoint, str(tmp_path / "decoded"), cpu=True, beam=1)
    assert {file.name for file in tmp_path.iterdir()} == {"decoded"}


# -- test sets


def test_a_sentence_that_fits_no_batch_is_named_before_any_is_translated(
    trained, long, commands, tmp_path
):
    checkpoint = trained("sinusoidal", "--max-target-positions", 16)
    with pytest.raises(Refusal, match="--max-tokens 25: the set test has a sentence of 31 tokens"):
        commands.run("generate", long, *GENERATE, "--path", checkpoint, "--max-tokens", 25)
    small = Batching(max_tokens=25)
    out = tmp_path / "out"
    with pytest.raises(Refusal, match="-tokens 25: the test set of en-de has a sentence of 31"):
        evaluate(str(long), str(checkpoint), str(out), ["en-fr", "en-de"], batching=small, cpu=True)
    with pytest.raises(Refusal, match="-tokens 25: the test set of en-de has a sentence of 31"):
        write_routing(str(long), str(checkpoint), str(out), batching=small, cpu=True)
    with pytest.raises(Refusal, match="--max-tokens 25: the train set of en-de has a sentence of "):
        distill(str(long), str(checkpoint), str(out), search=Search(beam=1), batching=small,
                cpu=True)
    assert list(tmp_path.iterdir()) == []


def test_sources_beyond_the_positions_are_found_in_all_directions_first(trained, long, tmp_path):
    checkpoint = str(trained("sixteen", "--max-source-positions", 16, "--max-target-positions", 16))
    out = tmp_path / "out"
    with pytest.raises(Refusal, match="1 source sentence.* more than 16 tokens.*number 11"):
        evaluate(str(long), checkpoint, str(out), ["en-fr", "en-de"], cpu=True)
    assert list(tmp_path.iterdir()) == []
    skipped = Batching(skip_long=True)
    results = evaluate(str(long), checkpoint, str(out), PAIRS, batching=skipped, cpu=True)
    assert [score["sentences"] for score in results.directions.values()] == [12, 12]


@pytest.mark.parametrize("buffer", [1, 3, 5, 20])
def test_the_number_of_a_long_line_is_its_number_in_the_input(buffer, trained, long, commands):
    checkpoint = trained("sixteen", "--max-source-positions", 16, "--max-target-positions", 16)
    text = commands.folder / "text"
    lines = ["w1"] * 7 + ["w1 " * 20, "w2"]
    text.write_text("".join(f"{line}\n" for line in lines))
    command = ("interactive", long, *GENERATE, "--path", checkpoint, "--input", text,
               "--buffer-size", buffer)
    with pytest.raises(Refusal, match="number 7, counted from 0"):
        commands.run(*command)
    said = commands.run(*command, SKIP)
    assert sorted(hypotheses(said)) == list(range(9))

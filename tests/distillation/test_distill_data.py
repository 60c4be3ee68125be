"""A teacher's translations as training data: what changes, what stays, and resuming after kills."""

import os
import shutil
import signal
import sys
from functools import partial

import pytest
import torch
from console import LANG_PAIRS as TRAINED
from console import TRAIN, logged, refused, run
from fairseq.data.indexed_dataset import MMapIndexedDataset
from forked_processes import start_function
from helpers import make_config, make_model
from omegaconf import OmegaConf

from fairseq_taskmoe.data.detokenize import TextOf
from fairseq_taskmoe.data.indexed_files import write_sentences
from fairseq_taskmoe.data.languages import load_joined_dictionary
from fairseq_taskmoe.distillation.distill import distill as distill_in_chunks
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.translate import (
    Batching,
    Search,
    load_for_pairs,
    translate_pairs,
)
from fairseq_taskmoe.tasks.config import TranslationTaskMoeConfig
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask

SEARCH = Search(beam=2, max_len_b=12)
distill = partial(distill_in_chunks, chunk_sentences=150)
NUM_TRAIN = 400


def save_teacher(corpus, path, **settings):
    """Write a teacher of random weights, whose translations tell sentences apart."""
    cfg = OmegaConf.merge(OmegaConf.structured(TranslationTaskMoeConfig), {
        "data": str(corpus.data), "lang_pairs": TRAINED, "encoder_langtok": "tgt", "seed": 1,
        "train_subset": "train", "dataset_impl": None, "max_source_positions": 128,
        "max_target_positions": 128, **settings,
    })
    dictionary = load_joined_dictionary(str(corpus.data), ["de", "en", "ru"])
    task = TranslationTaskMoeTask(cfg, dictionary)
    model = {"router": "token", "decoder_moe_router": "target", "encoder_embed_dim": 32,
             "decoder_embed_dim": 32, "max_source_positions": 128, "max_target_positions": 128}
    torch.manual_seed(3)
    state = make_model(task, **model).state_dict()
    for name, weight in state.items():
        if "attn" in name and name.endswith("weight") or "output_projection" in name:
            weight *= 3
    del model["router"]
    model_cfg = OmegaConf.to_container(
        make_config(_name="transformer_task_moe", encoder_moe_router="token", **model),
        enum_to_str=True,
    )
    torch.save({
        "args": None, "model": state, "task_state": task.state_dict(),
        "cfg": {"model": model_cfg, "task": OmegaConf.to_container(cfg, enum_to_str=True)},
    }, path)
    return str(path)


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    return save_teacher(corpus, tmp_path_factory.mktemp("teacher") / "teacher.pt")


@pytest.fixture(scope="module")
def distilled(corpus, teacher, tmp_path_factory):
    """The folder of two directions of a pair, made without an interruption."""
    out = tmp_path_factory.mktemp("distilled") / "data-bin"
    distill(str(corpus.data), teacher, str(out), ["en-de", "de-en"], SEARCH, cpu=True)
    return out


def sentences(folder, name):
    stored = MMapIndexedDataset(str(folder / name))
    return [stored[i].tolist() for i in range(len(stored))]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_targets_are_the_teachers_translations(corpus, teacher, distilled):
    pairs = ["de-en", "en-de"]
    model, task = load_for_pairs(str(corpus.data), teacher, pairs)
    text = TextOf(task.dictionary, task.tags)
    for pair, expected in translate_pairs(model, task, pairs, "train", SEARCH.config(), Batching()):
        source, target = pair.split("-")
        found = sentences(distilled, f"train.{pair}.{target}")
        assert [text(torch.tensor(tokens)) for tokens in found] == expected
        assert len(set(expected)) > 20, "sentences are distinguished"
        assert all(tokens[-1] == 2 and max(tokens) < len(task.words) for tokens in found)
        original = sentences(corpus.data, f"train.en-de.{source}")
        assert sentences(distilled, f"train.{pair}.{source}") == original
        assert found != sentences(corpus.data, f"train.en-de.{target}")
        headers = [(folder / f"train.{name}.{target}.idx").read_bytes()[:17]
                   for folder, name in ((distilled, pair), (corpus.data, "en-de"))]
        assert headers[0] == headers[1], "format, and bytes of a token"


def test_all_else_stays_as_it_was(corpus, distilled):
    made, given = contents(distilled), contents(corpus.data)
    new = {f"train.{pair}.{lang}.{kind}" for pair in ("en-de", "de-en") for lang in ("en", "de")
           for kind in ("bin", "idx")}
    assert made.keys() == given.keys() | new | {"distillation.json"}
    assert all(made[name] == given[name] for name in given.keys() - new)
    assert not distilled.with_name("data-bin.part").exists()


def test_the_other_direction_of_a_pair_keeps_its_own_data(corpus, teacher, tmp_path):
    out = tmp_path / "new"
    distill(str(corpus.data), teacher, str(out), ["de-en"], SEARCH, cpu=True)
    for side in ("en", "de"):
        original = sentences(corpus.data, f"train.en-de.{side}")
        assert sentences(out, f"train.en-de.{side}") == original
        assert (sentences(out, f"train.de-en.{side}") == original) == (side == "de")
    _, task = load_for_pairs(str(out), teacher, ["en-de"])  # as training loads it
    pair = task.data_manager.load_pair("train", "en-de")
    assert pair.tgt[5].tolist() == sentences(corpus.data, "train.en-de.de")[5]


def test_what_has_no_translation_keeps_its_reference(corpus, teacher, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(corpus.data, data)
    sources, targets = (sentences(data, f"train.en-de.{lang}") for lang in ("en", "de"))
    sources[7], sources[9] = [2], [5] * 150 + [2]  # nothing, and more than the teacher reads
    write_sentences(data / "train.en-de.en", sources, 500)
    distill(str(data), teacher, str(tmp_path / "new"), ["en-de"], SEARCH, cpu=True)
    found = sentences(tmp_path / "new", "train.en-de.de")
    assert found[7] == targets[7] and found[9] == targets[9]
    assert sum(one == other for one, other in zip(found, targets, strict=True)) == 2
    assert "en-de: 400 sentences, of which 2 keep their reference" in capsys.readouterr().err
    record = (tmp_path / "new" / "distillation.json").read_text()
    assert '"kept_references": {\n    "en-de": 2\n  }' in record


def test_tags_are_no_part_of_the_new_targets(corpus, tmp_path):
    teacher = save_teacher(corpus, tmp_path / "tagged.pt", decoder_langtok=True)
    out = tmp_path / "new"
    distill(str(corpus.data), teacher, str(out), ["en-de"], SEARCH, cpu=True)
    found = sentences(out, "train.en-de.de")
    assert max(map(max, found)) < len(load_joined_dictionary(str(corpus.data), ["en"]))
    assert len({tuple(tokens) for tokens in found}) > 20


# -- kills


def distill_and_die(at, data, teacher, out):
    """Be killed before the at-th file gets its name."""
    seen = 0

    def count(event, _):
        nonlocal seen
        if event in ("os.rename", "os.link"):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    distill(data, teacher, out, ["en-de", "de-en"], SEARCH, cpu=True)


@pytest.mark.slow
def test_killed_and_resumed_is_never_stopped(corpus, teacher, distilled, tmp_path):
    out = tmp_path / "data-bin"
    part = tmp_path / "data-bin.part"
    # in the second chunk, whose data is there and whose index is not; among the links of the end
    for at, num_chunks in ((6, 1), (25, 6)):
        process = start_function(distill_and_die, at, str(corpus.data), teacher, str(out))
        assert process.wait(200) == -signal.SIGKILL and not out.exists()
        assert len(list(part.glob("chunks/*/*.json"))) == num_chunks
    stamps = {path: path.stat().st_mtime_ns for path in part.glob("chunks/*/*.bin")}
    before = part / "chunks" / "en-de" / "000000.json"
    before.with_name("000001.json").unlink()  # not finished: it is translated again
    distill(str(corpus.data), teacher, str(out), ["en-de", "de-en"], SEARCH, cpu=True)
    assert len(stamps) == 6
    assert contents(out) == contents(distilled)
    assert not part.exists()


def test_a_finished_folder_is_not_changed(corpus, teacher, distilled):
    before = {path: path.stat().st_mtime_ns for path in distilled.iterdir()}
    part = distilled.with_name("data-bin.part")
    part.mkdir()  # of a run that was killed when all was done
    distill(str(corpus.data), teacher, str(distilled), ["en-de", "de-en"], SEARCH, cpu=True)
    assert before == {path: path.stat().st_mtime_ns for path in distilled.iterdir()}
    assert not part.exists()
    with pytest.raises(Refusal, match="exists; nothing was overwritten"):
        distill(str(corpus.data), teacher, str(distilled), ["en-de"], SEARCH, cpu=True)


def test_other_settings_do_not_take_up_what_is_there(corpus, teacher, tmp_path):
    out = tmp_path / "new"
    process = start_function(distill_and_die, 6, str(corpus.data), teacher, str(out))
    assert process.wait(200) == -signal.SIGKILL
    with pytest.raises(Refusal, match="new.part has results of another checkpoint or other set"):
        distill(str(corpus.data), teacher, str(out), ["en-de", "de-en"],
                SEARCH._replace(beam=3), cpu=True)


def test_what_cannot_be_distilled_is_refused(corpus, teacher, tmp_path):
    data, out = tmp_path / "data", str(tmp_path / "new")
    shutil.copytree(corpus.data, data)
    with pytest.raises(Refusal, match="data has no train data for de-ru"):
        distill(str(data), teacher, out, ["de-ru"], SEARCH, cpu=True)
    with pytest.raises(Refusal, match="distill the folders of sharded data one at a time"):
        distill(f"{data}:{data}", teacher, out, ["en-de"], SEARCH, cpu=True)
    with pytest.raises(Refusal, match="no.pt: no such checkpoint"):
        distill(str(data), str(tmp_path / "no.pt"), out, ["en-de"], SEARCH, cpu=True)
    with pytest.raises(Refusal, match="--max-tokens 5: the train set of en-de has a sentence of"):
        distill(str(data), teacher, out, ["en-de"], SEARCH, Batching(max_tokens=5), cpu=True)
    for lang in ("en", "de"):
        for kind in ("bin", "idx"):
            shutil.copy(data / f"train.en-de.{lang}.{kind}", data / f"train1.en-de.{lang}.{kind}")
    with pytest.raises(Refusal, match="train1.en-de.en: more training data for en-de"):
        distill(str(data), teacher, out, ["en-de"], SEARCH, cpu=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    with pytest.raises(Refusal, match="--out .*new exists; nothing was overwritten"):
        distill(str(corpus.data), teacher, out, ["en-de"], SEARCH, cpu=True)
    assert os.listdir(out) == ["mine"]


@pytest.mark.slow
def test_a_student_trains_on_it_through_the_commands(corpus, teacher, tmp_path):
    out = tmp_path / "new"
    flags = ("--path", teacher, "--out", out, "--beam", 1, "--max-len-b", 12, "--cpu")
    printed = run("taskmoe", "distill", corpus.data, *flags, "--chunk-sentences", 300).stderr
    assert "ru-en: 300 of 400 sentences" in printed and "ru-en: 400 sentences, of which" in printed
    trained = run(
        "fairseq-train", out, *TRAIN, "--langs", "de,en,ru", "--moe-expert-count", 0,
        "--max-update", 3, "--save-dir", tmp_path / "student",
    )
    assert len(logged(trained.said, "loss")) == 3
    for flag in ("--beam", "--chunk-sentences"):
        bad = run("taskmoe", "distill", corpus.data, *flags, flag, 0, check=False)
        assert f"{flag} 0: give 1 or more" in refused(bad)

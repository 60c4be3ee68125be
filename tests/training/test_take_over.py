"""Weights go by the names of their rows: each difference is kept by name, new and said, or refused.

A checkpoint is taken over in each of the four ways that training can start from one.
"""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from helpers import ROUTERS
from taken_over_models import (
    GROUPS,
    LANGS,
    PAIRS,
    WORDS,
    assert_same_for,
    save,
    side,
    start,
)

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.training.checks import RunSettings
from fairseq_taskmoe.training.counterparts import symbol_names
from fairseq_taskmoe.training.take_over import check_start

WAYS = ("finetune", "resets", "resume", "init-shared")

# difference -> settings of the new model, what is said of it where it is taken over (None where
# that is refused), what a refusal says, and what of it --init-shared-from says (None: nothing)
KEPT = "new: nothing; left out: nothing"
CASES = {
    "the same": ({}, "", None, None),
    "words in another order": ({"words": WORDS[::-1]}, KEPT, "word 4 is 'w0' in one", KEPT),
    "a new word": ({"words": ("new", *WORDS)}, "new: word new", "vocabulary of 16 words is not",
                   "new: word new"),
    "a word less": ({"words": WORDS[:-1]}, "left out: word w11", "vocabulary of 16 words is not",
                    "left out: word w11"),
    "tags in another order": ({"langs": LANGS[::-1]}, KEPT, "trained with --langs de,en", KEPT),
    "tags of another form": ({"style": "mbart"}, KEPT, "--lang-tok-style", KEPT),
    "a new tag": ({"langs": ("gu", *LANGS)}, "new: tag __gu__", "--langs gu,de", "new: tag __gu__"),
    "a tag less": ({"langs": LANGS[:-1]}, "left out: tag __hi__", "this run has --langs de,en,fr",
                   "left out: tag __hi__"),
    "another use of tags": ({"langtok": "src"}, None, "--encoder-langtok tgt, this run has", None),
    "a pair more": ({"pairs": ("de-fr", *PAIRS)}, "new: task de-fr", "de-fr is only in this run",
                    None),
    "a pair less": ({"pairs": PAIRS[:2]}, "left out: task en-fr", "en-fr is only there", None),
    "a new group": ({"router": "group", "pairs": ("de-hi", *PAIRS),
                     "groups": {"a new one": ["hi"], **GROUPS}}, "new: task de-hi", "de-hi is only",
                    None),
    "a pair in another group": (
        {"router": "group", "groups": {"german": ["de", "fr"], "other": ["en"]}}, None,
        "en-fr is in the group other|the group german", None,
    ),
    "another router": ({"router": "pair"}, None, "--encoder-moe-router target, this one has pair",
                       None),
    "more experts": ({"moe_expert_count": 8}, "new: experts 5 6 7",
                     "--moe-expert-count 5, this one has 8", None),
    "experts of text routers": ({"router": "token", "moe_expert_count": 8}, None,
                                "--moe-expert-count 5, this", None),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_no_difference_is_silent(case, way, tmp_path, caplog):
    settings, told, refusal, shared = CASES[case]
    router = "target" if case == "another router" else settings.get("router", "target")
    base, own = side(router), side(seed=2, **settings)
    caplog.set_level(logging.INFO, "fairseq_taskmoe")
    is_refused = told is None if way in ("finetune", "resets") else way == "resume" and refusal
    if is_refused or case == "another use of tags":
        before = {name: value.clone() for name, value in own.model.state_dict().items()}
        with pytest.raises(Refusal, match=refusal):
            start(base, own, way, tmp_path)
        assert all(torch.equal(before[n], value) for n, value in own.model.state_dict().items())
        return
    start(base, own, way, tmp_path)
    lines = "\n".join(record.message for record in caplog.records)
    if way != "init-shared":
        assert (told or "") in lines and (not told) == (not lines)
        if case != "more experts":  # the gates of a longer softmax are rounded otherwise
            assert_same_for([p for p in PAIRS if p in own.names.table.trained], base, own)
    else:
        assert "initialised at random: " in lines and ".moe.router.gate" in lines
        assert ("by name" in lines) == (shared is not None) and (shared or "") in lines
        tables = [each.model.encoder.embed_tokens.weight for each in (base, own)]
        old, new = (symbol_names(each.names.words, each.names.tags) for each in (base, own))
        for name in set(old) & set(new):
            assert torch.equal(tables[0][old.index(name)], tables[1][new.index(name)]), name


SUPERSET = ("fr-de", *PAIRS)  # the last one, so that `static` keeps the experts of the others


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("pairs", [SUPERSET, PAIRS[:2]], ids=["superset", "subset"])
def test_every_router_takes_trained_pairs_where_it_took_them(router, pairs, tmp_path):
    base, own = side(router), side(router, pairs=pairs, seed=2)
    start(base, own, "finetune", tmp_path)
    assert_same_for(set(pairs) & set(PAIRS), base, own)


def test_static_routes_are_refused_where_they_would_change_and_can_be_stored(tmp_path):
    base, pairs = side("static"), ("aa-en", *PAIRS)
    langs = ("aa", *LANGS)
    with pytest.raises(Refusal, match="is 0 there and 1 here for de-en: its experts would change"):
        start(base, side("static", pairs=pairs, langs=langs, groups=None), "finetune", tmp_path)
    # all experts are the same after one task in two of two experts, but not in three
    counts = {"moe_expert_count": 2, "encoder_moe_layer_experts": "2,3"}
    with pytest.raises(Refusal, match="encoder-moe-router static.* for de-en: its experts would"):
        start(side("static", **counts),
              side("static", pairs=pairs, langs=langs, groups=None, **counts), "finetune", tmp_path)
    own = side("table", pairs=pairs, langs=langs, groups=None, seed=2, init_task="aa-en=en-fr")
    start(base, own, "finetune", tmp_path)
    assert_same_for(PAIRS, base, own)
    router = own.model.encoder.layers[0].moe.router
    assert torch.equal(router.task_experts[0], router.task_experts[3])
    again = side("table", pairs=("zz-en", *pairs), langs=("zz", *langs), groups=None, seed=3)
    (tmp_path / "again").mkdir()
    start(own, again, "resets", tmp_path / "again")
    assert_same_for((*PAIRS, "aa-en"), own, again)


def test_random_routes_are_refused_where_words_have_other_numbers(tmp_path):
    own = side("random", words=(WORDS[1], WORDS[0], *WORDS[2:]))
    with pytest.raises(Refusal, match="random chooses experts by the numbers of words, and w1 is "
                                      "number 5 there and 4 here"):
        start(side("random"), own, "finetune", tmp_path)


def embedding(of, name):
    names = symbol_names(of.names.words, of.names.tags)
    return of.model.encoder.embed_tokens.weight[names.index(name)]


def task_embedding(of, group, kind):
    router = of.model.decoder.layers[1].moe.router
    return router.embed_tasks.weight[of.names.table.group_names(kind).index(group)]


def test_what_is_new_starts_from_the_mean_or_from_what_flags_name(tmp_path):
    base, langs = side("pair"), ("gu", "ta", *LANGS)
    own = side("pair", pairs=("de-fr", "en-gu", "ta-en", *PAIRS), langs=langs, groups=None, seed=2,
               words=("new", *WORDS), init_task="en-gu=en-fr,ta-en=de-en", init_tag="gu=fr")
    start(base, own, "finetune", tmp_path)
    assert torch.equal(embedding(own, ("tag", "gu")), embedding(base, ("tag", "fr")))
    tags = torch.stack([embedding(base, ("tag", lang)) for lang in LANGS])
    assert torch.equal(embedding(own, ("tag", "ta")), tags.mean(0))
    words = torch.stack([embedding(base, word) for word in WORDS])
    assert torch.allclose(embedding(own, "new"), words.mean(0))
    for new, old in (("en-gu", "en-fr"), ("ta-en", "de-en")):
        assert torch.equal(task_embedding(own, new, "pair"), task_embedding(base, old, "pair"))
    rows = torch.stack([task_embedding(base, pair, "pair") for pair in PAIRS])
    assert torch.allclose(task_embedding(own, "de-fr", "pair"), rows.mean(0))


def test_the_bias_of_the_softmax_goes_by_name_too(tmp_path):
    base, own = side(decoder_output_bias=True), side(
        decoder_output_bias=True, words=("new", *WORDS[::-1]), langs=LANGS[::-1], seed=2
    )
    torch.nn.init.normal_(base.model.decoder.output_projection.bias)
    start(base, own, "finetune", tmp_path)
    assert_same_for(PAIRS, base, own)


@pytest.mark.parametrize("flags, told", [
    ({"init_task": "en-fr=en-de"}, "--init-task en-fr=en-de: give a name on the left that only"),
    ({"init_task": "en-gu=xx-yy"}, "--init-task en-gu=xx-yy: the checkpoint has de-en, en-de"),
    ({"init_task": "gu-en=en-de"}, "--init-task gu-en=en-de: has no effect"),
    ({"init_task": "en-gu=en-fr,de-gu=en-de"}, "gu is initialised from another group too"),
    ({"init_tag": "gu=xx"}, "--init-tag gu=xx: the checkpoint has de, en, fr, hi"),
    ({"init_tag": "gu"}, "--init-tag gu: the checkpoint has"),
])
def test_a_start_that_cannot_be_is_refused(flags, told, tmp_path):
    pairs, langs = ("de-gu", "en-gu", "gu-en", *PAIRS), ("gu", *LANGS)
    own = side(pairs=pairs, langs=langs, groups=None, **flags)
    with pytest.raises(Refusal, match=told):
        start(side(), own, "finetune", tmp_path)


def test_averages_that_a_checkpoint_lacks_are_refused(tmp_path):
    own = side()
    saving = {"save_dir": str(tmp_path), "restore_file": "checkpoint_last.pt",
              "finetune_from_model": save(own, tmp_path / "base.pt")}
    with pytest.raises(Refusal, match="--store-ema: .*base.pt has no averaged weights"):
        check_start(RunSettings({}, {}, {}, saving, {"store_ema": True}, None, None), own.names)


def test_start_flags_without_a_checkpoint_are_refused(tmp_path):
    own = side(init_tag="gu=hi")
    settings = RunSettings({}, {}, {}, {"save_dir": str(tmp_path)}, {}, None, None)
    with pytest.raises(Refusal, match="--init-tag gu=hi: no checkpoint to start from"):
        check_start(settings, own.names)


@pytest.mark.parametrize("damage, told", [
    (lambda whole: whole[: len(whole) // 2], "truncated, or no checkpoint"),
    (lambda whole: pickle.dumps(print), "no plain checkpoint|no checkpoint"),
])
def test_a_damaged_or_hostile_file_is_refused(damage, told, tmp_path):
    path = Path(save(side(), tmp_path / "base.pt"))
    path.write_bytes(damage(path.read_bytes()))
    saving = {"save_dir": str(tmp_path), "finetune_from_model": str(path)}
    with pytest.raises(Refusal, match=f"base.pt: .*({told})"):
        check_start(RunSettings({}, {}, {}, saving, {}, None, None), side().names)


def test_rows_that_a_file_lacks_are_refused(tmp_path):
    base = side("pair", groups=None)
    base.model.decoder.layers[1].moe.router.embed_tasks.weight = torch.nn.Parameter(
        torch.zeros(1, 16)
    )
    own = side("pair", pairs=PAIRS[:2], groups=None)
    with pytest.raises(Refusal, match="decoder.layers.1.moe.router.embed_tasks.weight has 1 rows"):
        start(base, own, "finetune", tmp_path)

"""What frozen tasks are translated with stays bit for bit as it is, whatever the optimizer does."""

from types import SimpleNamespace

import pytest
import torch
from console import TRAIN, refused, run
from rank_trainings import run_on
from taken_over_models import LANGS, PAIRS, save, side, start
from torch.optim import AdamW

from fairseq_taskmoe.checkpoint.reading import read_model
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.names import WORD_ROWS
from fairseq_taskmoe.subnet.extract import extract_subnet
from fairseq_taskmoe.training.counterparts import symbol_names
from fairseq_taskmoe.training.freezing import (
    check_resumed,
    find_frozen_tasks,
    freeze_parameters,
    frozen_rows,
    hold_rows,
)
from fairseq_taskmoe.training.take_over import Start

NEW = {"pairs": ("en-gu", "gu-en", *PAIRS), "langs": ("gu", *LANGS), "groups": None}


def loss_of(of):
    """Return a value that depends on all weights: random sentences of all tasks."""
    torch.manual_seed(3)
    tokens = torch.randint(4, 20, (len(of.names.table.trained), 6))
    logits, _ = of.model(tokens, None, tokens, torch.arange(len(tokens)))
    return logits.logsumexp(2).square().sum()


@pytest.mark.parametrize("router", ["pair", "target", "source", "token", "static"])
def test_frozen_tasks_keep_their_weights_in_spite_of_momentum_and_decay(router, tmp_path):
    sizes = {"moe_expert_count": 12}
    base = side(router, groups=None, **sizes)
    new = NEW if router != "static" else {**NEW, "pairs": ("fr-de", *PAIRS)}
    own = side(router, seed=2, **new, **sizes)
    start(base, own, "finetune", tmp_path)
    symbols = [own.names.tags.tag("gu")]
    tasks = find_frozen_tasks(",".join(PAIRS), own.names, Start("base.pt", PAIRS, None, symbols))
    freeze_parameters(own.model, None, tasks)
    trained = [parameter for parameter in own.model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=0.1, weight_decay=0.5)
    loss_of(own).backward()  # moments of all rows, as of an earlier training
    optimizer.step()
    start(base, own, "finetune", tmp_path)
    before = {name: value.clone() for name, value in own.model.named_parameters()}
    rows = frozen_rows(own.model, tasks)
    hold_rows(rows, SimpleNamespace(optimizer=optimizer))
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(own).backward()
        assert all(not each.parameter.grad[each.rows].any() for each in rows)
        optimizer.step()
    changed = {name for name, value in own.model.named_parameters()
               if not torch.equal(value, before[name])}
    parts = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
             "decoder.output_projection.weight"}
    assert changed >= parts
    is_shared = {name for name in changed if ".moe." not in name} - parts
    assert not is_shared and not {name for name in changed if "gate" in name}
    assert any("experts" in name for name in changed) == (router != "token")
    kept = extracted_from(base, tmp_path / "base.pt"), extracted_from(own, tmp_path / "own.pt")
    for pair in PAIRS if router != "token" else ():
        assert_same_subnets(kept[0], kept[1], pair)


def extracted_from(of, path):
    save(of, path)
    return read_model(str(path))


def assert_same_subnets(old, new, pair, rtol=0.0):
    """Compare the sub-networks of a pair, the rows of words and tags by name."""
    one, other = (extract_subnet(each, [pair]).state for each in (old, new))
    names, new_names = (symbol_names(each.words, each.tags) for each in (old, new))
    rows = torch.tensor([new_names.index(name) for name in names])
    assert one.keys() == other.keys()
    for name, weight in one.items():
        found = other[name][rows] if name in WORD_ROWS else other[name]
        assert torch.allclose(weight, found, rtol, atol=rtol / 10), name


def test_freeze_excludes_what_the_expression_finds():
    own = side()
    freeze_parameters(own.model, "embed_tokens|encoder.*experts", None)
    frozen = {name for name, each in own.model.named_parameters() if not each.requires_grad}
    assert frozen == {
        name for name, _ in own.model.named_parameters()
        if "embed_tokens" in name or name.startswith("encoder") and "experts" in name
    }


@pytest.mark.parametrize("regex, told", [
    ("nothing", "--freeze nothing: matches no parameter, such as encoder"),
    ("(", "--freeze (: not a regular expression"),
    (".", "--freeze .: nothing is left to train"),
])
def test_an_expression_that_makes_no_sense_is_refused(regex, told):
    with pytest.raises(Refusal) as refusal:
        freeze_parameters(side().model, regex, None)
    assert told in str(refusal.value)


def test_tasks_of_no_checkpoint_cannot_be_frozen():
    with pytest.raises(Refusal, match="--freeze-tasks en-de: the checkpoint to start from has no"):
        find_frozen_tasks("en-de", side().names, Start())


def test_some_task_or_word_must_be_left_to_train():
    every = ",".join(PAIRS)
    with pytest.raises(Refusal, match="--freeze-tasks de-en,en-de,en-fr: no task is left to train"):
        find_frozen_tasks(every, side().names, Start("a.pt", PAIRS))
    assert find_frozen_tasks(every, side().names, Start("a.pt", PAIRS, None, ["w1"])) is not None


def test_a_run_resumes_with_the_parameters_that_it_trained():
    own = side()
    names = [name for name, _ in own.model.named_parameters()]
    check_resumed(own.model, Start("a.pt", PAIRS, None, (), names))
    freeze_parameters(own.model, "fc1", None)
    with pytest.raises(Refusal, match="a.pt: .*fc1.* is trained only there; give --freeze"):
        check_resumed(own.model, Start("a.pt", PAIRS, None, (), names))


# -- with fairseq-train

OLD_PAIRS = ("--lang-pairs", "en-de,de-en", "--langs", "de,en", "--moe-expert-count", 8)
ADDED = (
    "--lang-pairs", "en-ru,ru-en", "--langs", "de,en,ru", "--moe-expert-count", 8,
    "--freeze-tasks", "en-de,de-en", "--weight-decay", 0.1, "--clip-norm", 0.01,
)


@pytest.fixture(scope="module")
def trained(train):
    return train("of-two-languages", *OLD_PAIRS, "--max-update", 2, "--disable-validation")


@pytest.mark.parametrize("flags", [
    (), pytest.param(("--bf16",), marks=pytest.mark.slow),
    pytest.param(("--optimizer", "adagrad"), marks=pytest.mark.slow),
], ids=["adam", "bf16", "adagrad"])
def test_a_language_is_added_with_the_others_untouched(flags, trained, corpus, tmp_path):
    words = ("fairseq-train", corpus.data, *TRAIN, *ADDED, *flags, "--save-dir", tmp_path)
    said = run(*words, "--finetune-from-model", trained, "--max-update", 2).said
    assert "new: tag __ru__, tasks en-ru ru-en" in said
    first = read_model(str(tmp_path / "checkpoint_last.pt"))
    run(*words, "--max-update", 4, "--disable-validation")
    old, new = read_model(str(trained)), read_model(str(tmp_path / "checkpoint_last.pt"))
    if "--bf16" in flags:  # which rounds what it starts from
        old.checkpoint["model"] = {n: w.bfloat16().float() for n, w in old.weights.items()}
    for pair in ("en-de", "de-en"):
        assert_same_subnets(old, new, pair)
    tag = symbol_names(new.words, new.tags).index(("tag", "ru"))
    tables = [each.weights["encoder.embed_tokens.weight"] for each in (first, new)]
    assert not torch.equal(tables[0][tag], tables[1][tag])
    assert any(
        not torch.equal(weight, new.weights[name]) for name, weight in first.weights.items()
        if ".moe.experts." in name
    )
    other = refused(run(*words, "--freeze", "experts", "--max-update", 5, check=False))
    assert "is trained only there; give --freeze" in other
    other = refused(run(*words, "--freeze-tasks", "en-de,de-en,en-ru", check=False))
    assert "trained with --freeze-tasks" in other and "has en-de,de-en,en-ru; give the" in other


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--bf16",)], ids=["float32", "bf16"])
def test_frozen_experts_on_several_ranks_stay_as_they_are(flags, trained, corpus, tmp_path):
    words = (
        "fairseq-train", corpus.data, *TRAIN, *ADDED, *flags, "--disable-validation",
        "--ddp-backend", "legacy_ddp", "--save-dir", tmp_path / "new", "--max-update",
    )
    run_on(2, tmp_path / "1", *words, 2, "--finetune-from-model", trained)
    run_on(2, tmp_path / "2", *words, 4)
    old, new = read_model(str(trained)), read_model(str(tmp_path / "new" / "checkpoint_last.pt"))
    if flags:
        old.checkpoint["model"] = {n: w.bfloat16().float() for n, w in old.weights.items()}
    for pair in ("en-de", "de-en"):
        assert_same_subnets(old, new, pair)
    experts = [name for name in old.weights if ".moe.experts." in name]
    assert any(not torch.equal(old.weights[name], new.weights[name]) for name in experts)

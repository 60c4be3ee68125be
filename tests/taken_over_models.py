"""Small models with random weights and named rows, and starts of one from another's checkpoint."""

from functools import partial
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from helpers import make_batch, make_config
from omegaconf import OmegaConf

from fairseq_taskmoe.checkpoint.same_model import check_loaded
from fairseq_taskmoe.models.transformer_task_moe import TransformerTaskMoeModel
from fairseq_taskmoe.tasks.config import TranslationTaskMoeConfig
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask
from fairseq_taskmoe.training.checks import RunSettings
from fairseq_taskmoe.training.counterparts import Names, symbol_names
from fairseq_taskmoe.training.init_shared import init_shared_weights
from fairseq_taskmoe.training.take_over import check_start, taken_over

WORDS = tuple(f"w{i}" for i in range(12))
PAIRS = ("de-en", "en-de", "en-fr")
LANGS = ("de", "en", "fr", "hi")
GROUPS = {"german": ["de"], "other": ["en", "fr"]}


class Side(NamedTuple):
    """A model and what its rows belong to."""

    model: Any
    names: Names
    task: Any


def side(router="target", words=WORDS, pairs=PAIRS, langs=LANGS, groups=GROUPS, langtok="tgt",
         style="multilingual", seed=1, **overrides):
    """Return a small model with random weights."""
    dictionary = Dictionary()
    for word in words:
        dictionary.add_symbol(word)
    settings = {
        "data": "unused", "lang_pairs": ",".join(pairs), "langs": ",".join(langs), "seed": 1,
        "train_subset": "train", "dataset_impl": None, "encoder_langtok": langtok,
        "lang_tok_style": style,
    }
    schema = OmegaConf.structured(TranslationTaskMoeConfig)
    task = TranslationTaskMoeTask(OmegaConf.merge(schema, settings), dictionary)
    if groups:
        task.task_table = task.task_table.with_groups(groups)
    routers = {f"{stack}_moe_router": router for stack in ("encoder", "decoder")}
    cfg = make_config(**routers, **overrides)
    torch.manual_seed(seed)
    model = TransformerTaskMoeModel.build_model(cfg, task).eval()
    return Side(model, Names(cfg, task.task_table, task.tags, task.words), task)


def save(base, path):
    cfg = OmegaConf.to_container(base.names.cfg, enum_to_str=True)
    torch.save({
        "model": base.model.state_dict(), "task_state": base.task.state_dict(),
        "cfg": {"model": cfg, "task": {"data": "x"}, "criterion": {}},
    }, path)
    return str(path)


def start(base, own, way, folder, copy=True):
    """Give own the weights of base as training does."""
    path = save(base, folder / "base.pt")
    if way == "init-shared":
        own.names.cfg.init_shared_from = path
        init_shared_weights(own.model, own.names)
        return
    saving = {"save_dir": str(folder), "restore_file": "checkpoint_last.pt"}
    if way == "finetune":
        saving["finetune_from_model"] = path
    else:
        saving["restore_file"] = path
        reset = way == "resets"
        saving.update(reset_optimizer=reset, reset_dataloader=reset)
    check_loaded(own.names.cfg, saving)
    settings = RunSettings({}, {}, {}, saving, {}, None, None)
    found = check_start(settings, own.names).counterparts
    own.model.take_over = found and partial(taken_over, found, copy)
    own.model.load_state_dict(torch.load(path)["model"])


def outputs(of, pair, symbols):
    """Return features, and logits of given symbols, for a sentence of words of all models."""
    names = symbol_names(of.names.words, of.names.tags)
    source, target = pair.split("-")
    tag = source if of.names.tags.encoder_langtok == "src" else target
    tokens = [names.index(("tag", tag)), *map(names.index, ("w1", "w5", "w3")), 2]
    batch = make_batch([torch.tensor(tokens)], [torch.tensor([names.index("w2"), 2])],
                       [of.names.table.task_id(pair)])
    with torch.no_grad():
        features, _ = of.model(**batch["net_input"], features_only=True)
        logits = of.model.decoder.output_layer(features)
    return features, logits[..., [names.index(symbol) for symbol in symbols]]


def assert_same_for(pairs, base, own):
    """Compare features bit for bit, and the logits of the symbols that both models have.

    A product with another number of columns may round otherwise.
    """
    new = symbol_names(own.names.words, own.names.tags)
    old = symbol_names(base.names.words, base.names.tags)
    both = [name for name in old if name in new]
    for pair in pairs:
        (features, logits), (own_features, own_logits) = (
            outputs(each, pair, both) for each in (base, own)
        )
        assert torch.equal(features, own_features), pair
        if len(old) == len(new):
            assert torch.equal(logits, own_logits), pair
        assert torch.allclose(logits, own_logits, rtol=1e-6, atol=1e-6), pair

"""The models of the study: their sizes, training, and what is measured of them."""

from itertools import islice
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fairseq_taskmoe.checkpoint.contents import TrainedModel
from fairseq_taskmoe.checkpoint.load_models import load_task_moe
from fairseq_taskmoe.models.config import PRE_NORM, TransformerTaskMoeConfig
from fairseq_taskmoe.models.router_kinds import ROUTERS
from fairseq_taskmoe.models.transformer_task_moe import (
    TransformerTaskMoeModel,
    build_without_task,
)
from fairseq_taskmoe.modules.label_smoothed_loss import label_smoothed_nll
from fairseq_taskmoe.names import STACKS
from fairseq_taskmoe.subnet.extract import extract_subnet

from .ciphers import LENGTH, TEST_SEED, Batch, Ciphers

NUM_EXPERTS, TOP_K, WIDTH = 16, 2, 32
NUM_SENTENCES = 128  # in a batch
NUM_TEST_SENTENCES = 2048
LEARNING_RATE, WARMUP, LAST_LEARNING_RATE = 0.006, 100, 0.00012
BALANCE_WEIGHT = 0.01
PADDING = 1

SIZES: Dict[str, Any] = {
    **PRE_NORM, "share_all_embeddings": True, "dropout": 0.0, "max_source_positions": 64,
    "max_target_positions": 64, "moe_top_k": TOP_K, "moe_expert_count": NUM_EXPERTS,
    **{f"{stack}_{name}": value for stack in STACKS for name, value in {
        "embed_dim": WIDTH, "ffn_embed_dim": WIDTH, "layers": 2, "attention_heads": 2,
    }.items()},
}


def _routers(encoder: str, decoder: str, **more: Any) -> Dict[str, Any]:
    return {"encoder_moe_router": encoder, "decoder_moe_router": decoder, **more}


# The router `dense` makes a network as wide as moe_top_k experts
ROWS: Dict[str, Dict[str, Any]] = {
    "dense": {"moe_expert_count": 0},
    "dense_equal": _routers("dense", "dense"),
    "dense_4x": _routers("dense", "dense", moe_top_k=2 * TOP_K),
    "dense_parameters": _routers("dense", "dense", moe_top_k=NUM_EXPERTS),
    **{f"{router}_{router}": _routers(router, router) for router in (
        "random", "source", "token", "sentence", "static", "group", "pair", "target",
    )},
    "token_target": _routers("token", "target"),
    "target_token": _routers("target", "token"),
}


class Extraction(NamedTuple):
    """A comparison of all tasks' sub-networks with the full model, on the test sentences."""

    words: int
    different: int  # words to which they give different translations
    max_abs_logprob_diff: float


def build(row: str, ciphers: Ciphers, seed: int) -> TransformerTaskMoeModel:
    """Return a new model of a row; `group` has groups of four languages."""
    torch.manual_seed(seed)
    langs = [lang for lang in ciphers.tags.langs if lang != "en"]
    groups = {f"g{i:02d}": langs[i:i + 4] for i in range(0, len(langs), 4)}
    return build_without_task(_config(row), ciphers.dictionary, ciphers.table.with_groups(groups))


def train(row: str, ciphers: Ciphers, seed: int, num_updates: int) -> TransformerTaskMoeModel:
    """Train a model with Adam; the learning rate rises, and falls to almost nothing."""
    model = build(row, ciphers, seed)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    batches = islice(ciphers.batches(seed, NUM_SENTENCES), num_updates)
    for update, batch in enumerate(batches, start=1):
        rate = min(LEARNING_RATE * update / WARMUP, LEARNING_RATE * (1 - update / num_updates))
        optimizer.param_groups[0]["lr"] = max(rate, LAST_LEARNING_RATE)
        logits, extra = _forward(model, batch)
        losses, _ = label_smoothed_nll(logits.flatten(0, 1), batch.target.flatten(), 0.0, PADDING)
        layers = [*extra["encoder_gate_stats"], *extra["gate_stats"]]
        loss = losses.mean() + BALANCE_WEIGHT * sum(layer.balance for layer in layers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def accuracy(model: TransformerTaskMoeModel, ciphers: Ciphers) -> List[float]:
    """Return for each language the fraction of test words that get the right translation."""
    batch, num_langs = held_out(ciphers), len(ciphers.permutations)
    is_right = _predict(model, batch).argmax(dim=2).eq(batch.target)[:, :LENGTH].float().mean(dim=1)
    right = torch.zeros(num_langs).index_add(0, batch.task_ids, is_right)
    return (right / batch.task_ids.bincount(minlength=num_langs)).tolist()


def extraction(model: TransformerTaskMoeModel, row: str, ciphers: Ciphers) -> Extraction:
    """Cut out every task's sub-network, and compare what it says with the full model."""
    trained = TrainedModel(
        _config(row), model.task_table, ciphers.tags, ciphers.words, [1] * len(ciphers.words),
        None, {}, {"model": model.state_dict()},
    )
    batch = held_out(ciphers)
    different, largest = 0, 0.0
    for task_id, pair in enumerate(ciphers.table.trained):
        cut = extract_subnet(trained, [pair])
        cut_out = trained._replace(
            cfg=OmegaConf.create(cut.model_cfg), checkpoint={"model": cut.state}
        )
        own = Batch(*(column[batch.task_ids == task_id] for column in batch))
        full, alone = _predict(model, own), _predict(load_task_moe(cut_out, [pair]).model, own)
        different += int(full.argmax(dim=2).ne(alone.argmax(dim=2)).sum())
        largest = max(largest, float((full - alone).abs().max()))
    return Extraction(batch.target.numel(), different, largest)


def can_extract(row: str) -> bool:
    """Return whether a task takes the same experts of a row in all sentences."""
    routers = [ROUTERS[str(ROWS[row].get(f"{stack}_moe_router", "dense"))] for stack in STACKS]
    return all(router.groups_by is not None for router in routers)


def flops_per_word(model: TransformerTaskMoeModel, ciphers: Ciphers) -> float:
    """Return the floating-point operations of matrix products in a forward pass, per target."""
    batch = held_out(ciphers)
    with FlopCounterMode(display=False) as counter:
        _predict(model, batch)
    return counter.get_total_flops() / batch.target.numel()


def held_out(ciphers: Ciphers) -> Batch:
    """Return the test sentences, which are the same for all models; training draws others."""
    return next(ciphers.batches(TEST_SEED, NUM_TEST_SENTENCES))


def _config(row: str) -> Any:
    return OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), {**SIZES, **ROWS[row]})


def _forward(model: TransformerTaskMoeModel, batch: Batch) -> Tuple[Tensor, Dict[str, Any]]:
    lengths = torch.full((len(batch.src_tokens),), batch.src_tokens.size(1))
    return model(batch.src_tokens, lengths, batch.prev_output_tokens, batch.task_ids)


@torch.no_grad()
def _predict(model: TransformerTaskMoeModel, batch: Batch) -> Tensor:
    """Return log-probabilities (B, S + 1, V)."""
    return _forward(model, batch)[0].log_softmax(dim=2)

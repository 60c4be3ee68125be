"""Which experts of a model that routes by its text a language pair can do without.

Koishekenov et al. (2023): an expert's importance is the share of tokens whose first choice it is,
times e to the power of its confidence, the mean gate with which it comes first. That way they prune
80 % of NLLB-200's experts without fine-tuning. P language pairs, E experts of a layer.
"""

import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from ..errors import refuse
from ..names import STACKS
from ..routing.shares import LayerName, read_arrays

SCOPES = ("layer", "global")
ARRAY_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d{1,4})(?:\.first|\.first_prob)?")


class Importance(NamedTuple):
    """How much each language pair needs each expert, encoder first."""

    lang_pairs: List[str]  # P
    # (P, E); a row of zeros for a pair of which nothing was measured
    layers: Dict[LayerName, np.ndarray]


def load_importance(path: Union[str, Path]) -> Importance:
    """Read what `taskmoe routing` wrote (routing_use.save_npz); refuses what it did not."""
    lang_pairs, arrays = read_arrays(path, ARRAY_NAME)
    found = (ARRAY_NAME.fullmatch(name) for name in arrays)
    names = {(match[1], int(match[2])) for match in found if match}
    if not names or not len(lang_pairs):
        refuse(f"{path} is not a routing file: it lacks MoE layers or language pairs")
    layers = {}
    for stack, i in sorted(names, key=lambda name: (name[0] != "encoder", name[1])):
        layer = f"{stack}.layers.{i}"
        first = _read_table(path, arrays, f"{layer}.first", len(lang_pairs), most=2.0**53)
        prob = _read_table(path, arrays, f"{layer}.first_prob", len(lang_pairs), most=1 + 1e-6)
        if first.shape != prob.shape:
            refuse(f"{path}: {layer} has first choices of {first.shape[1]} experts, and the "
                   f"probabilities of {prob.shape[1]}")
        layers[stack, i] = importance_of(first, prob)
    return Importance(lang_pairs.tolist(), layers)


def _read_table(
    path: Union[str, Path], arrays: Dict[str, np.ndarray], name: str, num_pairs: int, most: float
) -> np.ndarray:
    """Return the array of that name, (P, E) numbers from 0 to most, in float64."""
    table = arrays.get(name)
    if table is None:
        refuse(f"{path} has no {name}, which pruning needs: write it anew with taskmoe routing")
    if table.ndim != 2 or len(table) != num_pairs or not table.size:
        refuse(f"{path}: {name} is not an array of {num_pairs} rows, one for each language pair")
    # comparisons are false for NaN, so that NaN ends here too
    if table.dtype.kind not in "iuf" or not ((table >= 0) & (table <= most)).all():
        refuse(f"{path}: {name} has values that are not numbers from 0 to {most:.0f}")
    return table.astype(np.float64)


def importance_of(first: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Return the importance (P, E) of experts that come first for that many tokens (P, E).

    prob (P, E) is the mean probability with which they do: ExpertUse.first_probs says which.
    """
    frequency = first / np.maximum(first.sum(axis=1, keepdims=True), 1)
    return frequency * np.exp(prob)


def choose_experts(
    importance: Importance,
    lang_pairs: Sequence[str],
    keep: float,
    scope: str = "layer",
    balance: float = 3.0,
    min_experts: int = 2,
    stacks: Sequence[str] = STACKS,
) -> Dict[LayerName, List[int]]:
    """Return the experts, ascending, that each layer of the stacks keeps for these pairs.

    Args:
        keep: share of all experts of the stacks that stays; their number is rounded. Never fewer
            than min_experts of a layer stay, or all where it has no more
        scope: `layer`: the same number in all layers of a stack, as many as fit into the share;
            `global`: exactly the share, in each layer the fewest that have the same part of its
            importance together (keep_overall). That one threshold for all layers splits the experts
            between the stacks and has no use for balance
        balance: experts that a layer of the encoder keeps for one that a layer of the decoder does
        min_experts: top_k of the model, at least

    For several pairs importance is the mean over them. Refuses a pair of which nothing is known.
    """
    if not 0 < keep <= 1:
        refuse(f"--prune-keep {keep}: give the share of experts to keep, above 0 and at most 1")
    if not 0 < balance < float("inf"):
        refuse(f"--prune-balance {balance}: give a number above 0, encoder experts per decoder one")
    assert scope in SCOPES and lang_pairs and stacks, (scope, lang_pairs, stacks)
    scores = {
        (stack, i): np.mean([row_of(importance, (stack, i), pair) for pair in lang_pairs], axis=0)
        for stack, i in importance.layers
        if stack in stacks
    }
    for stack in stacks:
        if not any(name[0] == stack for name in scores):
            refuse(f"nothing to prune in the {stack}: the routing file has no MoE layers of it")
    budget = round(keep * sum(len(score) for score in scores.values()))
    if scope == "global":
        return keep_overall(scores, budget, min_experts)
    numbers = numbers_per_layer(scores, budget, balance, min_experts)
    return {name: sorted(ranked(score)[: numbers[name[0]]]) for name, score in scores.items()}


def row_of(importance: Importance, name: LayerName, lang_pair: str) -> np.ndarray:
    """Return a pair's importance (E,) in a layer, from its language where it was not measured.

    Which experts matter is a question of the source language in the encoder and of the target
    language in the decoder, so that the mean over the pairs that share it does as well (Koishekenov
    et al.: chrF++ 36.61 with statistics by language, 36.59 by pair).
    """
    rows = {
        pair: row
        for pair, row in zip(importance.lang_pairs, importance.layers[name], strict=True)
        if row.any()
    }
    if lang_pair in rows:
        return rows[lang_pair]
    side = 0 if name[0] == "encoder" else 1
    lang = lang_pair.partition("-")[::2][side]
    alike = [row for pair, row in rows.items() if pair.partition("-")[::2][side] == lang]
    if not alike:
        refuse(
            f"no routing statistics for {lang_pair}: neither it nor another pair "
            f"{('from', 'into')[side]} {lang} was measured, only {', '.join(rows) or 'none'}"
        )
    return np.mean(alike, axis=0)


def ranked(score: np.ndarray) -> List[int]:
    """Return all experts of a layer with score (E,), the most important first."""
    return np.argsort(-score, kind="stable").tolist()


def numbers_per_layer(
    scores: Dict[LayerName, np.ndarray], budget: int, balance: float, min_experts: int
) -> Dict[str, int]:
    """Return how many experts each layer of a stack keeps, a layer of fewer keeping all.

    From min_experts on, the stack that is furthest behind the balance gets one more expert in all
    of its layers (Sainte-Lague's apportionment, which meets the balance wherever integers can),
    until that is more than the budget.
    """
    sizes: Dict[str, List[int]] = {}
    for (stack, _), score in scores.items():
        sizes.setdefault(stack, []).append(len(score))
    weights = {"encoder": balance, "decoder": 1.0}
    numbers = {stack: min(min_experts, max(sizes[stack])) for stack in sizes}
    left = budget - sum(min(n, numbers[stack]) for stack in sizes for n in sizes[stack])
    while growing := [stack for stack in sizes if numbers[stack] < max(sizes[stack])]:
        behind = min(growing, key=lambda stack: (numbers[stack] + 0.5) / weights[stack])
        left -= sum(n > numbers[behind] for n in sizes[behind])
        if left < 0:
            break
        numbers[behind] += 1
    return numbers


def keep_overall(
    scores: Dict[LayerName, np.ndarray], budget: int, min_experts: int
) -> Dict[LayerName, List[int]]:
    """Return the experts, ascending, that one threshold for all layers keeps.

    Koishekenov et al., equation 5: each layer keeps the fewest of its experts whose shares of its
    importance reach the threshold together, so that a layer that uses its experts evenly keeps
    more of them. An expert is among those where the shares before it do not reach the threshold,
    which is the budget-th smallest of such sums.
    """
    best = {name: ranked(score) for name, score in scores.items()}
    kept = {name: experts[:min_experts] for name, experts in best.items()}
    left = max(0, budget - sum(map(len, kept.values())))

    def others() -> Iterator[Tuple[float, LayerName, int]]:
        for name, experts in best.items():
            sums = np.cumsum(scores[name][experts])
            for place in range(min_experts, len(experts)):
                yield sums[place - 1] / sums[-1], name, experts[place]

    # stable: among equals the encoder comes first, and then the layer's own order
    for _, name, expert in sorted(others(), key=lambda other: other[0])[:left]:
        kept[name].append(expert)
    return {name: sorted(experts) for name, experts in kept.items()}

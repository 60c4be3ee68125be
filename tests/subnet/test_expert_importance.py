"""Expert importance: tables by hand, what always holds, and the counts of a real model."""

import math
import re
import zipfile
from collections import defaultdict

import numpy as np
import pytest
import torch
from helpers import make_batch, make_model, random_sentences
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.modules.gate_losses import first_choices
from fairseq_taskmoe.modules.routers import RouterOutput
from fairseq_taskmoe.routing.collect import gate_stats, record_choices
from fairseq_taskmoe.subnet.expert_importance import (
    SCOPES,
    Importance,
    choose_experts,
    importance_of,
    load_importance,
)

PAIRS = ["de-en", "en-de", "en-zh"]
ENC, DEC = ("encoder", 1), ("decoder", 1)


def one_pair(**layers):
    """Return the importance of en-de, from rows (E,) by names like encoder_1."""
    rows = {}
    for name, row in layers.items():
        stack, i = name.split("_")
        rows[stack, int(i)] = np.array([row], dtype=float)
    return Importance(["en-de"], rows)


# -- by hand


def test_importance_is_frequency_times_e_to_the_confidence():
    first, prob = np.array([[6, 2, 0], [0, 0, 0]]), np.array([[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[0.75 * math.exp(0.5), 0.25 * math.e, 0], [0, 0, 0]]
    np.testing.assert_allclose(importance_of(first, prob), expected)


@pytest.mark.parametrize(
    "keep, balance, encoder, decoder",
    [
        (0.1875, 3, 36, 12),  # Koishekenov et al.'s 80 %: 24 of 128 on average
        (0.2, 3, 38, 13),  # 307 fit; 38.4 and 12.8 would be the shares
        (0.25, 1, 32, 32),
        (0.25, 1 / 3, 16, 48),
        (0.8, 3, 128, 76),  # the encoder keeps all; the decoder what is left of 1228: 460
        (0.0001, 3, 2, 2),
        (1, 3, 128, 128),
    ],
)
def test_balance_splits_the_experts_between_the_stacks(keep, balance, encoder, decoder):
    rows = {f"{stack}_{i}": range(1, 129) for stack in ("encoder", "decoder") for i in range(6)}
    kept = choose_experts(one_pair(**rows), ["en-de"], keep, balance=balance)
    numbers = {"encoder": encoder, "decoder": decoder}
    assert kept == {name: list(range(128 - numbers[name[0]], 128)) for name in kept}
    assert len(kept) == 12


def test_a_layer_of_fewer_experts_keeps_all_of_them():
    importance = one_pair(encoder_1=range(1, 11), encoder_3=[1, 2, 3], encoder_5=range(10, 0, -1))
    kept = choose_experts(importance, ["en-de"], 17 / 23, stacks=["encoder"])
    assert kept == {
        ENC: [3, 4, 5, 6, 7, 8, 9], ("encoder", 3): [0, 1, 2], ("encoder", 5): [0, 1, 2, 3, 4, 5, 6]
    }


def test_global_threshold_by_hand():
    # as shares of the layer .4 .3 .2 .1, before which there are 0 .4 .7 .9; and, of a layer with
    # larger numbers, .9 .05 .03 .02, before which there are 0 .9+ .95 .98
    importance = one_pair(encoder_1=[4, 3, 2, 1], decoder_1=[5.1, 3, 90, 1.9])
    for number, encoder, decoder in [
        (3, [0, 1], [2]),
        (4, [0, 1, 2], [2]),
        (5, [0, 1, 2, 3], [2]),
        (6, [0, 1, 2, 3], [0, 2]),
        (7, [0, 1, 2, 3], [0, 1, 2]),
    ]:
        kept = choose_experts(importance, ["en-de"], number / 8, "global", min_experts=1)
        assert kept == {ENC: encoder, DEC: decoder}
    kept = choose_experts(importance, ["en-de"], 4 / 8, "global")  # the minimum
    assert kept == {ENC: [0, 1], DEC: [0, 2]}


def test_a_layer_that_uses_its_experts_evenly_needs_more_of_them():
    importance = one_pair(encoder_1=np.ones(16), encoder_3=0.5 ** np.arange(16))
    kept = choose_experts(importance, ["en-de"], 12 / 32, "global", stacks=["encoder"])
    assert kept == {ENC: list(range(10)), ("encoder", 3): [0, 1]}  # .625 and .75 of the importance


MEASURED = Importance(
    ["de-en", "en-de", "en-zh", "fr-zh"],
    {
        ENC: np.array([[9, 1, 0], [0, 5, 5], [6, 0, 4], [0, 0, 0]], dtype=float),
        DEC: np.array([[0, 8, 2], [7, 0, 3], [0, 5, 6], [6, 5, 0]], dtype=float),
    },
)


@pytest.mark.parametrize(
    "pairs, encoder, decoder",
    [
        (["en-zh"], [0], [2]),
        (["en-de", "en-zh"], [2], [2]),  # means 3 2.5 4.5, and 3.5 2.5 4.5
        (["de-zh"], [0], [1]),  # of de-en; of en-zh and fr-zh: means 3 5 3
        (["en-en"], [2], [1]),  # of en-de and en-zh, as above; of de-en
    ],
)
def test_pairs_are_averaged_and_stand_in_for_one_another(pairs, encoder, decoder):
    kept = choose_experts(MEASURED, pairs, 1 / 3, balance=1, min_experts=1)
    assert kept == {ENC: encoder, DEC: decoder}


@pytest.mark.parametrize(
    "pair, named",
    [
        ("zh-en", "zh-en: neither it nor another pair from zh was measured, only de-en, en-de, en"),
        ("en-fr", "en-fr: neither it nor another pair into fr was measured, only .*fr-zh"),
        ("fr-zh", "fr-zh: neither it nor another pair from fr"),  # no token of its sources
        ("de", "de: neither it nor another pair into  was"),
    ],
)
def test_unmeasured_pairs_are_refused(pair, named):
    with pytest.raises(Refusal, match=named):
        choose_experts(MEASURED, ["en-de", pair], 0.5)
    if pair == "fr-zh":
        assert list(choose_experts(MEASURED, [pair], 0.5, stacks=["decoder"])) == [DEC]


@pytest.mark.parametrize(
    "arguments, named",
    [
        *(({"keep": keep}, "--prune-keep") for keep in (0, -0.5, 1.01, math.nan, math.inf)),
        *(({"balance": balance}, "--prune-balance") for balance in (0, -1, math.nan, math.inf)),
        ({"stacks": ["encoder", "decoder"]}, "no MoE layers of it"),
    ],
)
def test_mistakes_are_refused(arguments, named):
    importance = one_pair(encoder_1=[1, 2, 3])
    arguments = {"keep": 0.5, "stacks": ["encoder"], **arguments}
    assert named in refusal(choose_experts, importance, ["en-de"], **arguments)


# -- what always holds


@st.composite
def importances(draw):
    """Draw the importance of PAIRS in a few layers, no two numbers of which are alike."""
    layers = draw(st.lists(st.tuples(st.sampled_from(["encoder", "decoder"]), st.integers(0, 4)),
                           min_size=1, unique=True))
    layers.sort(key=lambda name: (name[0] != "encoder", name[1]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Importance(PAIRS, {
        name: random.random((len(PAIRS), draw(st.integers(1, 12)))) ** 3 for name in layers
    })


def stacks_of(importance):
    return sorted({stack for stack, _ in importance.layers})


settings = {
    "importance": importances(), "keep": st.floats(0.01, 1), "scope": st.sampled_from(SCOPES),
    "balance": st.floats(0.2, 5), "least": st.integers(1, 4),
    "pairs": st.lists(st.sampled_from(PAIRS), min_size=1, unique=True),
}


@given(**settings)
def test_what_is_kept(importance, keep, scope, balance, least, pairs):
    kept = choose_experts(importance, pairs, keep, scope, balance, least, stacks_of(importance))
    assert list(kept) == list(importance.layers)
    sizes = {name: rows.shape[1] for name, rows in importance.layers.items()}
    lowest = {name: min(least, size) for name, size in sizes.items()}
    budget = round(keep * sum(sizes.values()))
    total = sum(map(len, kept.values()))
    if scope == "global":
        assert total == max(budget, sum(lowest.values()))
    else:
        assert total <= max(budget, sum(lowest.values()))
        for stack in stacks_of(importance):
            own = [name for name in kept if name[0] == stack]
            most = max(len(kept[name]) for name in own)
            assert all(len(kept[name]) == min(most, sizes[name]) for name in own)
        # one more expert in each layer would be too many, at least in one stack
        room = max(budget, sum(lowest.values())) - total
        assert total == sum(sizes.values()) or room < len(sizes)
    for name, experts in kept.items():
        assert experts == sorted(set(experts)) and set(experts) <= set(range(sizes[name]))
        assert len(experts) >= lowest[name]
        rows = [PAIRS.index(pair) for pair in pairs]
        score = importance.layers[name][rows].mean(axis=0)
        dropped = sorted(set(range(sizes[name])) - set(experts))
        if dropped:
            assert score[experts].min() > score[dropped].max()


@given(settings["importance"], settings["keep"])
def test_the_global_threshold_is_a_part_that_each_layer_reaches_with_no_expert_too_many(
    importance, keep
):
    """Koishekenov et al., equation 5."""
    kept = choose_experts(importance, ["en-de"], keep, "global", 1.0, 1, stacks_of(importance))
    reached, one_less = [], []
    for name, experts in kept.items():
        score = importance.layers[name][PAIRS.index("en-de")]
        reached.append(score[experts].sum() / score.sum())
        one_less.append((score[experts].sum() - score[experts].min()) / score.sum())
    assert max(one_less) <= min(reached) + 1e-12


@given(**settings, more=st.floats(0, 1))
def test_a_larger_share_drops_nothing(importance, keep, scope, balance, least, pairs, more):
    few, many = (
        choose_experts(importance, pairs, share, scope, balance, least, stacks_of(importance))
        for share in (keep, keep + (1 - keep) * more)
    )
    assert all(set(few[name]) <= set(many[name]) for name in few)


@given(**settings, seed=st.integers(0, 2**32))
def test_numbering_of_the_experts_does_not_matter(
    importance, keep, scope, balance, least, pairs, seed
):
    random = np.random.default_rng(seed)
    orders = {name: random.permutation(rows.shape[1]) for name, rows in importance.layers.items()}
    renumbered = Importance(
        PAIRS, {name: rows[:, orders[name]] for name, rows in importance.layers.items()}
    )
    kept, kept_then = (
        choose_experts(model, pairs, keep, scope, balance, least, stacks_of(importance))
        for model in (importance, renumbered)
    )
    for name, experts in kept_then.items():
        assert sorted(orders[name][experts]) == kept[name]


# -- counted in a real model


@pytest.mark.parametrize("pad_to", [0, 3])
@pytest.mark.parametrize("router", ["token", "sentence"])
def test_first_choices_are_those_of_a_loop_over_the_tokens(router, pad_to):
    torch.manual_seed(3)
    model = make_model(router=router)
    sources, targets = random_sentences([7, 3, 5, 9]), random_sentences([4, 8, 5, 6])
    batch = make_batch(sources, targets, [2, 0, 1, 3], pad_to=pad_to)
    layers = {
        (stack, i): layer.moe
        for stack in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, stack).layers)
    }
    outputs = {}
    for name, moe in layers.items():
        moe.router.register_forward_hook(
            lambda router, args, routing, name=name: outputs.__setitem__(name, routing)
        )
    with torch.no_grad(), record_choices(layers) as firsts:
        gate_stats(model, batch)
    for (stack, i), routing in outputs.items():
        key = "src_tokens" if stack == "encoder" else "prev_output_tokens"
        tokens = batch["net_input"][key]
        counts, probs = defaultdict(int), defaultdict(float)
        for b in range(tokens.size(0)):
            for s in range(tokens.size(1)):
                if tokens[b, s] == 1:  # padding
                    continue
                of_token = routing.probs[b, s if router == "token" else 0].tolist()
                best = of_token.index(max(of_token))
                counts[best] += 1
                probs[best] += of_token[best]
        assert sum(counts.values()) == sum(map(len, sources if stack == "encoder" else targets))
        first = firsts[stack, i]
        assert first.tokens.tolist() == [counts[expert] for expert in range(5)]
        torch.testing.assert_close(first.prob_sum, torch.tensor([probs[e] for e in range(5)]))


def test_nothing_listens_afterwards():
    model = make_model(router="token")
    layers = {("encoder", i): layer.moe for i, layer in enumerate(model.encoder.layers)}
    with pytest.raises(KeyError), record_choices(layers) as firsts:
        firsts["encoder", 7]
    assert not any(moe.router._forward_hooks for moe in layers.values())


def test_a_first_choice_without_room_is_one():
    probs = torch.tensor([[[0.75, 0.25], [0.625, 0.375]]])
    gates, ids = probs.topk(1, dim=-1)
    routing = RouterOutput(ids, gates * torch.tensor([[1.0], [0.0]]), probs, torch.zeros(1, 2))
    first = first_choices(routing, torch.tensor([[True, True]]))
    assert (first.tokens.tolist(), first.prob_sum.tolist()) == ([2, 0], [1.375, 0])


# -- files


FIRST = np.array([[3, 1, 0, 0], [0, 2, 2, 4], [0, 0, 0, 0]])
PROB = np.array([[0.5, 0.25, 0, 0], [0, 0.5, 0.75, 1], [0, 0, 0, 0]])


@pytest.fixture
def write(tmp_path):
    def write(changes=()):
        arrays = {"lang_pairs": np.array(PAIRS)}
        for layer in ("decoder.layers.10", "decoder.layers.2", "encoder.layers.1"):
            arrays |= {layer: PROB, f"{layer}.first": FIRST, f"{layer}.first_prob": PROB}
        arrays |= dict(changes)
        np.savez(tmp_path / "r.npz", **{n: a for n, a in arrays.items() if a is not None})
        return tmp_path / "r.npz"

    return write


def test_what_is_read(write):
    importance = load_importance(write({"else": np.ones(3), "encoder.layers.1.other": FIRST}))
    assert importance.lang_pairs == PAIRS
    assert list(importance.layers) == [ENC, ("decoder", 2), ("decoder", 10)]
    for rows in importance.layers.values():
        np.testing.assert_array_equal(rows, importance_of(FIRST, PROB))


A_LAYER = "encoder.layers.1"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lang_pairs": None}, "no list of strings"),
        ({"lang_pairs": np.array(PAIRS[:2])}, "not an array of 2 rows"),
        ({f"{A_LAYER}.first": None}, "has no encoder.layers.1.first, .* anew"),
        ({f"{A_LAYER}.first_prob": None}, "has no encoder.layers.1.first_prob"),
        ({"decoder.layers.7": PROB}, "has no decoder.layers.7.first"),  # shares alone
        ({"decoder.layers.\u0663": PROB}, "has no decoder.layers.3.first"),  # an Arabic 3
        ({f"{A_LAYER}.first": FIRST[0]}, "first is not an array of 3 rows"),
        ({f"{A_LAYER}.first": FIRST[:, :0]}, "first is not an array of 3 rows"),
        ({f"{A_LAYER}.first": FIRST[:, :3]}, "first choices of 3 experts.*of 4"),
        ({f"{A_LAYER}.first": -FIRST}, "first has values that are not numbers from 0"),
        ({f"{A_LAYER}.first": np.full((3, 4), np.inf)}, "first has values"),
        ({f"{A_LAYER}.first": FIRST.astype(str)}, "first has values"),
        ({f"{A_LAYER}.first_prob": PROB * 2}, "first_prob has values .* from 0 to 1"),
        ({f"{A_LAYER}.first_prob": PROB * np.nan}, "first_prob has values"),
        ({f"{A_LAYER}.first_prob": PROB.astype(object)}, "is not a routing file"),
    ],
)
def test_other_contents_are_refused(changes, message, write):
    path = write(changes)
    line = refusal(load_importance, path)
    assert str(path) in line and re.search(message, line)


def test_other_files_are_refused(write, tmp_path):
    whole = write().read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("de-en 0.5\n")
    np.savez(tmp_path / "empty.npz", lang_pairs=np.array(PAIRS))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("lang_pairs", "de-en")
    for name in ("cut", "text", "empty", "zip", "missing"):
        assert f"{name}.npz" in refusal(load_importance, tmp_path / f"{name}.npz")


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_damage_is_read_or_refused(place, byte, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    np.savez(folder / "r.npz", lang_pairs=np.array(PAIRS),
             **{f"{A_LAYER}.first": FIRST, f"{A_LAYER}.first_prob": PROB})
    data = bytearray((folder / "r.npz").read_bytes())
    data[place % len(data)] = byte
    (folder / "r.npz").write_bytes(data)
    try:
        load_importance(folder / "r.npz")
    except Refusal:
        pass

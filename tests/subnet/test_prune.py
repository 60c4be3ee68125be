"""A pruned model routes as the full one would if the experts that were left out had no chance."""

import numpy as np
import pytest
import torch
from checkpoint_cases import loaded, make_checkpoint, parse
from helpers import make_batch, random_sentences

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.extract import extract_subnet
from fairseq_taskmoe.subnet.prune import Pruning, choose_kept_experts
from fairseq_taskmoe.subnet.to_fairseq import taskmoe_checkpoint

PAIR = "en-de"
E = 5


def output(model, task, seed=5):
    torch.manual_seed(seed)
    ids = [task.task_table.task_id(PAIR)] * 3
    batch = make_batch(random_sentences([6, 3, 8]), random_sentences([4, 7, 5]), ids)
    with torch.no_grad():
        return model(**batch["net_input"])[0][batch["target"].ne(1)]


def write_statistics(path, num_experts=E, stacks=("encoder", "decoder"), seed=1):
    draw = np.random.default_rng(seed)
    arrays = {"lang_pairs": np.array([PAIR, "de-en"])}
    for stack in stacks:
        for i in range(2):
            name = f"{stack}.layers.{i}"
            arrays[name] = np.full((2, num_experts), 1 / num_experts)
            arrays[f"{name}.first"] = draw.integers(1, 100, (2, num_experts))
            arrays[f"{name}.first_prob"] = draw.random((2, num_experts))
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("routers", [("token", "token"), ("sentence", "token"),
                                     ("token", "target"), ("sentence", "sentence")])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_pruned_model_is_the_full_one_without_those_experts(
    routers, top_k, scope, tmp_path, monkeypatch
):
    full, task, checkpoint = make_checkpoint(*routers, moe_top_k=top_k)
    pruning = Pruning(write_statistics(tmp_path / "routing.npz"), keep=0.6, scope=scope)
    kept = choose_kept_experts(parse(checkpoint), [PAIR], pruning)
    by_text = [stack for stack, router in zip(("encoder", "decoder"), routers, strict=True)
               if router in ("token", "sentence")]
    assert {stack for stack, _ in kept} == set(by_text)
    assert sum(map(len, kept.values())) <= round(0.6 * E * len(kept))
    subnet = extract_subnet(parse(checkpoint), [PAIR], kept)
    for (stack, layer), experts in kept.items():
        held = subnet.state[f"{stack}.layers.{layer}.moe.experts.fc1.weight"]
        assert held.size(0) == len(experts) >= top_k
    pruned, its_task = loaded(taskmoe_checkpoint(parse(checkpoint), subnet))
    for (stack, layer), experts in kept.items():
        without(getattr(full, stack).layers[layer].moe.router, experts, monkeypatch)
    torch.testing.assert_close(output(pruned, its_task), output(full, task))


def without(router, kept, monkeypatch):
    """Take from a router the chance to choose other experts than those kept."""
    gone = [expert for expert in range(E) if expert not in kept]
    plain = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        logits = plain(x, weight, bias)
        if weight.data_ptr() == router.gate.weight.data_ptr():
            logits = logits.index_fill(-1, torch.tensor(gone, dtype=torch.long), float("-inf"))
        return logits

    monkeypatch.setattr(torch.nn.functional, "linear", linear)


def test_keeping_all_experts_changes_nothing(tmp_path):
    full, task, checkpoint = make_checkpoint()
    trained, statistics = parse(checkpoint), write_statistics(tmp_path / "routing.npz")
    kept = choose_kept_experts(trained, [PAIR], Pruning(statistics, keep=1.0))
    subnet = extract_subnet(trained, [PAIR], kept)
    pruned, its_task = loaded(taskmoe_checkpoint(trained, subnet))
    torch.testing.assert_close(output(pruned, its_task), output(full, task))
    assert pruned.state_dict().keys() == full.state_dict().keys()


def test_a_pruned_model_can_be_pruned_again(tmp_path):
    _, _, checkpoint = make_checkpoint()
    statistics = write_statistics(tmp_path / "routing.npz")
    trained = parse(checkpoint)
    kept = choose_kept_experts(trained, [PAIR], Pruning(statistics, keep=0.8, balance=1.0))
    once = taskmoe_checkpoint(trained, extract_subnet(trained, [PAIR], kept))
    fewer = write_statistics(tmp_path / "again.npz", num_experts=4)
    kept = choose_kept_experts(parse(once), [PAIR], Pruning(fewer, keep=0.5, balance=1.0))
    subnet = extract_subnet(parse(once), [PAIR], kept)
    assert subnet.model_cfg["encoder_moe_layer_experts"] == "2,2"
    with pytest.raises(Refusal, match="the checkpoint has 4 experts in encoder layer 0"):
        choose_kept_experts(parse(once), [PAIR], Pruning(statistics))


def test_what_cannot_be_pruned_is_refused(tmp_path):
    statistics = write_statistics(tmp_path / "routing.npz")
    for routers in (("target", "pair"), ("random", "static"), ("dense", "dense")):
        _, _, checkpoint = make_checkpoint(*routers)
        with pytest.raises(Refusal, match=f"the model routes by {' and '.join(routers)}"):
            choose_kept_experts(parse(checkpoint), [PAIR], Pruning(statistics))
    _, _, checkpoint = make_checkpoint()
    stack = write_statistics(tmp_path / "half.npz", stacks=["encoder"])
    with pytest.raises(Refusal, match="5 experts in decoder layer 0"):
        choose_kept_experts(parse(checkpoint), [PAIR], Pruning(stack))

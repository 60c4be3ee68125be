"""Decoding step by step is scoring the whole, however a beam search orders hypotheses."""

import pytest
import torch
from helpers import ROUTERS, make_batch, make_model, random_sentences
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.modules.hypotheses import begins_search, reorder_sentences


def step_by_step(model, encoder_out, prev_output_tokens, state=None, start=0):
    """Return logits (B, T, V) computed one position at a time, as a beam search does."""
    state = {} if state is None else state
    steps = [
        model.decoder(prev_output_tokens[:, : i + 1], encoder_out, incremental_state=state)[0]
        for i in range(start, prev_output_tokens.size(1))
    ]
    return torch.cat(steps, dim=1)


def decoding_batch():
    """Return sources of different lengths, and targets of one, as beams have."""
    return make_batch(random_sentences([7, 3, 5, 9]), random_sentences([6] * 4), [2, 0, 1, 3])


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
@torch.no_grad()
def test_decoding_step_by_step_gives_the_scores_of_the_whole(router, normalize_before):
    model = make_model(router=router, decoder_normalize_before=normalize_before)
    net_input = decoding_batch()["net_input"]
    whole, _ = model(**net_input)
    encoder_out = model.encoder(
        net_input["src_tokens"], net_input["src_lengths"], net_input["task_ids"]
    )
    steps = step_by_step(model, encoder_out, net_input["prev_output_tokens"])
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("router", ROUTERS)
@torch.no_grad()
def test_reordered_beam_keeps_tasks_and_cached_keys(router):
    model = make_model(router=router)
    net_input = decoding_batch()["net_input"]
    encoder_out = model.encoder(
        net_input["src_tokens"], net_input["src_lengths"], net_input["task_ids"]
    )
    order = torch.tensor([3, 3, 0, 1, 1])
    reordered_out = model.encoder.reorder_encoder_out(encoder_out, order)
    assert torch.equal(reordered_out["task_ids"][0], net_input["task_ids"][order])

    state = {}
    step_by_step(model, encoder_out, net_input["prev_output_tokens"][:, :3], state)
    model.decoder.reorder_incremental_state_scripting(state, order)
    # hypotheses of one sentence go on in different ways
    tokens = net_input["prev_output_tokens"][order].clone()
    tokens[:, 3:] = torch.randint(4, 34, (5, 3))
    steps = step_by_step(model, reordered_out, tokens, state, start=3)

    whole, _ = model(
        net_input["src_tokens"][order], net_input["src_lengths"][order], tokens,
        net_input["task_ids"][order],
    )
    torch.testing.assert_close(steps, whole[:, 3:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reordering_covers_all_of_the_encoder_output():
    model = make_model(router="sentence")
    net_input = decoding_batch()["net_input"]
    order = torch.tensor([2, 0])
    arguments = [net_input[name] for name in ("src_tokens", "src_lengths", "task_ids")]
    reordered = model.encoder.reorder_encoder_out(
        model.encoder(*arguments, return_all_hiddens=True), order
    )
    expected = model.encoder(*(tensor[order] for tensor in arguments), return_all_hiddens=True)
    for out in (reordered, expected):
        del out["gate_stats"]  # of the batch, not of its sentences
    torch.testing.assert_close(reordered, expected)


@pytest.mark.parametrize("router", ROUTERS)
@torch.no_grad()
def test_hypotheses_share_the_encoder_output_of_their_sentence(router):
    model, beam = make_model(router=router), 3
    net_input = decoding_batch()["net_input"]
    encoder_out = model.encoder(
        net_input["src_tokens"], net_input["src_lengths"], net_input["task_ids"]
    )
    memory = encoder_out["encoder_out"][0]
    order = torch.arange(4).repeat_interleave(beam)  # as a beam search begins
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    assert encoder_out["encoder_out"][0] is memory
    assert torch.equal(encoder_out["task_ids"][0], net_input["task_ids"][order])

    state, rows = {}, torch.arange(4 * beam)
    tokens = net_input["prev_output_tokens"][order].clone()
    tokens[:, 1:] = torch.randint(4, 34, tokens[:, 1:].shape)
    moves = {  # after some steps beams change places, and sentences 1 and then 0 are finished
        1: [2, 0, 0, 4, 5, 3, 6, 6, 8, 11, 10, 9],
        2: [1, 0, 2, 8, 7, 7, 9, 10, 11],
        4: [3, 5, 4, 8, 8, 6],
    }
    for step in range(tokens.size(1)):
        if step in moves:
            moved = torch.tensor(moves[step])
            rows, tokens = rows[moved], tokens[moved]
            model.decoder.reorder_incremental_state_scripting(state, moved)
            encoder_out = model.encoder.reorder_encoder_out(encoder_out, moved)
            tokens[:, step:] = torch.randint(4, 34, tokens[:, step:].shape)
        found, extra = model.decoder(
            tokens[:, : step + 1], encoder_out, incremental_state=state, alignment_layer=1
        )
        sentences = rows // beam
        expected, whole = model.decoder(
            tokens[:, : step + 1],
            model.encoder(*(net_input[name][sentences] for name in
                            ("src_tokens", "src_lengths", "task_ids"))),
            alignment_layer=1,
        )
        torch.testing.assert_close(found, expected[:, -1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            extra["attn"][0], whole["attn"][0][:, -1:], atol=1e-5, rtol=1e-5
        )
    assert encoder_out["encoder_out"][0].size(1) == 2  # sentences that are left


@given(
    num_sentences=st.integers(0, 5), beam=st.integers(1, 4), data=st.data()
)
def test_finished_sentences_are_removed_with_their_hypotheses(num_sentences, beam, data):
    order = torch.arange(num_sentences).repeat_interleave(beam)
    assert begins_search(order, num_sentences) == (beam > 1 and num_sentences > 0)
    if num_sentences * beam > 1:
        other = order.clone()
        other[data.draw(st.integers(0, len(order) - 1))] += 1
        assert not begins_search(other, num_sentences)
        assert num_sentences == 1 or not begins_search(order[:-1], num_sentences)
    kept = torch.tensor([i for i in range(num_sentences) if data.draw(st.booleans())]).long()
    within = torch.tensor(
        [data.draw(st.integers(0, beam - 1)) for _ in range(len(kept) * beam)]
    ).long()
    new_order = kept.repeat_interleave(beam) * beam + within
    value = torch.randn(2, num_sentences, 3)
    expected = value.repeat_interleave(beam, dim=1)[:, new_order]
    found = reorder_sentences(value, new_order, beam, dim=1)
    assert torch.equal(found.repeat_interleave(beam, dim=1), expected)

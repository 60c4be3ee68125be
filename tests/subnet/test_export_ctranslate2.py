"""A sub-network in CTranslate2 scores and translates as the full model does in fairseq."""

import random

import pytest
import torch
from checkpoint_cases import parse
from helpers import make_config, make_model, make_task
from omegaconf import OmegaConf

from fairseq_taskmoe.engines.ctranslate2_engine import Ctranslate2Engine, Threads
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.fairseq_engine import task_moe_engine
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.extract import extract_subnet
from fairseq_taskmoe.subnet.to_ctranslate2 import check_quantization, write_ctranslate2
from fairseq_taskmoe.subnet.verify import tags_of

PAIR = "en-de"
TOLERANCE = 1e-4
MODELS = {
    "post-norm": {},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "gelu": {"activation_fn": "gelu", "encoder_normalize_before": True},
    "gelu_accurate": {"activation_fn": "gelu_accurate"},
    "tanh": {"activation_fn": "tanh"},
    "swish": {"activation_fn": "swish"},
    "output bias": {"decoder_output_bias": True, "share_all_embeddings": True},
    "untied": {},
    "tied": {"share_all_embeddings": True},
    "tied in the decoder": {"share_decoder_input_output_embed": True},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "norm of embeddings": {"layernorm_embedding": True, "decoder_normalize_before": True},
    "embeddings as they are": {"no_scale_embedding": True},
    "other layers": {"encoder_layers": 4, "moe_freq": 2, "moe_expert_ffn_dim": 11, "moe_top_k": 3},
    "other heads": {"decoder_attention_heads": 4, "moe_top_k": 1},
    "dense": {"moe_expert_count": 0},
}
TAGS = {
    "none": {}, "source": {"encoder_langtok": "tgt"},
    "both": {"encoder_langtok": "src", "decoder_langtok": True},
}


def make_checkpoint(tags, **overrides):
    task = make_task(**tags)
    cfg = make_config(encoder_moe_router="source", decoder_moe_router="target", **overrides)
    model = make_model(
        task, encoder_moe_router="source", decoder_moe_router="target", **overrides
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # attention chooses and the source matters: a mistake with either must show
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter *= 3
            elif name.endswith(("encoder_attn.v_proj.weight", "encoder_attn.out_proj.weight")):
                parameter *= 4
    return {
        "model": model.state_dict(), "task_state": task.state_dict(),
        "cfg": {"model": OmegaConf.to_container(cfg, enum_to_str=True), "task": {"data": "x"}},
    }


def sentences(number=40, longest=12, seed=1):
    draw = random.Random(seed)
    words = [f"w{i}" for i in range(30)]
    return [draw.choices(words, k=draw.randint(1, longest)) for _ in range(number)]


def engines(checkpoint, folder, quantization="float32"):
    """Return the full model in fairseq, and its sub-network in CTranslate2."""
    subnet = extract_subnet(parse(checkpoint), [PAIR])
    tags = tags_of(subnet.tags, [PAIR])
    full = task_moe_engine(parse(checkpoint), tags, "cpu", fold=False)
    folder.mkdir()
    write_ctranslate2(subnet, quantization, folder)
    return full, Ctranslate2Engine(str(folder), tags, quantization, "cpu", Threads(1, 1))


def assert_same(full, small):
    sources, targets = sentences(), sentences(seed=2)
    expected, got = (engine.score(PAIR, sources, targets) for engine in (full, small))
    assert max(abs(a - b) for a, b in zip(expected, got, strict=True)) < TOLERANCE
    greedy = SearchOptions(beam=1, max_length=15)
    ours, theirs = (engine.translate(PAIR, sources, greedy) for engine in (full, small))
    assert len({tuple(ranked[0].pieces) for ranked in ours}) > 1
    for source, (mine,), (other,) in zip(sources, ours, theirs, strict=True):
        if mine.pieces != other.pieces:  # only where both are as good
            scores = full.score(PAIR, [source] * 2, [mine.pieces, other.pieces])
            assert abs(scores[0] - scores[1]) < TOLERANCE, (mine, other)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(name, tmp_path):
    assert_same(*engines(make_checkpoint(TAGS["source"], **MODELS[name]), tmp_path / "out"))


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("pre_norm", [False, True])
def test_tags_in_encoder_and_decoder(tags, pre_norm, tmp_path):
    norms = {f"{stack}_normalize_before": pre_norm for stack in ("encoder", "decoder")}
    assert_same(*engines(make_checkpoint(TAGS[tags], **norms), tmp_path / "out"))


def test_another_model_has_other_scores(tmp_path):
    _, small = engines(make_checkpoint(TAGS["source"]), tmp_path / "out")
    torch.manual_seed(2)
    other = make_checkpoint(TAGS["source"])
    full = task_moe_engine(parse(other), small.tags, "cpu", fold=False)
    sources, targets = sentences(), sentences(seed=2)
    scores = [engine.score(PAIR, sources, targets) for engine in (full, small)]
    assert max(abs(a - b) for a, b in zip(*scores, strict=True)) > 0.1


@pytest.mark.parametrize("quantization", ["int8", "int8_float32"])
def test_quantized_models_are_smaller_and_nearly_the_same(quantization, tmp_path):
    checkpoint = make_checkpoint(TAGS["source"], share_all_embeddings=True)
    full, small = engines(checkpoint, tmp_path / quantization, quantization)
    engines(checkpoint, tmp_path / "float32")
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in (quantization, "float32")]
    assert sizes[0] < 0.8 * sizes[1]
    sources, targets = sentences(), sentences(seed=2)
    for a, b in zip(
        full.score(PAIR, sources, targets), small.score(PAIR, sources, targets), strict=True
    ):
        assert abs(a - b) < 0.03 * abs(a)


def test_tied_embeddings_are_written_once(tmp_path):
    sizes = []
    for name in ("tied", "untied"):
        engines(make_checkpoint({}, **MODELS[name]), tmp_path / name)
        sizes.append((tmp_path / name / "model.bin").stat().st_size)
    table = 37 * 16 * 4  # bytes
    assert sizes[1] - sizes[0] == pytest.approx(2 * table, abs=200)


def test_the_checkpoint_in_memory_stays_as_it_is(tmp_path):
    """Quantization happens in place, in memory that the model's file is mapped to."""
    checkpoint = make_checkpoint({}, share_all_embeddings=True)
    before = {name: tensor.clone() for name, tensor in checkpoint["model"].items()}
    engines(checkpoint, tmp_path / "out", "int8")
    torch.testing.assert_close(checkpoint["model"], before, rtol=0, atol=0)


def test_what_the_machine_does_not_compute_with_is_refused():
    with pytest.raises(Refusal, match="int8_float16: this machine's cpu does not compute with it"):
        check_quantization("int8_float16", "cpu")
    with pytest.raises(Refusal, match="--quantization int4: choose one of"):
        check_quantization("int4", "cpu")
    check_quantization("int8_float16", "cuda")


def test_an_activation_that_ctranslate2_lacks_is_refused(tmp_path):
    checkpoint = make_checkpoint({}, activation_fn="linear")
    with pytest.raises(Refusal, match="--activation-fn linear"):
        write_ctranslate2(extract_subnet(parse(checkpoint), [PAIR]), "float32", tmp_path)

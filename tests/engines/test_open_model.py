"""Untrusted model folders: nothing in them is executed, and invalid ones are refused."""

import json
import shutil

import pytest
import torch
from console import refused, run

from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.manifest import describe_files
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.folder import Extraction, extract

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
# settings that fairseq evaluates, imports or opens
DANGEROUS = {
    "model": ["adaptive_softmax_cutoff", "encoder_xformers_att_config", "arch", "_name", "_target_",
              "encoder_layers_to_keep", "encoder_embed_path", "user_dir", "moe_task_groups"],
    "task": ["left_pad_source", "left_pad_target", "task", "_name", "_target_", "user_dir", "data",
             "langs", "lang_dict", "source_dict", "fixed_dictionary", "bpe", "extra_data",
             "sampling_weights", "target_lang"],
}


@pytest.fixture(scope="module")
def folders(share, served):
    """Folders of one direction, by format."""
    def make(folder):
        folder.mkdir()
        for format in ("fairseq", "taskmoe", "huggingface"):
            extract(str(served / "stirred.pt"), ["en-de"], str(folder / format), Extraction(format))

    made = share("opened-models", make)
    return {"ctranslate2": served / "en-de", **{each.name: each for each in made.iterdir()}}


@pytest.fixture
def copied(folders, tmp_path):
    """Give a function that copies the folder of a format."""
    return lambda format: shutil.copytree(folders[format], tmp_path / "model")


def list_files(folder, **changes):
    """List the current files in the manifest, and change other entries."""
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    entries.update(files=describe_files(folder), **changes)
    (folder / "manifest.json").write_text(json.dumps(entries), encoding="utf-8")


def edit(folder, change):
    """Change the checkpoint in a folder, and the manifest with it."""
    state = torch.load(folder / "model.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "model.pt")
    list_files(folder)


def opening(folder):
    """Return the message of the refusal of a folder, or None if it translates."""
    try:
        model = open_model(str(folder), threads=1)
    except Refusal as refusal:
        assert refusal.message.isprintable()
        return refusal.message
    model.translate(model.lang_pairs[0], ["Good day."], SearchOptions(beam=1, max_length=3))
    return None


def payload(marker):
    return f"__import__('pathlib').Path({str(marker)!r}).write_text('executed') and [2]"


@pytest.mark.parametrize("verb", ["translate", pytest.param("serve", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["fairseq", "taskmoe"])
def test_strings_of_a_checkpoint_are_not_evaluated(format, verb, copied, tmp_path):
    folder, marker = copied(format), tmp_path / "executed"

    def poison(state):
        state["args"] = None
        for part, names in DANGEROUS.items():
            harmless = [name for name in names if name not in ("_name", "langs", "target_lang")]
            state["cfg"][part].update(dict.fromkeys(harmless, payload(marker)))
        state["cfg"]["common"] = {"user_dir": payload(marker)}

    edit(folder, poison)
    if verb == "translate":
        run("taskmoe", "translate", folder, "--max-len", 3, stdin="Good day.\n")
    else:  # both models are opened before the refusal of two for one direction
        shutil.copytree(folder, tmp_path / "twin")
        flags = ("--port", 0, "--threads", 1)
        twice = refused(run("taskmoe", "serve", tmp_path, *flags, check=False))
        assert "are models for en-de" in twice
    assert not marker.exists()


@pytest.mark.parametrize("format", [
    "fairseq", pytest.param("taskmoe", marks=pytest.mark.slow),
])
def test_no_setting_is_executed(format, copied, tmp_path):
    folder, marker = copied(format), tmp_path / "executed"
    whole = torch.load(folder / "model.pt", weights_only=True)
    for part, names in DANGEROUS.items():
        for name in sorted({*names, *whole["cfg"][part]}):
            for value in (payload(marker), [payload(marker)]):
                def poison(state, part=part, name=name, value=value):
                    state["cfg"][part][name] = value

                torch.save(whole, folder / "model.pt")
                edit(folder, poison)
                opening(folder)
                assert not marker.exists(), (part, name)


@pytest.mark.parametrize("name, value", [
    ("activation_fn", "exec"), ("encoder_layers", "2"), ("encoder_layers", True),
    ("decoder_embed_dim", 0), ("dropout", "0.1"), ("share_all_embeddings", 1),
    ("encoder_ffn_embed_dim", None), ("max_source_positions", 2**70), ("encoder_layers", 1),
    ("decoder_attention_heads", 7), ("decoder_learned_pos", True), ("langs", "de,en"),
    ("langs", ["../x", "de"]), ("target_lang", "../de"), ("target_lang", "ru"),
    ("lang_tok_style", "exec"),
])
def test_invalid_settings_are_refused(name, value, copied):
    folder = copied("fairseq")

    def change(state):
        state["cfg"]["task" if "lang" in name else "model"][name] = value

    edit(folder, change)
    assert opening(folder) or name == "max_source_positions"


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def halve(name):
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def set_value(file, name, value):
    return lambda folder: (folder / file).write_text(
        json.dumps({**json.loads((folder / file).read_text()), name: value})
    )


@pytest.mark.parametrize("format, damage", [
    ("ctranslate2", remove("shared_vocabulary.json")),
    ("ctranslate2", remove("config.json")),
    ("ctranslate2", remove("model.bin")),
    ("ctranslate2", write("model.bin", b"x" * 1000)),
    ("ctranslate2", write("model.bin", b"")),
    ("ctranslate2", halve("model.bin")),
    ("ctranslate2", write("config.json", b"[]")),
    ("ctranslate2", write("shared_vocabulary.json", b'["a"]')),
    ("ctranslate2", write("shared_vocabulary.json", b"{")),
    ("ctranslate2", write("spm.model", b"x" * 1000)),
    ("ctranslate2", write("spm.model", b"")),
    ("fairseq", write("spm.model", b"x" * 1000)),
    ("fairseq", remove("dict.de.txt")),
    ("fairseq", write("dict.de.txt", b"a 1\nb 1\n")),
    ("fairseq", write("dict.de.txt", b"a 1\na 1\n")),
    ("fairseq", write("dict.de.txt", b"\xff\xfe")),
    ("fairseq", halve("model.pt")),
    ("fairseq", write("model.pt", b"")),
    ("taskmoe", write("model.pt", b"x" * 1000)),
    ("huggingface", remove("config.json")),
    ("huggingface", write("config.json", b"[]")),
    ("huggingface", set_value("config.json", "quantization_config", {"quant_method": "x"})),
    ("huggingface", set_value("config.json", "attn_implementation", "somebody/kernel")),
    ("huggingface", set_value("config.json", "d_model", 128)),
    ("huggingface", set_value("config.json", "tie_word_embeddings", False)),
    ("huggingface", set_value("config.json", "decoder_layers", 1)),
    ("huggingface", halve("model.safetensors")),
    ("huggingface", write("tokenizer.json", b"{")),
])
def test_invalid_files_are_refused_even_if_the_manifest_lists_them(format, damage, copied):
    folder = copied(format)
    damage(folder)
    list_files(folder)
    assert str(folder) in opening(folder)


@pytest.mark.parametrize("change", [
    lambda state: state["task_state"].pop("tags"),
    lambda state: state["task_state"].update(words=["a"] * 9),
    lambda state: state["task_state"].update(task_table=17),
    lambda state: state["model"].popitem(),
    lambda state: state["model"].update({"encoder.layer_norm.weight": "no tensor"}),
    lambda state: state["cfg"]["model"].update(encoder_moe_router="no router"),
    lambda state: state["cfg"]["model"].update(activation_fn="${oc.env:HOME}"),
    lambda state: state["cfg"].update(model={"moe_expert_count": 4}),
])
def test_an_inconsistent_task_moe_checkpoint_is_refused(change, copied):
    folder = copied("taskmoe")
    edit(folder, change)
    assert opening(folder)


@pytest.mark.parametrize("format", ["ctranslate2", "fairseq", "taskmoe", "huggingface"])
def test_the_positions_of_the_model_limit_the_manifest(format, folders, copied):
    folder = copied(format)
    list_files(folder, max_source_pieces=10**9, max_target_pieces=10**9)
    model, true = (open_model(str(each), threads=1) for each in (folder, folders[format]))
    assert (model.max_source_pieces, model.max_target_pieces) == (
        true.max_source_pieces, true.max_target_pieces
    )
    list_files(folder, max_source_pieces=5, max_target_pieces=10**9)
    assert open_model(str(folder), threads=1).max_source_pieces == 5


def test_unprintable_directions_are_refused(copied):
    folder = copied("ctranslate2")
    tags = {"source": ["__de__"], "target": []}
    for pair in ("en-\x1b[31mde", "en-\u202ede", "e\x00-de"):
        list_files(folder, directions={pair: tags})
        assert "not a manifest of an extracted model" in opening(folder)

"""The manifest of a model folder: it describes the model, and every damage is refused."""

import hashlib
import json
import re
import shutil
from importlib.metadata import version

import pytest
from console import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.manifest import read_manifest
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.plan.parameters import report_checkpoint

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)


@pytest.fixture
def folder(served, tmp_path):
    return shutil.copytree(served / "en-de", tmp_path / "model")


def read(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def write(folder, entries):
    (folder / "manifest.json").write_text(json.dumps(entries), encoding="utf-8")


def refusal(folder):
    """Return the message of the refusal of a folder; None if the model works."""
    try:
        model = open_model(str(folder), threads=1)
    except Refusal as refusal:
        line = refusal.message
        assert len(line.splitlines()) == 1 and str(folder) in line
        return line
    model.translate(model.lang_pairs[0], ["Good day."], SearchOptions(beam=1, max_length=3))
    return None


def test_says_what_the_model_is(served):
    manifest = read_manifest(str(served / "en-de"))
    assert refusal(served / "en-de") is None
    digest = hashlib.sha256((served / "stirred.pt").read_bytes()).hexdigest()
    full = report_checkpoint(str(served / "stirred.pt")).full
    assert manifest.source_checkpoint == {
        "file": "stirred.pt", "sha256": digest, "num_updates": 5,
        "parameters": full.total_shared, "vocabulary": manifest.vocabulary,
    }
    assert manifest.versions["ctranslate2"] == version("ctranslate2")
    files = {file.name: file.read_bytes() for file in (served / "en-de").iterdir()}
    assert set(files) == {*manifest.files, "manifest.json", "README.md"}
    assert {"model.bin", "spm.model"} < set(manifest.files)
    for name, facts in manifest.files.items():
        digest = hashlib.sha256(files[name]).hexdigest()
        assert facts == {"bytes": len(files[name]), "sha256": digest}
    engine = open_model(str(served / "en-de"), threads=1).engine
    assert len({check.full_score for check in manifest.checks}) == len(manifest.checks) == 8
    for check in manifest.checks:
        (score,) = engine.score(check.lang_pair, [check.source], [check.target])
        assert score == pytest.approx(check.score, abs=1e-4)
        assert score == pytest.approx(check.full_score, abs=1e-4 * (len(check.target) + 1))


def test_invalid_manifests_are_refused(folder):
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    for broken in ("", "{", "[]", "null", "17", '"manifest"', "[" * 10**5, '{"checks": 3}',
                   '{"checks": []}', "\ufeff" + text, text[: len(text) // 2]):
        (folder / "manifest.json").write_text(broken, encoding="utf-8")
        assert "manifest.json" in refusal(folder)
    entries = json.loads(text)
    for key in set(entries) - {"zero_shot"}:  # which older manifests lack
        write(folder, {name: entry for name, entry in entries.items() if name != key})
        assert "manifest.json" in refusal(folder)


FACTS = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}  # of an empty file


@pytest.mark.parametrize(
    "change", [
        {"format": "onnx"}, {"format": "fairseq"}, {"format": ["ctranslate2"]}, {"another": 1},
        {"files": {}}, {"files": {"/etc/hostname": FACTS}}, {"files": {"../model": FACTS}},
        {"files": {"a/../b": FACTS}}, {"files": {"..": FACTS}}, {"files": {"": FACTS}},
        {"files": {"two\nlines": FACTS}}, {"files": {"model.bin": {"bytes": 1}}},
        {"files": {"model.bin": {"bytes": "1\n", "sha256": ""}}}, {"files": None},
        {"sentencepiece_model": "../spm.model"}, {"sentencepiece_model": 1},
        {"directions": {}}, {"directions": ["en-de"]}, {"directions": {"ende": {}}},
        {"directions": {"en-de": {"source": "__de__", "target": []}}},
        {"directions": {"en-de": {"source": [1], "target": []}}},
        {"max_source_pieces": "126"}, {"max_source_pieces": None}, {"max_target_pieces": 0},
        {"quantization": None}, {"quantization": "int4"}, {"checks": None}, {"checks": [{}]},
    ],
)
def test_invalid_entries_are_refused(change, folder):
    entries = read(folder)
    if change.get("files"):
        change = {"files": {**entries["files"], **change["files"]}}
    write(folder, {**entries, **change})
    assert refusal(folder)


def test_changed_files_are_refused(folder):
    for name in read(folder)["files"]:
        whole = (folder / name).read_bytes()
        for content in (b"", whole[:-1], whole + b"\n", bytes([whole[0] ^ 1]) + whole[1:]):
            (folder / name).write_bytes(content)
            assert f"{folder} is broken: {name} " in refusal(folder)
        (folder / name).unlink()
        assert f"{folder} is broken: {name} is missing" in refusal(folder)
        (folder / name).write_bytes(whole)
    assert refusal(folder) is None
    (folder / "manifest.json").unlink()
    assert f"{folder}: " in refused(run("taskmoe", "translate", folder, check=False))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@settings(max_examples=300)
@given(data=st.data())
def test_corruption_is_refused_or_harmless(data, served, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "corrupted"
    if not folder.exists():
        shutil.copytree(served / "en-de", folder)
    text = json.dumps(read(served / "en-de"))
    values, characters = (
        st.sampled_from(list(re.finditer(part, text)))
        for part in (r'"[^"]*"|-?[\d.]+|\[[^][]*\]', ".")
    )
    start, end = data.draw(values | characters).span()
    new = data.draw(st.binary(max_size=3) | JSON.map(lambda value: json.dumps(value).encode()))
    (folder / "manifest.json").write_bytes(text[:start].encode() + new + text[end:].encode())
    refusal(folder)

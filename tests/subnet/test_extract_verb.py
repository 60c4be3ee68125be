"""`taskmoe extract`: what it refuses leaves nothing, and what it leaves runs as it says."""

import importlib
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from console import run
from helpers import make_config, make_model, make_task
from omegaconf import OmegaConf

from fairseq_taskmoe.checkpoint.reading import read_model
from fairseq_taskmoe.cli import main
from fairseq_taskmoe.engines.manifest import read_manifest
from fairseq_taskmoe.subnet import formats
from fairseq_taskmoe.subnet.extract import extract_subnet

ctranslate2 = pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
).ctranslate2
UNSUPPORTED = {"float16", "int8_float16"} - ctranslate2.get_supported_compute_types("cpu")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder of small checkpoints by their encoder's router, and of files for other flags.

    Trained on de-en, en-de, en-fr and fr-de, with a tag for zh; no SentencePiece.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    task = make_task(langs="de,en,fr,zh", encoder_langtok="tgt")
    for router in ("token", "source", "target"):
        overrides = {"encoder_moe_router": router, "decoder_moe_router": "target",
                     "max_target_positions": 300}  # more than CTranslate2 makes by default
        cfg = OmegaConf.to_container(make_config(**overrides), enum_to_str=True)
        saved = {"cfg": {"model": cfg, "task": {"data": "none"}}, "task_state": task.state_dict()}
        saved["model"] = make_model(task, **overrides).state_dict()
        torch.save(saved, folder / f"{router}.pt")
    for name, text in {
        "words": "w0 5\nw1 3\nw2 1\n", "no-count": "w0 5\nw1 many\n", "negative": "w0 -1\n",
        "others": "unheard 5\n", "nothing": "", "text": "w1 w2\n", "latin-1": "\xe4 1\n",
    }.items():
        (folder / name).write_text(text, encoding="latin-1")
    for name, experts, pair in (("stats", 5, "en-de"), ("model", 7, "en-de"), ("pair", 5, "ru-zh")):
        first = {f"encoder.layers.{i}.first{prob}": np.full((1, experts), 0.2)
                 for i in range(2) for prob in ("", "_prob")}
        np.savez(folder / f"{name}.npz", lang_pairs=np.array([pair]), **first)
    return folder


@pytest.fixture
def extract(checkpoints, tmp_path, monkeypatch, capsys):
    """Give a function that runs the command: extract(checkpoint, flags) -> status, what it said.

    A model of en-de, or what flags name, goes to `model` in tmp_path; nothing else may be left.
    """
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.chdir(checkpoints)

    def extracted(checkpoint, flags=""):
        if not re.match("(--lang-pairs?|-s|-t|none)( |$)", flags):
            flags = f"--lang-pair en-de {flags}"
        words = ["taskmoe", "extract", checkpoint, "--out", tmp_path / "model"]
        words += flags.removeprefix("none").split()
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        with pytest.raises(SystemExit) as ended:
            sys.exit(main())
        assert {file.name for file in tmp_path.iterdir()} <= {"model"}
        return ended.value.code or 0, capsys.readouterr()

    return extracted


@pytest.mark.parametrize(
    "router, flags, words",
    [
        ("token", "", "encoder routes by token.*--format fairseq needs.*--format taskmoe"),
        ("token", "--format ctranslate2", "encoder routes by token.*--format ctranslate2 needs"),
        ("missing", "", "missing.pt: no such checkpoint"),
        # directions
        ("target", "none", "name the direction"),
        ("target", "-s en --lang-pair en-de", "name the direction"),
        ("target", "--lang-pair en-de --lang-pairs en-de", "name the direction"),
        ("target", "--lang-pair ende", "--lang-pair ende"),
        ("target", "--lang-pairs en-de,en-", "--lang-pairs en-:"),
        ("target", "--lang-pair en-xx", "unknown language xx.* de, en, fr, zh"),
        ("target", "--lang-pair en-zh", "en-zh was never trained.*language zh"),
        ("target", "--lang-pair en-en", "en-en: source and target are the same language"),
        ("target", "-t zh", "no trained pair has the target language zh"),
        ("target", "-s xx", "no trained pair has the source language xx"),
        ("target", "-s en", "en-de and en-fr take different experts.*--format fairseq needs"),
        ("target", "-s en --format ctranslate2", "en-de and en-fr take different.*ctranslate2 ne"),
        ("source", "-t de", "en-de and fr-de take different experts in encoder layer 0"),
        # CTranslate2
        ("target", "--format ctranslate2 --quantization int4", "int4: choose one of"),
        *(("target", f"--format ctranslate2 --quantization {kind}", f"{kind}: .*--device cuda")
          for kind in sorted(UNSUPPORTED)),
        ("target", "--quantization int8", "--quantization requires --format ctranslate2"),
        ("target", "--format taskmoe --device cpu", "--device requires --format ctranslate2"),
        ("target", "--format onnx", "--format: invalid choice: 'onnx'"),
        # pruning
        ("token", "--prune missing.npz", "missing.npz: No such file"),
        ("token", "--prune text", "text is not a routing file"),
        ("token", "--prune model.npz", "model.npz: statistics of another model"),
        ("token", "--prune pair.npz", "no routing statistics for en-de"),
        ("target", "--prune stats.npz", "routes by target and target; only experts of token and"),
        ("token", "--prune stats.npz", "encoder routes by token.*--format fairseq needs"),
        ("token", "--prune stats.npz --prune-keep 0", "--prune-keep 0.0: "),
        ("token", "--prune stats.npz --prune-keep nan", "--prune-keep nan: "),
        ("token", "--prune stats.npz --prune-balance 0", "--prune-balance 0.0: "),
        ("token", "--prune x --prune-scope global --prune-balance 2", "global has one threshold"),
        ("token", "--prune-keep 0.5", "--prune-keep requires --prune"),
        ("token", "--prune-scope layer", "--prune-scope requires --prune"),
        ("token", "--prune-balance 2", "--prune-balance requires --prune"),
        # SentencePiece, and smaller vocabularies
        ("target", "--sentencepiece-model missing", "missing: no such file"),
        ("target", "--sentencepiece-model text", "text: no SentencePiece model"),
        ("target", "--trim-vocabulary text", "text: counting .*--sentencepiece-model"),
        ("target", "--trim-vocabulary counts:missing", "missing: .*No such file"),
        ("target", "--trim-vocabulary counts:no-count", "no-count: line 2 is no word with its"),
        ("target", "--trim-vocabulary counts:negative", "negative: line 1 is no word with its"),
        ("target", "--trim-vocabulary counts:latin-1", "--trim-vocabulary latin-1: "),
        ("target", "--trim-vocabulary counts:others", "none of its words is in the model's"),
        ("target", "--trim-vocabulary counts:nothing", "none of its words is in the model's"),
        ("target", "--trim-vocabulary .", "has no dict.de.txt"),
        ("target", "--trim-vocabulary counts:words --trim-min-count 6", "none of its words is in"),
        ("target", "--trim-vocabulary counts:words --trim-min-count 0", "--trim-min-count 0: "),
        ("target", "--trim-min-count 2", "--trim-min-count requires --trim-vocabulary"),
    ],
)
def test_is_refused_and_leaves_nothing(router, flags, words, extract, tmp_path):
    status, said = extract(f"{router}.pt", flags)
    assert status == 2 and said.out == "" and list(tmp_path.iterdir()) == []
    (line,) = said.err.splitlines()
    assert line.startswith("taskmoe") and " error: " in line and re.search(words, line), line


def test_a_broken_sentencepiece_model_beside_the_checkpoint_is_passed_over(
    checkpoints, extract, tmp_path, caplog
):
    """Nobody has named it, so that no flag is to blame."""
    (checkpoints / "beside").mkdir()
    shutil.copy(checkpoints / "target.pt", checkpoints / "beside")
    (checkpoints / "beside" / "spm.model").write_text("text")
    status, said = extract("beside/target.pt")
    assert status == 0 and said.err == ""
    assert f"{checkpoints}/beside/spm.model is no SentencePiece model" in caplog.text
    assert read_manifest(str(tmp_path / "model")).sentencepiece_model is None


def test_what_is_there_stays(extract, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    status, said = extract("target.pt")
    assert status == 2 and f"{tmp_path}/model exists; nothing was overwritten" in said.err
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "flags, pairs",
    [
        ("-s en -t de", ["en-de"]), ("--lang-pairs en-de", ["en-de"]),
        ("-t de", ["en-de", "fr-de"]), ("--lang-pairs fr-de,en-de,fr-de", ["en-de", "fr-de"]),
        ("-s en --format taskmoe", ["en-de", "en-fr"]),
    ],
)
def test_directions_are_named_in_several_ways(flags, pairs, extract, tmp_path):
    status, said = extract("target.pt", flags)
    assert status == 0 and said.err == ""
    assert list(read_manifest(str(tmp_path / "model")).directions) == pairs
    assert said.out.startswith(f"{tmp_path}/model: {', '.join(pairs)}, ")


@pytest.mark.parametrize(
    "router, flags, routes",
    [
        ("target", "--lang-pair zh-de", {"zh-de": {"encoder": "en-de", "decoder": "en-de"}}),
        ("source", "--lang-pairs fr-en,fr-de --format taskmoe",
         {"fr-en": {"encoder": "fr-de", "decoder": "de-en"}}),
        ("token", "--lang-pair de-fr --format taskmoe", {"de-fr": {"decoder": "en-fr"}}),
    ],
)
def test_pairs_that_were_never_trained_are_told_apart(router, flags, routes, extract, tmp_path):
    status, said = extract(f"{router}.pt", flags)
    assert status == 0
    (line,) = said.err.splitlines()
    ((pair, by_stack),) = routes.items()
    assert line.startswith(f"taskmoe: warning: {pair} was never trained, the ")
    assert all(f"the {stack} takes the experts of {other}" in line
               for stack, other in by_stack.items())
    manifest = read_manifest(str(tmp_path / "model"))
    assert manifest.zero_shot == {pair: {"trained": False, "routed_as": by_stack}}
    if "taskmoe" in flags:  # what is cut out of that knows it still
        saved = tmp_path / "model" / "model.pt"
        again = extract_subnet(read_model(str(saved)), [pair])
        assert again.zero_shot == routes


@pytest.mark.parametrize("format", ["fairseq", "taskmoe", "ctranslate2"])
def test_what_is_left_runs(format, extract, tmp_path):
    status, said = extract("target.pt", f"--format {format} --trim-vocabulary counts:words")
    assert status == 0 and said.err == "" and said.out.count("\n") == 1
    folder = tmp_path / "model"
    manifest = read_manifest(str(folder))
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    model = {"model.pt", "dict.de.txt", "dict.en.txt"}
    if format == "ctranslate2":
        model = {"model.bin", "config.json", "shared_vocabulary.json"}
    assert set(files) == {"README.md", "manifest.json", *model}
    megabytes = (sum(files.values()) - files["manifest.json"]) / 1e6
    full = manifest.source_checkpoint["parameters"]
    assert full > 1.5 * manifest.parameters
    facts = f"{manifest.parameters:,} of {full:,} parameters, 7 of 34 words, {megabytes:.1f} MB; "
    assert said.out.startswith(f"{folder}: en-de, {facts}")
    assert folder.stat().st_mode & 0o777 == 0o755

    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "\n    taskmoe translate .\n" in readme and "input and output are pieces" in readme
    found = run("taskmoe", "translate", ".", "--max-len", 256, cwd=folder, stdin="w0 w2 w0\n")
    assert found.stderr == "" and re.fullmatch(r"((w[012]|<s>|<unk>|__..__)[ \n])+", found.stdout)
    if format == "ctranslate2":
        first = found.stdout.split()[0]  # it may make padding too, which this model finds likely
        assert run_snippet(folder, "w0 w2 w0").startswith(f"['{first}', ")


@pytest.mark.parametrize(
    "flags, checkpoint",
    [
        ("--format fairseq --trim-vocabulary counts:words", "target"),
        ("--format taskmoe --trim-vocabulary counts:words", "target"),
        ("--format ctranslate2 --trim-vocabulary counts:words", "target"),
        ("--format taskmoe --prune stats.npz --prune-keep 0.6", "token"),
    ],
)
def test_trimmed_and_pruned_models_are_verified_too(
    flags, checkpoint, extract, tmp_path, monkeypatch
):
    """They need not score as the full model does, but as what was cut out does in fairseq."""
    status, said = extract(f"{checkpoint}.pt", flags)
    assert status == 0 and said.err == ""
    checks = read_manifest(str(tmp_path / "model")).checks
    assert max(abs(check.full_score - check.score) for check in checks) > 1e-3
    shutil.rmtree(tmp_path / "model")

    def mixed_up(state):
        name = "decoder.output_projection.weight"
        return {**state, name: state[name].roll(1, dims=0)}

    export_ctranslate2 = importlib.import_module("fairseq_taskmoe.subnet.to_ctranslate2")
    write, write_ctranslate2 = formats.write, export_ctranslate2.write_ctranslate2
    monkeypatch.setattr(formats, "write", lambda saved, path: write(
        {**saved, "model": mixed_up(saved["model"])}, path
    ))
    monkeypatch.setattr(
        export_ctranslate2, "write_ctranslate2", lambda subnet, *to: write_ctranslate2(
            subnet._replace(state=mixed_up(subnet.state)), *to
        )
    )
    status, said = extract(f"{checkpoint}.pt", flags)
    assert status == 2 and list(tmp_path.iterdir()) == []
    assert "the extracted model is not the sub-network: log-probabilities differ by" in said.err


def run_snippet(folder, text):
    """Run the Python lines of a README.md on a text, and return what they print."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall("^    (.*)$", readme.partition("or in Python")[2], re.MULTILINE)
    return run("python", "-c", "\n".join(code).replace('"..."', repr(text)), cwd=folder).stdout


def test_python_of_the_readme_translates_text(served, extract, tmp_path):
    saved = torch.load(served / "stirred.pt", weights_only=False)
    saved["cfg"]["model"]["max_target_positions"] = 300
    torch.save(saved, tmp_path.parent / "longer.pt")
    assert extract(tmp_path.parent / "longer.pt", "--format ctranslate2")[0] == 0
    words = ("taskmoe", "translate", ".", "--max-len", 256)
    found = run(*words, cwd=tmp_path / "model", stdin="Good day.\n").stdout
    assert run_snippet(tmp_path / "model", "Good day.") == found != "\n"


def no_tags(saved):
    del saved["task_state"]["tags"]


def words_of_no_list(saved):
    saved["task_state"]["words"] = "w0"


def no_task(saved):
    del saved["cfg"]["task"]


def no_weight(saved):
    del saved["model"]["encoder.layers.0.self_attn.q_proj.weight"]


def another_shape(saved):
    saved["model"]["encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)


def fewer_words(saved):
    saved["task_state"]["words"] = saved["task_state"]["words"][:10]


def not_a_number(saved):
    saved["model"]["encoder.layers.1.self_attn.v_proj.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (no_tags, "damaged, its task has no tags"),
        (words_of_no_list, "damaged, its task has no words"),
        (no_task, "damaged, it has no configuration of its task"),
        (no_weight, "not the weights of its model: Missing key.*encoder.layers.0.self_attn.q_proj"),
        (another_shape, "not the weights of its model: size mismatch for encoder.layers.0.self_at"),
        (fewer_words, "not the weights of its model: size mismatch for encoder.embed_tokens"),
        (not_a_number, "diverged: its log-probabilities are no numbers"),
    ],
)
def test_damaged_and_diverged_checkpoints_are_refused(damage, words, checkpoints, extract):
    saved = torch.load(checkpoints / "target.pt", weights_only=False)
    damage(saved)
    torch.save(saved, checkpoints / "damaged.pt")
    status, said = extract("damaged.pt")
    (line,) = said.err.splitlines()
    assert status == 2 and re.search(f"damaged.pt: {words}", line), line

"""Languages, pairs and folders as people write them; and a refused run leaves nothing behind.

Each row of a table is run through the command that takes it.
"""

import re
import sys

import pytest
from console import TASK, refused
from console import run as run_process
from fairseq_commands import TRAIN, write_data
from omegaconf import OmegaConf

from fairseq_taskmoe.cli import main
from fairseq_taskmoe.data.languages import languages_from_config
from fairseq_taskmoe.data.named_pairs import named_pairs
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.models.transformer_task_moe import TransformerTaskMoeModel
from fairseq_taskmoe.tasks.config import TranslationTaskMoeConfig
from preprocess.config import load_config

UNDERSCORE = "hyphen separates.* underscore, "


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data, and files that are none of what is asked for."""
    folder = tmp_path_factory.mktemp("names")
    write_data(folder / "data")
    (folder / "pairs").write_bytes(b"\xef\xbb\xbfen-de, de-en,\r\n\r\n en-fr\r\n")
    (folder / "no-pairs").write_text("\n , \n")
    (folder / "latin-1").write_bytes("en-de,en-\xe4".encode("latin-1"))
    (folder / "text").write_text("text\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def taskmoe(files, tmp_path, monkeypatch, capsys):
    """Give a function that runs a command line in files, with OUT in a folder that is not there.

    It returns the one line of a refusal; nothing may be left.
    """
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))

    def ended(line):
        words = line.replace("OUT", str(tmp_path / "new" / "out")).split(" ")
        monkeypatch.setattr(sys, "argv", ["taskmoe", *words])
        with pytest.raises(SystemExit) as end:
            sys.exit(main())
        said = capsys.readouterr()
        assert end.value.code == 2 and said.out == "", said
        (refusal,) = said.err.splitlines()
        assert list(tmp_path.iterdir()) == [] and sorted(files.rglob("*")) == before
        return refusal

    return ended


# -- lists of pairs


@pytest.mark.parametrize(
    "text",
    ["en-de,de-en,en-fr", "en-de, de-en , en-fr", " en-de,de-en,en-fr,", "en-de,,de-en,en-fr",
     "en-de,\n de-en,\nen-fr\n", "pairs"],
)
def test_lists_are_taken_as_people_write_them(text, files, monkeypatch):
    monkeypatch.chdir(files)
    assert named_pairs(text) == ["en-de", "de-en", "en-fr"]
    cfg = OmegaConf.merge(
        OmegaConf.structured(TranslationTaskMoeConfig),
        {"data": "data", "lang_pairs": text, "langs": "fr, de,en,\n"},
    )
    table, tags = languages_from_config(cfg)
    assert table.trained == ("de-en", "en-de", "en-fr") and tags.langs == ("fr", "de", "en")


@pytest.mark.parametrize(
    "text, words",
    [
        ("en-pt-BR", f"--lang-pairs en-pt-BR: .*{UNDERSCORE}en-pt_BR"),
        ("zh-Hans-en", f"{UNDERSCORE}zh_Hans-en"),
        ("en-pt-br", f"{UNDERSCORE}pt_BR"),
        ("en-de,ende", "'ende' is not a language pair; write it as en-de"),
        ("en-de,en-", "'en-' is not a language pair"),
        ("en-de de-en", "'en-de de-en' is not a language pair"),
        ("en-../de", "is not a language pair"),
        (",", "--lang-pairs: has no language pair"),
        ("no-pairs", "--lang-pairs: has no language pair"),
        ("latin-1", "--lang-pairs latin-1: .* UTF-8"),
        ("", "--lang-pairs is required"),
    ],
)
def test_what_is_no_list_of_pairs(text, words, files, monkeypatch):
    monkeypatch.chdir(files)
    cfg = OmegaConf.merge(
        OmegaConf.structured(TranslationTaskMoeConfig), {"data": "data", "lang_pairs": text}
    )
    with pytest.raises(Refusal, match=words):
        languages_from_config(cfg)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--langs de,en,pt-BR", f"--langs pt-BR: .*{UNDERSCORE}pt_BR"),
        ("--langs d/e", "--langs 'd/e': not a language code"),
        ("-s en -t pt-BR", f"-t pt-BR: .*{UNDERSCORE}pt_BR"),
        ("-s en", "give both -s/--source-lang and -t/--target-lang"),
    ],
)
def test_flags_of_fairseqs_commands(flags, words, files, commands):
    with pytest.raises(Refusal, match=words):
        commands.run("train", files / "data", *TRAIN, "--max-tokens", 60, "--save-dir",
                     commands.folder / "model", *flags.split())


@pytest.mark.parametrize(
    "pairs, words",
    [
        ("[en-pt-BR]", f"pairs: en-pt-BR: .*{UNDERSCORE}en-pt_BR"),
        ("[ende]", "'ende' is no pair"),
        ("[en-en]", "'en-en' is no pair"),
    ],
)
def test_configurations_of_preprocess(pairs, words, tmp_path):
    (tmp_path / "config.yaml").write_text(f"pairs: {pairs}\n")
    with pytest.raises(Refusal, match=words):
        load_config(tmp_path / "config.yaml")


def test_hub_loading_without_a_direction(files):
    """Such a model scores and can be trained; what it cannot do says what to give."""
    hub = TransformerTaskMoeModel.from_pretrained(str(files), "model.pt", str(files / "data"))
    with pytest.raises(Refusal, match=r'from_pretrained\(..., source_lang="en", target_lang="de"'):
        hub.translate("w1 w2")
    with pytest.raises(Refusal, match="in Python source_lang and target_lang"):
        TransformerTaskMoeModel.from_pretrained(
            str(files), "model.pt", str(files / "data"), source_lang="en"
        )
    hub = TransformerTaskMoeModel.from_pretrained(
        str(files), "model.pt", str(files / "data"), source_lang="en", target_lang="de"
    )
    with pytest.raises(Refusal, match="more than 1024 tokens.*number 0,"):
        hub.translate("w1 " * 1100)
    assert len(hub.translate(["w1 w2", "w3"])) == 2
    with pytest.raises(Refusal, match="number 1, counted from 0"):  # of this call
        hub.translate(["w1", "w1 " * 1100])


# -- the taskmoe command

COMMANDS = {
    **{
        f"{verb} data --path model.pt --out OUT --lang-pairs {pairs}": words
        for verb in ("evaluate", "distill", "routing")
        for pairs, words in (
            ("en-pt-BR", f"--lang-pairs en-pt-BR: .*{UNDERSCORE}en-pt_BR"),
            ("ende", "'ende' is not a language pair"), ("", "--lang-pairs: give a value"),
            (",", "--lang-pairs: has no language pair"),
        )
    },
    **{
        f"{verb} nowhere --path model.pt --out OUT": "nowhere: no such folder of data"
        for verb in ("evaluate", "distill", "routing")
    },
    **{
        f"{verb} data --path nowhere.pt --out OUT": "nowhere.pt: no such checkpoint"
        for verb in ("evaluate", "distill", "routing")
    },
    **{
        f"{verb} empty --path model.pt --out OUT":
            "empty has no dict.de.txt|empty holds no test data"
        for verb in ("evaluate", "distill", "routing")
    },
    "evaluate data --path model.pt --out OUT --zero-shot-pairs de-pt-BR":
        f"--zero-shot-pairs de-pt-BR: .*{UNDERSCORE}de-pt_BR",
    "evaluate data --path model.pt --out OUT --gen-subset none": "data has no none data",
    "evaluate data --path model.pt --out OUT --max-tokens 4": "--max-tokens 4: the test set of",
    "evaluate data --path model.pt --out OUT --languages nowhere": "nowhere",
    "evaluate data --path model.pt --out OUT --references nowhere": "nowhere",
    "extract model.pt --lang-pair en-pt-BR --out OUT":
        f"--lang-pair en-pt-BR: .*{UNDERSCORE}en-pt_BR",
    "extract model.pt --lang-pair  --out OUT": "--lang-pair: give a value",
    "extract model.pt --lang-pairs en-de,en-pt-BR --out OUT": f"{UNDERSCORE}en-pt_BR",
    "extract model.pt -s en -t pt-BR --out OUT": f"-s and -t en-pt-BR: .*{UNDERSCORE}en-pt_BR",
    "extract model.pt --lang-pair en-de --out OUT --trim-vocabulary empty": "empty has no dict",
    "extract text --lang-pair en-de --out OUT": "text: ",
    "average model.pt nowhere.pt --out OUT": "nowhere.pt: no such checkpoint",
    "average text model.pt --out OUT": "text: ",
    "consolidate nowhere.pt --out OUT": "nowhere.pt",
    "consolidate model.pt --out OUT": "model.pt: already one file",
    "reshard model.pt --ranks 0 --out OUT": "--ranks 0: give 1 or more",
    "reshard nowhere.pt --ranks 2 --out OUT.pt": "nowhere.pt",
    "tabulate nowhere --out OUT": "nowhere",
    "tabulate empty --out OUT": "empty",
    "compare data nowhere --out OUT": "there is no folder",
    "translate nowhere --output OUT": "nowhere|there is no folder|is no folder",
    "translate empty --lang-pair ": "--lang-pair: give a value",
    "params --arch transformer_task_moe_tiny --vocab-size 20 --lang-pairs en-pt-BR":
        f"--lang-pairs en-pt-BR: .*{UNDERSCORE}",
    "plan --arch transformer_task_moe_tiny --vocab-size 20 --ranks 2 --lang-pairs en-pt-BR "
    "--max-tokens 100 --device h100": f"--lang-pairs en-pt-BR: .*{UNDERSCORE}|--device",
    "bench train --lang-pairs en-pt-BR": f"--lang-pairs en-pt-BR: .*{UNDERSCORE}",
    **{
        f"bench {what} --out OUT": "out: no such folder" for what in ("layer", "train", "decode")
    },
}


@pytest.mark.parametrize("line", COMMANDS)
def test_taskmoe_refuses_in_one_line_and_leaves_nothing(line, taskmoe):
    refusal = taskmoe(line)
    assert re.search(COMMANDS[line], refusal), refusal


# -- fairseq's commands


def leftovers(folder):
    return [path.relative_to(folder) for path in folder.rglob("*")]


def test_refused_training_leaves_no_folder(files, tmp_path):
    words = ("fairseq-train", "--user-dir", TASK[1], *TRAIN, "--max-tokens", 60, "--save-dir")
    for save_dir in (tmp_path / "new" / "model", tmp_path / "new"):
        line = refused(run_process(*words, save_dir, "/nowhere", check=False))
        assert "/nowhere: no such folder of data" in line
        assert leftovers(tmp_path) == []
    mine = tmp_path / "mine"  # made by somebody else
    mine.mkdir()
    refused(run_process(*words, mine, files / "data", "--moe-top-k", 0, check=False))
    assert leftovers(tmp_path) == [mine.relative_to(tmp_path)]


@pytest.mark.slow
def test_refused_hydra_training_leaves_no_folder(files, tmp_path):
    result = run_process(
        "fairseq-hydra-train", "--config-dir", f"{TASK[1]}/../configs", "--config-name",
        "token_target", "size=smoke", f"common.user_dir={TASK[1]}", "task.data=/nowhere",
        "task.lang_pairs=en-de", f"checkpoint.save_dir={tmp_path}/new/model",
        f"hydra.run.dir={tmp_path}/hydra", check=False,
    )
    assert "/nowhere: no such folder of data" in refused(result)
    assert not (tmp_path / "new").exists()


def test_refused_generation_leaves_no_results(files, trained, tmp_path):
    words = ("fairseq-generate", files / "data", *TASK, "--cpu", "--num-workers", 0, "--path",
             trained, "--results-path", tmp_path / "results")
    refused(run_process(*words, "-s", "en", "-t", "fr", "--constraints", check=False))
    assert leftovers(tmp_path) == []
    run_process(*words, "-s", "en", "-t", "de", "--max-len-b", 3, "--quiet")
    assert leftovers(tmp_path / "results") != []


@pytest.fixture(autouse=True)
def trained(files, commands):
    """A checkpoint that fairseq-train wrote: model.pt."""
    path = files / "model.pt"
    if not path.exists():
        commands.run("train", files / "data", *TRAIN, "--max-tokens", 60, "--disable-validation",
                     "--save-dir", files / "run")
        (files / "run" / "checkpoint_last.pt").rename(path)
    return path

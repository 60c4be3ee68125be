"""Options of fairseq's commands that touch text: each works with tags and task ids, or is refused.

The table says which; every row is run, with language tags on both sides.
"""

import json
import re

import pytest
from console import hypotheses
from fairseq_commands import TRAIN, write_data, write_set

from fairseq_taskmoe.errors import Refusal

TAGS = ("--encoder-langtok", "tgt", "--decoder-langtok")
NOT_OFFERED = "unrecognized arguments"
SHORT = ("--max-source-positions", "10", "--max-target-positions", "10")

# flags -> None where it works, or what the one line says
TRAINING = {
    "--truncate-source --max-source-positions 5": None,
    "--max-tokens-valid 20": None,
    "--batch-size-valid 2": None,
    "--max-valid-steps 1": None,
    "--valid-subset test": None,
    "--valid-subset valid,test": None,
    "--combine-valid-subsets": None,
    "--ignore-unused-valid-subsets": None,
    "--train-subset test": None,
    "--dataset-impl mmap": None,
    "--sampling-method temperature --sampling-temperature 5": None,
    "--sampling-method temperature --sampling-temperature-schedule 1:3": None,
    "--sampling-method uniform": None,
    "--virtual-epoch-size 10": None,
    "--virtual-epoch-size 10 --virtual-data-size 20": None,
    "--lang-tok-style mbart": None,
    "--langs de,fr,en": None,
    "--required-batch-size-multiple 7": None,
    "--required-seq-len-multiple 8": None,
    "--curriculum 1": None,
    "--update-ordered-indices-seed": None,
    "--skip-remainder-batch": None,
    "--data-buffer-size 0": None,
    "--eval-bleu --eval-bleu-args {\"beam\":1,\"max_len_b\":5}": None,
    "--eval-bleu --eval-bleu-args {\"constraints\":\"ordered\"}": "--constraints: constrained",
    "--eval-bleu --eval-bleu-args {\"retain_dropout\":true}": "--retain-dropout: dropout at",
    "--freeze embed_tokens": None,
    "--freeze nowhere": "--freeze nowhere: matches no parameter",
    "--freeze-tasks en-de": "--freeze-tasks en-de: the checkpoint to start from has no tasks",
    "--init-tag fr=de": "--init-tag fr=de: no checkpoint to start from",
    "--encoder-langtok both": "--encoder-langtok both: choose src or tgt",
    "--grouped-shuffling": "--grouped-shuffling: its order depends",
    "--num-shards 2": "--num-shards 2: fairseq ignores it",
    "--max-source-positions 3": "no sentence of the set train|of the 24 sentences of the set valid",
    "--max-tokens 6 --max-tokens-valid 6": "--max-tokens 6, or --max-tokens-valid",
    "--max-tokens 2": "no sentence of the set train is left to train on",
    **dict.fromkeys(
        ("--left-pad-source False", "--left-pad-target True", "--upsample-primary 2",
         "--enable-lang-ids", "--lang-tok-replacing-bos-eos", "--langtoks {}", "--lang-dict x",
         "--source-dict x", "--fixed-dictionary x", "--extra-data {}", "--load-alignments",
         "--sampling-weights {}", "--enable-reservsed-directions-shared-datasets"),
        NOT_OFFERED,
    ),
}
GENERATION = {
    "": None,
    "--beam 3 --nbest 2": None,
    "--sampling --beam 2 --nbest 2 --sampling-topk 3": None,
    "--sampling --beam 1 --nbest 1 --sampling-topp 0.9": None,
    "--diverse-beam-groups 2 --beam 4": None,
    "--diversity-rate 0.5": None,
    "--match-source-len": None,
    "--no-repeat-ngram-size 2": None,
    "--min-len 3 --max-len-a 1 --max-len-b 4": None,
    "--unnormalized --unkpen 1 --lenpen 0.6 --temperature 2": None,
    "--prefix-size 1": None,
    "--prefix-size 3": None,
    "--prefix-size 50": None,
    "--score-reference": None,
    "--keep-inference-langtok": None,
    "--model-overrides {'moe_top_k':1}": "--model-overrides moe_top_k: the checkpoint's",
    "--model-overrides {'moe_routed_inference':True}": None,
    "--truncate-source": None,
    "--max-tokens 30": None,
    "--batch-size 5 --required-batch-size-multiple 8": None,
    "--skip-invalid-size-inputs-valid-test": None,
    "--gen-subset valid": None,
    "--dataset-impl mmap": None,
    "--langs de,en,fr --encoder-langtok tgt --decoder-langtok": None,
    "--remove-bpe": None,
    "--max-source-positions 5": "source sentence.* more than 5 tokens",
    "--max-source-positions 5 --truncate-source": None,
    "--max-source-positions 5 --skip-invalid-size-inputs-valid-test": None,
    "--max-tokens 7": "--max-tokens 7: the set test has a sentence of",
    "--lang-tok-style mbart": "--lang-tok-style mbart contradicts the checkpoint",
    "--langs de,en": "--langs .* contradicts the checkpoint",
    "--constraints": "--constraints: constrained decoding is not supported",
    "--lm-path MODEL": "--lm-path: a language model has no language tags",
    "--print-alignment": "--print-alignment: it would count the target's language tag",
    "--retain-dropout": "--retain-dropout: dropout at inference is not supported",
    "--retain-dropout --retain-dropout-modules TransformerModel": "--retain-dropout: ",
    "--iter-decode-max-iter 3": "--iter-decode-max-iter: only for non-autoreg",
    "--iter-decode-force-max-iter": "--iter-decode-force-max-iter: ",
    "--iter-decode-with-beam 2": "--iter-decode-with-beam: ",
    "--iter-decode-eos-penalty 1": "--iter-decode-eos-penalty: ",
    "--retain-iter-history": "--retain-iter-history: ",
    "--num-shards 2 --shard-id 1": "--num-shards 2: fairseq ignores it",
    **dict.fromkeys(("--left-pad-source False", "--upsample-primary 2", "--langtoks {}"),
                    NOT_OFFERED),
}
# rows that mean something else, or nothing, where text is typed in
INTERACTIVE = {
    flags: expected for flags, expected in GENERATION.items()
    if not re.match("--(prefix|score|gen-sub|batch-size|max-tokens|num-shards)", flags)
} | {
    "--buffer-size 5 --max-tokens 30": None,
    "--buffer-size 5 --max-tokens 7": "--max-tokens 7: the set input has a sentence of",
    "--replace-unk": "--replace-unk: language tags shift the alignment",
}
VALIDATION = {
    "--max-tokens 30": None,
    "--batch-size 5 --required-batch-size-multiple 8": None,
    "--batch-size 5 --valid-subset valid,test": None,
    "--max-tokens 6": "sentences of the set valid have more than 6 source or 6 target",
    "--max-tokens 8 --skip-invalid-size-inputs-valid-test": None,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("options") / "data")


@pytest.fixture(scope="module")
def checkpoint(data):
    return data.parent / "model" / "checkpoint_last.pt"


@pytest.fixture
def trained(checkpoint, data, commands):
    if not checkpoint.exists():
        commands.run("train", data, *TRAIN, *TAGS, "--save-dir", checkpoint.parent,
                     "--max-tokens", 60, "--disable-validation", *SHORT)
    return checkpoint


def run(commands, expected, name, *words):
    """Run a command as its row says; return what it printed, None where it was refused."""
    if expected is None:
        return commands.run(name, *words)
    refused = SystemExit if expected == NOT_OFFERED else Refusal
    with pytest.raises(refused, match="2" if expected == NOT_OFFERED else expected):
        commands.run(name, *words)
    if expected == NOT_OFFERED:
        assert f"{NOT_OFFERED}: {words[-2 if '{' in str(words[-1]) else -1]}"[:20] in (
            commands.capsys.readouterr().err
        )
    return None


@pytest.mark.parametrize("flags", TRAINING)
def test_training(flags, data, commands, caplog):
    save_dir = commands.folder / "model"
    batches = () if "--max-tokens " in flags else ("--max-tokens", 60)
    words = (data, *TRAIN, *TAGS, *SHORT, *batches, "--save-dir", save_dir, *flags.split())
    with caplog.at_level("INFO", logger="fairseq_cli.train"):
        said = run(commands, TRAINING[flags], "train", *words)
    assert (save_dir / "checkpoint_last.pt").exists() is (said is not None)
    if said is not None:
        assert "samples have invalid sizes" not in caplog.text


@pytest.mark.parametrize("flags", GENERATION)
def test_generation(flags, data, trained, commands):
    words = (data, "--task", "translation_task_moe", "-s", "en", "-t", "de", "--path", trained,
             "--cpu", "--num-workers", 0, *flags.replace("MODEL", str(trained)).split())
    said = run(commands, GENERATION[flags], "generate", *words)
    if said is not None:
        check_translations(said, flags, nbest=2 if "--nbest 2" in flags else 1)


@pytest.mark.parametrize("flags", INTERACTIVE)
def test_interactive(flags, data, trained, commands):
    text = commands.folder / "text"
    text.write_text("".join("w1 " * (2 + n % 6) + "\n" for n in range(12)))
    words = (data, "--task", "translation_task_moe", "-s", "en", "-t", "de", "--path", trained,
             "--cpu", "--input", text, *flags.replace("MODEL", str(trained)).split())
    said = run(commands, INTERACTIVE[flags], "interactive", *words)
    if said is not None:
        check_translations(said, flags, nbest=2 if "--nbest 2" in flags else 1)


@pytest.mark.parametrize("flags", VALIDATION)
def test_validation(flags, data, trained, commands, caplog):
    words = (data, "--task", "translation_task_moe", "--path", trained, "--cpu", "--num-workers",
             0, "--log-format", "json", *flags.split())
    with caplog.at_level("INFO", logger="fairseq"):
        said = run(commands, VALIDATION[flags], "validate", *words)
    if said is not None:
        (line,) = re.findall(r'\{.*"valid_nll_loss_en-de".*\}', said)
        assert "valid_nll_loss_en-fr" in json.loads(line)


def check_translations(said, flags, nbest):
    """Every sentence is translated, in the direction that its tag names."""
    kept = [line.split("\t") for line in said.splitlines() if line.startswith("S-")]
    assert sorted(name for name, *_ in kept) == sorted(f"S-{n}" for n in range(12))
    skipped = "--max-source-positions 5 --skip" in flags
    for _, source in kept:
        assert source.startswith("__de__") or (skipped and source == "")
    found = [line for line in said.splitlines() if line.startswith("H-")]
    if nbest == 1:
        assert sorted(hypotheses(said)) == list(range(12))
        assert len(found) == 12
    else:
        assert 12 < len(found) <= 12 * nbest
    tagged = [line for line in found if "__de__" in line.split("\t")[2]]
    assert bool(tagged) is ("--keep-inference-langtok" in flags)
    if "--truncate-source" in flags and "positions 5" in flags:
        assert max(len(source.split()) for _, source in kept) == 4  # and the end of the sentence


def test_sets_beside_the_validation_set(data, commands):
    """fairseq looks for valid1, valid2, ...: they are combined, or left out because one says so."""
    more = write_data(commands.folder / "data")
    for pair in ("en-de", "en-fr"):
        write_set(more, "valid1", pair, [9] * 5, [4] * 5)
    words = (more, *TRAIN, *TAGS, "--max-tokens", 60, "--save-dir")
    with pytest.raises(ValueError, match="will be ignored"):  # fairseq's own
        commands.run("train", *words, commands.folder / "neither")
    for flag in ("--combine-valid-subsets", "--ignore-unused-valid-subsets"):
        commands.run("train", *words, commands.folder / flag, flag)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_alignments_count_the_sources_tag_as_it_is_printed(kind, data, commands):
    """A tag that stands in the source alone shifts nothing: it is a word of the line S-."""
    model = commands.folder / "model"
    commands.run("train", data, *TRAIN, "--encoder-langtok", "tgt", "--max-tokens", 60,
                 "--disable-validation", "--save-dir", model)
    said = commands.run("generate", data, "--task", "translation_task_moe", "-s", "en", "-t", "de",
                        "--path", model / "checkpoint_last.pt", "--cpu", "--max-len-b", 5,
                        "--print-alignment", kind)
    lines = dict(line.split("\t", 1) for line in said.splitlines() if re.match("[ASH]-", line))
    for number in range(12):
        source = lines[f"S-{number}"].split()
        assert source[0] == "__de__"
        aligned = lines[f"A-{number}"].split()
        if kind == "soft":  # a share for each source word, tag and end
            assert {len(shares.split(",")) for shares in aligned} <= {len(source) + 1}
        else:
            assert all(int(pair.split("-")[0]) < len(source) + 1 for pair in aligned)

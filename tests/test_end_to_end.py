"""The main job through the real console commands: train, resume, translate, cut out."""

import math
import random
import shlex
import shutil

import pytest
import torch
from console import (
    GENERATE,
    LANG_PAIRS,
    NUM_TEST,
    TASK,
    TRAIN,
    assert_same_hypotheses,
    edit_checkpoint,
    generate,
    hypotheses,
    logged,
    refused,
    run,
    stir,
)

ROUTERS = ("token", "sentence", "source", "target", "pair", "group", "static", "random")
ROUTED = ("--model-overrides", "{'moe_routed_inference': True}")
BEAM = ("--beam", 4, "--max-len-b", 15)


@pytest.fixture(scope="session")
def train_router(train, corpus):
    """Give a function that trains a model with a router in each stack: checkpoint of 5 updates."""

    def trained(encoder, decoder=None):
        decoder = decoder or encoder
        groups = ["--moe-task-groups", corpus.groups] if "group" in (encoder, decoder) else []
        return train(
            f"{encoder}-{decoder}", "--encoder-moe-router", encoder, "--decoder-moe-router",
            decoder, "--max-update", 5, *groups,
        )

    return trained


# -- training and translating


@pytest.mark.parametrize("router", [
    router if router in ("token", "target") else pytest.param(router, marks=pytest.mark.slow)
    for router in ROUTERS
])
def test_every_router_trains_and_translates(router, train_router, corpus):
    checkpoint = train_router(router)
    log = (checkpoint.parent / "train.log").read_text()
    losses = logged(log, "loss")
    assert len(losses) == 5 and all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.5
    for stack in ("encoder", "decoder"):
        assert 0 <= logged(log, f"moe_{stack}_entropy")[-1] <= math.log(4) + 1e-3
        assert logged(log, f"moe_{stack}_overflow")[-1] == 0

    translated = hypotheses(generate(corpus.data, "en-de", checkpoint, *BEAM).stdout)
    assert sorted(translated) == list(range(NUM_TEST))


def test_validation_tells_the_loss_of_each_direction(train_router, corpus):
    checkpoint = train_router("target")
    log = (checkpoint.parent / "train.log").read_text()
    for pair in LANG_PAIRS.split(","):
        scored = generate(
            corpus.data, pair, checkpoint, "--score-reference", "--gen-subset", "valid"
        ).stdout
        log_probs = [
            float(log_prob)
            for line in scored.splitlines() if line.startswith("P-")
            for log_prob in line.split("\t")[1].split()
        ]
        in_bits = -sum(log_probs) / len(log_probs)
        assert logged(log, f"valid_nll_loss_{pair}") == [pytest.approx(in_bits, abs=2e-3)]


@pytest.mark.parametrize("router", ["target", "token"])
def test_each_sentence_is_translated_once_whatever_its_neighbours(
    router, train_router, corpus, tmp_path
):
    checkpoint = stir(train_router(router), tmp_path / "stirred.pt")
    alone, seven, thirty_two = (
        hypotheses(
            generate(corpus.data, "en-de", checkpoint, *BEAM, "--batch-size", size).stdout
        )
        for size in (1, 7, 32)
    )
    assert sorted(alone) == list(range(NUM_TEST))
    assert len({hypothesis.score for hypothesis in alone.values()}) > NUM_TEST / 2
    assert_same_hypotheses(alone, seven)
    assert_same_hypotheses(alone, thirty_two)


def test_resumed_training_equals_training_in_one_go(corpus, tmp_path):
    flags = ("fairseq-train", corpus.data, *TRAIN, "--sampling-method", "temperature")
    whole = run(*flags, "--save-dir", tmp_path / "whole", "--max-update", 6)
    first = run(*flags, "--save-dir", tmp_path / "parts", "--max-update", 3)
    second = run(*flags, "--save-dir", tmp_path / "parts", "--max-update", 6)

    assert len(logged(first.said, "loss")) == 3
    assert "Loaded checkpoint" in second.said
    assert logged(first.said, "loss") + logged(second.said, "loss") == logged(whole.said, "loss")
    ended = [
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)
        for name in ("whole", "parts")
    ]
    moments = [list(saved["last_optimizer_state"]["state"].values()) for saved in ended]
    assert len(moments[0]) == len(moments[1]) > 0
    for one, other in zip(*moments, strict=True):
        assert torch.equal(one["exp_avg"], other["exp_avg"])
        assert torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])
    for name, parameter in ended[0]["model"].items():
        assert torch.equal(parameter, ended[1]["model"][name]), name


def test_resuming_with_other_pairs_is_refused(train_router, corpus, tmp_path):
    shutil.copy(train_router("target"), tmp_path / "checkpoint_last.pt")
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    result = run(
        "fairseq-train", corpus.data, *TRAIN, "--lang-pairs", "en-de,de-en", "--save-dir", tmp_path,
        "--max-update", 6, check=False,
    )
    assert "--lang-pairs" in refused(result)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before


@pytest.mark.slow
def test_learns_a_task_that_only_its_route_can_tell(tmp_path):
    """Two directions, the same source text, no tags: upper case, and the next letter's upper case.

    Bounds: 0.1 bits a token, and 95 of 101 sentences right. Without its task id, no model gets
    below 0.18 bits (1 bit for every sentence of 5.5 tokens) or above half of the sentences.
    """
    letters = "abcdefghij"
    draw = random.Random(1)
    directions = {"aa-bb": str.upper, "aa-cc": lambda c: letters[letters.index(c) - 9].upper()}
    (tmp_path / "dict.txt").write_text("".join(f"{c} 1\n" for c in letters + letters.upper()))
    for split, count in (("train", 2000), ("valid", 100), ("test", NUM_TEST)):
        for pair, mapped in directions.items():
            words = [draw.choices(letters, k=draw.randint(3, 6)) for _ in range(count)]
            for lang, change in zip(pair.split("-"), (str, mapped), strict=True):
                lines = (" ".join(map(change, word)) + "\n" for word in words)
                (tmp_path / f"{split}.{pair}.{lang}").write_text("".join(lines))
    for pair in directions:
        source, target = pair.split("-")
        prefixes = [f"--{split}pref={tmp_path}/{split}.{pair}" for split in
                    ("train", "valid", "test")]
        run(
            "fairseq-preprocess", "-s", source, "-t", target, *prefixes, "--destdir",
            tmp_path / "data", "--srcdict", tmp_path / "dict.txt", "--tgtdict",
            tmp_path / "dict.txt",
        )
    result = run(
        "fairseq-train", tmp_path / "data", *TASK, "--lang-pairs", ",".join(directions), "--arch",
        "transformer_task_moe_tiny", "--moe-freq", 1, "--dropout", 0, "--criterion",
        "moe_label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", 0.002, "--lr-scheduler",
        "inverse_sqrt", "--warmup-updates", 100, "--clip-norm", 1, "--max-tokens", 600,
        "--max-update", 500, "--validate-interval", 1000, "--save-interval", 1000, "--seed", 1,
        "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", 100, "--cpu",
        "--num-workers", 0, "--save-dir", tmp_path,
    )
    for pair in directions:
        assert logged(result.said, f"valid_nll_loss_{pair}")[-1] < 0.1
        output = generate(tmp_path / "data", pair, tmp_path / "checkpoint_last.pt").stdout
        translated = hypotheses(output)
        reference = (tmp_path / f"test.{pair}.{pair.split('-')[1]}").read_text().splitlines()
        right = sum(translated[n].text == line for n, line in enumerate(reference))
        assert right >= 95, pair


# -- interactive, and pairs that were never trained


def interactive(data, pair, checkpoint, sentencepiece, text):
    source, target = pair.split("-")
    return run(
        "fairseq-interactive", data, *TASK, "-s", source, "-t", target, "--path", checkpoint,
        "--bpe", "sentencepiece", "--sentencepiece-model", sentencepiece, "--buffer-size", 4,
        "--max-tokens", 500, *BEAM, *GENERATE, stdin=text,
    )


@pytest.mark.parametrize("pair", ["en-de", "de-ru"], ids=["trained", "zero-shot"])
def test_interactive_keeps_order_and_empty_lines(pair, train_router, corpus, tmp_path):
    checkpoint = stir(train_router("target"), tmp_path / "stirred.pt")
    lang = "en" if pair == "en-de" else "de"
    lines = (corpus.text / f"test.en-de.{lang}").read_text().splitlines()[:9]
    typed = [*lines[:2], "", *lines[2:], ""]  # more than two buffers full
    output = interactive(
        corpus.data, pair, checkpoint, corpus.sentencepiece, "".join(f"{x}\n" for x in typed)
    ).stdout

    sources = [line.split("\t") for line in output.splitlines() if line.startswith("S-")]
    assert [name for name, *_ in sources] == [f"S-{n}" for n in range(len(typed))]
    said = hypotheses(output)
    assert said.pop(2).text == said.pop(10).text == ""
    assert "D-2\t0.0\t\n" in output or "D-2\t-0.0\t\n" in output
    in_test_set = hypotheses(generate(corpus.data, pair, checkpoint, *BEAM).stdout)
    numbered = dict(enumerate(said[n] for n in sorted(said)))
    assert_same_hypotheses(numbered, {n: in_test_set[n] for n in range(9)})


def test_untrained_pair_takes_its_target_languages_route(train_router, corpus, tmp_path):
    checkpoint = stir(train_router("target"), tmp_path / "stirred.pt")
    zero_shot = hypotheses(generate(corpus.data, "de-ru", checkpoint, *BEAM).stdout)
    assert sorted(zero_shot) == list(range(NUM_TEST))
    # with routing by target and the target's tag, en-ru given German text is the same thing
    data = tmp_path / "data"
    data.mkdir()
    for lang, named in (("de", "en"), ("ru", "ru")):
        shutil.copy(corpus.dictionary, data / f"dict.{named}.txt")
        for suffix in ("bin", "idx"):
            shutil.copy(
                corpus.data / f"test.de-ru.{lang}.{suffix}", data / f"test.en-ru.{named}.{suffix}"
            )
    assert_same_hypotheses(
        zero_shot, hypotheses(generate(data, "en-ru", checkpoint, *BEAM).stdout)
    )


def test_pair_without_any_route_is_refused(train_router, corpus):
    result = generate(corpus.data, "en-zh", train_router("target"), check=False)
    line = refused(result)
    assert "en-zh" in line and "zh" in line and "route" in line.replace("routing", "route")


# -- sub-networks

VARIANTS = {
    "post-norm, tied": (),
    "post-norm, untied, decoder tags": (
        "--decoder-langtok", "--lang-tok-style", "mbart", "--arch", "transformer_task_moe",
    ),
    "pre-norm, untied": (
        "--encoder-normalize-before", "--decoder-normalize-before",
        "--arch", "transformer_task_moe",
    ),
    "pre-norm, tied, decoder tags": (
        "--encoder-normalize-before", "--decoder-normalize-before", "--decoder-langtok",
    ),
}
UNTIED_SIZES = [
    word
    for stack in ("encoder", "decoder")
    for name, size in (("embed-dim", 64), ("ffn-embed-dim", 128), ("layers", 2),
                       ("attention-heads", 2))
    for word in (f"--{stack}-{name}", size)
] + ["--moe-expert-count", 4]


@pytest.fixture(scope="session")
def train_variant(train):
    """Give a function that trains one of VARIANTS, routed by pair and target, and stirs it."""

    def trained(variant):
        flags = [*VARIANTS[variant]]
        if "transformer_task_moe" in flags:  # `tiny` ties all embeddings
            flags += UNTIED_SIZES
        name = variant.replace(", ", "-").replace(" ", "-")
        checkpoint = train(
            name, "--encoder-moe-router", "pair", "--max-update", 3, "--disable-validation", *flags
        )
        stirred = checkpoint.with_name("stirred.pt")
        return stirred if stirred.exists() else stir(checkpoint, stirred)

    return trained


def without_plugin(readme_command, folder, data=None, **options):
    """Run a command of an extracted model's README where the plugin cannot be imported."""
    command, *words = shlex.split(readme_command)
    module = {"fairseq-generate": "generate", "fairseq-interactive": "interactive"}[command]
    program = (
        "import sys; sys.modules['fairseq_taskmoe'] = None; "
        f"from fairseq_cli.{module} import cli_main; cli_main()"
    )
    words = [str(data) if word == "DATA" else word for word in words]
    return run("python", "-c", program, *words, cwd=folder, **options)


def readme_command(folder, name):
    (line,) = [
        line for line in (folder / "README.md").read_text().splitlines()
        if line.startswith(f"    {name} ")
    ]
    return line


@pytest.mark.parametrize("variant", VARIANTS)
def test_subnetwork_in_stock_fairseq_equals_full_model(variant, train_variant, corpus, tmp_path):
    checkpoint = train_variant(variant)
    out = tmp_path / "en-de"
    run("taskmoe", "extract", checkpoint, "--lang-pair", "en-de", "--out", out,
        "--sentencepiece-model", corpus.sentencepiece)
    full = hypotheses(generate(corpus.data, "en-de", checkpoint, *BEAM, *ROUTED).stdout)
    command = readme_command(out, "fairseq-generate") + " --beam 4 --max-len-b 15"
    cut_out = hypotheses(without_plugin(command, out, corpus.data).stdout)

    assert sorted(full) == list(range(NUM_TEST))
    assert_same_hypotheses(full, cut_out)
    if variant == "post-norm, tied":
        # the comparison can fail: the same sub-network, and gates that choose other experts
        rerouted = edit_checkpoint(checkpoint, tmp_path / "rerouted.pt", negate_gates)
        other = hypotheses(generate(corpus.data, "en-de", rerouted, *BEAM, *ROUTED).stdout)
        with pytest.raises(AssertionError):
            assert_same_hypotheses(other, cut_out)


def negate_gates(state):
    names = [name for name in state if name.endswith("router.gate.weight")]
    assert names
    for name in names:
        state[name].neg_()


def test_readme_of_a_subnetwork_translates_text(train_variant, corpus, tmp_path):
    checkpoint = train_variant("pre-norm, tied, decoder tags")
    out = tmp_path / "en-de"
    run("taskmoe", "extract", checkpoint, "-s", "en", "-t", "de", "--out", out,
        "--sentencepiece-model", corpus.sentencepiece)
    lines = (corpus.text / "test.en-de.en").read_text().splitlines()[:3]
    text = "".join(f"{line}\n" for line in lines)
    command = readme_command(out, "fairseq-interactive") + " --beam 4 --max-len-b 15"
    stock = without_plugin(command, out, stdin=text)
    plugin = interactive(corpus.data, "en-de", checkpoint, corpus.sentencepiece, text)
    assert len(hypotheses(stock.stdout)) == 3
    assert_same_hypotheses(hypotheses(stock.stdout), hypotheses(plugin.stdout))


def test_stack_that_routes_by_token_stays(train_router, corpus, tmp_path):
    checkpoint = stir(train_router("token", "target"), tmp_path / "stirred.pt")
    out = tmp_path / "en-de"
    extract = ("taskmoe", "extract", checkpoint, "--lang-pair", "en-de", "--out", out)
    assert "token" in refused(run(*extract, check=False))
    assert not out.exists()

    run(*extract, "--format", "taskmoe")
    names = torch.load(out / "model.pt", weights_only=False)["model"]
    assert any("encoder" in name and "experts" in name for name in names)
    assert not any("decoder" in name and "moe" in name for name in names)
    full = hypotheses(generate(corpus.data, "en-de", checkpoint, *BEAM, *ROUTED).stdout)
    command = readme_command(out, "fairseq-generate").strip() + " --beam 4 --max-len-b 15"
    command = command.replace("DATA", str(corpus.data))
    cut_out = hypotheses(run("bash", "-c", command, cwd=out).stdout)
    assert_same_hypotheses(full, cut_out)
    assert "en-ru" in refused(generate(corpus.data, "en-ru", out / "model.pt", check=False))

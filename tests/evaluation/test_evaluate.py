"""`taskmoe evaluate`: all directions in one go, as fairseq-generate translates them, resumable."""

import json
import logging
from argparse import Namespace

import pytest
import torch
from console import assert_same_hypotheses, generate, hypotheses, refused, run, stir
from fairseq.dataclass.configs import GenerationConfig

from fairseq_taskmoe.checkpoint.load_models import load_stock
from fairseq_taskmoe.evaluation.compare import compare
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.translate import (
    Batching,
    Search,
    load_for_pairs,
    translate_pairs,
)
from fairseq_taskmoe.modules import bf16_products
from fairseq_taskmoe.modules.bf16_products import set_matmul_precision
from fairseq_taskmoe.read_files import read_lines

SHORT = Settings(search=Search(beam=2, max_len_a=1.0, max_len_b=5))
GREEDY = Settings(search=Search(beam=1, max_len_a=1.0, max_len_b=5))


@pytest.fixture(scope="module")
def checkpoint(train, share):
    trained = train("for-evaluate", "--max-update", 5)

    def make(folder):
        folder.mkdir()
        stir(trained, folder / "model.pt")

    return share("stirred-for-evaluate", make) / "model.pt"


def pieces_to_text(pieces):
    return pieces.replace(" ", "").replace("\u2581", " ").strip()


def test_translations_are_those_of_fairseq_generate(corpus, checkpoint, tmp_path):
    evaluate(str(corpus.data), str(checkpoint), str(tmp_path / "out"), ["en-de"], SHORT, cpu=True)
    lines = read_lines(str(tmp_path / "out/hypotheses/test.en-de.de"))
    printed = generate(
        corpus.data, "en-de", checkpoint, "--beam", 2, "--max-len-a", 1, "--max-len-b", 5
    )
    expected = [h.text for _, h in sorted(hypotheses(printed.stdout).items())]
    assert lines == [pieces_to_text(text) for text in expected]
    assert len(set(lines)) > 20  # the sentences are distinguished


def test_order_batches_and_company_make_no_difference(corpus, checkpoint):
    pairs = ["ru-en", "en-de", "de-en"]
    model, task = load_for_pairs(str(corpus.data), str(checkpoint), pairs)
    # without max_len_a: fairseq multiplies it with the longest source of the batch
    settings = GenerationConfig(beam=2, max_len_b=15)
    together = dict(
        translate_pairs(model, task, pairs, "test", settings, Batching(700, None))
    )
    assert list(together) == pairs
    ((_, alone),) = translate_pairs(model, task, ["ru-en"], "test", settings, Batching(None, 1))
    assert together["ru-en"] == alone
    ((_, alone),) = translate_pairs(model, task, ["de-en"], "test", settings, Batching())
    assert together["de-en"] == alone


@pytest.fixture
def bfloat16_for_all(monkeypatch):
    """A CPU that has instructions for bfloat16, and products of small matrices in it, too."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(bf16_products, "LEAST_ELEMENTS", 1)
    yield
    set_matmul_precision("highest")


def test_products_in_bfloat16_are_recorded_and_change_few_translations(
    corpus, checkpoint, tmp_path, bfloat16_for_all
):
    lines = {}
    for precision in ("highest", "medium"):
        out = tmp_path / precision
        settings = GREEDY._replace(precision=precision)
        evaluate(str(corpus.data), str(checkpoint), str(out), ["en-de"], settings, cpu=True)
        lines[precision] = read_lines(str(out / "hypotheses/test.en-de.de"))
        config = json.loads((out / "results.json").read_text())["config"]
        assert config.get("float32_matmul_precision", "highest") == precision
    same = sum(one == two for one, two in zip(*lines.values(), strict=True))
    assert same > len(lines["medium"]) / 2
    wide, task = load_for_pairs(str(corpus.data), str(checkpoint), ["en-de"])
    dict(translate_pairs(wide, task, ["en-de"], "test", GREEDY.search.config(), Batching()))
    assert wide.decoder.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16


def test_a_later_direction_is_refused_before_any_is_translated(corpus, checkpoint, tmp_path):
    _, task = load_for_pairs(str(corpus.data), str(checkpoint), ["en-de", "en-ru"])
    longest = {
        pair: int(task.data_manager.load_pair("test", pair).sizes.max()) for pair in task.served
    }
    short, long = sorted(longest, key=lambda pair: longest[pair])
    assert longest[short] < longest[long]
    result = run("taskmoe", "evaluate", corpus.data, "--path", checkpoint, "--out",
                 tmp_path / "out", "--cpu", "--beam", 1, "--max-len-b", 5, "--lang-pairs",
                 f"{short},{long}", "--max-tokens", longest[short], check=False)
    assert f"--max-tokens {longest[short]}" in refused(result) and long in refused(result)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_the_files_and_an_optimizer_of_old_flags_is_no_obstacle(
    corpus, checkpoint, tmp_path
):
    saved = torch.load(checkpoint, weights_only=False)
    saved["cfg"]["optimizer"] = Namespace(lr=[0.1])  # as with --optimizer sgd
    torch.save(saved, tmp_path / "model.pt")
    model, _ = load_for_pairs(str(corpus.data), str(tmp_path / "model.pt"), ["en-de"])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, saved["model"][name]), name


def test_finished_directions_are_kept_and_other_settings_refused(corpus, checkpoint, tmp_path):
    out = tmp_path / "out"
    command = ("taskmoe", "evaluate", corpus.data, "--path", checkpoint, "--out", out, "--cpu",
               "--beam", 1, "--max-len-b", 10, "--lang-pairs", "en-de,de-en")
    said = run(*command).stderr
    assert "1 of 2: en-de translated, 101 sentences" in said and "2 of 2: de-en" in said
    results = json.loads((out / "results.json").read_text())
    kept = out / "hypotheses/test.en-de.de"
    kept.write_text("edited\n" * 101)
    (out / "hypotheses/test.de-en.en").unlink()
    run(*command)
    assert kept.read_text() == "edited\n" * 101
    resumed = json.loads((out / "results.json").read_text())
    assert resumed["directions"]["de-en"] == results["directions"]["de-en"]
    assert resumed["directions"]["en-de"]["bleu"] == 0
    assert "--out" in refused(run(*command, "--lenpen", 2, check=False))


def test_results_follow_the_contract_with_floors(corpus, checkpoint, tmp_path):
    run("taskmoe", "evaluate", corpus.data, "--path", checkpoint, "--out", tmp_path / "out",
        "--cpu", "--beam", 1, "--max-len-b", 10, "--lang-pairs", "en-ru,ru-en", "--floors",
        "--references", corpus.text)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {"config", "commit", "hardware", "directions", "averages"} <= set(results)
    for scores in results["directions"].values():
        assert scores["sentences"] == 101 and "|version:" in scores["signature"]
        assert scores["floor_copy_chrf"] < scores["floor_nearest_chrf"]
    assert results["averages"]["xx-en"]["directions"] == 1
    assert "ru-en" in (tmp_path / "out/results.md").read_text()


def test_zero_shot_directions_have_an_average_of_their_own(corpus, checkpoint, tmp_path):
    results = evaluate(
        str(corpus.data), str(checkpoint), str(tmp_path), ["en-ru", "de-ru"],
        GREEDY, cpu=True,
    )
    assert results.averages["zero-shot"]["directions"] == 1


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--lang-pairs", "en-xx"), "xx"),
        (("--lang-pairs", "en"), "--lang-pairs"),
        (("--lang-pairs", "en-de", "--gen-subset", "dev"), "dev"),
        (("--lang-pairs", "en-de", "--beam", 0), "--beam"),
        (("--lang-pairs", "en-de", "--max-tokens", 3), "--max-tokens"),
        (("--lang-pairs", "en-de", "--references", "/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_are_refused_in_one_line(corpus, checkpoint, tmp_path, flags, named):
    result = run("taskmoe", "evaluate", corpus.data, "--path", checkpoint, "--out",
                 tmp_path / "out", "--cpu", "--max-len-b", 5, *flags, check=False)
    assert named in refused(result)
    assert not (tmp_path / "out/results.json").exists()


def test_unknown_words_in_references_are_warned_about(corpus, checkpoint, tmp_path, caplog):
    _, task = load_for_pairs(str(corpus.data), str(checkpoint), ["en-de"])
    dataset = task.data_manager.load_pair("test", "en-de")
    unknown = sum(int(dataset.tgt[i].eq(3).sum()) for i in range(len(dataset)))
    with caplog.at_level(logging.WARNING):
        evaluate(str(corpus.data), str(checkpoint), str(tmp_path), ["en-de"],
                 GREEDY, cpu=True)
    assert ("unknown" in caplog.text) == (unknown > 0)


@pytest.mark.parametrize("pair", ["en-de", pytest.param("ru-en", marks=pytest.mark.slow)])
def test_compare_finds_nothing_for_an_extraction_and_much_for_another_pairs(
    corpus, checkpoint, tmp_path, pair
):
    other = "en-ru" if pair == "en-de" else "en-de"
    for name in (pair, other):
        run("taskmoe", "extract", checkpoint, "--lang-pair", name, "--out", tmp_path / name)
    full, task = load_for_pairs(str(corpus.data), str(checkpoint), [pair])
    same, different = (
        compare(full, load_stock(str(tmp_path / name)).model, task, pair, "test",
                GenerationConfig(beam=4, max_len_b=15), Batching(2000))
        for name in (pair, other)
    )
    assert same.hypotheses == 101
    assert same.max_abs_logprob_diff < 1e-4
    assert same.different == same.ties
    assert different.max_abs_logprob_diff > 1e-2
    assert different.different > different.ties


def test_generate_and_evaluate_agree_on_the_routed_path(corpus, checkpoint):
    flags = ("--beam", 2, "--max-len-a", 1, "--max-len-b", 5)
    folded = generate(corpus.data, "de-en", checkpoint, *flags)
    routed = generate(corpus.data, "de-en", checkpoint, *flags,
                      "--model-overrides", "{'moe_routed_inference': True}")
    assert_same_hypotheses(hypotheses(folded.stdout), hypotheses(routed.stdout))

"""--eval-bleu: validation's scores are those of `taskmoe evaluate`, on any number of ranks."""

import json

import pytest
import torch
from console import PLUGIN, ROOT, logged, run, stir
from fairseq.dataclass.configs import GenerationConfig
from fairseq.logging import metrics
from rank_trainings import ROUTERS, train_on

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.test_sets import read_test_set
from fairseq_taskmoe.evaluation.translate import (
    Batching,
    Search,
    batches,
    load_for_pairs,
    translate_pairs,
)
from fairseq_taskmoe.metrics.scoring import score_direction
from fairseq_taskmoe.tasks.validation_scores import (
    ValidationScores,
    build_detokenizer,
    generation_config,
    log_key,
    sentence_statistics,
)

__all__ = ["train_on"]  # fixtures

PAIRS = ("de-en", "en-de", "en-ru", "ru-en")
SEARCH = {"beam": 2, "max_len_b": 12}


@pytest.fixture(scope="module")
def stirred(train, share):
    trained = train("for-eval-bleu", "--max-update", 2, *ROUTERS)

    def make(folder):
        folder.mkdir()
        stir(trained, folder / "model.pt")

    return share("stirred-for-eval-bleu", make) / "model.pt"


@pytest.fixture(scope="module")
def validated(train_on, stirred):
    """Validate a model that tells sentences apart, after an update that changes nothing."""

    def on(ranks):
        return train_on(
            ranks, "eval-bleu", *ROUTERS, "--restore-file", stirred, "--reset-optimizer",
            "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler", "--lr", 1e-12,
            "--max-update", 1, "--eval-bleu", "--eval-bleu-args", json.dumps(SEARCH),
            "--best-checkpoint-metric", "chrf", "--maximize-best-checkpoint-metric",
        )

    return on


def last_logged(training, name):
    return logged(training.log, f"valid_{name}")[-1]


def test_scores_are_those_of_evaluate_and_the_best_checkpoint_is_chosen_by_them(
    corpus, validated, tmp_path
):
    training = validated(1)
    results = evaluate(
        str(corpus.data), str(training.folder / "checkpoint_best.pt"), str(tmp_path / "out"), PAIRS,
        Settings("valid", Search(**SEARCH)), cpu=True, fold=False,
    )
    for name in ("bleu", "chrf"):
        for pair, score in results.directions.items():
            assert last_logged(training, f"{name}_{pair}") == round(score[name], 2), pair
        assert last_logged(training, name) == round(results.averages["all"][name], 2)
    assert len({score["chrf"] for score in results.directions.values()}) == 4
    assert training.saved(1)["extra_state"]["best"] == last_logged(training, "chrf") > 1


def test_scores_are_the_same_with_expert_parallelism(validated):
    alone, together = validated(1), validated(2)
    for name in ("bleu", "chrf"):
        for key in (name, *(f"{name}_{pair}" for pair in PAIRS)):
            assert last_logged(together, key) == last_logged(alone, key), key


def test_max_sentences_selects_the_first_of_each_direction(corpus, stirred):
    limit, pairs = 7, ["en-de", "ru-en"]
    model, task = load_for_pairs(str(corpus.data), str(stirred), pairs)
    task.cfg.eval_bleu_max_sentences = limit
    task.cfg.eval_bleu_args = json.dumps(SEARCH)
    scores = ValidationScores(task, model)
    found = [
        scores.statistics(batch)
        for pair in pairs for batch in batches(model, task, pair, "valid", Batching(None, 9))
    ]
    generation = GenerationConfig(**SEARCH)
    for pair, hypotheses in translate_pairs(
        model, task, pairs, "valid", generation, Batching(), fold=False
    ):
        references = read_test_set(task, task.data_manager.load_pair("valid", pair)).references
        expected = score_direction(pair, hypotheses[:limit], references[:limit])
        task_id = task.task_table.task_id(pair)
        for name in ("bleu", "chrf"):
            total = sum(sums[log_key(name)] for sums in found)[task_id].tolist()
            score = scores.metrics[name][task_id]._compute_score_from_stats(total).score
            assert score == pytest.approx(expected[name], abs=1e-9)


def test_statistics_of_batches_and_ranks_add_up_to_the_score(corpus, stirred):
    pairs = ["de-en", "en-de"]
    model, task = load_for_pairs(str(corpus.data), str(stirred), pairs)
    scores = ValidationScores(task, model)
    references = {
        pair: read_test_set(task, task.data_manager.load_pair("valid", pair)).references
        for pair in pairs
    }
    # every fourth translation is that of the sentence before, all lack their first word
    hypotheses = {
        pair: [lines[i - (i % 4 == 0)].partition(" ")[2] for i in range(len(lines))]
        for pair, lines in references.items()
    }
    with metrics.aggregate(new_root=True) as found:
        for start in range(0, 40, 8):
            logs = []
            for pair in pairs:
                sums = {}
                for name, by_task in scores.metrics.items():
                    task_id = scores.pairs.index(pair)
                    rows = [
                        sentence_statistics(
                            by_task[task_id], hypotheses[pair][i], references[pair][i]
                        )
                        for i in range(start, start + 8)
                    ]
                    sums[log_key(name)] = torch.zeros(len(scores.pairs), len(rows[0]))
                    sums[log_key(name)][task_id] = torch.tensor(rows).sum(dim=0)
                logs.append(sums)
            scores.log(logs)
    logged_values = found.get_smoothed_values()
    expected = {
        pair: score_direction(pair, hypotheses[pair], references[pair]) for pair in pairs
    }
    for name in ("bleu", "chrf"):
        exact = [expected[pair][name] for pair in pairs]
        assert [logged_values[f"{name}_{pair}"] for pair in pairs] == [round(x, 2) for x in exact]
        assert logged_values[name] == round(sum(exact) / 2, 2) > 30
        assert f"{name}_en-ru" not in logged_values  # nothing was translated


@pytest.mark.slow
def test_it_is_configured_in_yaml_as_well(corpus, tmp_path):
    search = '{"beam": 1, "max_len_b": 5}'
    ended = run(
        "fairseq-hydra-train", "--config-dir", ROOT / "configs", "--config-name", "token_target",
        "size=smoke", f"common.user_dir={PLUGIN}", f"task.data={corpus.data}",
        f"checkpoint.save_dir={tmp_path / 'run'}",
        "optimization.max_update=1", "+task.eval_bleu=true", f"+task.eval_bleu_args='{search}'",
        "+task.eval_bleu_max_sentences=5", "+task.eval_bleu_print_samples=true",
        "checkpoint.best_checkpoint_metric=bleu", "checkpoint.maximize_best_checkpoint_metric=true",
        cwd=tmp_path,
    )
    assert len(logged(ended.said, "valid_bleu_en-ru")) == len(logged(ended.said, "valid_bleu")) > 0
    assert "example hypothesis (" in ended.said
    assert (tmp_path / "run" / "checkpoint_best.pt").exists()


@pytest.mark.parametrize(
    "text, named",
    [
        ("{beam: 4}", "JSON"),
        ('{"beem": 4}', "beem"),
        ('{"beam": "four"}', "four"),
        ('{"beam": 0}', "1 or more"),
        ("[4]", "--eval-bleu-args"),
    ],
)
def test_invalid_search_options_are_refused(text, named):
    with pytest.raises(Refusal, match=named):
        generation_config(text)


@pytest.mark.parametrize("name, text, named", [("mozes", "{}", "mozes"), ("space", "{", "-args")])
def test_an_unknown_detokenizer_is_refused(name, text, named):
    with pytest.raises(Refusal, match=named):
        build_detokenizer(name, text)

"""The main job on one GPU gives what it gives on CPU: train, evaluate, route, in all types.

Run by hand, with every other test that is marked gpu: python -m pytest -m gpu.
"""

import json

import pytest
from console import TASK, TRAIN, logged, run

pytestmark = pytest.mark.gpu
ON_GPU = [word for word in TRAIN if word != "--cpu"]
ROUTERS = ("token", "target", "random")


def trained(corpus, folder, router, words, *flags):
    return run(
        "fairseq-train", corpus.data, *words, "--encoder-moe-router", router,
        "--decoder-moe-router", router, "--max-update", 5, "--disable-validation", "--save-dir",
        folder, *flags,
    )


@pytest.mark.parametrize("router", ["token", "target"])
def test_losses_in_float32_are_those_of_the_cpu(corpus, tmp_path, router):
    on_cpu = logged(trained(corpus, tmp_path / "cpu", router, TRAIN).said, "loss")
    on_gpu = logged(trained(corpus, tmp_path / "gpu", router, ON_GPU).said, "loss")
    assert len(on_gpu) == 5 and on_gpu == pytest.approx(on_cpu, abs=0.01)


@pytest.mark.parametrize("flags", [("--fp16",), ("--fp16", "--fp16-no-flatten-grads"), ("--bf16",)])
@pytest.mark.parametrize("router", ROUTERS)
def test_half_precision_learns(corpus, tmp_path, router, flags):
    policies = ("--moe-second-expert-policy", "random", "--moe-capacity-factor", 1.0)
    more = policies if router == "token" else ()
    losses = logged(trained(corpus, tmp_path / "run", router, ON_GPU, *flags, *more).said, "loss")
    assert losses[-1] < losses[0] - 0.5


def test_a_test_set_has_the_scores_of_the_cpu(corpus, tmp_path):
    trained(corpus, tmp_path / "run", "target", TRAIN)
    scores = {}
    for device, flags in (("cpu", ("--cpu",)), ("gpu", ())):
        run("taskmoe", "evaluate", corpus.data, "--path", tmp_path / "run" / "checkpoint_last.pt",
            "--lang-pairs", "en-de,de-en", "--out", tmp_path / device, "--max-len-b", 15, *flags)
        results = json.loads((tmp_path / device / "results.json").read_text())
        scores[device] = [each["chrf"] for each in results["directions"].values()]
    assert scores["gpu"] == pytest.approx(scores["cpu"], abs=0.5)  # but for ties


def test_routing_is_measured(corpus, tmp_path):
    trained(corpus, tmp_path / "run", "token", ON_GPU)
    run("taskmoe", "routing", corpus.data, "--path", tmp_path / "run" / "checkpoint_last.pt",
        "--lang-pairs", "en-de", "--out", tmp_path / "routing")
    assert (tmp_path / "routing" / "routing.npz").is_file()


def test_fairseq_generate_translates_every_sentence(corpus, tmp_path):
    trained(corpus, tmp_path / "run", "target", ON_GPU)
    result = run(
        "fairseq-generate", corpus.data, *TASK, "-s", "en", "-t", "de", "--path",
        tmp_path / "run" / "checkpoint_last.pt", "--max-len-b", 15, "--num-workers", 0,
    )
    assert sum(line.startswith("H-") for line in result.stdout.splitlines()) == 101

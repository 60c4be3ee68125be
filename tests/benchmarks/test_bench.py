"""`taskmoe bench train` measures equal work, records its conditions, and refuses bad flags."""

import json
from types import SimpleNamespace

import pytest
import torch
from console import run
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import Adam
from fairseq.trainer import Trainer
from fairseq.utils import clip_grad_norm_
from omegaconf import OmegaConf

from fairseq_taskmoe.benchmarks import lengths
from fairseq_taskmoe.benchmarks.resources import flops, measured_weights
from fairseq_taskmoe.benchmarks.train.batch import BatchSize, padding, random_batches
from fairseq_taskmoe.benchmarks.train.bench import Steps, bench_train
from fairseq_taskmoe.benchmarks.train.models import SIZES, TrainingVariant, build, list_variants
from fairseq_taskmoe.benchmarks.train.process import TrainingLoad, VariantProcess
from fairseq_taskmoe.benchmarks.train.step import (
    LEARNING_RATE,
    build_optimizer,
    training_step,
    update,
)
from fairseq_taskmoe.cli import run_verb
from fairseq_taskmoe.data.languages import numbered_dictionary
from fairseq_taskmoe.data.task_table import TaskTable
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.verbs.bench.train import table

# of what the stock model hands to torch
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

PAIRS = ["en-de", "de-en"]
TABLE = TaskTable.from_pairs(PAIRS)
DICTIONARY = numbered_dictionary(100)
TEXT = BatchSize(tokens=96)
SMALL = ("--arch", "tiny", "--tokens", 96, "--vocab-size", 100, "--warm-up", 1, "--repeats", 2,
         "--threads", 1)


def variant(name, num_experts=4):
    return TrainingVariant(name, name, num_experts, "highest")


def built(name, num_experts=4, arch="tiny"):
    return build(variant(name, num_experts), arch, DICTIONARY, TABLE)


def batch(**changes):
    (drawn,) = random_batches(1, TEXT._replace(**changes), DICTIONARY, len(PAIRS))
    return drawn


def step(name, full=False, dtype=torch.float32):
    trained = built(name)
    trained.model.to(dtype).train()
    return trained.model, training_step(trained, variant(name), full, dtype)


def flops_of(name, text):
    return flops(lambda: step(name)[1]["forward_backward"](text))


# -- training steps


@pytest.mark.slow
def test_report_has_the_speed_of_each_variant_and_the_provenance(tmp_path):
    out = tmp_path / "bench.json"
    printed = run(
        "taskmoe", "bench", "train", *SMALL, "--out", out, "--moe-expert-count", "8,4",
        "--variants", "dense,dense_equal,token_token,stock,dense:medium", "--full-step",
    )
    report = json.loads(out.read_text())
    rows = report["variants"]
    labels = ["dense", "dense_equal", "token_token@4", "token_token@8", "stock", "dense:medium"]
    assert list(rows) == labels
    assert report["reference"] == "dense_equal" and rows["dense_equal"]["speed_of_reference"] == 1
    for label, row in rows.items():
        assert row["fits"]
        assert all(row[name] > 0 for name in ("seconds", "warm_up_tokens_per_second",
                                              "process_bytes"))
        assert 0 < row["update_share"] < 1 and set(row["phases"]) == {"forward_backward", "update"}
        assert label in printed.stdout
    assert rows["token_token@8"]["weight_bytes"] > rows["token_token@4"]["weight_bytes"]
    assert report["hardware"]["threads"] == 1 and report["settings"]["text"]["tokens"] == 96
    assert report["device"] == "cpu" and report["padding"] > 0
    assert printed.stderr == ""


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--variants", "dense,sparse"), "--variants sparse"),
        (("--variants", "dense:low"), "--variants dense:low"),
        (("--reference", "stock"), "--reference stock"),
        (("--moe-expert-count", "8,x"), "--moe-expert-count 8,x"),
        (("--moe-expert-count", 1), "--moe-expert-count 1"),
        (("--repeats", 1), "--repeats"),
        (("--tokens", 80), "--tokens 80: give 81"),
        (("--tokens", 7, "--fixed-length", 8), "--tokens 7"),
        pytest.param(
            ("--device", "cuda"), "no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, named):
    with pytest.raises(Refusal) as refused:  # in this process: there are many
        run_verb([str(word) for word in ("bench", "train", *SMALL, *flags)])
    assert named in refused.value.message


def test_only_what_depends_on_the_number_of_experts_is_measured_with_each():
    words = ["stock", "dense_equal", "target_target", "dense:medium"]
    variants = list_variants(words, [8, 128], "high")
    assert [(each.label, each.precision) for each in variants] == [
        ("stock", "high"), ("dense_equal", "high"), ("target_target@8", "high"),
        ("target_target@128", "high"), ("dense:medium", "medium"),
    ]
    assert list_variants(words, [8], "high")[2].label == "target_target"


def test_reference_does_the_work_of_the_chosen_experts():
    dense, routed = built("dense_equal").model, built("target_target").model
    widths = [each.fc1.out_features for each in dense.encoder.layers]
    experts = routed.encoder.layers[1].moe.experts.fc1.weight
    assert widths == [128, 2 * experts.size(1)]
    text = batch(fixed_length=8)  # the experts leave out padding
    counted = {
        name: flops_of(name, text) for name in ("dense", "dense_equal", "target_target")
    }
    assert counted["dense"] < counted["dense_equal"] <= counted["target_target"]
    assert counted["target_target"] < 1.001 * counted["dense_equal"]  # its gates


def test_small_has_the_documented_sizes():
    model = built("dense", arch="small").model
    assert len(model.encoder.layers) == len(model.decoder.layers) == 3
    assert model.encoder.layers[0].fc1.weight.shape == (1024, 256)
    assert model.encoder.layers[0].self_attn.num_heads == 4
    assert model.decoder.output_projection.weight is model.encoder.embed_tokens.weight
    assert set(SIZES) == {"tiny", "small", "base", "big"}


def test_stock_does_the_work_of_our_dense_model():
    text = batch(fixed_length=8)
    (ours, _), (stock, _) = (step(name) for name in ("dense", "stock"))
    assert measured_weights(list(ours.parameters())) == measured_weights(list(stock.parameters()))
    assert {(name, p.shape) for name, p in ours.named_parameters()} == {
        (name, p.shape) for name, p in stock.named_parameters()
    }
    # ours goes through its attention to the source once more in backward, as fused kernels do
    scores = 2 * 2 * TEXT.tokens * 8 * 64  # two layers, B * T queries, S keys, C
    mean_of_source = 2 * TEXT.tokens * 64  # which routers may read
    counted = [flops_of(name, text) for name in ("dense", "stock")]
    assert counted[0] == counted[1] + scores + mean_of_source
    dropouts = {
        name: float(module.p) for name, module in (
            ("ours", ours.encoder.layers[0].dropout), ("stock", stock.encoder.dropout_module),
            ("stock layer", stock.decoder.layers[1].dropout_module),
        )
    }
    assert set(dropouts.values()) == {0.1}


def test_stock_minimises_what_our_dense_model_does():
    losses = {}
    text = batch()
    weights = built("dense").model.state_dict()
    for name in ("dense", "stock"):
        model, criterion = built(name)
        model.load_state_dict(weights, strict=name == "dense")
        inputs = dict(text["net_input"])
        if name == "stock":
            del inputs["task_ids"]
        losses[name] = criterion(model.eval(), {**text, "net_input": inputs})[0]
    torch.testing.assert_close(losses["dense"], losses["stock"])


@pytest.mark.parametrize("given, clipped", [(0.5, 0.5), (5.0, 1.0)])
def test_an_update_normalises_by_sample_size_and_clips_what_is_long(given, clipped):
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([64 * given, 0.0, 0.0, 0.0])
    update(build_optimizer([parameter], torch.float32), sample_size=64)
    torch.testing.assert_close(parameter.grad, torch.tensor([clipped, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(parameter.data, torch.tensor([-LEARNING_RATE, 0.0, 0.0, 0.0]))


def assert_same_gradients(model, other, num_tokens):
    """Compare all gradients as one vector, up to the rounding of sums over the tokens."""
    one, two = (
        torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None])
        for each in (model, other)
    )
    assert (one - two).norm() <= torch.finfo(torch.float32).eps * num_tokens * two.norm()


@pytest.mark.parametrize("name", ["stock", "target_target"])
def test_a_full_step_is_fairseq_s_update(name):
    """Normalise, clip to 1.0, and fairseq's Adam with betas 0.9, 0.98."""
    text = batch()
    model, full = step(name, full=True)
    expected, apart = step(name)
    torch.manual_seed(3)
    optimizer = Adam(expected.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    before = [p.detach().clone() for p in expected.parameters()]
    for seed in range(3):
        for each in (full, apart):
            torch.manual_seed(seed)  # of dropout
            each["forward_backward"](text)
        assert_same_gradients(model, expected, text["ntokens"])
        for parameter, other in zip(expected.parameters(), model.parameters(), strict=True):
            if other.grad is not None:
                # of the same gradients: Adam makes whole steps of those that are rounding alone,
                # as of the bias of keys, and the kernels of some CPUs do not always round alike
                parameter.grad = other.grad / text["ntokens"]
        full["update"](text)
        norm = clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    assert norm > 1.0  # clipping has changed something
    found = list(model.parameters())
    torch.testing.assert_close(found, list(expected.parameters()))
    changed = [not torch.equal(*pair) for pair in zip(before, found, strict=True)]
    assert sum(changed) > 10


def test_a_full_step_is_that_of_fairseq_s_trainer():
    text = batch()
    model, full = step("dense", full=True)
    trained = built("dense")
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.common.cpu, cfg.optimization.clip_norm = True, 1.0
    cfg.optimization.lr = [LEARNING_RATE]
    cfg.optimizer = {"_name": "adam", "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8,
                     "weight_decay": 0.0, "use_old_adam": False, "fp16_adam_stats": False,
                     "tpu": False, "lr": [LEARNING_RATE]}
    cfg.lr_scheduler = {"_name": "fixed", "force_anneal": None, "lr_shrink": 0.1,
                        "warmup_updates": 0, "lr": [LEARNING_RATE]}
    task = SimpleNamespace(
        uses_ema=False, cfg=SimpleNamespace(),
        train_step=lambda sample, model, criterion, optimizer, update_num, ignore_grad:
            _backward(sample, model, criterion, optimizer),
        optimizer_step=lambda optimizer, model, update_num: optimizer.step(),
        reduce_metrics=lambda *_: None,
    )
    trainer = Trainer(cfg, task, trained.model, trained.criterion)
    for update_num in range(2):
        trainer.train_step([text])
        torch.manual_seed(1 + update_num)  # as the trainer does
        for phase in full.values():
            phase(text)
    torch.testing.assert_close(list(trained.model.parameters()), list(model.parameters()))


def _backward(sample, model, criterion, optimizer):
    loss, sample_size, logged = criterion(model, sample)
    optimizer.backward(loss)
    return loss, sample_size, logged


def test_bfloat16_trains_on_a_float32_copy():
    model, full = step("target_target", full=True, dtype=torch.bfloat16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    text = batch()
    for _ in range(3):
        for phase in full.values():
            phase(text)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert len(changed) > len(before) / 2


# -- batches


def test_batches_of_one_shape_have_no_padding():
    plain = batch(fixed_length=8)
    assert plain["target"].shape == (12, 8) and plain["ntokens"] == 96
    assert not plain["target"].eq(DICTIONARY.pad()).any()


def test_batches_have_the_shapes_that_fairseq_forms_of_real_lengths():
    batches = random_batches(40, BatchSize(512), DICTIONARY, len(PAIRS))
    shapes = {
        (each["net_input"]["src_tokens"].shape, each["target"].shape) for each in batches
    }
    assert len(shapes) > 30
    for each in batches:
        sides = each["net_input"]["src_tokens"], each["target"]
        assert each["nsentences"] * max(side.size(1) for side in sides) <= 512
        assert each["nsentences"] % 8 == 0 or each["nsentences"] < 8
    words = [each["ntokens"] for each in batches]
    assert sum(words) / len(words) > 512 * 0.6
    assert 0.01 < padding(batches, DICTIONARY.pad()) < 0.15
    again = random_batches(40, BatchSize(512), DICTIONARY, len(PAIRS))
    assert torch.equal(batches[7]["target"], again[7]["target"])  # in every process


def test_lengths_are_those_of_the_table():
    pairs = lengths.table()
    assert len(pairs) == 300 and max(pairs) == (81, 55) and min(pairs) == (3, 2)
    drawn = lengths.draw_lengths(3000, torch.Generator().manual_seed(1))
    assert set(drawn) <= set(pairs)
    means = [sum(pair[0] for pair in some) / len(some) for some in (pairs, drawn)]
    assert means[0] == pytest.approx(11.58, abs=0.01)
    assert means[1] == pytest.approx(means[0], rel=0.1)


def test_every_word_of_a_batch_is_at_its_place():
    text = batch(tokens=300)
    source, target = text["net_input"]["src_tokens"], text["target"]
    previous, pad = text["net_input"]["prev_output_tokens"], DICTIONARY.pad()
    assert text["ntokens"] == int(target.ne(pad).sum())
    read_lengths = text["net_input"]["src_lengths"]
    assert read_lengths.tolist() == source.ne(pad).sum(dim=1).tolist()
    for row, shifted, read, length in zip(target, previous, source, read_lengths, strict=True):
        words = row[row.ne(pad)]
        assert torch.equal(row[: len(words)], words)  # padded on the right
        assert words[-1] == DICTIONARY.eos() and (words[:-1] >= DICTIONARY.nspecial).all()
        assert shifted[0] == DICTIONARY.eos() and torch.equal(shifted[1 : len(words)], words[:-1])
        assert shifted[len(words) :].eq(pad).all()
        assert read[-1] == DICTIONARY.eos() and read[: source.size(1) - length].eq(pad).all()
    task_ids = text["net_input"]["task_ids"]
    assert set(task_ids.tolist()) == {0, 1} and task_ids.equal(task_ids.sort().values)


# -- processes


def test_a_variant_that_does_not_fit_is_reported_and_the_others_go_on(tmp_path):
    variants = [variant("dense"), variant("target_target", num_experts=2 * 10**9)]
    load = TrainingLoad("tiny", 100, TEXT)
    report = bench_train(variants, "target_target", load, Steps(1, 2), "cpu", PAIRS)
    assert report["variants"]["target_target"] == {"fits": False}
    assert report["variants"]["dense"]["seconds"] > 0
    assert report["variants"]["dense"]["speed_of_reference"] is None
    assert "does not fit memory" in table(report)


def test_a_process_that_is_ended_by_the_system_has_no_result():
    process = VariantProcess(variant("dense"), TrainingLoad("tiny", 100, TEXT), PAIRS, 2, "cpu")
    assert process.work is not None and process.step(0)["forward_backward"] > 0
    process.process.kill()
    process.process.join()
    assert process.step(1) is None
    assert process.finish() is None


def test_memory_of_a_variant_is_that_of_its_process():
    """The update keeps two numbers for each weight."""
    memory = {}
    for full in (False, True):
        load = TrainingLoad("tiny", 100, TEXT, full_step=full)
        process = VariantProcess(variant("target_target", 256), load, PAIRS, 1, "cpu")
        process.step(0)
        weights = process.work["weight_bytes"]
        memory[full] = process.finish()
    assert memory[True] - memory[False] > 1.5 * weights
    assert memory[False] > 2 * weights  # and gradients

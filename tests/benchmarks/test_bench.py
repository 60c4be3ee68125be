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

from fairseq_taskmoe.benchmarks.resources import flops, measured_weights
from fairseq_taskmoe.benchmarks.train import bench as train_step
from fairseq_taskmoe.benchmarks.train.batch import BatchSize, random_batch
from fairseq_taskmoe.benchmarks.train.bench import TrainingLoad, bench_train
from fairseq_taskmoe.benchmarks.train.models import SIZES, TrainingVariant, build, list_variants
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

# of what the stock model hands to torch
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

PAIRS = ["en-de", "de-en"]
TABLE = TaskTable.from_pairs(PAIRS)
DICTIONARY = numbered_dictionary(100)
TEXT = BatchSize(tokens=64, length=8)
SMALL = ("--arch", "tiny", "--tokens", 64, "--length", 8, "--vocab-size", 100, "--repeats", 2,
         "--threads", 1)


def variant(name, num_experts=4):
    return TrainingVariant(name, name, num_experts, "highest")


def built(name, num_experts=4, arch="tiny"):
    return build(variant(name, num_experts), arch, DICTIONARY, TABLE)


def batch(**changes):
    return random_batch(TEXT._replace(**changes), DICTIONARY, len(PAIRS), "cpu")


def step(name, full=False, dtype=torch.float32, text=None):
    trained = built(name)
    trained.model.to(dtype).train()
    return trained.model, training_step(trained, variant(name), text or batch(), full, dtype)


# -- training steps


@pytest.mark.slow
def test_report_has_the_speed_of_each_variant_and_the_provenance(tmp_path):
    out = tmp_path / "bench.json"
    printed = run(
        "taskmoe", "bench", "train", *SMALL, "--out", out, "--moe-expert-count", "8,4",
        "--variants", "dense,dense_equal,token_token,stock,dense:medium", "--full-step", "--ragged",
    )
    report = json.loads(out.read_text())
    rows = report["variants"]
    labels = ["dense", "dense_equal", "token_token@4", "token_token@8", "stock", "dense:medium"]
    assert list(rows) == labels
    assert report["reference"] == "dense_equal" and rows["dense_equal"]["speed_of_reference"] == 1
    for label, row in rows.items():
        assert row["fits"] and row["seconds"] > 0 and row["extra_bytes"] > 0
        assert 0 < row["update_share"] < 1 and set(row["phases"]) == {"forward_backward", "update"}
        assert label in printed.stdout
    assert rows["token_token@8"]["weight_bytes"] > rows["token_token@4"]["weight_bytes"]
    assert report["hardware"]["threads"] == 1 and report["settings"]["text"]["tokens"] == 64
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
        (("--tokens", 4), "--tokens"),
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
    counted = {
        name: flops(step(name)[1].phases["forward_backward"])
        for name in ("dense", "dense_equal", "target_target")
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
    text = batch()
    (ours, our_step), (stock, stock_step) = (
        step(name, text=text) for name in ("dense", "stock")
    )
    assert measured_weights(list(ours.parameters())) == measured_weights(list(stock.parameters()))
    assert {(name, p.shape) for name, p in ours.named_parameters()} == {
        (name, p.shape) for name, p in stock.named_parameters()
    }
    # ours goes through its attention to the source once more in backward, as fused kernels do
    scores = 2 * 2 * TEXT.tokens * TEXT.length * 64  # two layers, B * T queries, S keys, C
    mean_of_source = 2 * TEXT.tokens * 64  # which routers may read
    counted = [flops(each.phases["forward_backward"]) for each in (our_step, stock_step)]
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
    text = batch(ragged=True)
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
    text = batch(ragged=True)
    model, full = step(name, full=True, text=text)
    expected, apart = step(name, text=text)
    torch.manual_seed(3)
    optimizer = Adam(expected.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    before = [p.detach().clone() for p in expected.parameters()]
    for seed in range(3):
        for each in (full, apart):
            torch.manual_seed(seed)  # of dropout
            each.phases["forward_backward"]()
        assert_same_gradients(model, expected, text["ntokens"])
        for parameter, other in zip(expected.parameters(), model.parameters(), strict=True):
            if other.grad is not None:
                # of the same gradients: Adam makes whole steps of those that are rounding alone,
                # as of the bias of keys, and the kernels of some CPUs do not always round alike
                parameter.grad = other.grad / text["ntokens"]
        full.phases["update"]()
        norm = clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    assert norm > 1.0  # clipping has changed something
    found = list(model.parameters())
    torch.testing.assert_close(found, list(expected.parameters()))
    changed = [not torch.equal(*pair) for pair in zip(before, found, strict=True)]
    assert sum(changed) > 10
    full.release()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_full_step_is_that_of_fairseq_s_trainer():
    text = batch()
    model, full = step("dense", full=True, text=text)
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
        for phase in full.phases.values():
            phase()
    torch.testing.assert_close(list(trained.model.parameters()), list(model.parameters()))


def _backward(sample, model, criterion, optimizer):
    loss, sample_size, logged = criterion(model, sample)
    optimizer.backward(loss)
    return loss, sample_size, logged


def test_bfloat16_trains_on_a_float32_copy():
    model, full = step("target_target", full=True, dtype=torch.bfloat16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        for phase in full.phases.values():
            phase()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert len(changed) > len(before) / 2


# -- batches


def test_batch_has_no_padding_and_tasks_by_turns_unless_asked():
    plain = batch()
    assert plain["target"].shape == (8, 8) and plain["ntokens"] == 64
    assert not plain["target"].eq(DICTIONARY.pad()).any()
    assert plain["net_input"]["task_ids"].tolist() == [0, 1] * 4


def test_ragged_batch_has_some_padding_and_every_target_at_its_place():
    text = batch(tokens=2048, length=32, ragged=True)
    source, target = text["net_input"]["src_tokens"], text["target"]
    previous, pad = text["net_input"]["prev_output_tokens"], DICTIONARY.pad()
    for side in (source, target):
        assert side.shape == (64, 32)
        assert 0.05 < float(side.eq(pad).float().mean()) < 0.25
    assert text["ntokens"] == int(target.ne(pad).sum())
    lengths = text["net_input"]["src_lengths"]
    assert lengths.tolist() == source.ne(pad).sum(dim=1).tolist()
    assert not torch.equal(lengths, target.ne(pad).sum(dim=1))  # sides differ
    for row, shifted, read, length in zip(target, previous, source, lengths, strict=True):
        words = row[row.ne(pad)]
        assert torch.equal(row[: len(words)], words)  # padded on the right
        assert words[-1] == DICTIONARY.eos() and (words[:-1] >= DICTIONARY.nspecial).all()
        assert shifted[0] == DICTIONARY.eos() and torch.equal(shifted[1 : len(words)], words[:-1])
        assert shifted[len(words) :].eq(pad).all()
        assert read[-1] == DICTIONARY.eos() and read[: 32 - length].eq(pad).all()
    task_ids = text["net_input"]["task_ids"]
    assert task_ids.bincount().tolist() == [32, 32]
    assert task_ids.tolist() != [0, 1] * 32


# -- what does not fit memory


def test_a_model_that_does_not_fit_is_reported_and_the_others_go_on(monkeypatch):
    make_case = train_step.make_case

    def make(variant, *rest):
        if variant.name == "stock":
            raise torch.OutOfMemoryError("CUDA out of memory. Attempt to allocate 20.00 GiB")
        return make_case(variant, *rest)

    monkeypatch.setattr(train_step, "make_case", make)
    variants = [variant("dense"), variant("stock")]
    load = TrainingLoad("tiny", 100, TEXT)
    report = bench_train(variants, "stock", load, 2, "cpu", PAIRS)
    assert report["variants"]["stock"] == {"fits": False}
    assert report["variants"]["dense"]["seconds"] > 0
    assert report["variants"]["dense"]["speed_of_reference"] is None


@pytest.mark.slow
def test_what_does_not_fit_the_machine_is_a_row_of_the_table(tmp_path):
    out = tmp_path / "bench.json"
    answer = run(
        "taskmoe", "bench", "train", *SMALL, "--out", out,
        "--variants", "dense,target_target", "--moe-expert-count", "4,2000000000",
    )
    rows = json.loads(out.read_text())["variants"]
    assert not rows["target_target@2000000000"]["fits"]
    assert rows["target_target@4"]["seconds"] > 0
    assert "does not fit memory" in answer.stdout

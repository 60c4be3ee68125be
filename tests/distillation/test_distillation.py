"""A student learns from a teacher: its loss by formula, where it starts from, what it needs."""

import math
import shutil

import pytest
import torch
from checkpoint_cases import make_checkpoint
from console import NUM_TEST, ROOT, TRAIN, generate, hypotheses, logged, refused, run
from criterion_cases import add_up, make_criterion, reduced, slice_batch
from helpers import LANG_PAIRS, make_batch, make_config, make_model, make_task, random_sentences
from hypothesis import given
from hypothesis import strategies as st
from rank_trainings import ROUTERS, assert_close, train_on

from fairseq_taskmoe.criterions.distillation_loss import divergence_from_teacher
from fairseq_taskmoe.criterions.moe_word_distillation import MoeWordDistillationCriterion
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.translate import Search
from fairseq_taskmoe.modules import label_smoothed_loss

__all__ = ["train_on"]  # fixtures

PAD = 1
PAIRS = sorted(LANG_PAIRS)


def divergence_by_formula(logits, taught, target, temperature):
    """Return KL(teacher || student) of each row in float64; 0 at padding."""
    student, teacher = ((x.double() / temperature).log_softmax(1) for x in (logits, taught))
    return (teacher.exp() * (teacher - student)).sum(1) * target.ne(PAD)


@given(
    rows=st.integers(1, 20),
    words=st.integers(2, 50),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    chunk=st.sampled_from([1, 60, 2**19]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_divergence_and_gradient_are_the_formulas(rows, words, temperature, chunk, dtype, seed):
    torch.manual_seed(seed)
    logits = (3 * torch.randn(rows, words, dtype=dtype)).requires_grad_()
    taught, target = 3 * torch.randn(rows, words, dtype=dtype), torch.randint(words, (rows,))
    weights = torch.arange(1.0, rows + 1, dtype=dtype)
    expected = divergence_by_formula(logits, taught, target, temperature)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_smoothed_loss, "CHUNK_ELEMENTS", chunk)
        found = divergence_from_teacher(logits, taught.clone(), target, temperature, PAD)
        (gradient,) = torch.autograd.grad((weights * found).sum(), logits)
    tolerance = {torch.float32: 3e-5, torch.float64: 1e-12}[dtype]
    for one, other in ((found, expected), (gradient, expected_gradient)):
        torch.testing.assert_close(one, other.to(dtype), rtol=tolerance, atol=tolerance)


def test_divergence_from_oneself_is_zero_without_a_gradient():
    logits = torch.randn(6, 40).requires_grad_()
    divergence = divergence_from_teacher(logits, logits.detach().clone(), torch.arange(6), 2.0, PAD)
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert divergence.eq(0).all() and gradient.eq(0).all()


def test_half_precision_gives_a_float32_divergence_and_a_gradient_of_its_own_kind():
    logits = torch.randn(6, 40, dtype=torch.bfloat16).requires_grad_()
    taught, target = torch.randn(6, 40), torch.arange(2, 8)
    divergence = divergence_from_teacher(logits, taught.clone(), target, 1.0, PAD)
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert (divergence.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    expected = divergence_by_formula(logits, taught, target, 1.0)
    torch.testing.assert_close(divergence.double(), expected, rtol=1e-5, atol=1e-5)


# -- the criterion


@pytest.fixture
def teacher(tmp_path):
    """Give a function that writes a teacher: teacher(**options) -> its model, and its file."""

    def written(name="teacher.pt", **options):
        torch.manual_seed(7)
        model, _, checkpoint = make_checkpoint(**options)
        torch.save(checkpoint, tmp_path / name)
        return model.eval(), str(tmp_path / name)

    return written


def distillation(path, task=None, **overrides):
    settings = {
        "sentence_avg": False, "label_smoothing": 0.1, "moe_gate_loss_wt": 0.5,
        "moe_z_loss_wt": 0.2, "distill_teacher": path, "distill_weight": 0.3,
        "distill_temperature": 2.0, **overrides,
    }
    return MoeWordDistillationCriterion(task or make_task(), **settings)


def dense(**overrides):
    return make_model(moe_expert_count=0, **overrides).train()


def batch():
    """Return sentences of different lengths and tasks, the longest of them padded too."""
    return make_batch(
        random_sentences([7, 3, 5, 9, 4]), random_sentences([4, 8, 5, 6, 2]), [2, 0, 3, 2, 1],
        pad_to=2,
    )


def gradients(model, loss):
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("routers", [("token", "token"), ("token", "target"), ("pair", "static")])
@pytest.mark.parametrize("weight, temperature", [(0.3, 2.0), (1.0, 1.0)])
def test_loss_is_the_formulas(routers, weight, temperature, teacher):
    taught_by, path = teacher(encoder=routers[0], decoder=routers[1])
    student, sample = dense(), batch()
    criterion = distillation(path, distill_weight=weight, distill_temperature=temperature)
    loss, size, log = criterion(student, sample)
    plain, _, plain_log = make_criterion()(student, sample)
    with torch.no_grad():
        taught = taught_by(**sample["net_input"])[0]
    logits = student(**sample["net_input"])[0]
    kl = divergence_by_formula(
        logits.flatten(0, 1), taught.flatten(0, 1), sample["target"].flatten(), temperature
    ).sum()
    expected = (1 - weight) * plain + weight * temperature**2 * kl
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log["distill_loss"], kl.detach().float(), rtol=1e-5, atol=1e-5)
    assert size == 25 and log["nll_loss"] == plain_log["nll_loss"]
    found, expected_grads = gradients(student, loss), gradients(student, expected)
    for name in found:
        torch.testing.assert_close(found[name], expected_grads[name], rtol=1e-4, atol=1e-5)


def test_a_student_with_experts_has_its_gate_losses(teacher):
    _, path = teacher()
    student, sample = make_model(router="token").train(), batch()
    whole = distillation(path)(student, sample)
    without = distillation(path, moe_gate_loss_wt=0.0, moe_z_loss_wt=0.0)(student, sample)
    plain = make_criterion()(student, sample)[0]
    plain_without = make_criterion(moe_gate_loss_wt=0.0, moe_z_loss_wt=0.0)(student, sample)[0]
    torch.testing.assert_close(whole[0] - without[0], plain - plain_without)
    assert whole[2]["moe_encoder_balance"] > 0


@pytest.mark.parametrize("router", ["dense", "token"])
def test_without_weight_it_is_the_ordinary_criterion_exactly(router, teacher):
    _, path = teacher()
    student, sample = make_model(router=router).train(), batch()
    loss, size, log = distillation(path, distill_weight=0.0)(student, sample)
    plain, plain_size, plain_log = make_criterion()(student, sample)
    assert torch.equal(loss, plain) and size == plain_size
    assert log.keys() - plain_log.keys() == {"distill_loss"}
    found, expected_grads = gradients(student, loss), gradients(student, plain)
    for name in found:
        assert (found[name] is None) == (expected_grads[name] is None)
        assert found[name] is None or torch.equal(found[name], expected_grads[name])


def test_a_student_that_is_its_teacher_has_nothing_to_learn(teacher):
    itself, path = teacher()
    criterion = distillation(path, distill_weight=1.0, moe_gate_loss_wt=0.0, moe_z_loss_wt=0.0)
    loss, _, log = criterion(itself.train(), batch())
    assert loss.item() == log["distill_loss"].item() == 0


def test_padding_does_not_count(teacher):
    _, path = teacher()
    student = dense()
    examples = random_sentences([7, 3]), random_sentences([4, 8]), [2, 0]
    narrow, wide = (make_batch(*examples, pad_to=extra) for extra in (0, 5))
    losses = [distillation(path, distill_weight=1.0)(student, sample)[0]
              for sample in (narrow, wide)]
    torch.testing.assert_close(*losses)


def test_loss_does_not_depend_on_micro_batches(teacher):
    _, path = teacher()
    student, criterion = dense(), distillation(path)
    examples = random_sentences([7, 3, 5]), random_sentences([4, 8, 5]), [2, 0, 3]
    whole = criterion(student, slice_batch(examples, slice(None)))
    parts = [criterion(student, slice_batch(examples, rows)) for rows in (slice(1), slice(1, 3))]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0])
    logs = [part[2] for part in parts]
    values = reduced(criterion, logs)
    assert values == reduced(criterion, [add_up(logs)])
    expected = whole[2]["distill_loss"].item() / 17 / math.log(2)
    assert values["distill_loss"] == pytest.approx(expected, abs=1e-3)


def test_ignored_prefix_is_not_in_the_loss(teacher):
    _, path = teacher()
    student, sample = dense(), batch()
    loss = distillation(path, distill_weight=1.0, ignore_prefix_size=1)(student, sample)[0]
    sample["target"] = sample["target"].clone()
    sample["target"][:, 0] = PAD
    torch.testing.assert_close(loss, distillation(path, distill_weight=1.0)(student, sample)[0])


def test_validation_has_the_loss_of_every_other_model(teacher):
    _, path = teacher()
    student, sample = dense().eval(), batch()
    loss, _, log = distillation(path)(student, sample)
    assert torch.equal(loss, make_criterion()(student, sample)[0])
    assert log["distill_loss"] > 0 and "nll_loss_by_task" in log


def test_teacher_is_frozen_and_no_part_of_the_criterion(teacher):
    _, path = teacher()
    criterion = distillation(path)
    before = {name: w.clone() for name, w in criterion.teacher.model.state_dict().items()}
    criterion.train()
    loss, _, _ = criterion(dense(), batch())
    loss.backward()
    model = criterion.teacher.model
    assert not list(criterion.parameters()) and not criterion.state_dict()
    assert not model.training and all(w.grad is None for w in model.parameters())
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_teacher_follows_the_student_to_half_precision(dtype, teacher):
    _, path = teacher()
    criterion, student, sample = distillation(path), dense(), batch()
    precise = criterion(student, sample)[0]
    loss, _, _ = criterion(student.to(dtype), sample)
    loss.backward()
    assert next(criterion.teacher.model.parameters()).dtype == dtype
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
    assert loss.item() == pytest.approx(precise.item(), rel=0.03)


def test_tasks_are_the_teachers_own(teacher):
    # the student trains two of the teacher's four pairs: its ids are others
    taught_by, path = teacher(encoder="pair", decoder="pair")
    task = make_task(["fr-de", "en-de"], langs="de,en,fr")
    student = make_model(task, moe_expert_count=0).train()
    sample = make_batch(random_sentences([7, 3]), random_sentences([4, 8]), [0, 1])
    log = distillation(path, task, distill_temperature=1.0)(student, sample)[2]
    ids = torch.tensor([PAIRS.index("en-de"), PAIRS.index("fr-de")])
    expected = [
        divergence_by_formula(
            student(**sample["net_input"])[0].flatten(0, 1),
            taught_by(**{**sample["net_input"], "task_ids": task_ids})[0].flatten(0, 1),
            sample["target"].flatten(), 1.0,
        ).sum()
        for task_ids in (ids, ids.flip(0))
    ]
    torch.testing.assert_close(log["distill_loss"].double(), expected[0], rtol=1e-5, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3, "the test could not fail"


def test_a_pair_that_the_teacher_never_saw_takes_its_route_or_is_refused(teacher):
    _, path = teacher(decoder="target")
    task = make_task(["de-fr", "fr-en"], langs="de,en,fr")
    distillation(path, task)(
        make_model(task, moe_expert_count=0),
        make_batch(random_sentences([7, 3]), random_sentences([4, 8]), [0, 1]),
    )
    _, path = teacher("source.pt", encoder="source")
    task = make_task(["de-fr", "fr-en", "it-en"], langs="de,en,fr,it")
    with pytest.raises(Refusal, match="source.pt: trained with --langs de,en,fr, this run has"):
        distillation(path, task)


def edited(path, change):
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_what_cannot_teach_is_refused(teacher, tmp_path):
    _, path = teacher()
    for settings, complaint in (
        ({"distill_weight": 1.5}, "--distill-weight 1.5: give a number from 0 to 1"),
        ({"distill_weight": math.nan}, "--distill-weight nan"),
        ({"distill_temperature": 0.0}, "--distill-temperature 0.0: give more than 0"),
        ({"distill_teacher": None}, "needs --distill-teacher CKPT"),
        ({"distill_teacher": str(tmp_path / "no.pt")}, "no.pt: no such checkpoint"),
    ):
        with pytest.raises(Refusal, match=complaint):
            distillation(path, **settings)
    with pytest.raises(Refusal, match="with no --encoder-langtok, this run has --encoder-langtok"):
        distillation(path, make_task(encoder_langtok="tgt"))
    with pytest.raises(Refusal, match="trained with no --decoder-langtok, this run has --decoder"):
        distillation(path, make_task(decoder_langtok=True))
    _, path = teacher("words.pt")
    edited(path, lambda checkpoint: checkpoint["task_state"]["words"].__setitem__(7, "other"))
    with pytest.raises(Refusal, match="--distill-teacher .*words.pt: its vocabulary of 34 words is "
                                      "not that of the data, 34 words: word 7 is 'other' in one"):
        distillation(path)
    edited(path, lambda checkpoint: checkpoint["task_state"].update(
        words=make_task().words, served_only=["en-de"]))
    with pytest.raises(Refusal, match="a sub-network for en-de alone, not for de-en"):
        distillation(path)
    _, path = teacher("learned.pt", encoder_learned_pos=True, max_source_positions=20)
    with pytest.raises(Refusal, match="learned 20 positions; --max-source-positions 64 are more"):
        distillation(path, make_task(max_source_positions=64))


# -- where a student starts from


def save_teacher(folder, **options):
    torch.manual_seed(7)
    model, task, checkpoint = make_checkpoint(**options)
    torch.save(checkpoint, folder / "teacher.pt")
    return model, str(folder / "teacher.pt")


def student_from(path, task=None, **overrides):
    """Build a student as a training run does."""
    cfg = make_config(_name="transformer_task_moe", init_shared_from=path, **overrides)
    return (task or make_task()).build_model(cfg)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("freq", [1, 2])
def test_student_starts_from_its_teachers_shared_weights(shared, freq, tmp_path, caplog):
    options = {"share_all_embeddings": shared, "moe_freq": freq}
    teacher, path = save_teacher(tmp_path, **options)
    with caplog.at_level("INFO", "fairseq_taskmoe"):
        student = student_from(path, moe_expert_count=0, **options)
    own, taught = dict(student.named_parameters()), dict(teacher.named_parameters())
    common = own.keys() & taught.keys()
    assert all(torch.equal(own[name], taught[name]) for name in common)
    drawn = {name.rpartition(".")[0] for name in own.keys() - common}
    assert drawn == {f"{stack}.layers.{i}.{linear}" for stack in ("encoder", "decoder")
                     for i in range(freq - 1, 2, freq) for linear in ("fc1", "fc2")}
    (line,) = [record.message for record in caplog.records]
    assert f"{len(common)} of {len(own)} tensors" in line and path in line
    assert f"initialised at random: {', '.join(sorted(drawn))}" in line
    total = sum(p.numel() for p in own.values())
    assert f"({sum(own[name].numel() for name in common):,} of {total:,} parameters)" in line


def test_what_is_drawn_is_what_other_students_draw(tmp_path):
    _, path = save_teacher(tmp_path)
    torch.manual_seed(3)
    plain = student_from(None, moe_expert_count=0)
    torch.manual_seed(3)
    student = student_from(path, moe_expert_count=0)
    name = "encoder.layers.0.fc1.weight"
    assert torch.equal(student.state_dict()[name], plain.state_dict()[name])


def test_experts_and_routers_are_never_taken(tmp_path):
    # on several ranks each holds a part of the experts: what is shared is the same on all
    teacher, path = save_teacher(tmp_path)
    student = student_from(path, encoder_moe_router="token", decoder_moe_router="token")
    for name, own in student.named_parameters():
        assert torch.equal(own, teacher.state_dict()[name]) == (".moe." not in name), name


def test_layers_without_a_twin_stay_as_they_were_drawn(tmp_path):
    teacher, path = save_teacher(tmp_path, moe_expert_count=0)  # dense to sparse, and deeper
    student = student_from(path, moe_freq=2, encoder_layers=3, decoder_ffn_embed_dim=30)
    own, taught = student.state_dict(), teacher.state_dict()
    assert torch.equal(own["encoder.layers.0.fc1.weight"], taught["encoder.layers.0.fc1.weight"])
    assert own["decoder.layers.0.fc1.weight"].shape != taught["decoder.layers.0.fc1.weight"].shape
    assert torch.equal(own["decoder.layers.1.self_attn.k_proj.weight"],
                       taught["decoder.layers.1.self_attn.k_proj.weight"])


def test_a_start_that_means_nothing_is_refused(tmp_path):
    _, path = save_teacher(tmp_path)
    for overrides, complaint in (
        ({"decoder_embed_dim": 32}, "teacher.pt: of a model with --decoder-embed-dim 16, this "
                                    "one has 32"),
        ({"encoder_attention_heads": 4}, "--encoder-attention-heads 2, this one has 4"),
        ({"decoder_normalize_before": True}, "--decoder-normalize-before False, this one has True"),
        ({"share_all_embeddings": True}, "--share-all-embeddings False, this one has True"),
    ):
        with pytest.raises(Refusal, match=complaint):
            student_from(path, moe_expert_count=0, **overrides)
    with pytest.raises(Refusal, match="no.pt: no such checkpoint"):
        student_from(str(tmp_path / "no.pt"))
    with pytest.raises(Refusal, match="trained with no --decoder-langtok, this run has --decoder"):
        student_from(path, make_task(decoder_langtok=True))
    edited(path, lambda checkpoint: checkpoint["task_state"]["words"].append("more"))
    with pytest.raises(Refusal, match="--init-shared-from .*teacher.pt: damaged, its embedding has "
                                      "37 rows for 38 words and tags"):
        student_from(path, moe_expert_count=0)


# -- with fairseq's commands


def student_flags(teacher):
    return (
        *TRAIN, "--moe-expert-count", "0", "--init-shared-from", teacher, "--criterion",
        "moe_word_distillation", "--distill-teacher", teacher, "--distill-weight", "0.5",
    )


@pytest.fixture(scope="module")
def token_moe(train):
    """A teacher that fairseq-train has made."""
    routers = ("--encoder-moe-router", "token", "--decoder-moe-router", "token")
    return train("distillation-teacher", "--max-update", 6, *routers)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(token_moe, train_on):
    # the student's experts are spread over the ranks, its teacher's are not
    flags = (*student_flags(token_moe), *ROUTERS, "--moe-expert-count", 4, "--optimizer", "sgd",
             "--lr", 0.5, "--max-update", 3, "--disable-validation", "--activation-fn", "relu")
    alone, both = (
        train_on(ranks, "distillation", *flags, "--update-freq", 2 // ranks) for ranks in (1, 2)
    )
    assert both.log.count(f"parameters) start from {token_moe}") == 1
    assert both.measured("distill_loss", [1, 3]) == pytest.approx(
        alone.measured("distill_loss", [1, 3]), rel=1e-4)
    assert_close(both.saved(3)["model"], alone.saved(3)["model"], 1e-5)


@pytest.mark.slow
def test_student_trains_resumes_and_translates_without_its_teacher(token_moe, corpus, tmp_path):
    teacher = tmp_path / "teacher.pt"
    shutil.copy(token_moe, teacher)
    folder = tmp_path / "student"
    flags = (*student_flags(teacher), "--save-dir", folder)
    started = run("fairseq-train", corpus.data, *flags, "--max-update", 3)
    assert started.said.count(f"parameters) start from {teacher}") == 1
    first, *_ = logged(started.said, "distill_loss")
    assert 0 < first < 1, "it starts near its teacher"
    assert logged(started.said, "valid_distill_loss")
    student = folder / "checkpoint_last.pt"
    saved = torch.load(student, weights_only=False)
    assert saved["criterion"] is None
    own, taught = (set(each["model"]) for each in (saved, torch.load(token_moe)))
    assert any(".moe." in name for name in taught) and not any(".moe." in name for name in own)
    resumed = run("fairseq-train", corpus.data, *flags, "--max-update", 4,
                  "--init-shared-from", tmp_path / "gone.pt")
    assert "start from" not in resumed.said and len(logged(resumed.said, "distill_loss")) == 1

    teacher.unlink()
    found = hypotheses(generate(corpus.data, "en-de", student, "--beam", 1).stdout)
    evaluate(str(corpus.data), str(student), str(tmp_path / "out"), ["en-de"],
             Settings(search=Search(beam=1)), cpu=True)
    lines = (tmp_path / "out" / "hypotheses" / "test.en-de.de").read_text().splitlines()
    assert len(lines) == len(found) == NUM_TEST


@pytest.mark.slow
def test_the_yaml_row_learns_from_the_token_moe_beside_it(token_moe, corpus, tmp_path):
    teacher = tmp_path / "distilled" / ".." / "token_token" / "checkpoint_best.pt"
    command = (
        "fairseq-hydra-train", "--config-dir", ROOT / "configs", "--config-name", "distilled",
        "size=smoke", f"task.data={corpus.data}", '+task.langs="de,en,ru,zh"',
        f"checkpoint.save_dir={tmp_path}/distilled", "optimization.max_update=2",
    )
    missing = run(*command, cwd=ROOT, check=False)
    assert f"{teacher}: no such checkpoint" in refused(missing)
    (tmp_path / "token_token").mkdir()
    shutil.copy(token_moe, tmp_path / "token_token" / "checkpoint_best.pt")
    said = run(*command, cwd=ROOT).said
    assert f"start from {teacher}" in said and len(logged(said, "distill_loss")) == 2

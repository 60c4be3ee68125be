"""The YAML files: every one builds its model, the same that flags build, and trains the same."""

import re
from pathlib import Path

import pytest
import torch
from console import PLUGIN, ROOT, logged, run
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf
from yaml_configs import CONFIGS, from_yaml

import fairseq_taskmoe  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq's use of hydra

NUM_LAYERS = {"smoke": 2, "demo": 2, "software15_cpu": 2, "software15": 6, "wmt30": 6}
SIZES = tuple(NUM_LAYERS)
OWN_DATA = {"20k": 2, "200k": 4, "2m": 6, "20m": 6}  # layers; data and pairs are to be named
ROUTERS = {  # the rows of the paper's tables: routers of encoder and decoder
    "dense_equal": ("dense", "dense"),
    "static_static": ("static", "static"),
    "random_random": ("random", "random"),
    "token_token": ("token", "token"),
    "token_token_gshard": ("token", "token"),
    "sentence_sentence": ("sentence", "sentence"),
    "pair_pair": ("pair", "pair"),
    "source_source": ("source", "source"),
    "group_group": ("group", "group"),
    "target_target": ("target", "target"),
    "pair_token": ("pair", "token"),
    "target_token": ("target", "token"),
    "source_token": ("source", "token"),
    "token_pair": ("token", "pair"),
    "token_target": ("token", "target"),
    "token_source": ("token", "source"),
}
DISTILLED = ("distilled", "distilled_sequence")
DENSE = ("dense_base", "dense_big", "bilingual", *DISTILLED)
ROWS = (*DENSE, *ROUTERS)
TRAINING_FLAGS = (
    "--task", "translation_task_moe", "--sampling-method", "temperature", "--sampling-temperature",
    "5", "--encoder-langtok", "tgt", "--criterion", "moe_label_smoothed_cross_entropy",
    "--label-smoothing", "0.1", "--optimizer", "adam", "--adam-betas", "(0.9,0.98)",
    "--lr-scheduler", "inverse_sqrt", "--seed", "1", "--ddp-backend", "legacy_ddp",
    "--no-epoch-checkpoints", "--log-format", "json",
)
SMOKE_FLAGS = (
    "--arch", "transformer_task_moe_tiny", "--lang-pairs", "en-de,de-en,en-ru,ru-en",
    "--max-tokens", "1000", "--lr", "0.002", "--warmup-updates", "4", "--max-update", "4",
    "--log-interval", "1", "--num-workers", "0", "--cpu",
)
WMT30_LANGUAGES = "cs,fr,ru,zh,es,fi,de,et,lv,lt,ro,hi,kk,tr,gu".split(",")
WMT30_FLAGS = (
    "--arch", "transformer_task_moe_base", "--lang-pairs",
    ",".join([f"en-{x}" for x in WMT30_LANGUAGES] + [f"{x}-en" for x in WMT30_LANGUAGES]),
    "--max-tokens", "8192", "--update-freq", "4", "--lr", "0.00066", "--warmup-updates", "40000",
    "--clip-norm", "1.0", "--max-update", "500000", "--bf16", "--save-interval-updates", "5000",
    "--keep-interval-updates", "5",
)


def test_every_yaml_is_tested():
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == set(ROWS)
    sizes = {file.stem for file in (CONFIGS / "size").glob("*.yaml")}
    assert {size for size in sizes if not size.startswith("_")} == {*SIZES, *OWN_DATA}


def from_flags(*flags):
    """Return the configuration that fairseq-train makes of its flags."""
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", *flags]))


def build_model(cfg, num_words=50):
    """Build a model on the meta device: wmt30's has 0.3 billion parameters."""
    dictionary = Dictionary()
    for word in range(num_words):
        dictionary.add_symbol(f"w{word}")
    task = TASK_REGISTRY[cfg.task._name](cfg.task, dictionary)
    with torch.device("meta"):
        return task.build_model(cfg.model)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("size", [
    "smoke", *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:]),
])
@pytest.mark.parametrize("row", ROWS)
def test_every_row_builds_its_model_in_every_size(row, size, monkeypatch):
    monkeypatch.chdir(ROOT)  # the group row names its file as seen from there
    cfg = from_yaml(row, size)
    if row in DISTILLED:
        folder = Path(cfg.checkpoint.save_dir)
        assert Path(cfg.model.init_shared_from).parent == folder / ".." / "token_token"
        cfg.model.init_shared_from = None  # the teacher is not there
    model = build_model(cfg)
    assert cfg.checkpoint.save_dir == f"runs/{size}/{row}"
    for stack, layers in (("encoder", model.encoder.layers), ("decoder", model.decoder.layers)):
        assert len(layers) == NUM_LAYERS[size]
        for i, layer in enumerate(layers):
            plain = cfg.model[f"{stack}_ffn_embed_dim"]
            width = cfg.model.moe_expert_ffn_dim or plain
            if i % 2 == 0 or row in DENSE:
                assert layer.fc1.out_features == plain
            elif row == "dense_equal":
                assert layer.fc1.out_features == 2 * width
            else:
                experts = layer.moe.experts.fc1.weight
                assert experts.shape[:2] == (cfg.model.moe_expert_count, width)
    if row not in DENSE:
        routers = (cfg.model.encoder_moe_router, cfg.model.decoder_moe_router)
        assert routers == ROUTERS[row]


@pytest.mark.parametrize("row", ["target_target", "token_target", "dense_base"])
@pytest.mark.parametrize("size", OWN_DATA)
def test_sizes_for_data_of_ones_own_build_their_models(size, row):
    cfg = from_yaml(row, size, "task.data=data-bin", "task.lang_pairs='en-de,de-en'")
    model = build_model(cfg)
    assert [len(model.encoder.layers), len(model.decoder.layers)] == [OWN_DATA[size]] * 2
    has_experts = [layer.moe is not None for layer in model.decoder.layers[1::2]]
    assert set(has_experts) == {row != "dense_base"}
    assert cfg.lr_scheduler.warmup_updates <= cfg.optimization.max_update / 10
    assert cfg.checkpoint.save_dir == "checkpoints"


def test_settings_in_the_text_of_your_data_are_accepted():
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    parts = "task|model|criterion|common|optimization"
    settings = re.findall(rf"`((?:\+\+)?(?:{parts})\.\w+=[\w.]+)`", page)
    assert {"model.dropout=0.3", "++criterion.moe_z_loss_wt=0.001"} <= set(settings)
    from_yaml("target_target", "20k", *settings)


@pytest.mark.parametrize("size", [
    "smoke", pytest.param("software15_cpu", marks=pytest.mark.slow),
])
def test_rows_differ_in_their_model_and_in_nothing_else(size):
    base = from_yaml("dense_base", size)
    for row in ROWS:
        cfg = from_yaml(row, size)
        sections = ["optimizer", "lr_scheduler", "optimization", "dataset"]
        if row != "distilled":
            sections.append("criterion")
        for section in sections:
            assert cfg[section] == base[section], (row, section)


@pytest.mark.parametrize(
    "more, sentences, passes", [((), 4508785, 250), (("bilingual=wmt30_low",), 155798, 350)]
)
def test_a_pair_by_itself_has_a_schedule_of_its_own_in_wmt30(more, sentences, passes):
    """At most so many passes through en-de and en-gu on 8 ranks, at 25 tokens a sentence."""
    many, cfg = from_yaml("dense_base", "wmt30"), from_yaml("bilingual", "wmt30", *more)
    tokens = 8 * cfg.dataset.max_tokens * cfg.optimization.update_freq[0]
    assert cfg.optimization.max_update * tokens / (25 * sentences) < passes
    assert cfg.lr_scheduler.warmup_updates <= cfg.optimization.max_update / 10
    # patience can end it: there are more validations than it waits for, and none at an epoch's end
    interval = cfg.dataset.validate_interval_updates
    assert 0 < cfg.checkpoint.patience * interval <= cfg.optimization.max_update / 4
    assert cfg.checkpoint.save_interval_updates == interval
    assert min(cfg.checkpoint.save_interval, cfg.dataset.validate_interval) > 1e5
    assert (cfg.model.dropout > many.model.dropout) == bool(more)
    for section in ("task", "criterion", "optimizer"):
        one, other = ({k: v for k, v in each[section].items() if k not in (
            "lang_pairs", "sampling_method", "encoder_langtok", "lr")} for each in (cfg, many))
        assert one == other, section
    base, own = (section_of(each, "model") for each in (many, cfg))
    different = {name for name in base if base[name] != own[name]}
    assert different == ({"dropout", "attention_dropout", "activation_dropout"} if more else set())


@pytest.mark.parametrize("size", SIZES)
def test_big_is_wider_than_base_in_every_size(size):
    base, big = (from_yaml(row, size).model for row in ("dense_base", "dense_big"))
    for name in ("encoder_embed_dim", "decoder_embed_dim", "decoder_ffn_embed_dim"):
        assert big[name] > base[name]


@pytest.mark.parametrize("size", SIZES)
def test_the_gshard_row_has_a_capacity_and_draws_second_experts_in_training_alone(size):
    plain, gshard = (from_yaml(row, size) for row in ("token_token", "token_token_gshard"))
    one, other = section_of(plain, "model"), section_of(gshard, "model")
    assert {name: other[name] for name in one if one[name] != other[name]} == {
        "moe_capacity_factor": 2.0, "moe_second_expert_policy": "random",
    }
    options = build_model(gshard).encoder.layers[1].moe.router.options
    assert (options.capacity_factor, options.eval_capacity_factor) == (2.0, 0.0)
    assert options.second_expert_policy == "random"


def test_wmt30_is_the_papers_size():
    cfg = from_yaml("token_token", "wmt30")
    model = build_model(cfg, num_words=64000 - 4 - 16)  # fairseq's symbols and the tags
    counted = sum(parameter.numel() for parameter in model.parameters())
    vocabulary = 64000 * 512
    # the paper's 533M count the shared vocabulary three times: 33M + 65M
    assert 530e6 < counted + 2 * vocabulary < 536e6
    assert cfg.task.sampling_temperature == 5 and cfg.task.encoder_langtok == "tgt"
    assert len(cfg.task.lang_pairs.split(",")) == 30


@pytest.mark.parametrize("row", ["token_target", "dense_equal", "dense_base"])
@pytest.mark.parametrize(
    "size, flags", [("smoke", SMOKE_FLAGS), ("wmt30", WMT30_FLAGS)], ids=["smoke", "wmt30"]
)
def test_flags_and_yaml_give_the_same_model(row, size, flags):
    encoder, decoder = ROUTERS.get(row, ("target", "target"))
    flags += ("--encoder-moe-router", encoder, "--decoder-moe-router", decoder)
    if row == "dense_base":
        flags += ("--moe-expert-count", "0")
    yaml, flagged = from_yaml(row, size), from_flags(*TRAINING_FLAGS, *flags)
    sections = ("model", "task", "criterion", "optimizer", "lr_scheduler", "optimization",
                "dataset", "checkpoint", "distributed_training", "common")
    for section in sections:
        one, other = (section_of(cfg, section) for cfg in (yaml, flagged))
        assert one == other, section
    assert shapes(build_model(yaml)) == shapes(build_model(flagged))


def test_the_reduction_of_gate_losses_is_given_by_flag_or_yaml():
    yaml = from_yaml("token_target", "smoke", "criterion.moe_gate_loss_reduction=mean")
    flagged = from_flags(*TRAINING_FLAGS, *SMOKE_FLAGS, "--moe-gate-loss-reduction", "mean")
    for cfg in (yaml, flagged):
        assert section_of(cfg, "criterion")["moe_gate_loss_reduction"] == "mean"


def section_of(cfg, section):
    """Return a part of a configuration, without what names folders and files."""
    part = OmegaConf.to_container(cfg[section], resolve=True, enum_to_str=True)
    ours = {"arch", "_name", "data", "save_dir", "user_dir"}
    return {name: value for name, value in part.items() if name not in ours}


def test_training_from_yaml_equals_training_from_flags(corpus, tmp_path):
    yaml = run(
        "fairseq-hydra-train", "--config-dir", CONFIGS, "--config-name", "token_target",
        "size=smoke", f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}/yaml",
        cwd=ROOT,
    )
    flags = run(
        "fairseq-train", corpus.data, "--user-dir", PLUGIN, *TRAINING_FLAGS, *SMOKE_FLAGS,
        "--encoder-moe-router", "token", "--decoder-moe-router", "target",
        "--save-dir", tmp_path / "flags",
    )
    losses = logged(flags.said, "loss")
    assert len(losses) == 4 and losses == logged(yaml.said, "loss")
    assert logged(flags.said, "valid_loss") == logged(yaml.said, "valid_loss") != []
    models = [
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)["model"]
        for name in ("flags", "yaml")
    ]
    assert models[0].keys() == models[1].keys()
    for name, parameter in models[0].items():
        assert torch.equal(parameter, models[1][name]), name


def test_relative_paths_mean_the_folder_where_one_stands(corpus, tmp_path):
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "data-bin").symlink_to(corpus.data)
    run(
        "fairseq-hydra-train", "--config-dir", CONFIGS, "--config-name", "target_target",
        "size=smoke", f"common.user_dir={PLUGIN}", "optimization.max_update=1", cwd=tmp_path,
    )
    assert (tmp_path / "runs" / "smoke" / "target_target" / "checkpoint_last.pt").is_file()
    assert not Path(tmp_path / "outputs").exists()

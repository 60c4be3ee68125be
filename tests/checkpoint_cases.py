"""Checkpoints in memory, of small models with random weights, and models made of them."""

from helpers import make_config, make_model, make_task
from omegaconf import OmegaConf

from fairseq_taskmoe.checkpoint.contents import TrainedModel
from fairseq_taskmoe.models.config import TransformerTaskMoeConfig
from fairseq_taskmoe.models.transformer_task_moe import TransformerTaskMoeModel

parse = TrainedModel.parse  # as tools read a checkpoint


def make_checkpoint(encoder="token", decoder="token", **overrides):
    routers = {"encoder_moe_router": encoder, "decoder_moe_router": decoder}
    task = make_task()
    model = make_model(task, **routers, **overrides)
    return model, task, checkpoint_of(model, task, **routers, **overrides)


def checkpoint_of(model, task, **overrides):
    cfg = OmegaConf.to_container(make_config(**overrides), enum_to_str=True)
    return {
        "model": model.state_dict(), "task_state": task.state_dict(),
        "cfg": {"model": cfg, "task": {"data": "x"}},
    }


def loaded(checkpoint):
    """Return the model of a checkpoint, and its task."""
    task_state = checkpoint["task_state"]
    langs = ",".join(task_state["tags"]["langs"])
    task = make_task(task_state["task_table"]["lang_pairs"], langs=langs)
    cfg = OmegaConf.merge(
        OmegaConf.structured(TransformerTaskMoeConfig),
        {k: v for k, v in checkpoint["cfg"]["model"].items() if k != "_name"},
    )
    model = TransformerTaskMoeModel.build_model(cfg, task).eval()
    model.load_state_dict(checkpoint["model"])
    return model, task

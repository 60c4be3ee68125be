"""Label-smoothed cross entropy with the gate losses of mixture-of-experts layers.

Shapes: B sentences, T target positions, N tasks, L MoE layers of one stack, E experts.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..models.config import option
from ..modules.gate_losses import GateStats
from ..modules.label_smoothed_loss import label_smoothed_nll
from ..names import STACKS


@dataclass
class MoeLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    moe_gate_loss_wt: float = option(
        0.01, "weight of the load-balancing loss of each MoE layer, which makes routers use all "
        "experts"
    )
    moe_z_loss_wt: float = option(
        0.0, "weight of the router z-loss of each MoE layer, which keeps the gate's logits small"
    )
    moe_gate_loss_reduction: Optional[ChoiceEnum(["sum", "mean"])] = option(  # type: ignore
        None,
        "sum the gate losses of the MoE layers, as in the authors' code, or take their mean, so "
        "that a weight means the same for any number of layers (default: a resumed run continues "
        "with its own, which is mean if it was saved before this option existed; a new run uses "
        "sum)",
    )


@register_criterion(
    "moe_label_smoothed_cross_entropy", dataclass=MoeLabelSmoothedCrossEntropyConfig
)
class MoeLabelSmoothedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """NLL (sum) + sample_size * (gate_loss_wt * balance + z_loss_wt * z).

    Both gate losses are sums, or means, over the MoE layers of both stacks. The trainer divides
    the sum over ranks and micro-batches by the sum of sample sizes. The result is the mean NLL plus
    the gate losses, averaged over micro-batches with their sample sizes as weights.
    """

    def __init__(
        self,
        task: FairseqTask,
        sentence_avg: bool,
        label_smoothing: float,
        moe_gate_loss_wt: float,
        moe_z_loss_wt: float,
        moe_gate_loss_reduction: Optional[str] = None,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.gate_loss_weight = moe_gate_loss_wt
        self.z_loss_weight = moe_z_loss_wt
        self.over_layers = torch.mean if moe_gate_loss_reduction == "mean" else torch.sum

    def forward(
        self, model: BaseFairseqModel, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Return the loss of a micro-batch, its sample size, and the sums to log."""
        logits, extra = model(**sample["net_input"])
        target = model.get_targets(sample, (logits, extra))
        if self.ignore_prefix_size > 0:
            logits = logits[:, self.ignore_prefix_size :].contiguous()
            target = target[:, self.ignore_prefix_size :].contiguous()
        token_loss, token_nll, own_logs = self.token_losses(model, sample, logits, target)
        nll_loss = token_nll.sum()
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        gate_stats: Dict[str, List[GateStats]] = {
            "encoder": extra["encoder_gate_stats"], "decoder": extra["gate_stats"]
        }
        layers = [stats for stack in STACKS for stats in gate_stats[stack]]
        loss = token_loss.sum()
        if layers:
            balance = self.over_layers(torch.stack([stats.balance for stats in layers]))
            z_loss = self.over_layers(torch.stack([stats.z_loss for stats in layers]))
            loss = loss + sample_size * (
                self.gate_loss_weight * balance + self.z_loss_weight * z_loss
            ).type_as(loss)
        logging_output = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
            **own_logs,
        }
        for stack in STACKS:
            logging_output.update(gate_logs(stack, gate_stats[stack], sample_size))
        if layers:
            passes = 1
            if model.training:  # gradients take the same ways back, recomputation sends rows again
                passes = 3 if model.decoder.checkpoint_activations else 2
            sent = sum(stats.wire_bytes for stats in layers) * passes
            logging_output["moe_wire_bytes"] = torch.tensor(sent, dtype=torch.float64)
        if self.report_accuracy:
            is_word = target.ne(self.padding_idx)
            logging_output["n_correct"] = (logits.argmax(dim=-1).eq(target) & is_word).sum()
            logging_output["total"] = is_word.sum()
        if not model.training and "task_ids" in sample["net_input"]:
            logging_output.update(self._logs_by_task(token_nll, target, sample))
        return loss, sample_size, logging_output

    def token_losses(
        self, model: BaseFairseqModel, sample: Dict[str, Any], logits: Tensor, target: Tensor
    ) -> Tuple[Tensor, Tensor, Dict[str, Tensor]]:
        """Return the loss and the plain NLL of each target position (B * T,), and sums to log.

        logits (B, T, V) and target (B, T) are without the ignored prefix. Both losses are float32,
        and 0 at padding.
        """
        loss, nll = label_smoothed_nll(
            logits.flatten(0, 1), target.flatten(), self.eps, self.padding_idx
        )
        return loss, nll, {}

    def _logs_by_task(
        self, token_nll: Tensor, target: Tensor, sample: Dict[str, Any]
    ) -> Dict[str, Tensor]:
        """Return the sums of losses and of tokens (N,) of each task."""
        task_ids = sample["net_input"]["task_ids"]
        per_sentence = token_nll.data.view(task_ids.size(0), -1).sum(dim=1).float()
        tokens = target.view(task_ids.size(0), -1).ne(self.padding_idx).sum(dim=1).float()
        zeros = torch.zeros(len(self.task.task_table.lang_pairs), device=token_nll.device)
        return {
            "nll_loss_by_task": zeros.index_add(0, task_ids, per_sentence),
            "ntokens_by_task": zeros.index_add(0, task_ids, tokens),
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the losses per token in bits, and routing statistics of each stack.

        Routing statistics are means over the MoE layers of the stack. `moe_*_used_experts` is the
        number of experts of a layer that received any token, `moe_*_unused_experts` that of the
        others. With expert parallelism, `moe_wire_mb` is the size of the rows that all ranks
        together send to each other in an update, in megabytes.
        """
        super().reduce_metrics(logging_outputs)
        for stack in STACKS:
            if not any(f"moe_{stack}_load" in log for log in logging_outputs):
                continue
            size = sum(log["sample_size"] for log in logging_outputs)
            if size == 0:  # only dummy batches
                continue
            for name in ("balance", "z_loss", "entropy", "overflow"):
                total = sum(log[f"moe_{stack}_{name}"] for log in logging_outputs)
                metrics.log_scalar(f"moe_{stack}_{name}", float(total) / float(size), size, round=3)
            load = sum(log[f"moe_{stack}_load"] for log in logging_outputs)
            used = float((load > 0).float().sum(dim=1).mean())
            metrics.log_scalar(f"moe_{stack}_used_experts", used, size, round=1)
            metrics.log_scalar(f"moe_{stack}_unused_experts", load.size(1) - used, size, round=1)
        sent = sum(float(log.get("moe_wire_bytes", 0)) for log in logging_outputs)
        if sent > 0:
            metrics.log_scalar("moe_wire_mb", sent / 1e6, round=3)


def gate_logs(stack: str, layers: List[GateStats], sample_size: int) -> Dict[str, Tensor]:
    """Return what to log of the MoE layers of one stack, as sums over micro-batches.

    Means over layers are multiplied by sample_size. `load` (L, E) is kept for each layer, since
    unused experts show only in the sum over micro-batches.
    """
    if not layers:
        return {}
    logs = {
        f"moe_{stack}_{name}": sample_size
        * torch.stack([getattr(stats, name).detach().float() for stats in layers]).mean()
        for name in ("balance", "z_loss", "entropy", "overflow")
    }
    logs[f"moe_{stack}_load"] = torch.stack([stats.load for stats in layers])
    return logs

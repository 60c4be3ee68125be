"""Word-level distillation: a student learns from a teacher's word probabilities and references.

Shapes: B sentences, T target positions, V words.
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..errors import refuse
from ..models.config import option
from .distillation_loss import divergence_from_teacher
from .moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyConfig,
    MoeLabelSmoothedCrossEntropyCriterion,
)
from .teacher import Teacher


@dataclass
class MoeWordDistillationConfig(MoeLabelSmoothedCrossEntropyConfig):
    distill_teacher: Optional[str] = option(None, "checkpoint of the teacher, loaded at each start")
    distill_weight: float = option(0.5, "weight of the teacher's part of the loss, from 0 to 1")
    distill_temperature: float = option(
        1.0, "T: both models' word probabilities are softmax(logits / T)"
    )


@register_criterion("moe_word_distillation", dataclass=MoeWordDistillationConfig)
class MoeWordDistillationCriterion(MoeLabelSmoothedCrossEntropyCriterion):
    """(1 - weight) * NLL + weight * T^2 * KL(teacher || student), summed, plus the gate losses.

    Word-level knowledge distillation of Kim and Rush (2016), with the temperature of Hinton et al.
    (2015); T^2 keeps the scale of the teacher's gradient independent of T. The paper does not state
    its objective.

    At validation `loss` is that of moe_label_smoothed_cross_entropy, so the best checkpoint is
    chosen as for any other model. `distill_loss` is the KL in training and validation.
    """

    def __init__(
        self,
        task: FairseqTask,
        sentence_avg: bool,
        label_smoothing: float,
        moe_gate_loss_wt: float,
        moe_z_loss_wt: float,
        distill_teacher: Optional[str],
        distill_weight: float,
        distill_temperature: float,
        moe_gate_loss_reduction: Optional[str] = None,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
    ):
        super().__init__(
            task, sentence_avg, label_smoothing, moe_gate_loss_wt, moe_z_loss_wt,
            moe_gate_loss_reduction, ignore_prefix_size, report_accuracy,
        )
        if not 0 <= distill_weight <= 1:
            refuse(f"--distill-weight {distill_weight}: give a number from 0 to 1")
        if not 0 < distill_temperature < math.inf:
            refuse(f"--distill-temperature {distill_temperature}: give more than 0")
        if not distill_teacher:
            refuse("--criterion moe_word_distillation needs --distill-teacher CKPT")
        self.distill_weight = distill_weight
        self.temperature = distill_temperature
        self.teacher = Teacher(distill_teacher, task)

    def token_losses(
        self, model: BaseFairseqModel, sample: Dict[str, Any], logits: Tensor, target: Tensor
    ) -> Tuple[Tensor, Tensor, Dict[str, Tensor]]:
        """As in the base class; in training the loss includes the divergence from the teacher."""
        loss, nll, logs = super().token_losses(model, sample, logits, target)
        teacher_logits = self.teacher.logits(sample["net_input"], model)
        teacher_logits = teacher_logits[:, self.ignore_prefix_size :]
        divergence = divergence_from_teacher(
            logits.flatten(0, 1), teacher_logits.flatten(0, 1), target.flatten(),
            self.temperature, self.padding_idx,
        )
        if model.training:
            weight = self.distill_weight
            loss = (1 - weight) * loss + weight * self.temperature**2 * divergence
        return loss, nll, {**logs, "distill_loss": divergence.data.sum()}

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """As in the base class, plus `distill_loss`, the KL in bits per token."""
        super().reduce_metrics(logging_outputs)
        tokens = sum(log["ntokens"] for log in logging_outputs)
        if tokens == 0:  # only dummy batches
            return
        divergence = sum(log["distill_loss"] for log in logging_outputs)
        metrics.log_scalar(
            "distill_loss", float(divergence) / float(tokens) / math.log(2), tokens, round=3
        )

"""Criteria on small models, and what they log."""

from fairseq.logging import metrics
from helpers import make_batch, make_task

from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)


def make_criterion(task=None, **overrides):
    settings = {
        "sentence_avg": False, "label_smoothing": 0.1, "moe_gate_loss_wt": 0.5,
        "moe_z_loss_wt": 0.2, **overrides,
    }
    return MoeLabelSmoothedCrossEntropyCriterion(task or make_task(), **settings)


def slice_batch(examples, rows):
    return make_batch(*(column[rows] for column in examples))


def add_up(logs):
    """Return the sums of logs, as fairseq makes them over micro-batches and ranks."""
    return {name: sum(log[name] for log in logs) for name in logs[0]}


def reduced(criterion, logs, task=None):
    """Return what is logged of logging outputs."""
    with metrics.aggregate(new_root=True) as aggregator:
        if task is None:
            criterion.reduce_metrics(logs)
        else:
            task.reduce_metrics(logs, criterion)
    return aggregator.get_smoothed_values()

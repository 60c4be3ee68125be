"""The criteria: label-smoothed cross entropy with gate losses, and distillation from a teacher."""

from . import moe_label_smoothed_cross_entropy, moe_word_distillation  # noqa: F401

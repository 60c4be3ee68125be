"""The criteria: with gate losses, and with a teacher beside them."""

from . import moe_label_smoothed_cross_entropy, moe_word_distillation  # noqa: F401

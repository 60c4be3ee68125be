"""The task-aware mixture-of-experts transformer."""

from . import transformer_task_moe  # noqa: F401

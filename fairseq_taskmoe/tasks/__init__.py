"""The multilingual translation task with task ids."""

from . import translation_task_moe  # noqa: F401

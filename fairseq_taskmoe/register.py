"""Importing this registers the task, the model and the criterion with fairseq."""

from . import criterions, models, tasks  # noqa: F401
from .checkpoint.atomic_writes import put_checkpoints_in_place_atomically
from .checkpoint.reading import allow_checkpoint_types
from .compat import (
    fix_nan_detector_hooks,
    leave_no_empty_save_dir,
    place_sentences_beyond_2_gib,
)
from .errors import end_fairseq_commands

end_fairseq_commands()
allow_checkpoint_types()
leave_no_empty_save_dir()
fix_nan_detector_hooks()
place_sentences_beyond_2_gib()
put_checkpoints_in_place_atomically()

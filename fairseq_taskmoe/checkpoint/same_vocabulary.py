"""Whether the token ids of a run mean in a checkpoint what they mean in the run."""

from typing import List, Optional, Sequence

from ..data.languages import LanguageTags
from ..errors import refuse
from .contents import TrainedModel


def check_vocabulary(
    flag: str, path: str, trained: TrainedModel, words: List[str], tags: LanguageTags
) -> None:
    """Refuse a checkpoint, the value of a flag, with other words or language tags than these."""
    problem = vocabulary_difference(trained, words, tags)
    if problem is not None:
        refuse(f"{flag} {path}: {problem}")


def vocabulary_difference(
    trained: TrainedModel, words: List[str], tags: LanguageTags
) -> Optional[str]:
    """Return how a checkpoint's words or language tags differ from these, None if they do not."""
    if trained.words != words:
        return (f"its vocabulary of {len(trained.words)} words is not that of the data, "
                f"{len(words)} words{_first_difference(trained.words, words)}")
    return tag_use_difference(trained.tags, tags, LanguageTags._fields)


def tag_use_difference(
    stored: LanguageTags, own: LanguageTags,
    names: Sequence[str] = ("encoder_langtok", "decoder_langtok"),
) -> Optional[str]:
    """Return in which of the named settings of tags a checkpoint differs from a run, or None."""
    for name in names:
        value, given = getattr(stored, name), getattr(own, name)
        if value != given:
            option = "--lang-tok-style" if name == "style" else "--" + name.replace("_", "-")
            return f"trained with {_given(option, value)}, this run has {_given(option, given)}"
    return None


def _first_difference(stored: List[str], own: List[str]) -> str:
    for i, (one, other) in enumerate(zip(stored, own, strict=False)):
        if one != other:
            return f": word {i} is {one!r} in one and {other!r} in the other"
    return ""


def _given(option: str, value: object) -> str:
    """Return what was on the command line, as words."""
    if value is None or value is False:
        return f"no {option}"
    if value is True:
        return option
    return f"{option} {','.join(value) if isinstance(value, tuple) else value}"

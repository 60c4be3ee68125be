"""Whether the token ids of a run mean in a checkpoint what they mean in the run."""

from typing import List

from ..data.languages import LanguageTags
from ..errors import refuse
from .contents import TrainedModel


def check_vocabulary(
    flag: str, path: str, trained: TrainedModel, words: List[str], tags: LanguageTags
) -> None:
    """Refuse a checkpoint, the value of a flag, with other words or language tags than these."""
    if trained.words != words:
        refuse(f"{flag} {path}: its vocabulary of {len(trained.words)} words is not that of the "
               f"data, {len(words)} words{_first_difference(trained.words, words)}")
    for name, value in trained.tags._asdict().items():
        own = getattr(tags, name)
        if value != own:
            option = "--lang-tok-style" if name == "style" else "--" + name.replace("_", "-")
            refuse(f"{flag} {path}: trained with {_given(option, value)}, this run has "
                   f"{_given(option, own)}")


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

"""What a refused call raises, for the tests of bad input."""

from typing import Any, Callable

import pytest

from fairseq_taskmoe.errors import Refusal


def refusal(action: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    """Expect action(*arguments, **settings) to be refused; return the one line that says why."""
    with pytest.raises(Refusal) as refused:
        action(*arguments, **settings)
    assert len(refused.value.message.splitlines()) == 1
    return refused.value.message

"""How much the service takes on; each limit is a flag of `taskmoe serve`."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Union

from ..errors import refuse


def limit(default: Union[int, float], help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Bounds on a request, on what waits, and on what is translated at once."""

    max_body_bytes: int = limit(1_000_000, "of a request")
    max_texts: int = limit(128, "texts of a request")
    max_beam: int = limit(16, "beam that a request may ask for, and so its n_best")
    timeout: float = limit(60.0, "seconds from a request's head until it is given up")
    max_connections: int = limit(
        900, "connections; one more closes the one that has been idle longest"
    )
    head_timeout: float = limit(10.0, "seconds in which the head of a request has to arrive")
    max_requests: int = limit(512, "requests that are read or waited for at once")
    max_waiting: int = limit(2000, "sentences that wait for a model")
    max_batch_sentences: int = limit(64, "sentences of one or more requests in a batch")
    max_batch_tokens: int = limit(4000, "source pieces in a batch, padding counted")

    def check(self) -> None:
        """Refuse limits that no request could keep."""
        for each in fields(self):
            if not 0 < getattr(self, each.name) < math.inf:  # nan is neither
                refuse(f"{flag(each.name)} {getattr(self, each.name)}: give a number above 0")
        if self.max_texts > self.max_waiting:
            refuse(
                f"--max-texts {self.max_texts}: at most --max-waiting, which is {self.max_waiting}"
            )


def flag(name: str) -> str:
    """Return the flag of a limit."""
    return "--" + name.replace("_", "-")

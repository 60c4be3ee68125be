"""The limits of the service; each is a flag of `taskmoe serve`."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Union

from ..errors import refuse


def limit(default: Union[int, float], help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Limits on requests, connections, queues and batches."""

    max_body_bytes: int = limit(1_000_000, "bytes of a request's body")
    max_texts: int = limit(128, "texts of a request")
    max_beam: int = limit(16, "beam of a request, and so its n_best")
    timeout: float = limit(60.0, "seconds from the head of a request to its answer")
    max_connections: int = limit(
        900, "connections; a further one closes the one that has been idle longest"
    )
    head_timeout: float = limit(10.0, "seconds to wait for the head of a request")
    max_requests: int = limit(512, "requests in progress")
    max_waiting: int = limit(2000, "sentences in the queue of a model")
    max_batch_sentences: int = limit(64, "sentences in a batch")
    max_batch_tokens: int = limit(4000, "source pieces in a batch, padding counted")

    def check(self) -> None:
        """Refuse limits that no request could meet."""
        for each in fields(self):
            if not 0 < getattr(self, each.name) < math.inf:  # nan too
                refuse(f"{flag(each.name)} {getattr(self, each.name)}: give a number above 0")
        if self.max_texts > self.max_waiting:
            refuse(
                f"--max-texts {self.max_texts}: must not exceed --max-waiting {self.max_waiting}"
            )


def flag(name: str) -> str:
    """Return the flag of a limit."""
    return "--" + name.replace("_", "-")

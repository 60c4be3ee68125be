"""How ranks end, and which of several ends is the cause of the others."""

from typing import Dict, NamedTuple, Sequence

LOST, FAILED = "was lost", "ended with an error"
ENDED, TERMINATED = "ended before the others", "was terminated"
# Seconds from a report to the verdict, the likelier causes first. A rank that fails or is told to
# end may suffer from another's loss; in a run that ends well all ranks end at nearly the same time
PATIENCE: Dict[str, float] = {LOST: 0.0, FAILED: 1.0, ENDED: 20.0, TERMINATED: 1.0}


class Report(NamedTuple):
    """How a rank ended."""

    kind: str  # one of PATIENCE
    rank: str  # with its host
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.rank} {self.kind}" + (f": {self.detail}" if self.detail else "")


def find_cause(reports: Sequence[Report]) -> str:
    """Return in words what made a run end, from what its ranks reported in this order.

    All lost ranks are named, since a host takes several with it; of other kinds the first, since
    one rank's error leads to errors of others.
    """
    kind = next(kind for kind in PATIENCE if any(report.kind == kind for report in reports))
    causes = [str(report) for report in reports if report.kind == kind]
    return ", ".join(causes if kind == LOST else causes[:1])

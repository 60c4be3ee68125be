"""Which models the study trains."""

from typing import Iterator, NamedTuple

from .models import ROWS

MAIN_COUNT = 16  # ciphers
MAIN_SEEDS = range(2, 7)
INTERFERENCE_COUNTS = (1, 2, 4, 8, 16, 32, 64)
INTERFERENCE_ROWS = ("dense", "dense_parameters", "token_token", "target_target")
INTERFERENCE_SEEDS = range(2, 5)


class Training(NamedTuple):
    """One model to train."""

    row: str
    ciphers: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row}-{self.ciphers}-seed{self.seed}"


def trainings() -> Iterator[Training]:
    """Yield all models, seed by seed: a study that was interrupted has whole seeds."""
    for seed in MAIN_SEEDS:
        for row in ROWS:
            yield Training(row, MAIN_COUNT, seed)
    for seed in INTERFERENCE_SEEDS:
        for count in INTERFERENCE_COUNTS:
            if count != MAIN_COUNT:
                for row in INTERFERENCE_ROWS:
                    yield Training(row, count, seed)

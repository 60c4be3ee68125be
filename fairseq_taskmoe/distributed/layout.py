"""The distribution of experts over ranks, without processes."""

import math
from typing import List, NamedTuple, Optional

from ..errors import refuse


class ExpertLayout(NamedTuple):
    """The distribution of E experts over the ranks of expert-parallel groups.

    Consecutive ranks form a group, which holds one copy of all experts; the groups are replicas.
    Rank r has place r % size in its group, and holds consecutive experts by its place.
    """

    num_experts: int  # E
    world_size: int  # number of ranks
    size: int  # ranks of a group (--moe-expert-parallel-size)

    @property
    def experts_per_rank(self) -> int:
        return self.num_experts // self.size

    @property
    def num_replicas(self) -> int:
        """Number of groups."""
        return self.world_size // self.size

    def place(self, rank: int) -> int:
        """Return the place of a rank in its group."""
        return rank % self.size

    def experts(self, rank: int) -> slice:
        """Return the experts that a rank holds."""
        first = self.place(rank) * self.experts_per_rank
        return slice(first, first + self.experts_per_rank)

    def group(self, rank: int) -> List[int]:
        """Return the ranks that share a copy of the experts with rank."""
        first = rank - self.place(rank)
        return list(range(first, first + self.size))

    def replicas(self, rank: int) -> List[int]:
        """Return the ranks that hold the same experts as rank."""
        return list(range(self.place(rank), self.world_size, self.size))


def expert_layout(num_experts: int, world_size: int, size: Optional[int] = None) -> ExpertLayout:
    """Return the layout for a number of ranks, refusing sizes that do not divide it.

    The default size is the greatest common divisor of num_experts and world_size.
    """
    if num_experts == 0:
        return ExpertLayout(0, world_size, 1)
    if size is None:
        return ExpertLayout(num_experts, world_size, math.gcd(num_experts, world_size))
    if size < 1:
        refuse(f"--moe-expert-parallel-size {size}: give 1 or more")
    if world_size % size:
        refuse(
            f"--moe-expert-parallel-size {size} does not divide the number of ranks, {world_size}"
        )
    if num_experts % size:
        refuse(
            f"--moe-expert-parallel-size {size} does not divide --moe-expert-count {num_experts}"
        )
    return ExpertLayout(num_experts, world_size, size)

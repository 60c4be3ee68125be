"""Small products of many experts on CPU: an expert a core, instead of all cores for each product.

A product of a few hundred rows does not keep several cores busy: they wait for each other, and each
repeats the preparation of the same weights.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Iterator, List, NamedTuple, Tuple, Union

import torch
from torch import Tensor

# With smaller matrices the threads cost more than they bring; with more rows one product keeps all
# cores busy. Measured on 2 cores: 1.05 to 1.19 times the speed at 512 x 2048 with 2 to 320 rows an
# expert, 0.95 at 256 x 1024
LEAST_WEIGHTS = 2**20
MOST_ROWS_A_THREAD = 256


class Block(NamedTuple):
    """What one expert has to do."""

    expert: int
    place: slice  # of its assignments, among those sorted by expert
    rows: Union[slice, Tensor]  # of the batch, one for each assignment


def each_expert(
    work: Callable[[Block], Any], blocks: List[Block], threads: int, num_weights: int
) -> Iterator[Tuple[Block, Any]]:
    """Yield (block, work(block)) for each of blocks: large ones first, else in their order.

    num_weights are those of an expert's matrix. Small blocks are worked on by several of the
    threads at once: work writes to places of its own alone, and what is to be added up is returned.
    """
    large: List[Block] = []
    small: List[Block] = []
    for block in blocks:
        (small if num_rows(block) < MOST_ROWS_A_THREAD * threads else large).append(block)
    if threads == 1 or len(small) < 2 * threads or num_weights < LEAST_WEIGHTS:
        yield from zip(blocks, map(work, blocks), strict=True)
        return
    yield from zip(large, map(work, large), strict=True)
    single = partial(_with_modes_of_caller, work, torch.is_inference_mode_enabled())
    try:
        with ThreadPoolExecutor(threads, initializer=_use_one_core) as pool:
            yield from zip(small, pool.map(single, small), strict=True)
    finally:
        torch.set_num_threads(threads)  # what a thread sets for itself holds for later ones, too


def num_rows(block: Block) -> int:
    """Return how many rows a block has."""
    return block.place.stop - block.place.start


def _use_one_core() -> None:
    torch.get_num_threads()  # otherwise torch would set the thread up later, and for all cores
    torch.set_num_threads(1)


def _with_modes_of_caller(
    work: Callable[[Block], Any], in_inference_mode: bool, block: Block
) -> Any:
    # a thread of its own starts with gradients on, an autograd function has them off
    with torch.inference_mode(in_inference_mode), torch.no_grad():
        return work(block)

"""Counts of chunks and data sets, nested dictionaries of numbers, summed up."""

from typing import Any, Dict, Iterable, Mapping

Counts = Dict[str, Any]


def summed(counts: Iterable[Mapping[str, Any]]) -> Counts:
    """Add up dictionaries of numbers, and of such dictionaries, key by key.

    >>> summed([{"lines": 1, "dropped": {"empty": 1}}, {"lines": 2, "dropped": {"copies": 3}}])
    {'lines': 3, 'dropped': {'empty': 1, 'copies': 3}}
    """
    total: Counts = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, Mapping):
                total[key] = summed([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total

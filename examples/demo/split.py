"""Split the phrases in two ways: at random, and by the combinations of parts that they have.

A combination is a pair such as a weekday and a month. Some are held out: no training or validation
phrase has one. A test phrase of the second split has held-out combinations only, so its parts were
never seen together. Phrases with both held-out and other combinations are dropped.
"""

import random
from typing import Dict, List, NamedTuple, Sequence, Set


class Phrase(NamedTuple):
    kind: str
    combinations: Set[str]
    texts: Dict[str, str]  # by language


class Split(NamedTuple):
    train: List[Phrase]
    valid: List[Phrase]
    random: List[Phrase]  # test phrases, drawn at random
    composed: List[Phrase]  # test phrases whose combinations are held out
    dropped: List[Phrase]


def hold_out(phrases: Sequence[Phrase], count: int, rng: random.Random) -> Set[str]:
    """Return combinations of which count or more phrases have no other one."""
    held_out: Set[str] = set()
    covered = 0
    for phrase in rng.sample(phrases, len(phrases)):
        if covered >= count:
            break
        held_out |= phrase.combinations
        covered = sum(one.combinations <= held_out for one in phrases)
    return held_out


def split_phrases(phrases: Sequence[Phrase], num_valid: int, num_test: int, seed: int) -> Split:
    """Split phrases: num_valid for validation, and num_test for each of the two tests.

    The composed test has equally many phrases of each kind that has combinations.
    """
    rng = random.Random(seed)
    by_kind: Dict[str, List[Phrase]] = {}
    for phrase in phrases:
        if phrase.combinations:
            by_kind.setdefault(phrase.kind, []).append(phrase)
    quotas = {kind: num_test // len(by_kind) for kind in by_kind}
    for kind in list(by_kind)[: num_test % len(by_kind)]:
        quotas[kind] += 1
    held_out: Set[str] = set()
    for kind, quota in quotas.items():
        held_out |= hold_out(by_kind[kind], quota, rng)
    composed = [
        phrase
        for kind, quota in quotas.items()
        for phrase in rng.sample([p for p in by_kind[kind] if p.combinations <= held_out], quota)
    ]
    rest = [phrase for phrase in phrases if not phrase.combinations & held_out]
    dropped = [p for p in phrases if p.combinations & held_out and p not in composed]
    rng.shuffle(rest)
    return Split(
        rest[num_valid + num_test :], rest[:num_valid], rest[num_valid:][:num_test], composed,
        dropped,
    )

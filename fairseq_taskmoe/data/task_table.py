"""The task table: language pairs, their ids, and groups with a common route.

A task is a language pair; its id is its row in the table. Ids depend on the set of trained pairs,
not on their order in flags. The table is stored in checkpoints.
"""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import yaml

from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from ..read_files import read_yaml
from .named_pairs import check_pairs


class TaskTable(NamedTuple):
    """The trained pairs, sorted, then untrained pairs that are translated."""

    trained: Tuple[str, ...]
    unseen: Tuple[str, ...] = ()
    groups: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()  # name -> pairs or target languages

    @classmethod
    def from_pairs(cls, lang_pairs: Sequence[str]) -> "TaskTable":
        """Return the table of pairs such as "en-de", refusing invalid ones."""
        check_pairs(lang_pairs)
        if not lang_pairs:
            refuse("--lang-pairs: give at least one language pair, as en-de,de-en")
        return cls(tuple(sorted(set(lang_pairs))))

    @property
    def lang_pairs(self) -> Tuple[str, ...]:
        """All pairs; a pair's position is its task id."""
        return self.trained + self.unseen

    def task_id(self, lang_pair: str) -> int:
        """Return the id of a pair of the table."""
        return self.lang_pairs.index(lang_pair)

    def with_pairs(self, lang_pairs: Sequence[str]) -> "TaskTable":
        """Return the table with additional untrained pairs; existing ids do not change."""
        new = tuple(sorted(set(lang_pairs) - set(self.lang_pairs)))
        return self._replace(unseen=self.unseen + new)

    def with_groups(self, groups: Dict[str, List[str]]) -> "TaskTable":
        """Return the table with groups, name -> pairs or languages, for the router `group`."""
        table = self._replace(groups=tuple((n, tuple(m)) for n, m in sorted(groups.items())))
        for pair in self.trained:
            names = [name for name, members in table.groups if table._is_member(pair, members)]
            if len(names) != 1:
                found = "no group" if not names else "more than one group: " + ", ".join(names)
                refuse(f"--moe-task-groups: {pair} is in {found}; each pair must be in exactly one")
        return table

    def group_names(self, kind: str) -> List[str]:
        """Return the groups of a task router of this kind, in the order of their ids.

        kind is `source`, `target`, `pair` or `group`. Untrained pairs add no groups.
        """
        return sorted({self._group_of(pair, kind) for pair in self.trained})

    def group_ids(self, kind: str) -> List[int]:
        """Return each pair's group, by task id."""
        names = self.group_names(kind)
        return [names.index(self._group_of(self.routed_as(pair, kind), kind))
                for pair in self.lang_pairs]

    def routed_as(self, lang_pair: str, kind: str) -> str:
        """Return the trained pair whose route a pair takes; a trained pair takes its own.

        An untrained pair takes the route of a trained pair with its source language (router
        `source`) or with its target language (other routers). Of several, it is the one whose other
        language is in most trained pairs. The paper does not specify this.
        """
        if lang_pair in self.trained:
            return lang_pair
        side = 0 if kind == "source" else 1
        language = split_pair(lang_pair)[side]
        candidates = [pair for pair in self.trained if split_pair(pair)[side] == language]
        if kind == "group":
            names = [name for name, members in self.groups if self._is_member(lang_pair, members)]
            candidates = [p for p in self.trained if self._group_of(p, kind) in names] or candidates
        if not candidates:
            refuse(
                f"{lang_pair} was never trained, and no trained pair has the "
                f"{'source' if side == 0 else 'target'} language {language}: routing by {kind} "
                f"gives it no experts (trained: {', '.join(self.trained)})"
            )
        return max(candidates, key=lambda pair: self._degree(split_pair(pair)[1 - side]))

    def state(self) -> Dict[str, Any]:
        """Return the trained part of the table in plain types for checkpoints."""
        groups = {name: list(members) for name, members in self.groups}
        return {"lang_pairs": list(self.trained), "groups": groups}

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> "TaskTable":
        """Return the table of a state()."""
        groups = tuple((name, tuple(members)) for name, members in state["groups"].items())
        return cls(tuple(state["lang_pairs"]), (), groups)

    def _group_of(self, trained_pair: str, kind: str) -> str:
        source, target = split_pair(trained_pair)
        if kind == "group":
            if not self.groups:
                refuse("router `group` needs --moe-task-groups")
            return next(n for n, members in self.groups if self._is_member(trained_pair, members))
        return {"source": source, "target": target, "pair": trained_pair}[kind]

    @staticmethod
    def _is_member(pair: str, members: Sequence[str]) -> bool:
        return pair in members or split_pair(pair)[1] in members

    def _degree(self, language: str) -> int:
        return sum(language in split_pair(pair) for pair in self.trained)


def load_task_groups(path: str) -> Dict[str, List[str]]:
    """Return the groups in a YAML file: name -> language pairs or languages."""
    groups = read_yaml(path, yaml.SafeLoader, "--moe-task-groups")
    valid = isinstance(groups, dict) and all(
        isinstance(name, str)
        and isinstance(members, list)
        and all(isinstance(member, str) for member in members)
        for name, members in groups.items()
    )
    if not valid:
        refuse(
            f"--moe-task-groups {path}: write `name: [en-de, en-nl]`, one group per line, with "
            'quotes around words that YAML takes for truth values, as "no"'
        )
    return groups

"""Which rows of a checkpoint's weights belong to which rows of a new model's: found by name.

Rows of embeddings and of the softmax belong to words and to tags of languages, rows of task
embeddings to groups of tasks, rows of stored routes to pairs.
"""

from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..checkpoint.contents import SHARD, TrainedModel
from ..checkpoint.same_vocabulary import tag_use_difference
from ..data.languages import NUM_SPECIAL, LanguageTags, make_dictionary
from ..data.named_pairs import split_list
from ..data.task_table import TaskTable
from ..errors import refuse
from ..models.build_layers import has_moe_layer, is_moe_position, num_experts
from ..models.router_kinds import TASK_ROUTERS
from ..names import STACKS
from .expert_numbers import ExpertRows, find_experts

# for each new row, the old rows whose mean it starts from; a single one is kept as it is
Rows = List[Tuple[int, ...]]
NEW_EXPERTS = "new"  # in --init-task, instead of a pair of the checkpoint


class Names(NamedTuple):
    """What the rows of a new model's weights belong to."""

    cfg: Any  # of the model
    table: TaskTable
    tags: LanguageTags
    words: List[str]  # without tags


class Counterparts(NamedTuple):
    """Where the rows of a new model start."""

    symbols: Rows  # words and tags
    tasks: Dict[str, Rows]  # stack -> groups of its task router
    # stack -> old task id of each pair of its stored routes, None for a route by default
    routes: Dict[str, List[Optional[int]]]
    experts: Dict[str, ExpertRows]  # prefix of an MoE layer -> its experts, if the number changes
    summary: str  # what is new and what is left out, one line


def find_counterparts(
    path: str, trained: TrainedModel, own: Names, shared_only: bool = False
) -> Counterparts:
    """Return where the rows of a model start that takes over the weights of a checkpoint.

    Refuses what would change the routes of pairs that both models have. shared_only: experts and
    routers are not taken over.
    """
    problem = tag_use_difference(trained.tags, own.tags)
    if problem is not None:
        refuse(f"{path}: {problem}: the tokens around every sentence would be others")
    if SHARD in trained.checkpoint["task_state"]:
        refuse(f"{path}: one of several shards; `taskmoe consolidate` makes one file of them")
    like_tag = _assignments(own.cfg.init_tag, "--init-tag", own.tags.langs, trained.tags.langs)
    like_task = _assignments(
        own.cfg.init_task, "--init-task", own.table.trained, trained.pairs, NEW_EXPERTS
    )
    symbols = _symbol_rows(path, trained, own, like_tag)
    tasks: Dict[str, Rows] = {}
    new_tasks: Dict[str, List[int]] = {}
    routes: Dict[str, List[Optional[int]]] = {}
    used: Set[str] = set()
    routed = not shared_only and has_moe_layer(own.cfg) and has_moe_layer(trained.cfg)
    for stack in STACKS if routed else ():
        router = str(getattr(own.cfg, f"{stack}_moe_router"))
        if router in TASK_ROUTERS:
            tasks[stack], groups = _group_rows(path, router, trained, own, like_task)
            new_groups = _groups_of_pairs(own.table, router)
            used |= {pair for pair in like_task if new_groups[pair] in groups}
            names = own.table.group_names(router)
            new_tasks[stack] = [names.index(group) for group, row in groups.items() if not row]
        elif router == "table":
            old = {pair: trained.table.task_id(pair) for pair in trained.pairs}
            routes[stack] = [old.get(like_task.get(pair, pair)) for pair in own.table.trained]
            used |= set(like_task)
        elif router == "static":
            _check_static(path, stack, trained, own)
        elif router == "random":
            _check_random(path, stack, trained, own)
    for pair in like_task.keys() - used:
        refuse(f"--init-task {pair}={like_task[pair]}: has no effect, since no router has an "
               "embedding of its own for it")
    experts: Dict[str, ExpertRows] = {}
    if routed and own.cfg.moe_expert_count != trained.cfg.moe_expert_count:
        experts = find_experts(path, trained, own, new_tasks)
    if any(new_tasks.values()):
        more = own.cfg.moe_expert_count - trained.cfg.moe_expert_count
        if more < own.cfg.moe_top_k:
            refuse(f"--init-task {own.cfg.init_task}: {NEW_EXPERTS} needs --moe-expert-count of "
                   f"{trained.cfg.moe_expert_count + own.cfg.moe_top_k} or more")
    summary = _summary(trained, own, like_tag, like_task, () if shared_only else own.table.trained)
    return Counterparts(symbols, tasks, routes, experts, summary)


def _assignments(
    text: Optional[str], flag: str, own: Sequence[str], trained: Sequence[str], *other: str
) -> Dict[str, str]:
    """Return new=old,... as a dictionary: new of own, old of trained or other."""
    found: Dict[str, str] = {}
    for entry in split_list(text or ""):
        new, _, old = entry.partition("=")
        if new not in own or new in trained or new in found:
            refuse(f"{flag} {entry}: give a name on the left that only this run has, once")
        if old not in (*trained, *other):
            refuse(f"{flag} {entry}: the checkpoint has {', '.join(trained)}")
        found[new] = old
    return found


def symbol_names(words: Sequence[str], tags: LanguageTags) -> List[Hashable]:
    """Return the names of a model's words and tags, by id; of a tag ("tag", language)."""
    langs = {tags.tag(lang): ("tag", lang) for lang in tags.langs}
    return [langs.get(symbol, symbol) for symbol in make_dictionary(words, tags).symbols]


def _symbol_rows(
    path: str, trained: TrainedModel, own: Names, like_tag: Dict[str, str]
) -> Rows:
    old, new = (symbol_names(each.words, each.tags) for each in (trained, own))
    rows = len(trained.weights.get("encoder.embed_tokens.weight", ()))
    if rows != len(old):
        refuse(f"{path}: damaged, its embedding has {rows} rows for {len(old)} words and tags")
    place: Dict[Hashable, Tuple[int, ...]] = {name: (i,) for i, name in enumerate(old)}
    of_words = tuple(range(NUM_SPECIAL, len(trained.words)))
    of_tags = tuple(i for i, name in enumerate(old) if isinstance(name, tuple)) or of_words
    for lang in own.tags.langs:
        start = place["tag", like_tag[lang]] if lang in like_tag else of_tags
        place.setdefault(("tag", lang), start)
    return [place.get(name, of_words) for name in new]


def _group_rows(
    path: str, kind: str, trained: TrainedModel, own: Names, like_task: Dict[str, str]
) -> Tuple[Rows, Dict[str, Tuple[int, ...]]]:
    """Return the rows of the task embeddings of a router, and of new groups those by like_task.

    The latter are empty for groups that take new experts.
    """
    old, new = (_groups_of_pairs(each.table, kind) for each in (trained, own))
    for pair in own.table.trained:
        if pair in trained.pairs and old[pair] != new[pair]:
            refuse(f"{path}: {pair} is in the group {old[pair]} of its --moe-task-groups, and in "
                   f"{new[pair]} of this run's: its experts would be others")
    names = trained.table.group_names(kind)
    place: Dict[str, Tuple[int, ...]] = {name: (i,) for i, name in enumerate(names)}
    chosen: Dict[str, Tuple[int, ...]] = {}
    for pair, model in like_task.items():
        group, row = new[pair], () if model == NEW_EXPERTS else place[old[model]]
        if group not in place and chosen.setdefault(group, row) != row:
            refuse(f"--init-task {pair}={model}: {group} is initialised from another group too")
    all_rows = tuple(range(len(names)))
    rows = [place.get(name) or chosen.get(name) or all_rows
            for name in own.table.group_names(kind)]
    return rows, chosen


def _groups_of_pairs(table: TaskTable, kind: str) -> Dict[str, str]:
    names, ids = table.group_names(kind), table.group_ids(kind)
    return {pair: names[i] for pair, i in zip(table.lang_pairs, ids, strict=True)}


def _check_static(path: str, stack: str, trained: TrainedModel, own: Names) -> None:
    """Refuse pairs whose experts, which follow from the number of the task, would change."""
    old, new = trained.table.trained, own.table.trained
    layers = range(own.cfg[f"{stack}_layers"])
    counts = {num_experts(own.cfg, stack, i) or 1 for i in layers
              if is_moe_position(own.cfg, stack, i)}
    for pair in new:
        if pair in trained.pairs and any(
            (new.index(pair) - old.index(pair)) * own.cfg.moe_top_k % count for count in counts
        ):
            refuse(f"{path}: --{stack}-moe-router static chooses experts by the number of the "
                   f"task, which is {old.index(pair)} there and {new.index(pair)} here for {pair}: "
                   f"its experts would change; --{stack}-moe-router table keeps them")


def _check_random(path: str, stack: str, trained: TrainedModel, own: Names) -> None:
    """Refuse words and tags with other numbers, of which a sentence's experts are a hash."""
    old, new = (symbol_names(each.words, each.tags) for each in (trained, own))
    numbers = {name: i for i, name in enumerate(old)}
    for i, name in enumerate(new):
        if numbers.get(name, i) != i:
            shown = own.tags.tag(name[1]) if isinstance(name, tuple) else name
            refuse(f"{path}: --{stack}-moe-router random chooses experts by the numbers of words, "
                   f"and {shown} is number {numbers[name]} there and {i} here: trained pairs would "
                   "change experts")


def _summary(
    trained: TrainedModel, own: Names, like_tag: Dict[str, str], like_task: Dict[str, str],
    pairs: Sequence[str],
) -> str:
    """Return what is new and what is left out, in one line; pairs: those of the run, or none."""
    tag = own.tags.tag
    there, here = (
        {"tag": list(map(tag, each.tags.langs)), "task": list(tasks), "word": each.words,
         "expert": [str(i) for i in range(each.cfg.moe_expert_count if pairs else 0)]}
        for each, tasks in ((trained, trained.pairs if pairs else ()), (own, pairs))
    )
    new = _only(here, there, {**like_task, **{tag(n): tag(old) for n, old in like_tag.items()}})
    start = " (from the mean of the old, except with =)" if new else ""
    return f"new: {new or 'nothing'}{start}; left out: {_only(there, here, {}) or 'nothing'}"


def _only(
    one: Dict[str, List[str]], other: Dict[str, List[str]], like: Dict[str, str]
) -> str:
    parts = []
    for kind, names in one.items():
        others = set(other[kind])
        names = [f"{n}={like[n]}" if n in like else n for n in names if n not in others]
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        if names:
            parts.append(f"{kind}{'s' if len(names) > 1 else ''} {' '.join(names[:20])}{more}")
    return ", ".join(parts)

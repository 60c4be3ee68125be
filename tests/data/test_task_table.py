"""The task table: ids, groups, routes of pairs that were never trained, and its state."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.data.task_table import TaskTable, load_task_groups
from fairseq_taskmoe.errors import Refusal

PAIRS = ("de-en", "en-de", "en-fr", "fr-en", "fr-de")
LANGS = ("de", "en", "fr", "ru", "zh_CN")
ANY_PAIRS = st.lists(
    st.tuples(st.sampled_from(LANGS), st.sampled_from(LANGS)).map("-".join), min_size=1
)


@given(ANY_PAIRS.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
def test_ids_do_not_depend_on_the_order_of_pairs(orders):
    first, second = orders
    assert TaskTable.from_pairs(first) == TaskTable.from_pairs(second)


@given(ANY_PAIRS)
def test_id_is_the_row_of_a_pair(pairs):
    table = TaskTable.from_pairs(pairs)
    assert {table.task_id(pair) for pair in pairs} == set(range(len(set(pairs))))
    for pair in pairs:
        assert table.lang_pairs[table.task_id(pair)] == pair


@pytest.mark.parametrize(
    "kind, names, routes",
    [
        ("source", ["de", "en", "fr"], ["de", "en", "en", "fr", "fr"]),
        ("target", ["de", "en", "fr"], ["en", "de", "fr", "de", "en"]),
        ("pair", sorted(PAIRS), ["de-en", "en-de", "en-fr", "fr-de", "fr-en"]),
        ("group", ["germanic", "romance"],
         ["germanic", "germanic", "romance", "germanic", "germanic"]),
    ],
)
def test_groups_of_a_router(kind, names, routes):
    table = TaskTable.from_pairs(PAIRS).with_groups({"romance": ["fr"], "germanic": ["de", "en"]})
    assert table.lang_pairs == ("de-en", "en-de", "en-fr", "fr-de", "fr-en")
    assert table.group_names(kind) == names
    assert [names[i] for i in table.group_ids(kind)] == routes


def test_groups_are_made_of_pairs_as_well_as_of_target_languages():
    table = TaskTable.from_pairs(PAIRS)
    grouped = table.with_groups({"from-german": ["de-en"], "rest": ["fr", "de", "fr-en"]})
    assert grouped.group_ids("group") == [0, 1, 1, 1, 1]
    assert grouped.trained == table.trained


# -- pairs that were never trained


@pytest.mark.parametrize(
    "kind, pair, route",
    [
        # the others with this target or source language: that of the hub, English
        ("target", "ru-de", "en-de"),
        ("pair", "ru-de", "en-de"),
        ("source", "de-ru", "de-en"),
        ("source", "fr-ru", "fr-en"),
        ("target", "ru-fr", "en-fr"),
    ],
)
def test_unseen_pair_takes_the_route_of_the_hub(kind, pair, route):
    table = TaskTable.from_pairs(PAIRS)
    assert table.routed_as(pair, kind) == route
    served = table.with_pairs([pair])
    ids = served.group_ids(kind)
    assert ids[served.task_id(pair)] == ids[served.task_id(route)]


@pytest.mark.parametrize("kind", ["source", "target", "pair"])
@pytest.mark.parametrize("pair", PAIRS)
def test_trained_pair_takes_its_own_route(pair, kind):
    assert TaskTable.from_pairs(PAIRS).routed_as(pair, kind) == pair


def test_hub_is_the_language_of_most_pairs_whatever_its_name():
    table = TaskTable.from_pairs(["aa-fr", "zz-fr", "zz-de", "zz-it"])
    assert table.routed_as("ru-fr", "target") == "zz-fr"


@pytest.mark.parametrize(
    "pair, group",
    [
        ("ru-en", "a"),  # group a names the pair
        ("ru-fr", "b"),  # group b names its target language
        ("ru-de", "b"),  # none does: it goes with the hub's pair into German, en-de
    ],
)
def test_unseen_pair_takes_the_route_of_its_group(pair, group):
    table = TaskTable.from_pairs(PAIRS).with_groups(
        {"a": ["ru-en", "de-en", "fr-de"], "b": ["fr", "en-de", "fr-en"]}
    )
    served = table.with_pairs([pair])
    route = served.group_ids("group")[served.task_id(pair)]
    assert served.group_names("group")[route] == group


@pytest.mark.parametrize(
    "kind, pair, language",
    [("target", "de-ru", "ru"), ("pair", "de-ru", "ru"), ("source", "ru-de", "ru")],
)
def test_unseen_pair_without_a_route_is_refused(kind, pair, language):
    served = TaskTable.from_pairs(PAIRS).with_pairs([pair])
    with pytest.raises(Refusal, match=f"language {language}: routing by {kind}"):
        served.group_ids(kind)


@given(ANY_PAIRS, ANY_PAIRS, ANY_PAIRS)
def test_more_pairs_do_not_change_ids(trained, served, later):
    table = TaskTable.from_pairs(trained)
    once = table.with_pairs(served)
    twice = once.with_pairs(later)
    assert once.lang_pairs[: len(table.lang_pairs)] == table.lang_pairs
    assert twice.lang_pairs[: len(once.lang_pairs)] == once.lang_pairs
    assert set(twice.lang_pairs) == {*trained, *served, *later}
    assert len(set(twice.lang_pairs)) == len(twice.lang_pairs)


@pytest.mark.parametrize("kind", ["source", "target", "pair", "group"])
def test_more_pairs_do_not_change_groups(kind):
    table = TaskTable.from_pairs(PAIRS).with_groups({"a": ["de"], "b": ["en", "fr"]})
    served = table.with_pairs(["de-fr", "fr-de"])
    assert served.group_names(kind) == table.group_names(kind)
    assert served.group_ids(kind)[: len(PAIRS)] == table.group_ids(kind)


# -- state


def test_state_gives_the_table_back_in_plain_types():
    table = TaskTable.from_pairs(PAIRS).with_groups({"b": ["de"], "a": ["en", "fr"]})
    state = table.state()
    assert set(map(type, state.values())) == {list, dict}
    assert TaskTable.from_state(pickle.loads(pickle.dumps(state))) == table


def test_state_does_not_keep_pairs_that_are_only_served():
    table = TaskTable.from_pairs(PAIRS)
    assert TaskTable.from_state(table.with_pairs(["de-fr"]).state()) == table


# -- refusals


@pytest.mark.parametrize("pair", ["ende", "en-", "-de", "en-de-fr", ""])
def test_invalid_pairs_are_refused(pair):
    with pytest.raises(Refusal, match="--lang-pairs"):
        TaskTable.from_pairs(["en-de", pair])


def test_no_pair_at_all_is_refused():
    with pytest.raises(Refusal, match="at least one"):
        TaskTable.from_pairs([])


@pytest.mark.parametrize(
    "groups, complaint",
    [
        ({"a": ["de"], "b": ["en"]}, "en-fr is in no group"),
        ({"a": ["de", "en", "fr"], "b": ["fr-en"]}, "fr-en is in more than one group: a, b"),
    ],
)
def test_groups_that_are_no_partition_of_the_pairs_are_refused(groups, complaint):
    with pytest.raises(Refusal, match=complaint):
        TaskTable.from_pairs(PAIRS).with_groups(groups)


def test_router_group_without_groups_is_refused():
    with pytest.raises(Refusal, match="--moe-task-groups"):
        TaskTable.from_pairs(PAIRS).group_ids("group")


def test_groups_are_read_from_yaml(tmp_path):
    path = tmp_path / "groups.yaml"
    path.write_text("germanic: [de, en]\nromance:\n- en-fr\n", encoding="utf-8")
    assert load_task_groups(str(path)) == {"germanic": ["de", "en"], "romance": ["en-fr"]}


@pytest.mark.parametrize(
    "content", [b"", b"- de\n- en\n", b"a: de\n", b"a: [1, 2]\n", b"a: [de\n", b"\xff\xfe: [de]\n"]
)
def test_file_of_no_groups_is_refused(tmp_path, content):
    path = tmp_path / "groups.yaml"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="--moe-task-groups"):
        load_task_groups(str(path))


def test_missing_file_of_groups_is_refused(tmp_path):
    with pytest.raises(Refusal, match="--moe-task-groups"):
        load_task_groups(str(tmp_path / "none.yaml"))

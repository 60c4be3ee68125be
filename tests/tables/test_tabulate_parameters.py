"""Table 7 is what the configurations build, row by row."""

import pytest
from console import ROOT
from yaml_configs import from_yaml

from fairseq_taskmoe.data.task_table import TaskTable, load_task_groups
from fairseq_taskmoe.plan.parameters import WMT_PAIRS, report_architecture
from fairseq_taskmoe.tables.paper import Paper
from fairseq_taskmoe.tables.table7_table8 import FAMILIES, VOCABULARY, count_wmt

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq's use of hydra

ROWS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
GROUPS = load_task_groups(str(ROOT / "configs" / "groups" / "families.yaml"))


@pytest.fixture(scope="module")
def counts():
    return count_wmt(Paper())


def test_every_configuration_is_counted(counts):
    assert sorted(counts) == ROWS


def test_families_are_those_of_the_configuration():
    assert sorted(map(sorted, GROUPS.values())) == sorted(group.split() for group in FAMILIES)


@pytest.mark.parametrize("row", [
    row if row in ("dense_base", "target_target") else pytest.param(row, marks=pytest.mark.slow)
    for row in ROWS
])
def test_a_row_has_the_parameters_of_its_configuration(counts, row):
    cfg = from_yaml(row, "wmt30")
    pairs = cfg.task.lang_pairs.split(",")
    assert set(pairs) == ({"en-de"} if row == "bilingual" else set(WMT_PAIRS))
    table = TaskTable.from_pairs(pairs)
    if cfg.model.moe_task_groups:
        assert cfg.model.moe_task_groups == "configs/groups/families.yaml"
        table = table.with_groups(GROUPS)
    assert report_architecture(cfg.model, VOCABULARY, table).to_json() == counts[row]

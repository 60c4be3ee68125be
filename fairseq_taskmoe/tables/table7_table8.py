"""Tables 7 and 8: parameters of the paper's configurations and of an experiment's own models.

The former are built without weights, which needs torch. A test checks that they are equal to
configs/*.yaml, which are not installed with the package.
"""

from typing import Any, Dict, List

from .experiment import Experiment
from .paper import Paper
from .speed import WEB_EXPERTS
from .table import NOT_RUN, Column, Note, Row, Table

MILLION = 10**6
VOCABULARY = 64000  # pieces of the paper's joint SentencePiece model
PARTS = {
    "vocabulary": "vocabulary", "softmax": "softmax", "encoder": "encoder", "decoder": "decoder",
    "total": "total", "effective_encoder": "effective encoder",
    "effective_decoder": "effective decoder", "effective": "effective total",
}
# the rows of experts/none.yaml; dense_equal is not one: its MoE layers' networks are wider
DENSE = ("bilingual", "dense_base", "dense_big", "distilled", "distilled_sequence")
# as in configs/groups/families.yaml
FAMILIES = ("en", "de", "es fr ro", "cs ru", "lt lv", "et fi", "gu hi", "kk tr", "zh")
TABLE8 = ("dense_big", "token_token", "token_pair", "token_target")
WEB_DIRECTIONS = 204


def table7(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return the WMT models' parameters, and those of the experiment's own models."""
    counts = count_wmt(paper)
    notes = [
        Note(f"Ours: what configs/ROW.yaml builds at size wmt30 with {VOCABULARY:,} pieces, K = 2; "
             "sub-networks as extracted by `taskmoe extract`. bilingual: one of the models."),
        _effective(), *paper.notes("table7"),
    ]
    title = "Table 7. Parameters of the WMT models, in millions"
    return [
        _table("table7", title, counts, paper, notes),
        _own_models(experiment, paper),
    ]


def table8(paper: Paper) -> List[Table]:
    """Return the web-scale models' parameters."""
    counts = count_web(paper)
    full, task = counts["token_token"]["decoder"], counts["token_target"]["effective_decoder"]
    notes = [
        Note(f"Ours: transformer_task_moe_big with {WEB_EXPERTS} experts, {WEB_DIRECTIONS} "
             f"directions and {VOCABULARY:,} pieces, K = 2; configs/ has no such configuration."),
        _effective(),
        Note(f"Decoder, all experts over one task's: {full / 1e6:,.0f}M / {task / 1e6:.1f}M = "
             f"{full / task:.1f}."),
        *paper.notes("table8"),
    ]
    title = "Table 8. Parameters of the web-scale models, in millions"
    return [_table("table8", title, counts, paper, notes)]


def count_wmt(paper: Paper) -> Dict[str, Dict[str, int]]:
    """Return the parameters of each configuration at size wmt30, by part."""
    from ..plan.parameters import WMT_PAIRS

    return {
        name: _count(
            paper, name, "big" if name == "dense_big" else "base",
            WMT_PAIRS[:1] if name == "bilingual" else WMT_PAIRS,
        )
        for name in paper.systems
    }


def count_web(paper: Paper) -> Dict[str, Dict[str, int]]:
    """Return the parameters of each system of table 8, by part."""
    from ..plan.parameters import pairs_with_english

    pairs = pairs_with_english(WEB_DIRECTIONS)
    return {name: _count(paper, name, "big", pairs, WEB_EXPERTS) for name in TABLE8}


def _count(
    paper: Paper, name: str, arch: str, pairs: List[str], experts: int = 32
) -> Dict[str, int]:
    from omegaconf import OmegaConf

    from .. import register  # noqa: F401
    from ..data.task_table import TaskTable
    from ..models.config import ARCHITECTURES, TransformerTaskMoeConfig
    from ..plan.parameters import report_architecture

    system = paper.systems[name]
    settings: Dict[str, Any] = {
        **ARCHITECTURES[arch],
        "moe_expert_count": 0 if name in DENSE else experts,
        "encoder_moe_router": system.encoder,
        "decoder_moe_router": system.decoder,
        "max_source_positions": 1024,
        "max_target_positions": 1024,
    }
    cfg = OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), settings)
    table = TaskTable.from_pairs(pairs)
    if system.encoder == "group":
        table = table.with_groups({group: group.split() for group in FAMILIES})
    return report_architecture(cfg, VOCABULARY, table).to_json()


def _table(
    name: str, title: str, counts: Dict[str, Dict[str, int]], paper: Paper, notes: List[Note]
) -> Table:
    columns = [Column("system", "system")]
    for part, heading in PARTS.items():
        columns.append(Column(part, heading))
        if part in paper.content[name]["columns"]:
            columns.append(Column(f"paper_{part}", "paper"))
    rows: List[Row] = [
        {
            "system": system,
            **{part: report[part] / MILLION for part in PARTS},
            **paper.row(name, system, "paper_"),
        }
        for system, report in counts.items()
    ]
    return Table(name, title, columns, rows, notes)


def _own_models(experiment: Experiment, paper: Paper) -> Table:
    """Return the parameters of the experiment's checkpoints, counted by `taskmoe params`."""
    parts = {**PARTS, "total_shared": "total, shared once",
             "effective_shared": "effective, shared once"}
    columns = [
        Column("system", "system"), Column("run", "counted"),
        *(Column(part, title, 2) for part, title in parts.items()),
    ]
    rows: List[Row] = []
    for name in paper.ordered(experiment.parameters):
        report = experiment.parameters.get(name)
        row: Row = {"system": name, "run": "yes" if report else NOT_RUN}
        if report:
            row |= {part: report[part] / MILLION for part in parts if part in report}
        rows.append(row)
    notes = [Note("Counted by `taskmoe params CHECKPOINT --format json`, ROW/params.json.")]
    return Table("table7-own", "This experiment's models, in millions", columns, rows, notes)


def _effective() -> Note:
    return Note("Effective: the parameters that are needed to translate one direction. A stack "
                "that routes by text or at random needs all of its experts.")

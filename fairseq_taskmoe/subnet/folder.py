"""The folder that an extraction leaves: model, dictionary, SentencePiece model, manifest."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ..checkpoint.contents import TrainedModel
from ..checkpoint.reading import Unreadable, read_model
from ..engines.formats import STORED_FORMATS
from ..engines.manifest import README, Check, Manifest, describe_files, sha256, versions
from ..engines.open_model import open_engine
from ..errors import refuse
from ..files import new_folder
from ..host import return_freed_memory
from ..names import STACKS
from .extract import (
    KeptExperts,
    Subnet,
    count_parameters,
    extract_subnet,
    servable_pairs,
    text_routing,
    warn_of_zero_shot,
)
from .formats import FORMATS, SENTENCEPIECE, Extraction, readme
from .prune import choose_kept_experts
from .sentencepiece_files import choose_sentencepiece, write_sentencepiece
from .to_fairseq import refuse_routed, taskmoe_checkpoint
from .trim_vocabulary import trim_vocabulary, used_words
from .verify import (
    full_model_checks,
    scores_of,
    tags_of,
    with_scores,
    worst_difference,
)

PACKAGES = ("fairseq-taskmoe", "ve-fairseq", "fairseq", "torch", "ctranslate2", "sentencepiece")


def extract(
    path: str, lang_pairs: Sequence[str], out: str, what: Extraction = Extraction(),  # noqa: B008
) -> Manifest:
    """Write the sub-network of lang_pairs to the new folder out, whole or not at all.

    The extracted model is opened, and has to score the check sentences of its manifest as the full
    model does; one that is trimmed or pruned, as the sub-network does in fairseq.
    """
    FORMATS[what.format].check(what)
    with new_folder(out) as folder:
        manifest, expected = _fill(path, lang_pairs, what, folder)
        return_freed_memory()  # nothing of the checkpoint is needed any more
        manifest = manifest._replace(
            checks=_checked(str(folder), manifest, expected, what), files=describe_files(folder)
        )
        manifest.write(folder)
    warn_of_zero_shot({pair: facts["routed_as"] for pair, facts in manifest.zero_shot.items()})
    return manifest


def _fill(
    path: str, lang_pairs: Sequence[str], what: Extraction, folder: Path
) -> Tuple[Manifest, List[float]]:
    """Write all but the manifest to folder; return it without the facts about the files.

    With it come the scores of its check sentences that the model is to give.
    """
    trained = read_model(path)
    pairs = servable_pairs(trained, lang_pairs)
    kept = choose_kept_experts(trained, pairs, what.pruning) if what.pruning else None
    cfg = trained.cfg
    if FORMATS[what.format].needs_dense:
        refuse_routed(text_routing(cfg), what.format)
    spm = choose_sentencepiece(what.sentencepiece_model, path, trained)
    used = None
    if what.trim_vocabulary:
        if "random" in (str(cfg.encoder_moe_router), str(cfg.decoder_moe_router)):
            refuse("--trim-vocabulary: random routing draws by the words' numbers, which change")
        processor = spm.processor if spm else None
        used = used_words(
            what.trim_vocabulary, pairs, trained.words, processor, what.trim_min_count
        )
    # before anything is cut: then less is in memory at once
    try:
        checks = full_model_checks(trained, pairs, used)
    except Unreadable as reason:
        refuse(f"{path}: {reason}")
    subnet = _cut(trained, pairs, kept, used)
    expected = [check.full_score for check in checks]
    if kept or used:  # another model, on purpose
        expected = scores_of(TrainedModel.parse(taskmoe_checkpoint(trained, subnet)), checks)
    if spm is not None:
        write_sentencepiece(spm.path, folder / SENTENCEPIECE, used)
    parameters = FORMATS[what.format].write(trained, subnet, what, folder)
    manifest = _manifest(path, trained, subnet, what, parameters, spm is not None)
    (folder / README).write_text(readme(manifest, subnet, trained, what), encoding="utf-8")
    return manifest._replace(checks=checks), expected


def _cut(
    trained: TrainedModel, pairs: Sequence[str], kept: Optional[KeptExperts],
    used: Optional[Set[str]],
) -> Subnet:
    subnet = extract_subnet(trained, pairs, kept)
    routers = [subnet.model_cfg[f"{stack}_moe_router"] for stack in STACKS]
    if not (kept or used or {"dense", "table"} & set(routers)):
        refuse(f"the model routes by {' and '.join(routers)}: no stack of it can be folded, and "
               "only --prune leaves experts out")
    return trim_vocabulary(subnet, used) if used else subnet


def _manifest(
    path: str, trained: TrainedModel, subnet: Subnet, what: Extraction, parameters: int,
    has_pieces: bool,
) -> Manifest:
    tags = tags_of(subnet.tags, subnet.lang_pairs)
    history: Dict[str, Any] = (trained.checkpoint.get("optimizer_history") or [{}])[-1]
    source_tag, target_tag = (
        max(len(getattr(tag, side)) for tag in tags.values()) for side in ("source", "target")
    )
    return Manifest(
        format=what.format,
        directions={pair: tag._asdict() for pair, tag in tags.items()},
        max_source_pieces=subnet.model_cfg["max_source_positions"] - source_tag - 1,
        max_target_pieces=subnet.model_cfg["max_target_positions"] - target_tag - 1,
        sentencepiece_model=SENTENCEPIECE if has_pieces else None,
        parameters=parameters,
        vocabulary=len(subnet.words),
        quantization=what.quantization if STORED_FORMATS[what.format].quantizes else None,
        source_checkpoint={
            "file": Path(path).name,
            "sha256": sha256(Path(path), "sha256 of the checkpoint"),
            "num_updates": history.get("num_updates"),
            "parameters": count_parameters(trained.weights),
            "vocabulary": len(trained.words),
        },
        versions=versions(*PACKAGES),
        checks=[],
        files={},
        zero_shot={
            pair: {"trained": False, "routed_as": routes}
            for pair, routes in subnet.zero_shot.items()
        },
    )


def _checked(
    folder: str, manifest: Manifest, expected: Sequence[float], what: Extraction
) -> List[Check]:
    """Return the checks with the scores of the model in folder, refusing one that is another.

    One that cannot be run on this machine is taken.
    """
    if not FORMATS[what.format].can_run(what):
        return manifest.checks
    checks = with_scores(manifest.checks, open_engine(folder, manifest, what.device))
    compared = [
        check._replace(full_score=score) for check, score in zip(checks, expected, strict=True)
    ]
    worst = worst_difference(compared)
    if not worst <= what.tolerance:  # not a number is far, too
        meant = "sub-network" if what.trim_vocabulary or what.pruning else "full one"
        refuse(f"the extracted model is not the {meant}: log-probabilities differ by {worst:.1e} a "
               "piece; nothing was written")
    return checks

"""What an extracted model's folder says of itself, with the exact commands that run it."""

from .export_fairseq import stock_flags
from .extract_subnet import Subnet
from .manifest import Manifest

DECODING_LENGTH = 256  # CTranslate2's default
NEEDS = {
    "fairseq": "fairseq alone, without the plugin it was trained with; `taskmoe translate` is the "
    "plugin's",
    "taskmoe": "fairseq and fairseq-taskmoe",
    "ctranslate2": "ctranslate2 and sentencepiece; `taskmoe translate` is fairseq-taskmoe's",
}


def readme(manifest: Manifest, subnet: Subnet) -> str:
    """Return the README.md of a model folder."""
    pairs = ", ".join(manifest.directions)
    pair = next(iter(manifest.directions))
    missing = "" if manifest.sentencepiece_model else (
        "\nNo SentencePiece model was found beside the data: input and output are pieces.\n"
    )
    named = f" --lang-pair {pair}" if len(manifest.directions) > 1 else ""
    run = _in_python(manifest, pair) if manifest.format == "ctranslate2" else _in_fairseq(
        manifest, subnet
    )
    return (
        f"# Sub-network {pairs}\n\nNeeds {NEEDS[manifest.format]}.\n{missing}\n"
        "In this folder, for text on standard input:\n\n"
        f"    taskmoe translate .{named}\n\n{run}"
    )


def _in_fairseq(manifest: Manifest, subnet: Subnet) -> str:
    source, target = next(iter(manifest.directions)).split("-")
    if manifest.format == "fairseq":
        flags = stock_flags(subnet)
    else:
        flags = (
            '--user-dir "$(taskmoe user-dir)" --task translation_task_moe '
            f"-s {source} -t {target}"
        )
    spm = manifest.sentencepiece_model
    pieces = f" --bpe sentencepiece --sentencepiece-model {spm}" if spm else ""
    return (
        "or with fairseq:\n\n"
        f"    fairseq-interactive . --path model.pt {flags}{pieces}\n\n"
        "For a binarized test set in the folder DATA:\n\n"
        f"    fairseq-generate DATA --path model.pt {flags}{pieces}\n"
    )


def _in_python(manifest: Manifest, pair: str) -> str:
    tags = manifest.directions[pair]
    search = "beam_size=4"
    if tags["target"]:
        search += f", target_prefix=[{tags['target']}]"
    longest = manifest.max_target_pieces + len(tags["target"])
    if longest < DECODING_LENGTH:  # the model has no positions beyond
        search += f", max_decoding_length={longest}"
    cut = f"[{len(tags['target'])}:]" if tags["target"] else ""
    lines = ["import ctranslate2", 'translator = ctranslate2.Translator(".")']
    if manifest.sentencepiece_model:
        lines += [
            "import sentencepiece",
            "spm = sentencepiece.SentencePieceProcessor("
            f'model_file="{manifest.sentencepiece_model}")',
            f'pieces = {tags["source"]} + spm.encode("...", out_type=str)',
            f"found = translator.translate_batch([pieces], {search})",
            f"print(spm.decode(found[0].hypotheses[0]{cut}))",
        ]
    else:
        lines += [
            f'pieces = {tags["source"]} + "...".split()',
            f"found = translator.translate_batch([pieces], {search})",
            f"print(found[0].hypotheses[0]{cut})",
        ]
    return f"or in Python ({pair}):\n\n" + "".join(f"    {line}\n" for line in lines)

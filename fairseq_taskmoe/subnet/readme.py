"""The commands that run an extracted model, for the README of its folder, by format."""

import shlex
from typing import List

from ..checkpoint.contents import TrainedModel
from ..engines.manifest import Manifest
from ..metrics.lang_pairs import split_pair
from .extract import Subnet
from .stock_flags import STOCK_TASK, generation_flags, training_flags

DECODING_LENGTH = 256  # CTranslate2's default


def with_plugin(manifest: Manifest, subnet: Subnet, trained: TrainedModel) -> str:
    """Return how fairseq's commands run the format `taskmoe`, with the plugin."""
    pair = subnet.lang_pairs[0]
    source, target = split_pair(pair)
    flags = (
        '--user-dir "$(taskmoe user-dir)" --task translation_task_moe '
        f"-s {source} -t {target}{_pieces(manifest)}"
    )
    return _translating(flags, source, target)


def with_stock_fairseq(manifest: Manifest, subnet: Subnet, trained: TrainedModel) -> str:
    """Return how fairseq's commands run the format `fairseq`, and other programs convert it."""
    pair = subnet.lang_pairs[0]
    source, target = split_pair(pair)
    flags = shlex.join(generation_flags(subnet)) + _pieces(manifest)
    return (
        f"{_translating(flags, source, target)}\n"
        f"The loss of {pair} in DATA:\n\n"
        f"    fairseq-validate DATA --path model.pt --task {STOCK_TASK} --valid-subset test "
        "--max-tokens 4096 --required-batch-size-multiple 1\n\n"
        "To train it further on DATA, binarized in the same way (`--restore-file` instead of "
        "`--finetune-from-model` works too):\n\n"
        "    fairseq-train DATA --finetune-from-model model.pt --save-dir finetuned "
        f"{shlex.join(training_flags(trained, subnet))} --optimizer adam --lr 0.0001 "
        "--max-tokens 4096\n\n"
        "torch from version 2.6 on reads the checkpoints of that training, to resume it or to "
        "translate, only with `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1` before the command.\n\n"
        "For CTranslate2, which is given the tags with each sentence (`taskmoe extract --format "
        "ctranslate2` makes a smaller model):\n\n"
        "    ct2-fairseq-converter --unsafe_deserialization --model_path model.pt --data_dir . "
        f"--source_lang {source} --target_lang {target} --output_dir ct2\n\n"
        "`translate` of fairseq's hub does not work with its multilingual tasks. "
        f"{as_code(f'Instead, in Python ({pair})', _hub_lines(manifest, pair))}"
    )


def _translating(flags: str, source: str, target: str) -> str:
    return (
        "or with fairseq:\n\n"
        f"    fairseq-interactive . --path model.pt {flags}\n\n"
        f"A test set, cut into pieces in the files TEXT.{source} and TEXT.{target}, is binarized "
        "with the dictionary of this folder, and translated:\n\n"
        f"    fairseq-preprocess -s {source} -t {target} --testpref TEXT --destdir DATA "
        f"--srcdict dict.{source}.txt --tgtdict dict.{target}.txt\n"
        f"    fairseq-generate DATA --path model.pt {flags}\n"
    )


def _pieces(manifest: Manifest) -> str:
    spm = manifest.sentencepiece_model
    return f" --bpe sentencepiece --sentencepiece-model {spm}" if spm else ""


def _hub_lines(manifest: Manifest, pair: str) -> List[str]:
    source, target = split_pair(pair)
    tags = manifest.directions[pair]["target"]
    settings = f'source_lang="{source}", target_lang="{target}"'
    if manifest.sentencepiece_model:
        settings += f', bpe="sentencepiece", sentencepiece_model="{manifest.sentencepiece_model}"'
    cut = f"[{len(tags)}:]" if tags else ""
    return [
        "from fairseq.models.transformer import TransformerModel",
        f'hub = TransformerModel.from_pretrained(".", "model.pt", ".", {settings})',
        "generator = hub.task.build_generator(hub.models, hub.cfg.generation)",
        'sentence = hub.encode("...")',
        "data = hub.task.build_dataset_for_inference([sentence], [len(sentence)])",
        "found = hub.task.inference_step(generator, hub.models, data.collater([data[0]]))",
        f'print(hub.decode(found[0][0]["tokens"]{cut}))',
    ]


def with_ctranslate2(manifest: Manifest, subnet: Subnet, trained: TrainedModel) -> str:
    """Return how CTranslate2 runs the format `ctranslate2`, in Python."""
    pair = subnet.lang_pairs[0]
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
    return as_code(f"or in Python ({pair})", lines)


def as_code(title: str, lines: List[str]) -> str:
    """Return lines of code in Markdown, below a title."""
    return f"{title}:\n\n" + "".join(f"    {line}\n" for line in lines)

"""The work of a search, counted while it runs once: operations, weights read, memory.

Shapes: B sentences, S positions, K choices.
"""

import gc
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import torch.nn as nn

from ...modules.moe_layer import MoELayer
from ...modules.routers import RouterOutput
from ...names import EXPERTS
from ..resources import counting_flops, peak_bytes

# weights that a decoding step does not read completely
ONLY_ROWS = ("embed_tokens.", "embed_positions.")  # the rows of the last words
ONCE_PER_SENTENCE = ("encoder_attn.k_proj.", "encoder_attn.v_proj.")  # their results are cached

ChosenExperts = Dict[str, List[Set[int]]]  # by MoE layer, for each of its calls


class SearchWork(NamedTuple):
    """The work of one search."""

    flops: int  # of matrix products and attention, in the encoder and all steps
    peak_bytes: int  # the peak, without the models
    experts_per_step: float  # chosen by an MoE layer's tokens in a decoding step; 0 if dense
    weight_bytes_per_step: int  # the decoder weights that a step reads at least


def count_work(
    search: Callable[[], Any], model: nn.Module, steps: int, device: str,
    held: Callable[[ChosenExperts], ChosenExperts] = lambda chosen: chosen,
) -> SearchWork:
    """Run a search of a number of decoding steps, and return its work.

    held maps the experts that tokens of this process chose to those that this process computes.
    """
    gc.collect()  # memory that is freed during the search would reduce the peak
    with counting_flops() as flops, counting_experts(model) as chosen:
        peak = peak_bytes(search, [], device)
        return SearchWork(flops(), peak, *weights_read(model, held(chosen), steps))


@contextmanager
def counting_experts(model: nn.Module) -> Iterator[ChosenExperts]:
    """Yield the experts that each MoE layer's tokens chose, by layer, with a set for each call.

    They are taken from the routers' outputs, whatever dispatches and computes the tokens.
    """
    chosen: ChosenExperts = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(router: nn.Module, args: Any, routing: RouterOutput) -> None:
            kept = (routing.gates > 0) & args[1].token_mask.unsqueeze(2)  # (B, S, K)
            experts = routing.expert_ids.expand(kept.shape)[kept]
            chosen.setdefault(name, []).append(set(experts.unique().tolist()))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, MoELayer):
                handle = module.router.register_forward_hook(make_hook(name))
                stack.callback(handle.remove)
        yield chosen


def weights_read(model: nn.Module, chosen: ChosenExperts, steps: int) -> Tuple[float, int]:
    """Return experts per layer and step, and bytes of the weights that a decoding step reads.

    chosen has the experts of each of the `steps` calls of a decoder layer, and of the encoder.
    """
    per_step = {
        name: sum(map(len, calls)) / steps
        for name, calls in chosen.items() if name.startswith("decoder.")
    }
    read = 0.0
    for name, parameter in model.get_submodule("decoder").named_parameters(remove_duplicate=False):
        if name.startswith(ONLY_ROWS) or any(part in name for part in ONCE_PER_SENTENCE):
            continue
        fraction = 1.0
        if EXPERTS in name:
            layer = f"decoder.{name.partition(EXPERTS)[0]}.moe"
            fraction = per_step[layer] / parameter.size(0)
        read += fraction * parameter.nbytes
    return sum(per_step.values()) / max(1, len(per_step)), round(read)

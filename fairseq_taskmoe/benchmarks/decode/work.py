"""What a search has to do, counted while it runs once: operations, weights to read, memory.

Shapes: B sentences, S positions, K choices.
"""

import gc
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import torch.nn as nn

from ...modules.moe_layer import MoELayer
from ...modules.routers import RouterOutput
from ..flops import counting_flops
from ..memory import peak_bytes

# weights that a decoding step does not read whole
ROWS_ALONE = ("embed_tokens.", "embed_positions.")  # the rows of the last words
ONCE_A_SENTENCE = ("encoder_attn.k_proj.", "encoder_attn.v_proj.")  # their results are kept
EXPERTS = ".moe.experts."  # those that a token chose

Chosen = Dict[str, List[Set[int]]]  # by MoE layer, for each time that it was called


class Work(NamedTuple):
    """What one search did."""

    flops: int  # of matrix products and attention, encoder and all steps together
    peak_bytes: int  # held at once, beyond the models
    experts_per_step: float  # that an MoE layer's tokens chose in a decoding step; 0 if dense
    weight_bytes_per_step: int  # of the decoder, which a step has to read at the least


def count_work(
    search: Callable[[], Any], model: nn.Module, steps: int, device: str,
    held: Callable[[Chosen], Chosen] = lambda chosen: chosen,
) -> Work:
    """Run a search of a number of decoding steps, and return what it did.

    held makes, of the experts that tokens of this process chose, those that this process computes.
    """
    gc.collect()  # what is freed meanwhile would be taken from the peak
    with counting_flops() as flops, counting_experts(model) as chosen:
        peak = peak_bytes(search, [], device)
        return Work(flops(), peak, *weights_read(model, held(chosen), steps))


@contextmanager
def counting_experts(model: nn.Module) -> Iterator[Chosen]:
    """Give the experts that each MoE layer's tokens chose, by layer, a set for each call.

    Counted from what routers decide; how rows are moved and computed takes no part in it.
    """
    chosen: Chosen = {}

    def listen(name: str) -> Callable[..., None]:
        def note(router: nn.Module, args: Any, routing: RouterOutput) -> None:
            kept = (routing.gates > 0) & args[1].token_mask.unsqueeze(2)  # (B, S, K)
            experts = routing.expert_ids.expand(kept.shape)[kept]
            chosen.setdefault(name, []).append(set(experts.unique().tolist()))

        return note

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, MoELayer):
                handle = module.router.register_forward_hook(listen(name))
                stack.callback(handle.remove)
        yield chosen


def weights_read(model: nn.Module, chosen: Chosen, steps: int) -> Tuple[float, int]:
    """Return experts per layer and step, and bytes of the weights that a decoding step reads.

    chosen are the experts of each of `steps` calls of each layer, and the encoder's.
    """
    per_step = {
        name: sum(map(len, calls)) / steps
        for name, calls in chosen.items() if name.startswith("decoder.")
    }
    read = 0.0
    for name, parameter in model.get_submodule("decoder").named_parameters(remove_duplicate=False):
        if name.startswith(ROWS_ALONE) or any(part in name for part in ONCE_A_SENTENCE):
            continue
        share = 1.0
        if EXPERTS in name:
            layer = f"decoder.{name.partition(EXPERTS)[0]}.moe"
            share = per_step[layer] / parameter.size(0)
        read += share * parameter.nbytes
    return sum(per_step.values()) / max(1, len(per_step)), round(read)

"""Activation functions of feed-forward networks, by the names of --activation-fn."""

from typing import Any, Callable

import torch.nn.functional as F
from fairseq import utils
from torch import Tensor

# swish: x * sigmoid(x), of Marian's models; fairseq lists none
ACTIVATIONS = [*utils.get_available_activation_fns(), "swish"]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function of a name in ACTIVATIONS."""
    function: Any = F.silu if name == "swish" else utils.get_activation_fn(name)
    return function

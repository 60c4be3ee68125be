"""Which models the recipe trains, and with which flags."""

from typing import List, NamedTuple, Optional, Tuple

from examples.demo.prepare import DIRECTIONS
from examples.demo.train import FLAGS

HELD_OUT = ("gu", "fi")  # chosen before any run: a script of its own, and a script that others have
NEW = tuple(pair for pair in DIRECTIONS if set(pair.split("-")) & set(HELD_OUT))
OLD = tuple(pair for pair in DIRECTIONS if pair not in NEW)
TOKENS = 2400  # in an update, of one process; the demo's two have 1,200 each
EXPERTS, MORE_EXPERTS = 16, 16 + 2 * len(NEW)  # before, and with two for each new direction
FREEZE = ("--freeze-tasks", ",".join(OLD))
NEW_EXPERTS = ("--init-task", ",".join(f"{pair}=new" for pair in NEW))


class Model(NamedTuple):
    """A model to train, and the directions that it is scored on."""

    name: str
    title: str
    trained: Tuple[str, ...]
    scored: Tuple[str, ...]
    updates: int
    experts: int = MORE_EXPERTS
    start: Optional[str] = None  # name of the model whose weights it takes over
    flags: Tuple[str, ...] = ()
    data: str = "data-bin"

    def command(self, seed: int) -> List[str]:
        """Return the flags of fairseq-train: the demo's, and those that replace them."""
        updates = str(self.updates)
        return [
            *FLAGS.split(), "--lang-pairs", ",".join(self.trained), "--encoder-moe-router", "pair",
            "--decoder-moe-router", "pair", "--moe-expert-count", str(self.experts),
            "--max-tokens", str(TOKENS), "--max-update", updates, "--total-num-update", updates,
            "--seed", str(seed), "--save-interval-updates", "0", "--disable-validation",
            *self.flags,
        ]


MODELS = (
    Model("base", "13 languages", OLD, OLD, 900, EXPERTS),
    Model("scratch", "15 languages from the start", DIRECTIONS, DIRECTIONS, 1000),
    Model("frozen", "others frozen", NEW, DIRECTIONS, 250, start="base",
          flags=(*FREEZE, *NEW_EXPERTS)),
    # one update with a learning rate of 0 writes the model with a smaller dictionary
    Model("base_words", "13 languages, without words of the two", OLD, (), 1, EXPERTS, "base",
          ("--lr", "0"), "data-bin-old"),
    Model("frozen_words", "others frozen, with new words", NEW, DIRECTIONS, 250,
          start="base_words", flags=(*FREEZE, *NEW_EXPERTS)),
    Model("tuned", "fine-tuned on all 30 directions", DIRECTIONS, DIRECTIONS, 250, start="base",
          flags=NEW_EXPERTS),
    Model("tuned_new", "fine-tuned on the 4 new directions", NEW, NEW, 250, start="base",
          flags=NEW_EXPERTS),
)

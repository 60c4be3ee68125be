"""The summary of routing: means by hand, and those of a model."""

import numpy as np

from fairseq_taskmoe.routing.shares import RoutingShares
from fairseq_taskmoe.routing.similarity import cosine, jensen_shannon
from fairseq_taskmoe.routing.summary import directions_of, save_summary, summary_rows

PAIRS = ["de-en", "fr-en", "zh-en", "en-de", "en-fr", "en-zh", "fr-de"]


def test_directions_are_grouped_by_the_most_frequent_language():
    into, out_of = directions_of(PAIRS)
    assert into == ("xx-en", "into en", [0, 1, 2])
    assert out_of == ("en-xx", "from en", [3, 4, 5])
    assert [one.name for one in directions_of(["en-de"])] == ["xx-en", "en-xx"]
    assert [one.name for one in directions_of(["de-fr", "zh-de"])] == ["xx-de", "de-xx"]


def test_means_by_hand():
    rows = np.array([
        [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0.4, 0.4, 0.2],
        [0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0],
    ])
    head, into, out_of = summary_rows(RoutingShares(PAIRS, {("decoder", 3): rows}, {}))
    # both pairs with zh-en are the same, that of de-en and fr-en is 1; Jaccard: {0, 1}, {1, 2}
    expected = [(1 + 2 * cosine(rows)[0, 2]) / 3, (1 + 2 * jensen_shannon(rows)[0, 2]) / 3,
                (1 + 2 / 3) / 3, 2]
    assert into == ("decoder", "3", "xx-en", "3", *(f"{mean:.3f}" for mean in expected))
    # en-zh has no text; 0.9 is 80 % and more
    assert out_of[:4] == ("decoder", "3", "en-xx", "2") and out_of[-2:] == ("0.000", "1.000")
    assert head == ("side", "layer", "directions", "pairs", "cosine", "jensen_shannon", "jaccard",
                    "experts_in_use")


def test_a_single_direction_has_no_summary(tmp_path):
    shares = RoutingShares(["en-de", "de-en"], {("encoder", 0): np.eye(2)}, {})
    save_summary(shares, tmp_path / "summary.tsv")
    assert (tmp_path / "summary.tsv").read_text().count("\n") == 1

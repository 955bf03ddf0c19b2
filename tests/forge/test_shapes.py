"""The shapes that ship, and samples made of them."""

from __future__ import annotations

import pytest

from m2gym.core.errors import UnknownIdError
from m2gym.forge.shapes import recorded, shape
from m2gym.forge.tree import build_tree


@pytest.mark.parametrize("found", recorded().values(), ids=lambda found: found.agent)
def test_samples_make_the_recorded_tree(found):
    tree = build_tree(found.tokens(50_000))
    assert tree.tokens == sum(found.lengths_N)
    lengths = (tree.layout.end_N - tree.layout.start_N).tolist()
    assert sorted(lengths) == sorted(found.lengths_N)
    assert sum(s.trained_T.sum() for s in tree.samples) == sum(n for *_, n in found.samples)
    # Four runs that begin with one prompt, each with several completions.
    assert len(found.samples) >= 4 * 2
    assert tree.unmerged_tokens == sum(length for _, length, _ in found.samples)
    assert tree.unmerged_tokens > 3 * tree.tokens


def test_another_agent_is_named():
    with pytest.raises(UnknownIdError, match="mini-swe-agent"):
        shape("mini-swe")

"""Random samples that share prefixes as agents' do: groups, chains, rewritten histories, forks."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from m2gym.forge.tree import Sample


def random_samples(rng: np.random.Generator, count: int, vocabulary: int = 61) -> list[Sample]:
    samples: list[Sample] = []
    for _ in range(count):
        kind = rng.choice(["new", "group", "chain", "fork", "same"])
        own = rng.integers(0, vocabulary, rng.integers(1, 7))
        if kind == "new" or not samples:
            prompt = rng.integers(0, vocabulary, rng.integers(1, 9))
        else:
            other = samples[rng.integers(len(samples))].ids_T
            if kind == "chain":
                prompt = np.concatenate([other, rng.integers(0, vocabulary, rng.integers(0, 4))])
            elif kind == "same":
                prompt, own = other[:1], other[1:]
            else:
                prompt = other[: rng.integers(1, len(other) + 1)]
        if len(own) == 0:
            own = rng.integers(0, vocabulary, 1)
        ids = np.concatenate([prompt, own]).astype(np.int64)
        trained = np.zeros(len(ids), dtype=bool)
        trained[len(prompt) :] = rng.random(len(own)) < 0.8
        trained[-1] = True
        old = -rng.random(int(trained.sum())) * 3
        samples.append(Sample(ids, trained, old))
    return samples


@st.composite
def sample_lists(draw: st.DrawFn, most: int = 9, vocabulary: int = 61) -> list[Sample]:
    seed = draw(st.integers(0, 2**32 - 1))
    return random_samples(np.random.default_rng(seed), draw(st.integers(1, most)), vocabulary)

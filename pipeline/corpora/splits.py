"""Splits without leaks: pairs that share a side form a component, and a component lies in one split only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LARGEST_HELD_OUT = 50
"""Components of more pairs stay in training: in the test set one of them would weigh as much as 50 sentences."""


def identities(lines: Iterable[str]) -> Ints:
    """Return a number for every line, the same for equal lines, counted in order of first appearance."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(line, len(known)) for line in lines], dtype=np.int64)


def component_labels(sources: Sequence[str], targets: Sequence[str], *, one_language: bool = False) -> Ints:
    """Return each pair's connected component (n,), numbered from 0 in order of first appearance.

    Pairs are edges between source and target sentences; two pairs that share a side are in one component. Equal text on
    two sides is a link only in `one_language`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(sources):
        return np.zeros(0, dtype=np.int64)
    if one_language:
        left, right = np.split(identities([*sources, *targets]), 2)
    else:
        left = identities(sources)
        right = identities(targets) + left.max() + 1
    size = int(max(left.max(), right.max())) + 1
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    nodes = connected_components(graph, directed=False)[1]
    _, first, labels = np.unique(nodes[left], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[labels]


def random_subset(labels: Ints, max_pairs: int, rng: np.random.Generator) -> Ints:
    """Return the indices, in order, of whole components drawn at random, at most `max_pairs` pairs in all."""
    sizes = np.bincount(labels)
    room = max_pairs
    chosen = np.zeros(len(sizes), dtype=bool)
    for component in rng.permutation(len(sizes)).tolist():
        if sizes[component] <= room:
            chosen[component] = True
            room -= int(sizes[component])
            if not room:
                break
    return np.flatnonzero(chosen[labels])


def sources_per_component(labels: Ints, source_ids: Ints) -> Ints:
    """Return the number of distinct source sentences of every component."""
    first = np.unique(source_ids, return_index=True)[1]
    return np.bincount(labels[first], minlength=int(labels.max()) + 1)


def held_out_candidates(labels: Ints, rng: np.random.Generator) -> Ints:
    """Return the components that may be held out, in random order: those of at most LARGEST_HELD_OUT pairs."""
    sizes = np.bincount(labels)
    order = rng.permutation(len(sizes))
    return order[sizes[order] <= LARGEST_HELD_OUT]


def fill(candidates: Ints, sizes: Ints, wanted: int) -> tuple[Ints, Ints]:
    """Return components, taken in order, whose `sizes` add up to `wanted` (less when they run out), and the rest."""
    taken, rest, room = [], [], wanted
    for component in candidates.tolist():
        if sizes[component] <= room:
            taken.append(component)
            room -= int(sizes[component])
        else:
            rest.append(component)
    return np.array(taken, dtype=np.int64), np.array(rest, dtype=np.int64)


def crossing(
    sources: Sequence[str], targets: Sequence[str], *, held_sources: Iterable[str], held_targets: Iterable[str]
) -> NDArray[np.bool_]:
    """Return which pairs (n,) share a side with held-out pairs."""
    left, right = set(held_sources), set(held_targets)
    pairs = zip(sources, targets, strict=True)
    return np.fromiter((s in left or t in right for s, t in pairs), dtype=bool, count=len(sources))

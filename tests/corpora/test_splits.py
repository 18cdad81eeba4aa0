"""Components: found as a plain union-find finds them, and never divided."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import splits

edges = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30)


def plain_labels(rows: list[tuple[int, int]]) -> list[int]:
    """Label pairs by merging until nothing changes."""
    labels = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for i, (a, b) in enumerate(rows):
            for j, (c, d) in enumerate(rows):
                if (a == c or b == d) and labels[i] != labels[j]:
                    labels[i] = labels[j] = min(labels[i], labels[j])
                    changed = True
    return [sorted(set(labels)).index(label) for label in labels]


@given(edges)
def test_labels_are_the_connected_components(rows: list[tuple[int, int]]) -> None:
    found = splits.component_labels([f"s{a}" for a, _ in rows], [f"t{b}" for _, b in rows])
    assert found.tolist() == plain_labels(rows)


def test_equal_text_on_two_sides_is_no_link() -> None:
    assert splits.component_labels(["Tom", "Taxi"], ["Taxi", "Tom"]).tolist() == [0, 1]
    assert splits.component_labels(["Tom", "Taxi"], ["Taxi", "Tom"], one_language=True).tolist() == [0, 0]
    assert splits.component_labels(["a", "c", "b"], ["b", "d", "e"], one_language=True).tolist() == [0, 1, 0]
    assert splits.component_labels(["a", "b", "a"], ["a", "b", "a"], one_language=True).tolist() == [0, 1, 0]
    assert splits.component_labels([], []).tolist() == []
    assert splits.component_labels([], [], one_language=True).tolist() == []


@given(edges, st.integers(1, 40))
def test_subset_is_whole_components(rows: list[tuple[int, int]], max_pairs: int) -> None:
    labels = splits.component_labels([f"s{a}" for a, _ in rows], [f"t{b}" for _, b in rows])
    chosen = splits.random_subset(labels, max_pairs, np.random.default_rng(0))
    assert len(chosen) <= max_pairs
    assert not set(labels[chosen]) & set(np.delete(labels, chosen))
    if max_pairs >= len(rows):
        assert len(chosen) == len(rows)


def test_sources_are_counted_once() -> None:
    sources = ["a", "a", "b", "c"]
    labels = splits.component_labels(sources, ["1", "2", "2", "3"])
    assert labels.tolist() == [0, 0, 0, 1]
    assert splits.sources_per_component(labels, splits.identities(sources)).tolist() == [2, 1]


def test_large_components_stay_in_training() -> None:
    labels = np.array([0] * (splits.LARGEST_HELD_OUT + 1) + [1] * splits.LARGEST_HELD_OUT + [2])
    assert sorted(splits.held_out_candidates(labels, np.random.default_rng(0))) == [1, 2]


def test_fill_is_exact_and_keeps_the_rest() -> None:
    sizes = np.array([3, 2, 4, 1, 1])
    taken, rest = splits.fill(np.array([2, 0, 1, 3, 4]), sizes, 6)
    assert (taken.tolist(), rest.tolist()) == ([2, 1], [0, 3, 4])
    taken, rest = splits.fill(np.array([0, 1]), sizes, 9)
    assert (taken.tolist(), rest.tolist()) == ([0, 1], [])


def test_crossing_on_either_side() -> None:
    shared = splits.crossing(["a", "b", "c"], ["1", "2", "3"], held_sources=["a", "3"], held_targets=["2", "c"])
    assert shared.tolist() == [True, True, False]

"""From a CorpusSpec to a prepared directory: read, clean, split by component, learn the tokenizer, encode, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora import splits
from pipeline.corpora.card import origin, readme, split_statistics, write_card
from pipeline.corpora.cleaning import CleanPairs, clean
from pipeline.corpora.prepared import write_split
from pipeline.corpora.sources import files_pairs, open_source
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import encode, train_tokenizer
from pipeline.corpora.tokenizers_used import Tokenizers
from pipeline.errors import StudyError
from pipeline.files import atomic_path
from pipeline.pair_corpus import CorpusSpec

HELD_OUT = ("test", "valid")  # in the order in which they are drawn


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """Pairs with their tokens, and which have more than max_tokens on a side."""

    pairs: CleanPairs
    source: TokenArray
    target: TokenArray
    over_long: NDArray[np.bool_]


def _encode(tokenizers: Tokenizers, pairs: CleanPairs, spec: CorpusSpec) -> _Encoded:
    source = TokenArray(*encode(tokenizers.source, pairs.sources))
    target = TokenArray(*encode(tokenizers.target, pairs.targets))
    longest = np.maximum(source.lengths, target.lengths)
    over_long = longest > spec.max_tokens
    if spec.on_too_long == "error" and over_long.any():
        first = int(np.argmax(over_long))
        raise StudyError(
            f"{pairs.where}, line {pairs.numbers[first]}: {longest[first]} tokens, more than corpus.max_tokens "
            f"{spec.max_tokens}; raise it, shorten the line or set corpus.on_too_long: drop"
        )
    return _Encoded(pairs=pairs, source=source, target=target, over_long=over_long)


def _given(spec: CorpusSpec) -> dict[str, tuple[CleanPairs, dict[str, int]]]:
    """Return the validation and test pairs that the user gives as files, cleaned, with their counts."""
    found = {}
    for name in HELD_OUT:
        paths = [getattr(spec, f"{name}_{side}_path") for side in ("source", "target")]
        if paths.count(None) == 1:
            raise StudyError(f"corpus.{name}_source_path and corpus.{name}_target_path: give both or neither")
        if None not in paths:
            pairs = files_pairs(*paths)
            where = f"{paths[0]} and {paths[1]}"
            found[name] = clean(pairs, where=where, on_empty=spec.on_empty, on_bad_utf8=spec.on_bad_utf8)
    return found


def _without_crossing(pairs: CleanPairs, held: list[CleanPairs], spec: CorpusSpec) -> tuple[CleanPairs, int]:
    """Return the pairs that share no side with held-out ones, and how many did."""
    sources = [line for part in held for line in part.sources]
    targets = [line for part in held for line in part.targets]
    shared = splits.crossing(pairs.sources, pairs.targets, held_sources=sources, held_targets=targets)
    if shared.any() and spec.on_crossing == "error":
        number = pairs.numbers[int(np.argmax(shared))]
        names = " and ".join(part.where for part in held)
        raise StudyError(
            f"{pairs.where}, line {number}: shares a sentence with {names}; remove it or set corpus.on_crossing: drop"
        )
    return pairs.take(np.flatnonzero(~shared)), int(shared.sum())


def _aims(needed: int, available: int) -> Iterator[int]:
    """Yield how many source sentences to set aside: some more than needed, as some prove over-long, then ever more."""
    aim = max(needed, min(needed + needed // 10 + 20, available // 2)) if needed else 0
    yield aim
    while 0 < aim < available:
        aim = min(2 * aim, available)
        yield aim


def _learnt(lines: Iterator[str], spec: CorpusSpec) -> Tokenizers:
    joint = train_tokenizer(lines, vocab_size=spec.vocab_size)
    return Tokenizers(source=joint, target=joint)


def _draw(
    pairs: CleanPairs, labels: NDArray[np.int64], wanted: dict[str, int], spec: CorpusSpec
) -> tuple[Tokenizers, _Encoded, dict[str, NDArray[np.int64]]]:
    """Return the tokenizers, the encoded pairs and, for every split to draw, its components in random order.

    A tokenizer that is learnt sees nothing of what is drawn: candidates are set aside first, those left over go back to
    training.
    """
    given = Tokenizers.of_model(spec.tokenizer, vocab_size=spec.vocab_size) if spec.tokenizer else None
    needed = sum(wanted.values())
    sizes = splits.sources_per_component(labels, splits.identities(pairs.sources))
    candidates = splits.held_out_candidates(labels, np.random.default_rng([spec.split_seed, 1]))
    cumulative = np.cumsum(sizes[candidates])
    available = int(cumulative[-1]) if len(cumulative) else 0
    for aim in _aims(needed, available) if needed <= available else ():
        pool = candidates[: int(np.searchsorted(cumulative, aim)) + 1 if aim else 0]
        learn = np.flatnonzero(~np.isin(labels, pool)).tolist()
        if not learn:
            break
        lines = (side[i] for side in (pairs.sources, pairs.targets) for i in learn)
        tokenizers = given or _learnt(lines, spec)
        encoded = _encode(tokenizers, pairs, spec)
        rest = pool[~np.isin(pool, labels[encoded.over_long])]
        drawn = {}
        for name, size in wanted.items():
            drawn[name], rest = splits.fill(rest, sizes, size)
        if all(sizes[drawn[name]].sum() == size for name, size in wanted.items()):
            return tokenizers, encoded, drawn
    wishes = " and ".join(f"{size} for {name}" for name, size in wanted.items())
    raise StudyError(
        f"{pairs.where}: {len(pairs)} pairs have {available} source sentences that may be held out, too few of at "
        f"most {spec.max_tokens} tokens for {wishes} beside training; lower corpus.valid_sentences and "
        "corpus.test_sentences, or raise corpus.max_pairs or corpus.max_tokens"
    )


def _write_held_out(
    directory: Path, name: str, encoded: _Encoded, order: NDArray[np.int64], *, over_long: int
) -> dict[str, Any]:
    """Write validation or test from the pairs at `order`: one entry a source, with all its references."""
    pairs = encoded.pairs.take(order)
    references: dict[str, list[str]] = {}
    first: list[int] = []
    for position, (line, reference) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        if line not in references:
            references[line] = []
            first.append(position)
        references[line].append(reference)
    entries = np.array(first, dtype=np.int64)
    components = splits.component_labels(pairs.sources, pairs.targets)[entries]
    source, target = encoded.source.take(order[entries]), encoded.target.take(order[entries])
    write_split(
        directory,
        name,
        sources=list(references),
        references=list(references.values()),
        source=source,
        target=target,
        components=components,
    )
    return split_statistics(
        source,
        target,
        pairs=len(pairs),
        unique_sources=len(references),
        references=len(pairs),
        components=components,
        over_long_kept=over_long,
    )


def _write_train(
    directory: Path, encoded: _Encoded, order: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    pairs = encoded.pairs.take(order)
    source, target = encoded.source.take(order), encoded.target.take(order)
    references = [[line] for line in pairs.targets]
    write_split(
        directory,
        "train",
        sources=pairs.sources,
        references=references,
        source=source,
        target=target,
        components=None,
    )
    return split_statistics(
        source,
        target,
        pairs=len(pairs),
        unique_sources=len(set(pairs.sources)),
        references=len(pairs),
        components=labels[order],
        over_long_kept=0,
    )


def _facts(spec: CorpusSpec, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return what the card says whatever was drawn."""
    sizes = Counter(labels.tolist()).values()
    rules = ("valid_sentences", "test_sentences", "max_pairs", "max_tokens", "split_seed")
    policies = ("on_empty", "on_bad_utf8", "on_too_long", "on_crossing")
    return {
        **spec.model_dump(include={"source_lang", "target_lang", "license", "credit"}),
        "origin": origin(spec),
        "rules": {
            **spec.model_dump(include={*rules, *policies}),
            "largest_held_out_component": splits.LARGEST_HELD_OUT,
        },
        "counts": {
            "components": len(sizes),
            "largest_component_pairs": max(sizes),
            "components_too_large_to_hold_out": sum(size > splits.LARGEST_HELD_OUT for size in sizes),
        },
    }


def prepare(spec: CorpusSpec, out: str | Path) -> dict[str, Any]:
    """Write the prepared corpus that `spec` describes to the directory `out`, whole or not at all, and return its card.

    The same data and spec give the same bytes. StudyError on anything wrong with the data or the spec.
    """
    where, raw = open_source(spec)
    pairs, counts = clean(raw, where=where, on_empty=spec.on_empty, on_bad_utf8=spec.on_bad_utf8)
    given = _given(spec)
    held = {name: found for name, (found, _) in given.items()}
    crossing_valid = 0
    if len(held) == 2:
        held["valid"], crossing_valid = _without_crossing(held["valid"], [held["test"]], spec)
    pairs, crossing_train = _without_crossing(pairs, list(held.values()), spec) if held else (pairs, 0)
    available = len(pairs)
    labels = splits.component_labels(pairs.sources, pairs.targets)
    if spec.max_pairs is not None and spec.max_pairs < len(pairs):
        subset = splits.random_subset(labels, spec.max_pairs, np.random.default_rng([spec.split_seed, 0]))
        pairs, labels = pairs.take(subset), np.unique(labels[subset], return_inverse=True)[1]
    if not all(len(part) for part in (pairs, *held.values())):
        raise StudyError(f"{where}: no pair is left beside those shared with the held-out files; give other files")
    wanted = {name: int(getattr(spec, f"{name}_sentences")) for name in HELD_OUT if name not in held}
    tokenizers, encoded, drawn = _draw(pairs, labels, wanted, spec)
    drawn_components = np.concatenate([*drawn.values(), np.zeros(0, dtype=np.int64)]).astype(np.int64)
    train = np.flatnonzero(~np.isin(labels, drawn_components) & ~encoded.over_long)
    if not len(train):
        raise StudyError(f"{where}: no training pair is within {spec.max_tokens} tokens; raise corpus.max_tokens")
    train = np.random.default_rng([spec.split_seed, 2]).permutation(train)
    facts = _facts(spec, labels) | {
        "given_splits": {name: found[1] for name, found in sorted(given.items())},
        "tokenizer": tokenizers.facts(),
    }
    facts["counts"] = (
        counts
        | facts["counts"]
        | {
            "crossing_train": crossing_train,
            "crossing_valid": crossing_valid,
            "not_sampled": available - len(pairs),
            "over_long": int(encoded.over_long.sum()),
        }
    )
    with atomic_path(out) as directory:
        directory.mkdir(parents=True)
        statistics = {"train": _write_train(directory, encoded, train, labels)}
        for name in reversed(HELD_OUT):
            if name in held:
                found = _encode(tokenizers, held[name], spec)
                order, over_long = np.arange(len(held[name])), int(found.over_long.sum())
            else:
                rank = np.full(int(labels.max()) + 1, -1, dtype=np.int64)
                rank[drawn[name]] = np.arange(len(drawn[name]))
                member = np.flatnonzero(rank[labels] >= 0)
                found, order, over_long = encoded, member[np.argsort(rank[labels[member]], kind="stable")], 0
            statistics[name] = _write_held_out(directory, name, found, order, over_long=over_long)
        tokenizers.save(directory / "tokenizer")
        card = facts | {"splits": statistics}
        return write_card(directory, card, readme(card))

"""Labelled sentences cleaned, their classes numbered, and split by component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora import splits
from pipeline.corpora.cleaning import normalise
from pipeline.corpora.encoder_sources import open_sentences
from pipeline.corpora.tables import Row
from pipeline.corpora.words import words_of
from pipeline.errors import StudyError
from pipeline.progress import progress
from pipeline.text_corpus import EncoderCorpusSpec, SentencesSpec

Ints = NDArray[np.int64]
HELD_OUT = ("test", "valid")  # in the order in which they are drawn


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Normalised sentences, or pairs of them, with their classes (n,) and components (n,)."""

    first: list[str]
    second: list[str] | None
    labels: Ints
    components: Ints

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: Ints) -> Sentences:
        """Return the sentences at these positions, in this order."""
        chosen = indices.tolist()
        return Sentences(
            first=[self.first[i] for i in chosen],
            second=None if self.second is None else [self.second[i] for i in chosen],
            labels=self.labels[indices],
            components=self.components[indices],
        )

    def lines(self) -> list[str]:
        """Return one line a sentence; a tab stands between the two of a pair."""
        if self.second is None:
            return self.first
        return [f"{first}\t{second}" for first, second in zip(self.first, self.second, strict=True)]

    def words(self) -> Iterator[str]:
        """Yield what every sentence is compared by, both of a pair."""
        for sentence in (*self.first, *(self.second or ())):
            yield words_of(sentence)


@dataclass(frozen=True, kw_only=True)
class _Cleaned:
    texts: list[tuple[str, ...]]
    labels: list[Any]
    numbers: list[int]
    where: str


def _clean(rows: Iterable[Row], where: str) -> tuple[_Cleaned, dict[str, int]]:
    """Return the distinct sentences with their labels as they stand; raw = malformed + empty + duplicate + kept."""
    counts: Counter[str] = Counter(dict.fromkeys(("raw", "malformed", "empty", "duplicate", "kept"), 0))
    seen: dict[tuple[str, ...], None] = {}
    labels, numbers = [], []
    for number, cells in progress(rows, desc="cleaning", unit="sentence"):
        counts["raw"] += 1
        if cells is None:
            counts["malformed"] += 1
            continue
        *sides, label = cells
        if not all(isinstance(side, str | None) for side in sides):
            raise StudyError(f"{where}, row {number}: holds {type(sides[0]).__name__}, not text; name columns of text")
        texts = tuple(normalise(side or "") for side in sides)
        if label is None or label == "":
            raise StudyError(f"{where}, row {number}: no label; name the right label_column, or remove the row")
        if not all(texts):
            counts["empty"] += 1
        elif (key := (*texts, str(label))) in seen:
            counts["duplicate"] += 1
        else:
            seen[key] = None
            counts["kept"] += 1
            labels.append(label)
            numbers.append(number)
    if not numbers:
        raise StudyError(f"{where}: no usable sentence in {counts['raw']} rows; check the columns, and `where`")
    return _Cleaned(texts=[key[:-1] for key in seen], labels=labels, numbers=numbers, where=where), dict(counts)


def _integer(label: Any) -> int | None:
    try:
        return int(label) if float(label) == int(float(label)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _numbered(parts: dict[str, _Cleaned], classes: int) -> tuple[dict[str, Ints], list[str] | None]:
    """Return every part's classes, 0 to classes - 1, and their names where the labels are no numbers.

    StudyError on a label out of range, and where training has not exactly `classes` of them.
    """
    numbers = {name: [_integer(label) for label in part.labels] for name, part in parts.items()}
    names = None
    if any(None in found for found in numbers.values()):
        names = sorted({str(label) for label in parts["train"].labels})
        known = {label: number for number, label in enumerate(names)}
        numbers = {name: [known.get(str(label)) for label in part.labels] for name, part in parts.items()}
    for name, part in parts.items():
        for row, label, number in zip(part.numbers, part.labels, numbers[name], strict=True):
            if label in (-1, "-1"):
                raise StudyError(
                    f"{part.where}, row {row}: label -1 stands for a hidden label (GLUE's test sets); name another split, "
                    "or hold sentences out of training with corpus.sentences.test_sentences"
                )
            if number is None or (names is None and not 0 <= number < classes):
                right = f"those of training are {', '.join(names)}" if names else f"0 to {classes - 1} are right"
                raise StudyError(
                    f"{part.where}, row {row}: label {label!r}, but {right}; mend it, or corpus.sentences.classes"
                )
    found = sorted(set(numbers["train"]), key=str)
    if len(found) != classes:
        shown = ", ".join(names or map(str, found))
        raise StudyError(
            f"{parts['train'].where}: {len(found)} classes ({shown[:120]}), but corpus.sentences.classes is {classes}; "
            "set it to the number in the data"
        )
    return {name: np.array(values, dtype=np.int64) for name, values in numbers.items()}, names


def _sentences(part: _Cleaned, labels: Ints) -> Sentences:
    sides = [list(side) for side in zip(*part.texts, strict=True)]
    keys = [[words_of(text) for text in side] for side in sides]
    components = splits.component_labels(keys[0], keys[-1], one_language=True)
    return Sentences(first=sides[0], second=sides[1] if len(sides) == 2 else None, labels=labels, components=components)


def _without(sentences: Sentences, held: Sequence[Sentences]) -> tuple[Sentences, int]:
    """Return the sentences that share no text with held-out ones, and how many did."""
    known = {words for part in held for words in part.words()}
    sides = [sentences.first, *([sentences.second] if sentences.second is not None else [])]
    shared = np.array(
        [any(words_of(text) in known for text in texts) for texts in zip(*sides, strict=True)], dtype=bool
    )
    return sentences.take(np.flatnonzero(~shared)), int(shared.sum())


def _drawn(pool: Sentences, wanted: dict[str, int], spec: SentencesSpec, seed: int, where: str) -> dict[str, Ints]:
    """Return the positions of every held-out split's sentences, components whole, and of what is left for training."""
    sizes = np.bincount(pool.components)
    rest = splits.held_out_candidates(pool.components, np.random.default_rng([seed, 11]))
    rank = np.full(len(sizes), -1, dtype=np.int64)
    found: dict[str, Ints] = {}
    for name, size in wanted.items():
        taken, rest = splits.fill(rest, sizes, size)
        rank[taken] = np.arange(len(taken))
        member = np.flatnonzero(np.isin(pool.components, taken))
        found[name] = member[np.argsort(rank[pool.components[member]], kind="stable")]
        if len(member) != size:
            break
    left = np.flatnonzero(rank[pool.components] < 0)
    if any(len(found.get(name, ())) != size for name, size in wanted.items()) or not len(left):
        wishes = " and ".join(f"{size} for {name}" for name, size in wanted.items()) or "training"
        raise StudyError(
            f"{where}: {len(pool)} sentences are too few for {wishes} beside training; lower "
            "corpus.sentences.valid_sentences and test_sentences, or raise max_sentences"
        )
    return found | {"train": np.random.default_rng([seed, 12]).permutation(left)}


def draw_sentences(spec: EncoderCorpusSpec) -> tuple[dict[str, Sentences], dict[str, Any]]:
    """Return the splits, and what their card says of them: counts, given splits, names of the classes.

    Sentences whose words are the same are one component, whatever their case and punctuation, and so are pairs that
    share a sentence; a component lies in one split. StudyError on anything wrong with the data.
    """
    source = spec.sentences
    parts: dict[str, _Cleaned] = {}
    counts: dict[str, dict[str, int]] = {}
    given = [name for name in HELD_OUT if getattr(source, f"{name}_sentences") is None]
    for name in ("train", *given):
        where, rows = open_sentences(source, None if name == "train" else name)
        parts[name], counts[name] = _clean(rows, where)
    numbers, names = _numbered(parts, source.classes)
    found = {name: _sentences(part, numbers[name]) for name, part in parts.items()}
    pool, crossing_valid = found.pop("train"), 0
    if len(found) == 2:
        found["valid"], crossing_valid = _without(found["valid"], [found["test"]])
    pool, crossing_train = _without(pool, list(found.values())) if found else (pool, 0)
    available = len(pool)
    if source.max_sentences is not None and source.max_sentences < available and available:
        rng = np.random.default_rng([spec.split_seed, 10])
        pool = pool.take(
            splits.random_subset(np.unique(pool.components, return_inverse=True)[1], source.max_sentences, rng)
        )
    if not all(len(part) for part in (pool, *found.values())):
        raise StudyError(f"{parts['train'].where}: no sentence is left beside those shared with the given splits")
    pool = replace(pool, components=np.unique(pool.components, return_inverse=True)[1])
    wanted = {name: int(getattr(source, f"{name}_sentences")) for name in HELD_OUT if name not in found}
    drawn = _drawn(pool, wanted, source, spec.split_seed, parts["train"].where)
    found |= {name: pool.take(indices) for name, indices in drawn.items()}
    facts = {
        "counts": counts["train"]
        | {
            "crossing_train": crossing_train,
            "crossing_valid": crossing_valid,
            "not_sampled": available - len(pool),
            "components": len(np.unique(pool.components)),
        },
        "given_splits": {name: counts[name] for name in sorted(given)},
        "classes": source.classes,
        "class_names": names,
    }
    return {name: found[name] for name in ("train", "valid", "test")}, facts

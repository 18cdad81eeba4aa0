"""What a prepared corpus says of itself: card.json counts everything, README.md says it in words."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.prepared import CARD, TokenArray
from pipeline.files import sha256_file, write_json
from pipeline.pair_corpus import CorpusSpec

_FILE_FIELDS = (
    "source_path",
    "target_path",
    "valid_source_path",
    "valid_target_path",
    "test_source_path",
    "test_target_path",
    "path",
)
_ORIGIN_FIELDS = (
    "kind",
    "package",
    "file",
    "sha256",
    "archive_member",
    "inner_member",
    *_FILE_FIELDS,
    "source_column",
    "target_column",
    "dataset_config",
    "dataset_split",
)


def origin(spec: CorpusSpec) -> dict[str, Any]:
    """Return where the data came from, with the SHA-256 of every file that the user named."""
    fields = {name: getattr(spec, name) for name in _ORIGIN_FIELDS if getattr(spec, name) is not None}
    named = [str(fields[name]) for name in _FILE_FIELDS if name in fields]
    hashes = {path: sha256_file(path) for path in named if Path(path).is_file()}
    return fields | ({"sha256_of_files": hashes} if hashes else {})


def split_statistics(
    source: TokenArray,
    target: TokenArray,
    *,
    pairs: int,
    unique_sources: int,
    references: int,
    components: NDArray[np.int64],
    over_long_kept: int,
) -> dict[str, Any]:
    """Return one split's counts; tokens are those of the entries (one reference a source), no special tokens."""
    count = max(len(source), 1)
    totals = {"source": int(source.lengths.sum()), "target": int(target.lengths.sum())}
    return {
        "entries": len(source),
        "pairs": pairs,
        "unique_sources": unique_sources,
        "references": references,
        "components": len(np.unique(components)),
        "over_long_kept": over_long_kept,
        **{f"{side}_tokens": total for side, total in totals.items()},
        **{f"{side}_tokens_per_sentence": round(total / count, 4) for side, total in totals.items()},
        "longest_source_tokens": int(source.lengths.max(initial=0)),
        "longest_target_tokens": int(target.lengths.max(initial=0)),
    }


def _table(statistics: dict[str, dict[str, Any]]) -> list[str]:
    rows = [
        "| split | entries | pairs | components | source tokens | target tokens | tokens a sentence |",
        "|---" * 7 + "|",
    ]
    for name, split in statistics.items():
        counts = [split[key] for key in ("entries", "pairs", "components", "source_tokens", "target_tokens")]
        means = f"{split['source_tokens_per_sentence']:.1f} / {split['target_tokens_per_sentence']:.1f}"
        rows.append(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} | {means} |")
    return rows


def _tokenizer(facts: dict[str, Any]) -> str:
    size, learnt = facts["vocab_size"], facts["kind"] == "joint byte-level BPE"
    sides = f"{facts['source_vocab_size']:,} and {size:,}" if "source_vocab_size" in facts else f"{size:,}"
    return (
        f"a {facts['kind']} of {size:,} tokens, learnt without the sentences held out"
        if learnt
        else (f"{facts['kind']}, of {sides} tokens")
    )


def readme(card: dict[str, Any]) -> str:
    """Return the card in words."""
    counts, rules, given = card["counts"], card["rules"], card["given_splits"]
    place = next(card["origin"][key] for key in ("package", "path", "source_path") if key in card["origin"])
    text = [
        f"# {card['source_lang']}-{card['target_lang']}, prepared",
        f"Sentence pairs from `{place}`. Licence: {card['license']}. Credit: {card['credit']}.",
        f"Of {counts['raw']:,} raw lines, {counts['kept']:,} were kept: {counts['malformed']:,} were malformed, "
        f"{counts['bad_utf8']:,} not UTF-8, {counts['empty']:,} empty on a side, {counts['duplicate']:,} repeated. "
        f"Then {counts['not_sampled']:,} were left out by max_pairs, and {counts['over_long']:,} had more than "
        f"{rules['max_tokens']} tokens on a side. Text is in Unicode NFC with single spaces.",
        "Pairs that share a source or a target sentence form a component, and a component lies in one split only: "
        f"no held-out sentence is in training, on either side. There are {counts['components']:,} components, the "
        f"largest of {counts['largest_component_pairs']:,} pairs; those of more than "
        f"{rules['largest_held_out_component']} pairs stay in training.",
    ]
    if given:
        text.append(
            f"Given as files: {' and '.join(given)}, kept whole, long sentences included. For them "
            f"{counts['crossing_train']:,} training pairs that share a sentence with them were dropped, and "
            f"{counts['crossing_valid']:,} validation pairs that share one with the test set."
        )
    text += [
        "\n".join(_table(card["splits"])),
        "Training has one entry a pair. Validation and test have one a distinct source sentence: its first reference "
        "is the target, `*-references.json` has all of them, `*-components.npy` the component to resample.",
        f"`tokenizer/` is {_tokenizer(card['tokenizer'])}. `*.ids.npy` has the ids of all sentences without "
        "special tokens, one after the other, and "
        "`*.offsets.npy` where each starts. `card.json` has every count and the SHA-256 of every file.",
    ]
    return "\n\n".join(text) + "\n"


def write_card(directory: Path, card: dict[str, Any], text: str) -> dict[str, Any]:
    """Write README.md with `text` and then card.json, which lists every other file's size and SHA-256; return the card."""
    (directory / "README.md").write_text(text, encoding="utf-8")
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    card = card | {
        "format_version": 1,
        "versions": {"tokenizers": version("tokenizers")},
        "files": {
            path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in files
        },
    }
    write_json(directory / CARD, card)
    return card

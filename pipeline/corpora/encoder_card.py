"""What a prepared corpus of text and labelled sentences says of itself in words."""

from __future__ import annotations

from typing import Any


def _place(origin: dict[str, Any]) -> str:
    return str(origin.get("package") or origin.get("path") or ", ".join(origin.get("paths", ())))


def _table(statistics: dict[str, dict[str, Any]], columns: dict[str, str]) -> str:
    rows = [f"| split | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    rows += [f"| {name} | {' | '.join(f'{split[key]:,}' for key in columns)} |" for name, split in statistics.items()]
    return "\n".join(rows)


def _ending(card: dict[str, Any], what: str) -> str:
    return (
        f"`tokenizer/` is a byte-level BPE of {card['tokenizer']['vocab_size']:,} tokens, learnt from the training "
        f"documents alone. {what} `*.offsets.npy` says where each starts. `card.json` has every count and the SHA-256 of "
        "every file."
    )


def _joined(paragraphs: list[str]) -> str:
    return "\n\n".join(paragraphs) + "\n"


def text_readme(card: dict[str, Any]) -> str:
    """Return the card of the text in words."""
    counts, rules = card["counts"], card["rules"]
    return _joined(
        [
            "# Text, prepared",
            f"Documents from `{_place(card['origin'])}`. Licence: {card['license']}. Credit: {card['credit']}.",
            f"Of {counts['raw']:,} raw documents, {counts['kept']:,} were kept: {counts['malformed']:,} were malformed, "
            f"{counts['empty']:,} empty, {counts['duplicate']:,} repeated. Then {counts['hold_held_out_sentences']:,} were "
            "left out because they hold a labelled sentence of validation or test, word for word (sentences of "
            f"{counts['fewest_words_looked_for']} words or more), and {counts['not_sampled']:,} by max_documents. Text is "
            "in Unicode NFC with single spaces.",
            "A document lies in one split, and so do documents of the same words.",
            _table(
                card["splits"],
                {"documents": "documents", "tokens": "tokens", "entries": "blocks", "components": "components"},
            ),
            f"A block is {rules['sequence_tokens']} tokens with its `<s>` and `</s>`, cut from documents that follow each "
            "other; one `</s>` stands between two documents, wherever that falls. Training's last block is filled from the "
            "beginning of its text; the last of validation and test may be shorter. "
            f"{rules['mask_probability']:.0%} of the tokens are scored, special ones never: in training they are drawn anew "
            "every epoch, in validation and test they are the same every time.",
            _ending(
                card, "`*-blocks.ids.npy` has the blocks without their `<s>` and last `</s>`, `*.txt` the documents,"
            ),
        ]
    )


def sentences_readme(card: dict[str, Any]) -> str:
    """Return the card of the labelled sentences in words."""
    counts, rules = card["counts"], card["rules"]
    given = card["given_splits"]
    names = f" ({', '.join(card['class_names'])})" if card["class_names"] else ""
    text = [
        "# Labelled sentences, prepared",
        f"Sentences of {card['classes']} classes{names} from `{_place(card['origin'])}`. Licence: {card['license']}. "
        f"Credit: {card['credit']}.",
        f"Of {counts['raw']:,} raw rows, {counts['kept']:,} were kept: {counts['malformed']:,} were malformed, "
        f"{counts['empty']:,} empty, {counts['duplicate']:,} repeated. Then {counts['not_sampled']:,} were left out by "
        "max_sentences. Text is in Unicode NFC with single spaces.",
        "Sentences of the same words are one component, and so are pairs that share a sentence; a component lies in one "
        "split only.",
    ]
    if given:
        text.append(
            f"Given: {' and '.join(given)}. For them {counts['crossing_train']:,} training sentences that they share were "
            f"dropped, and {counts['crossing_valid']:,} validation sentences that are in the test set."
        )
    columns = {"entries": "sentences", "components": "components", "tokens": "tokens", "truncated": "truncated"}
    text += [
        _table(card["splits"], columns),
        f"Sentences of more than {rules['max_tokens']} tokens, special ones counted, are cut to as many.",
        _ending(
            card,
            "`*-sentences.ids.npy` has the sentences without their `<s>` and `</s>`, `*-labels.npy` the classes, `*.txt` "
            "the whole sentences,",
        ),
    ]
    return _joined(text)


def encoder_readme(card: dict[str, Any]) -> str:
    """Return the card over both in words."""
    splits = card["splits"]
    blocks = ", ".join(f"{name} {split['entries']:,}" for name, split in splits["text"].items())
    sentences = ", ".join(f"{name} {split['entries']:,}" for name, split in splits["sentences"].items())
    return _joined(
        [
            "# Text and labelled sentences, prepared",
            f"Licence: {card['license']}. Credit: {card['credit']}.",
            f"`text/` has blocks of text to pretrain on ({blocks}), `sentences/` sentences of {card['classes']} classes to "
            f"finetune on ({sentences}); both have the same tokenizer of {card['tokenizer']['vocab_size']:,} tokens, and a "
            "card of their own.",
        ]
    )

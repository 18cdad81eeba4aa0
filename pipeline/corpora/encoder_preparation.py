"""From an EncoderCorpusSpec to a prepared directory: text in blocks, labelled sentences, one tokenizer for both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpora.blocks import cut_blocks
from pipeline.corpora.card import write_card
from pipeline.corpora.documents import Documents, draw_documents
from pipeline.corpora.encoder_card import encoder_readme, sentences_readme, text_readme
from pipeline.corpora.encoder_sources import origin
from pipeline.corpora.encoder_splits import ADDED, write_labelled_split, write_text_split
from pipeline.corpora.labelled_sentences import HELD_OUT, Sentences, draw_sentences
from pipeline.corpora.token_array import TokenArray
from pipeline.corpora.tokenizer import EOS_ID, encode, train_encoder_tokenizer
from pipeline.files import atomic_path
from pipeline.text_corpus import EncoderCorpusSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BETWEEN = 2  # </s></s> between the sentences of a pair


def _per(total: int, count: int) -> float:
    return round(total / max(count, 1), 4)


def _write_text(
    directory: Path, name: str, documents: Documents, tokenizer: PreTrainedTokenizerFast, spec: EncoderCorpusSpec
) -> dict[str, Any]:
    texts, components = documents
    tokens = TokenArray(*encode(tokenizer, texts, literally=True))
    blocks, first = cut_blocks(tokens, spec.sequence_tokens - ADDED, endless=name == "train")
    held_out = None if name == "train" else components[first]
    write_text_split(directory, name, documents=texts, blocks=blocks, components=held_out)
    count = int(tokens.lengths.sum())
    separators = len(texts) - (name != "train")
    return {
        "documents": len(texts),
        "entries": len(blocks),
        "components": len(np.unique(components if held_out is None else held_out)),
        "tokens": count,
        "tokens_per_document": _per(count, len(texts)),
        "separators": separators,
        "repeated_tokens": int(blocks.lengths.sum()) - count - separators,
        "longest_tokens": int(blocks.lengths.max(initial=0)) + ADDED,
    }


def fitted(first: TokenArray, second: TokenArray | None, *, max_tokens: int) -> tuple[TokenArray, NDArray[np.bool_]]:
    """Return sentences, or pairs with </s></s> between, cut to max_tokens with <s> and </s>, and which were cut (n,).

    Of a pair the longer sentence is cut, and both to half of the room where both are longer than that; an odd token is the
    longer one's, as in the tokenizers library's own truncation, which cuts what a user gives a finished model.
    """
    added = ADDED if second is None else ADDED + BETWEEN
    room = max_tokens - added
    rows, cut = [], np.zeros(len(first), dtype=bool)
    for i in range(len(first)):
        ids = first[i]
        other = ids[:0] if second is None else second[i]
        cut[i] = len(ids) + len(other) > room
        if second is None:
            rows.append(ids[:room])
            continue
        half = (room + 1) // 2 if len(ids) <= len(other) else room // 2
        kept = min(len(other), max(room - len(ids), half))
        rows.append(np.concatenate([ids[: room - kept], np.full(BETWEEN, EOS_ID, dtype=np.uint16), other[:kept]]))
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return TokenArray(np.concatenate([np.zeros(0, dtype=np.uint16), *rows]), offsets), cut


def _write_sentences(
    directory: Path, name: str, part: Sentences, tokenizer: PreTrainedTokenizerFast, spec: EncoderCorpusSpec
) -> dict[str, Any]:
    sides = [part.first, *([part.second] if part.second is not None else [])]
    encoded = [TokenArray(*encode(tokenizer, side, literally=True)) for side in sides]
    tokens, cut = fitted(encoded[0], encoded[1] if len(encoded) == 2 else None, max_tokens=spec.max_tokens)
    write_labelled_split(
        directory,
        name,
        lines=part.lines(),
        sentences=tokens,
        labels=part.labels,
        components=None if name == "train" else part.components,
    )
    return {
        "entries": len(part),
        "components": len(np.unique(part.components)),
        "per_class": np.bincount(part.labels, minlength=spec.sentences.classes).tolist(),
        "tokens": int(tokens.lengths.sum()),
        "tokens_per_sentence": _per(int(tokens.lengths.sum()), len(part)),
        "longest_tokens": int(tokens.lengths.max(initial=0)) + ADDED,
        "truncated": int(cut.sum()),
    }


def prepare_encoder_corpus(spec: EncoderCorpusSpec, out: str | Path) -> dict[str, Any]:
    """Write the prepared corpus that `spec` describes to the directory `out`, whole or not at all, and return its card.

    `out`/text and `out`/sentences are each a prepared corpus of their own, with the same tokenizer, which is learnt from
    the training documents alone. The same data and spec give the same bytes. StudyError on anything wrong with either.
    """
    sentences, sentence_facts = draw_sentences(spec)
    held_out_words = [words for name in HELD_OUT for words in sentences[name].words()]
    documents, text_facts = draw_documents(spec, held_out_words=held_out_words)
    tokenizer = train_encoder_tokenizer(documents["train"][0], vocab_size=spec.vocab_size, lowercase=spec.lowercase)
    shared = {
        **spec.model_dump(include={"license", "credit"}),
        "tokenizer": {"kind": "byte-level BPE with <mask>", "vocab_size": len(tokenizer)},
    }
    rules = spec.model_dump(include={"sequence_tokens", "max_tokens", "lowercase", "mask_probability", "split_seed"})
    text = {
        "kind": "text",
        **shared,
        **text_facts,
        "origin": origin(spec.text),
        "masking": {"probability": spec.mask_probability, "seed": spec.split_seed},
        "rules": rules | spec.text.model_dump(include={"valid_documents", "test_documents", "max_documents", "html"}),
    }
    labelled = {
        "kind": "sentences",
        **shared,
        **sentence_facts,
        "origin": origin(spec.sentences),
        "rules": rules | spec.sentences.model_dump(include={"valid_sentences", "test_sentences", "max_sentences"}),
    }
    with atomic_path(out) as directory:
        folders = {"text": directory / "text", "sentences": directory / "sentences"}
        for folder in folders.values():
            folder.mkdir(parents=True)
            tokenizer.save_pretrained(str(folder / "tokenizer"))
        text["splits"] = {
            name: _write_text(folders["text"], name, part, tokenizer, spec) for name, part in documents.items()
        }
        labelled["splits"] = {
            name: _write_sentences(folders["sentences"], name, part, tokenizer, spec)
            for name, part in sentences.items()
        }
        write_card(folders["text"], text, text_readme(text))
        write_card(folders["sentences"], labelled, sentences_readme(labelled))
        both = {"text": text, "sentences": labelled}
        card = {
            "kind": "encoder",
            **shared,
            "classes": spec.sentences.classes,
            **{
                fact: {name: part[fact] for name, part in both.items()}
                for fact in ("origin", "rules", "counts", "splits")
            },
        }
        return write_card(directory, card, encoder_readme(card))

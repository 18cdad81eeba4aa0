"""Byte-level BPE, one for both languages or for an encoder: every byte is a token, no text is ever <unk>, decoding is exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.errors import StudyError
from pipeline.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)
ENCODER_SPECIAL_TOKENS = (*SPECIAL_TOKENS, "<mask>")
MASK_ID = 4
FIRST_ORDINARY_ID = len(ENCODER_SPECIAL_TOKENS)
"""In an encoder's vocabulary; in one for translation, 4 is an ordinary token."""
_CHUNK = 2000

_WORDS = r" ?[\p{L}\p{M}]+['’]?| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"
"""What a token never crosses. An apostrophe ends its word, as in French (l' homme): 4 % fewer target tokens."""


def _wrap(tokenizer: Tokenizer, **further: str | AddedToken) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **further,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _learnt(
    lines: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str | AddedToken], lowercase: bool = False
) -> Tokenizer:
    """Return a BPE of exactly `vocab_size` tokens: the special ones, then bytes, then merges."""
    smallest = len(special_tokens) + 256 + 1
    if not smallest <= vocab_size <= 1 << 16:
        raise StudyError(
            f"corpus.vocab_size is {vocab_size}; choose {smallest} (bytes and special tokens) "
            f"to {1 << 16} (ids are 16 bits)"
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # a space in front gives a line's first word the token it has elsewhere; it is not ByteLevel's own option, because
    # PreTrainedTokenizerFast resets that one when it wraps the tokenizer
    prepend = normalizers.Prepend(" ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), prepend]) if lowercase else prepend
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(progress(lines, desc="learning BPE", unit="line"), trainer)
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        raise StudyError(
            f"the training text yields only {found} tokens, not {vocab_size}; set corpus.vocab_size: {found}"
        )
    return tokenizer


def train_tokenizer(lines: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of exactly `vocab_size` tokens learnt from `lines`; it appends </s> unless told otherwise.

    Ids: <s> 0, <pad> 1, </s> 2, <unk> 3, then bytes, then merges. StudyError when the text is too little for the size.
    """
    tokenizer = _learnt(lines, vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS_ID)])
    return _wrap(tokenizer)


def train_encoder_tokenizer(
    lines: Iterable[str], *, vocab_size: int, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """Return one for an encoder, with <mask> as id 4: it gives ``<s> A </s>``, and of a pair ``<s> A </s></s> B </s>``.

    Otherwise as `train_tokenizer`. That is RoBERTa's template. `lowercase`: capitals are read as small letters.
    """
    # it takes the spaces around it, as the words beside it bring their own: "a <mask> ." is tokenised as "a word ." is
    mask = AddedToken("<mask>", lstrip=True, rstrip=True, special=True)
    tokenizer = _learnt(lines, vocab_size=vocab_size, special_tokens=(*SPECIAL_TOKENS, mask), lowercase=lowercase)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", BOS_ID), ("</s>", EOS_ID)],
    )
    return _wrap(tokenizer, cls_token="<s>", sep_token="</s>", mask_token=mask)


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer saved in `directory`; StudyError when it is missing or damaged."""
    from transformers import PreTrainedTokenizerFast

    try:
        loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the library raises bare Exception on a damaged file
        cause = " ".join(str(error).split())[:120]
        raise StudyError(f"{directory}: the tokenizer is missing or damaged ({cause}); run prepare again") from error
    return loaded


def encode(
    tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], *, literally: bool = False
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return all lines' ids one after the other, without special tokens, and offsets (n + 1,).

    Line i is ids[offsets[i]:offsets[i + 1]]. `literally`: a special token's name in the text is text too.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = literally
    rows: list[NDArray[np.uint16]] = []
    for start in progress(range(0, len(lines), _CHUNK), desc="tokenising", unit="chunk"):
        encodings = backend.encode_batch_fast(list(lines[start : start + _CHUNK]), add_special_tokens=False)
        rows.extend(np.array(encoding.ids, dtype=np.uint16) for encoding in encodings)
    backend.encode_special_tokens = False
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint16), offsets

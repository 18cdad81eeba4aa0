"""fairseq's dict.txt as a tokenizer: text comes in as units between spaces, and goes out with its units joined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.errors import StudyError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
"""What fairseq puts before a dictionary's lines, with ids 0 to 3."""

JOININGS = ("auto", "none", "subword_nmt", "sentencepiece")
_OVERWRITE = "#fairseq:overwrite"
_META_SPACE = "\u2581"
_NEVER = "\u0000"


def read_dictionary(path: str | Path) -> list[str]:
    """Return the symbols of a dict.txt by id, the four special ones included; every one occurs once.

    A symbol that a later line overwrites leaves its id without a name: such an id gets one that no text has. StudyError
    on a missing file, on a line that is not ``symbol count``, and on a duplicate that does not say it overwrites.
    """
    path = Path(path)
    symbols = list(SPECIAL_SYMBOLS)
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                symbol, _, field = line.rstrip().rpartition(" ")
                overwrite = field == _OVERWRITE
                if overwrite:
                    symbol, _, field = symbol.rpartition(" ")
                if not symbol or not field.removeprefix("-").isdecimal():
                    raise StudyError(
                        f"{path}: line {number} is not 'symbol count'; give the dict.txt that fairseq-preprocess wrote"
                    )
                if symbol in ids and not overwrite:
                    raise StudyError(
                        f"{path}: line {number} repeats {symbol!r}; end it with {_OVERWRITE} if it is meant"
                    )
                if ids.get(symbol, len(SPECIAL_SYMBOLS)) < len(SPECIAL_SYMBOLS):
                    symbols.append(f"<{symbol} {len(symbols)}>")  # the special ids keep their names
                    continue
                if symbol in ids:
                    symbols[ids[symbol]] = f"<overwritten {ids[symbol]}>"
                ids[symbol] = len(symbols)
                symbols.append(symbol)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; give the dict.txt of the checkpoint's data folder") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not UTF-8 ({error}); give the dict.txt that fairseq-preprocess wrote") from None
    return symbols


def joining_of(symbols: list[str], wanted: str = "auto") -> str:
    """Return how units are joined to words: `wanted`, or for ``auto`` what the dictionary's own units show."""
    if wanted not in JOININGS:
        raise StudyError(f"--bpe {wanted}: no such joining{nearest(wanted, JOININGS)}")
    if wanted != "auto":
        return wanted
    continued = sum(symbol.endswith("@@") and len(symbol) > 2 for symbol in symbols)
    marked = sum(symbol.startswith(_META_SPACE) for symbol in symbols)
    if not continued and not marked:
        return "none"
    return "subword_nmt" if continued > marked else "sentencepiece"


def padded(symbols: list[str], size: int) -> list[str]:
    """Return the symbols with names for the ids up to `size` that no text has and no model chooses."""
    return symbols + [f"<unused {number}>" for number in range(len(symbols), size)]


def tokenizer_of(symbols: list[str], joining: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a dictionary: units between spaces, </s> at the end, unknown units <unk>.

    What it decodes is joined as fairseq's ``--remove-bpe`` (``--post-process``) does it, by `joining`; special tokens, an
    <unk> among them, are left out where ``skip_special_tokens`` asks for it.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    # Python, in which fairseq splits, takes four control characters for spaces that the library does not.
    tokenizer.normalizer = normalizers.Replace(Regex("[\\x{1c}-\\x{1f}]"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", SPECIAL_SYMBOLS.index("</s>"))]
    )
    if joining == "subword_nmt":
        # WordPiece with a prefix that no unit has: a space before every unit but the first.
        spaced = decoders.WordPiece(prefix=_NEVER, cleanup=False)
        tokenizer.decoder = decoders.Sequence([spaced, decoders.Fuse(), decoders.Replace(Regex("@@( |$)"), "")])
    elif joining == "sentencepiece":
        spaces = decoders.Replace(_META_SPACE, " ")
        tokenizer.decoder = decoders.Sequence([decoders.Fuse(), spaces, decoders.Replace(Regex("^\\s+|\\s+$"), "")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )

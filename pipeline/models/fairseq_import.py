"""A fairseq checkpoint and its dictionaries become a model directory that plain transformers loads.

Pre-norm models become M2M100, post-norm ones Marian, whose own sinusoids differ from fairseq's: its checkpoint holds
fairseq's. Both are transformers' classes as they are; no code of ours is needed to load the directory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.corpora.tokenizers_of import save_tokenizers
from pipeline.errors import StudyError
from pipeline.files import atomic_path, read_json, sha256_file
from pipeline.models.checkpoint import NOT_STATED, WEIGHTS, provenance, write_card
from pipeline.models.fairseq_checkpoint import FairseqCheckpoint, read_checkpoint
from pipeline.models.fairseq_dictionary import joining_of, padded, read_dictionary, tokenizer_of
from pipeline.models.fairseq_shape import FairseqShape, shape_of
from pipeline.models.fairseq_weights import checked, mapped, output_is_tied
from pipeline.models.seq2seq import BOS, EOS, PAD
from pipeline.size import SizeSpec

STUDY = "imported"
_LONGEST = 200
"""fairseq-generate's --max-len-b: tokens of a hypothesis, </s> not counted."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the checkpoint cannot say about itself; None where fairseq's options are to be asked."""

    source_lang: str | None = None
    target_lang: str | None = None
    license: str = NOT_STATED
    credit: str = NOT_STATED


def _positions(shape: FairseqShape) -> int:
    """Return how many positions the model has: sinusoids have no end, a learned table has."""
    limits = [limit for limit, learned in zip(shape.positions, shape.learned_positions, strict=True) if learned]
    return min(limits) if limits else max(shape.positions)


def configuration(shape: FairseqShape, vocabularies: tuple[int, int]) -> Any:
    """Return the transformers configuration of a shape, M2M100's or Marian's; every dropout is the one it was trained with.

    `vocabularies` are the sizes of the source's and the target's dictionary.
    """
    from transformers.models.m2m_100 import M2M100Config
    from transformers.models.marian import MarianConfig

    vocab_size = max(vocabularies)
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "d_model": shape.d_model,
        "encoder_layers": shape.layers[0],
        "decoder_layers": shape.layers[1],
        "encoder_attention_heads": shape.heads[0],
        "decoder_attention_heads": shape.heads[1],
        "encoder_ffn_dim": shape.ffn_dims[0],
        "decoder_ffn_dim": shape.ffn_dims[1],
        "max_position_embeddings": _positions(shape),
        "activation_function": shape.activation,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "activation_dropout": shape.activation_dropout,
        "encoder_layerdrop": shape.layerdrop[0],
        "decoder_layerdrop": shape.layerdrop[1],
        "scale_embedding": shape.scale_embedding,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "decoder_start_token_id": EOS,  # fairseq begins with </s>
        "dtype": "float32",
    }
    if shape.pre_norm:
        common["architectures"] = ["M2M100ForConditionalGeneration"]
        return M2M100Config(tie_word_embeddings=shape.ties == "all", **common)
    return MarianConfig(
        decoder_vocab_size=vocab_size,
        share_encoder_decoder_embeddings=shape.ties == "all",
        tie_word_embeddings=output_is_tied(shape, vocabularies),
        forced_eos_token_id=None,
        architectures=["MarianMTModel"],
        **common,
    )


def generation(shape: FairseqShape, unused: range) -> Any:
    """Return how fairseq-generate searches by default, in transformers' terms.

    Beam 5; scores are divided by the length, </s> counted; the search ends with 5 finished hypotheses; <pad> is never
    produced and keeps its share of the probability, an empty hypothesis likewise; <s> and <unk> may be produced.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        num_beams=5,
        early_stopping=True,
        length_penalty=1.0,
        min_new_tokens=1,
        max_length=min(_LONGEST, shape.positions[1] - 1, _positions(shape) - 1) + 2,  # with the </s> at either end
        suppress_tokens=[PAD, *unused],
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
    )


def _size(shape: FairseqShape) -> SizeSpec | None:
    """Return the project's name for a shape that is the same on both sides; None for another one."""
    if any(pair[0] != pair[1] for pair in (shape.layers, shape.heads, shape.ffn_dims)):
        return None
    return SizeSpec(
        d_model=shape.d_model, num_layers=shape.layers[0], num_heads=shape.heads[0], ffn_dim=shape.ffn_dims[0]
    )


def _record(
    checkpoint: FairseqCheckpoint, shape: FairseqShape, dictionaries: list[Path], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return run.json's content: what is known of the model, and no training that we would charge."""
    size = _size(shape)
    key = size.key if size else f"w{shape.d_model}x{shape.layers[0]}+{shape.layers[1]}"
    sides = {
        "d_model": shape.d_model,
        "num_layers": shape.layers[0],
        "num_heads": shape.heads[0],
        "ffn_dim": shape.ffn_dims[0],
    }
    return {
        "run_id": f"{STUDY}-{key}-fp32",
        "study": STUDY,
        "task": "translation",
        "size": sides | {"vocab_size": facts["vocab_size"]},
        "size_key": key,
        "budget": NOT_STATED,
        "method": "none",
        "recipe": "fp32",
        "config_id": f"{key}/fp32",
        "seed": checkpoint.seed,
        "bits": None,
        "sparsity": None,
        "parent_id": None,
        "ledger": {},
        "precision": "fp32",
        "status": "ok",
        "steps": checkpoint.updates,
        "imported": {
            "program": "fairseq",
            "arch": checkpoint.options["arch"],
            "checkpoint": checkpoint.path.name,
            "checkpoint_sha256": sha256_file(checkpoint.path),
            "dictionaries": [path.name for path in dictionaries],
            "normalize_before": shape.pre_norm,
            "ties": shape.ties,
            "same_on_both_sides": size is not None,
            "decoder": {"num_layers": shape.layers[1], "num_heads": shape.heads[1], "ffn_dim": shape.ffn_dims[1]},
            **facts,
        },
    }


def _notes(checkpoint: FairseqCheckpoint, shape: FairseqShape, joinings: list[str]) -> list[str]:
    """Return what the model card says about an imported model alone."""
    updates = "" if checkpoint.updates is None else f" after {checkpoint.updates} updates"
    notes = [f"imported from fairseq: `{checkpoint.path.name}` ({checkpoint.options['arch']}){updates}"]
    if _size(shape) is None:
        notes.append(
            f"its decoder: {shape.layers[1]} layers, {shape.heads[1]} heads, FFN {shape.ffn_dims[1]}; the sizes above are the encoder's"
        )
    units = {"none": "words", "subword_nmt": "units with @@ (subword-nmt)", "sentencepiece": "sentencepiece units"}
    notes.append(
        f"source text is tokenised and split as for fairseq before it comes in: {units[joinings[0]]} between spaces; "
        f"translations come out {'as they are' if joinings[1] == 'none' else 'with their units joined'}"
    )
    return notes


def _verify(directory: Path, weights: Mapping[str, Tensor]) -> None:
    """Load the directory as anybody's program would; RuntimeError where a tensor is not the one that was written."""
    from transformers import AutoModelForSeq2SeqLM

    loaded, report = AutoModelForSeq2SeqLM.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    found = loaded.state_dict()
    wrong = [name for name, tensor in weights.items() if not torch.equal(found[name], tensor)]
    wrong += [str(name) for names in report.values() for name in names]
    if wrong:
        raise RuntimeError(f"{directory}: transformers reads {wrong[0]} otherwise than it was written")


def _check_destination(to: Path, *, overwrite: bool) -> None:
    """Raise StudyError where something would be lost; only what is an import itself may be replaced, if that is asked for."""
    if to.exists() and not to.is_dir():
        raise StudyError(f"{to}: is a file; give a directory with --to")
    if not to.is_dir() or not any(to.iterdir()):
        return
    imported = (to / "run.json").is_file() and "imported" in read_json(to / "run.json")
    if not imported:
        raise StudyError(f"{to}: is not empty, and no earlier import; give another directory with --to")
    if not overwrite:
        raise StudyError(f"{to}: holds an earlier import; --overwrite replaces it, or give another directory with --to")


def import_fairseq(
    checkpoint: str | Path,
    dictionaries: list[Path],
    to: str | Path,
    *,
    joining: str = "auto",
    origin: Origin | None = None,
    overwrite: bool = False,
) -> str:
    """Write a fairseq Transformer as a model directory at `to`; return one line about it.

    One dictionary is that of both languages; of two the source's comes first. The directory's model has the checkpoint's
    logits (differences are roundings) and generates what fairseq-generate does. With `overwrite` an earlier import that
    stands there is replaced. StudyError on what cannot be read, does not fit together, or cannot be expressed exactly.
    """
    to, origin = Path(to).resolve(), origin or Origin()
    if len(dictionaries) not in (1, 2):
        raise StudyError(
            f"{len(dictionaries)} dictionaries were given; give one for both languages, or the source's and the target's"
        )
    _check_destination(to, overwrite=overwrite)
    read = read_checkpoint(checkpoint)
    shape = shape_of(read)
    symbols = [read_dictionary(path) for path in dictionaries]
    source, target = symbols[0], symbols[-1]
    joined = source == target
    if shape.ties == "all" and not joined:
        raise StudyError(
            f"{read.path}: share_all_embeddings needs one dictionary, but {' and '.join(map(str, dictionaries))} differ"
        )
    vocab_size = max(len(source), len(target))
    weights = mapped(checked(read.weights, shape, (len(source), len(target)), read.path), shape, _positions(shape))
    unit_joining = [joining_of(side, joining) for side in (source, target)]
    languages = [
        given or found or NOT_STATED
        for given, found in zip((origin.source_lang, origin.target_lang), read.languages, strict=True)
    ]
    facts = {
        "vocab_size": vocab_size,
        "source_vocab_size": len(source),
        "target_vocab_size": len(target),
        "joining": unit_joining[1],
    }
    run = _record(read, shape, dictionaries, facts)
    corpus = {
        "source_lang": languages[0],
        "target_lang": languages[1],
        "license": origin.license,
        "credit": origin.credit,
    }
    source_tokenizer = tokenizer_of(padded(source, vocab_size), unit_joining[0])
    target_tokenizer = None if joined else tokenizer_of(padded(target, vocab_size), unit_joining[1])
    with atomic_path(to) as temporary:
        temporary.mkdir(parents=True)
        configuration(shape, (len(source), len(target))).save_pretrained(temporary)
        generation(shape, range(len(target), vocab_size)).save_pretrained(temporary)
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        _verify(temporary, weights)
        save_tokenizers(temporary, source_tokenizer, target_tokenizer)
        record = json.dumps(run | {"corpus": corpus} | provenance(), indent=2, sort_keys=True, allow_nan=False)
        (temporary / "run.json").write_text(record + "\n", encoding="utf-8")
        write_card(temporary, run, corpus, _notes(read, shape, unit_joining))
    kind = "pre-norm, M2M100" if shape.pre_norm else "post-norm, Marian"
    parameters = sum(tensor.numel() for tensor in weights.values())
    return f"{to}: {run['size_key']}, {kind}, vocabulary {len(source)} -> {len(target)}, {parameters} numbers"

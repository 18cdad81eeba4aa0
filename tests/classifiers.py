"""Small classifiers and masked language models, and splits and a corpus for them: random, always the same."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.budget import Ledger
from pipeline.compression.candidate import Candidate
from pipeline.compression.formats import save_compressed
from pipeline.compression.methods.uniform import apply as uniform
from pipeline.corpora.encoder_splits import LabelledSplit, TextSplit
from pipeline.corpora.masking import Masking
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.corpora.token_array import TokenArray
from pipeline.evaluation.classification import class_logits
from pipeline.models.building import build
from pipeline.models.checkpoint import model_directory
from pipeline.models.pruned import shape_of
from pipeline.recipes import Uniform
from pipeline.run_id import parse_run_id
from pipeline.size import SizeSpec
from pipeline.text_corpus import EncoderCorpusSpec, SentencesSpec, TextSpec
from pipeline.training.pretraining import run_record
from tests.candidates import NO_BENCH

VOCABULARY = 200
CLASSES = 3


def encoder_size(d_model: int = 32, num_layers: int = 2, *, num_labels: int = CLASSES, **fields: Any) -> SizeSpec:
    """Return the size of an encoder with positions for sequences of 64."""
    return SizeSpec(
        architecture="encoder", d_model=d_model, num_layers=num_layers, positions=64, num_labels=num_labels, **fields
    )


def encoder(size: SizeSpec | None = None, *, vocab_size: int = VOCABULARY, dropout: float = 0.0) -> Any:
    """Return a random encoder whose classes or words are undecided enough for its logits to tell sentences apart."""
    size = size or encoder_size()
    with torch.random.fork_rng(devices=[]):
        model: Any = build(size, vocab_size=vocab_size, dropout=dropout, seed=size.d_model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") and name != "lm_head.bias":
                    parameter.normal_(std=0.1)
            if size.num_labels:
                _spread(model.eval(), vocab_size)
    return model.eval()


def _spread(model: Any, vocab_size: int) -> None:
    """Make sentences' logits differ."""
    for layer in model.roberta_prelayernorm.encoder.layer:
        layer.attention.self.value.weight.mul_(4)
    model.classifier.out_proj.weight.normal_(std=0.5)
    centre(model, vocab_size)


@torch.no_grad()
def centre(model: Any, vocab_size: int = VOCABULARY) -> Any:
    """Make every class likeliest of some sentences, in place; return the model."""
    probe = torch.randint(5, vocab_size, (64, 16), generator=torch.Generator().manual_seed(0))
    model.classifier.out_proj.bias.sub_(model(input_ids=probe).logits.mean(dim=0))
    return model


def token_array(rows: Iterable[np.ndarray]) -> TokenArray:
    """Return rows of ids as one array."""
    listed = list(rows)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in listed])]).astype(np.int64)
    return TokenArray(np.concatenate(listed).astype(np.uint16), offsets)


def _rows(count: int, longest: int, vocab_size: int) -> TokenArray:
    rng = np.random.default_rng(0)
    return token_array(rng.integers(5, vocab_size, size=length) for length in rng.integers(1, longest - 1, size=count))


def labelled_split(count: int = 40, *, longest: int = 64, vocab_size: int = VOCABULARY) -> LabelledSplit:
    """Return sentences of 3 to `longest` positions with their <s> and </s>, and random classes."""
    labels = np.random.default_rng(1).integers(0, CLASSES, size=count)
    sentences = _rows(count, longest, vocab_size)
    return LabelledSplit(name="valid", sentences=sentences, labels=labels, classes=CLASSES, directory=Path("unused"))


def text_split(count: int = 40, *, longest: int = 32, vocab_size: int = VOCABULARY) -> TextSplit:
    """Return blocks of 3 to `longest` positions, 15 % of whose tokens are scored."""
    masking = Masking(probability=0.15, vocab_size=vocab_size, seed=1)
    return TextSplit(name="valid", blocks=_rows(count, longest, vocab_size), masking=masking, directory=Path("unused"))


def prepared_corpus(folder: Path) -> Path:
    """Prepare a small corpus for encoders in `folder`, and return it: text/ and sentences/, 60 sentences to test on."""
    from pipeline.corpora.encoder_preparation import prepare_encoder_corpus

    things, words = ("film", "plot", "cast", "music", "hero"), ("superb", "moving", "dull", "clumsy", "a mess")
    told = list(
        product(things, words, ("she", "everyone", "the critic"), ("in May", "last night", "again , and again"))
    )
    rows = [
        (f"the {thing} , {who} said {when} , is {word} .", int(word in words[:2])) for thing, word, who, when in told
    ]
    order = np.random.default_rng(0).permutation(len(told)).tolist()
    prose = [f"{who} called the {thing} {word} {when}." for thing, word, who, when in (told[i] for i in order)]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join("\n".join(prose[start : start + 5]) for start in range(0, len(prose), 5))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    lines = ["text\tlabel", *(f"{rows[i][0]}\t{rows[i][1]}" for i in order)]
    (folder / "sentences.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    held_out = {"valid_sentences": 40, "test_sentences": 60}
    spec = EncoderCorpusSpec(
        kind="text",
        text=TextSpec(kind="files", paths=[str(folder / "text.txt")], valid_documents=4, test_documents=4),
        sentences=SentencesSpec(kind="tsv", path=str(folder / "sentences.tsv"), classes=2, **held_out),
        license="CC0",
        credit="nobody",
        vocab_size=290,
        sequence_tokens=48,
        max_tokens=40,
    )
    prepare_encoder_corpus(spec, folder / "corpus")
    return folder / "corpus"


def write_classifier(directory: Path, corpus: PreparedCorpus, *, run_id: str, bits: int | None = None) -> Path:
    """Write a random classifier of width 32 as a study does, with weights of so many bits, and return its directory."""
    size = encoder_size(num_labels=corpus.classes)
    candidate = candidate_of_classifier(encoder(size, vocab_size=corpus.vocab_size))
    if bits is not None:
        uniform(candidate, Uniform(method="uniform", bits=bits), NO_BENCH)
    with torch.no_grad():  # every class is the likeliest of some of the corpus' sentences
        logits = torch.from_numpy(class_logits(candidate.model, corpus.sentences("valid")))
        candidate.model.get_submodule("classifier.out_proj").bias.sub_(logits.mean(dim=0))
    name = parse_run_id(run_id)
    entry = {
        "study": name["study"],
        "task": "classification",
        "size": name["size"],
        **size.record(),
        "seed": name["seed"],
    }
    charges = {
        "train": {"flops": 2e12, "seconds": 32.0, "steps": 80.0, "tokens": 9000.0},
        "finetune": {"flops": 5e11, "seconds": 8.0, "steps": 20.0, "tokens": 1000.0},
    }
    run = run_record(
        entry,
        vocab_size=corpus.vocab_size,
        match=name["match"],
        run_id=run_id,
        config_id=name["config_id"],
        budget="40 s",
        method="none" if bits is None else "quantize",
        recipe=name["recipe"],
        bits=bits,
        ledger=charges,
    )
    with model_directory(directory, tokenizer=corpus.tokenizer(), run=run, corpus=corpus.card) as temporary:
        save_compressed(candidate, temporary)
    return directory


def candidate_of_classifier(model: Any) -> Candidate:
    """Return a classifier as a candidate that no step has worked on."""
    size = shape_of(model.config)
    return Candidate(model=model, size=size, trained_size=size, ledger=Ledger(), run={})

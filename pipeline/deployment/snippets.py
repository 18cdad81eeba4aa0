"""Three lines of Python that translate or classify a sentence with an export, in an environment without this project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.deployment.forms import PACKED, Form
from pipeline.deployment.product import TARGET
from pipeline.engines.search import BeamSearch


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def snippet(
    form: Form,
    search: BeamSearch,
    *,
    suppressed: Sequence[str],
    sentence: str,
    directory: Path = Path("."),
    separate: bool = False,
) -> str:
    """Return the lines; run them in the exported directory, or give its path as `directory`.

    Settings that are the library's own defaults are left out; transformers and optimum read theirs from
    generation_config.json, and the tokenizer cuts at the model's positions by itself. `separate`: the target has a
    tokenizer of its own.
    """
    text, place = _quoted(sentence), _quoted(str(directory))
    out = _quoted(str(directory / TARGET))
    if form.family == "ctranslate2":
        penalty = f"length_penalty={search.length_penalty or 1e-9:g}, " if search.length_penalty != 1 else ""
        options = (
            f"beam_size={search.beam}, {penalty}max_decoding_length={search.max_length}, "
            f"suppress_sequences={_quoted([[token] for token in suppressed])}"
        )
        paths = [directory / "tokenizer.json", *([directory / TARGET / "tokenizer.json"] if separate else [])]
        names = ["bpe", *(["out"] if separate else [])]
        opened = ", ".join(f"tokenizers.Tokenizer.from_file({_quoted(str(path))})" for path in paths)
        return "\n".join(
            [
                "import ctranslate2, tokenizers",
                f"model, {', '.join(names)} = ctranslate2.Translator({place}), {opened}",
                f"print({names[-1]}.decode([{names[-1]}.token_to_id(t) for t in model.translate_batch("
                f"[bpe.encode({text}).tokens], {options})[0].hypotheses[0]]))",
            ]
        )
    if form.name == PACKED:
        return "\n".join(
            [
                "from pipeline.deployment.product import open_product",
                f"model = open_product({place})",
                f"print(model.translate([{text}], model.search)[0].text)",
            ]
        )
    loader, first, options = (
        "AutoModelForSeq2SeqLM",
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
    )
    if form.family == "onnxruntime":
        loader, options = "ORTModelForSeq2SeqLM", ", use_merged=False"
        first = "from optimum.onnxruntime import ORTModelForSeq2SeqLM; from transformers import AutoTokenizer"
    decoder = f"AutoTokenizer.from_pretrained({out})" if separate else "bpe"
    return "\n".join(
        [
            first,
            f"model, bpe = {loader}.from_pretrained({place}{options}), AutoTokenizer.from_pretrained({place})",
            f'print({decoder}.decode(model.generate(**bpe({text}, truncation=True, return_tensors="pt"))[0], '
            "skip_special_tokens=True))",
        ]
    )


def classifier_snippet(form: Form, *, names: list[str] | None, sentence: str, directory: Path = Path(".")) -> str:
    """Return the lines that print a sentence's class: its name, or its number where `names` are None.

    A tab stands between the two sentences of a pair. Run them as `snippet`'s.
    """
    place, texts = _quoted(str(directory)), [_quoted(text) for text in sentence.split("\t")]
    if form.family == "transformers":
        pair = texts[0] if len(texts) == 1 else f'{{"text": {texts[0]}, "text_pair": {texts[1]}}}'
        first, second = "from transformers import pipeline", f'classify = pipeline("text-classification", {place})'
        return "\n".join([first, second, f'print(classify([{pair}], truncation=True)[0]["label"])'])
    if form.family == "onnxruntime":
        graph, words = (_quoted(str(directory / name)) for name in ("model.onnx", "tokenizer.json"))
        lines = [
            "import onnxruntime, tokenizers",
            f"model, bpe = onnxruntime.InferenceSession({graph}), tokenizers.Tokenizer.from_file({words})",
        ]
        row = f"(row := bpe.encode({', '.join(texts)})).ids"
        logits = f'model.run(None, {{"input_ids": [{row}], "attention_mask": [row.attention_mask]}})[0]'
    else:
        lines = [
            "from pipeline.compression.formats import load_model; from transformers import AutoTokenizer",
            f"model, bpe = load_model({place}), AutoTokenizer.from_pretrained({place})",
        ]
        logits = f'model(**bpe({", ".join(texts)}, truncation=True, return_tensors="pt")).logits'
    best = f"{logits}.argmax().item()"
    return "\n".join([*lines, f"print({best if names is None else f'{_quoted(names)}[{best}]'})"])

"""Three lines of Python that translate a sentence with an exported directory, in an environment without this project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath

from pipeline.deployment.forms import Form
from pipeline.engines.search import BeamSearch


def snippet(form: Form, search: BeamSearch, *, suppressed: Sequence[str], sentence: str, directory: str = ".") -> str:
    """Return the lines; run them in the exported directory, or give its path as `directory`.

    Settings that are the library's own defaults are left out; transformers and optimum read theirs from
    generation_config.json, and the tokenizer cuts at the model's positions by itself.
    """
    text = json.dumps(sentence, ensure_ascii=False)
    place = json.dumps(directory, ensure_ascii=False)
    if form.family == "ctranslate2":
        tokenizer = json.dumps(str(PurePath(directory) / "tokenizer.json"), ensure_ascii=False)
        penalty = f"length_penalty={search.length_penalty or 1e-9:g}, " if search.length_penalty != 1 else ""
        options = (
            f"beam_size={search.beam}, {penalty}max_decoding_length={search.max_length}, "
            f"suppress_sequences={json.dumps([[token] for token in suppressed])}"
        )
        lines = [
            "import ctranslate2, tokenizers",
            f"model, bpe = ctranslate2.Translator({place}), tokenizers.Tokenizer.from_file({tokenizer})",
            f"print(bpe.decode([bpe.token_to_id(t) for t in model.translate_batch([bpe.encode({text}).tokens], {options})"
            "[0].hypotheses[0]]))",
        ]
    elif form.family in ("transformers", "onnxruntime"):
        module, loader, options = (
            ("transformers", "AutoModelForSeq2SeqLM", "")
            if form.family == "transformers"
            else ("optimum.onnxruntime", "ORTModelForSeq2SeqLM", ", use_merged=False")
        )
        first = (
            f"from transformers import {loader}, AutoTokenizer"
            if module == "transformers"
            else f"from optimum.onnxruntime import {loader}; from transformers import AutoTokenizer"
        )
        lines = [
            first,
            f"model, bpe = {loader}.from_pretrained({place}{options}), AutoTokenizer.from_pretrained({place})",
            f'print(bpe.decode(model.generate(**bpe({text}, truncation=True, return_tensors="pt"))[0], '
            "skip_special_tokens=True))",
        ]
    else:
        lines = [
            "from pipeline.deployment.product import open_product",
            f"model = open_product({place})",
            f"print(model.translate([{text}], model.search)[0].text)",
        ]
    return "\n".join(lines)

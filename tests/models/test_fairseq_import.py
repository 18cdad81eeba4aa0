"""fairseq checkpoints of random numbers: logits as written out by hand, refusals, nothing unpickled, dictionaries."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from pipeline.corpora.tokenizers_of import source_and_target
from pipeline.errors import StudyError
from pipeline.models.fairseq_checkpoint import read_checkpoint
from pipeline.models.fairseq_dictionary import joining_of, read_dictionary, tokenizer_of
from pipeline.models.fairseq_import import Origin, import_fairseq
from pipeline.models.fairseq_weights import unreachable_row
from tests.models import fairseq_by_hand as by_hand

POST = {"encoder_normalize_before": False, "decoder_normalize_before": False}
LEARNED = {"encoder_learned_pos": True, "decoder_learned_pos": True}
ALL, DECODER = {"share_all_embeddings": True}, {"share_decoder_input_output_embed": True}
UNEQUAL = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_embed_dim": 8}
VARIANTS: dict[str, tuple[dict[str, Any], int, int]] = {
    "pre tied": (ALL, 20, 20),
    "pre untied": ({}, 20, 20),
    "pre untied, more sources": ({"activation_fn": "gelu"}, 20, 12),
    "pre, decoder tied, more targets": (DECODER | UNEQUAL, 12, 20),
    "pre, decoder tied, more sources": (DECODER | {"no_scale_embedding": True}, 20, 12),
    "post tied": (POST | ALL, 20, 20),
    "post untied": (POST | {"activation_fn": "gelu_accurate"}, 20, 20),
    "post, decoder tied, more sources": (POST | DECODER | UNEQUAL, 20, 12),
    "post, learned positions, more targets": (POST | LEARNED, 12, 20),
}
SOURCE = torch.tensor([[5, 9, 7, 11, 6, 2], [8, 4, 10, 2, 1, 1]])
BEFORE = torch.tensor([[2, 4, 6, 5, 11], [2, 9, 3, 0, 8]])


def _files(folder: Path, chosen: dict[str, Any], source: int, target: int, **how: Any) -> tuple[Path, list[Path], Any]:
    """Write a checkpoint and its dictionaries; return both and the state dict."""
    state = by_hand.weights(chosen, source=source, target=target)
    checkpoint = by_hand.save(folder / "checkpoint_best.pt", chosen, state, **how)
    dictionaries = [by_hand.write_dictionary(folder / "dict.xx.txt", source, "x")]
    if not chosen["share_all_embeddings"]:
        dictionaries.append(by_hand.write_dictionary(folder / "dict.yy.txt", target, "y"))
    return checkpoint, dictionaries, state


@pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_model_written_by_hand(variant: str, old: bool, tmp_path: Path) -> None:
    changed, source, target = VARIANTS[variant]
    chosen = by_hand.options(**changed)
    checkpoint, dictionaries, state = _files(tmp_path, chosen, source, target, old=old)
    import_fairseq(checkpoint, dictionaries, tmp_path / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        ours = model(input_ids=SOURCE, attention_mask=SOURCE.ne(1).long(), decoder_input_ids=BEFORE).logits
    expected = by_hand.logits(chosen, state, SOURCE, BEFORE)
    assert ours.shape[2] == max(source, target)
    assert (ours[..., :target] - expected).abs().max() <= 1e-5
    assert (ours.log_softmax(2)[..., :target] - expected.log_softmax(2)).abs().max() <= 1e-5
    assert (ours.softmax(2)[..., target:] == 0).all()
    assert model.config.decoder_start_token_id == 2
    assert model.config.model_type == ("m2m_100" if chosen["encoder_normalize_before"] else "marian")


def test_every_way_to_write_the_same_weights_is_read(tmp_path: Path) -> None:
    chosen = by_hand.options()
    checkpoint, dictionaries, state = _files(tmp_path, chosen, 20, 20)
    before = dict(state)
    for name in list(state):
        if name.endswith("_attn.q_proj.weight") or name.endswith("_attn.q_proj.bias"):
            parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            state[name.replace("q_proj.", "in_proj_")] = torch.cat([state.pop(part) for part in parts])
        if name.startswith("decoder.layers") and "encoder_attn_layer_norm" in name:
            state[name.replace("encoder_attn_layer_norm", "layer_norms.1")] = state.pop(name)
    state["decoder.embed_out"] = state.pop("decoder.output_projection.weight")
    older = by_hand.save(tmp_path / "older.pt", chosen, state, old=True)
    import_fairseq(checkpoint, dictionaries, tmp_path / "a")
    import_fairseq(older, dictionaries, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    half = by_hand.save(tmp_path / "half.pt", chosen, {name: tensor.half() for name, tensor in before.items()})
    read = read_checkpoint(half).weights
    assert all(torch.equal(read[name], before[name].half().float()) for name in before)


def test_nested_options_are_read_as_flat_ones(tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(**ALL), 20, 20)
    content = _content(checkpoint)
    flat = vars(content["cfg"]["model"])
    sides = {
        s: {k.removeprefix(f"{s}_"): v for k, v in flat.items() if k.startswith(f"{s}_")}
        for s in ("encoder", "decoder")
    }
    sides["decoder"] |= {"input_dim": "${model.decoder.embed_dim}", "output_dim": by_hand.WIDTH}
    rest = {name: value for name, value in flat.items() if name.split("_")[0] not in sides and name != "arch"}
    content["cfg"]["model"] = {"_name": "transformer", "quant_noise": {"pq": 0.0, "scalar": 0.0}, **rest, **sides}
    torch.save(content, tmp_path / "nested.pt")
    import_fairseq(checkpoint, dictionaries, tmp_path / "a")
    import_fairseq(tmp_path / "nested.pt", dictionaries, tmp_path / "b")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def _content(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint of ours holds."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return dict(torch.load(checkpoint, weights_only=True))


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_unpickled(zipped: bool, tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(), 20, 20)
    content = _content(checkpoint)
    content["extra_state"] = Malice(tmp_path / "touched")
    torch.save(content, checkpoint, _use_new_zipfile_serialization=zipped)
    with pytest.raises(StudyError, match=r"checkpoint_best\.pt: it holds posix\.system, .*nothing of it was") as caught:
        import_fairseq(checkpoint, dictionaries, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "model").exists()
    call, arguments = Malice(tmp_path / "touched").__reduce__()  # what unpickling would have done
    call(*arguments)
    assert (tmp_path / "touched").exists()


def test_a_class_that_is_not_known_is_refused_by_its_name(tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(), 20, 20)
    content = _content(checkpoint) | {"extra_state": Path("x")}
    torch.save(content, checkpoint)
    with pytest.raises(StudyError, match=r"it holds pathlib\.PosixPath"):
        import_fairseq(checkpoint, dictionaries, tmp_path / "model")


def test_damaged_and_missing_files_are_one_line_each(tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(), 20, 20)
    whole = checkpoint.read_bytes()
    for size in (len(whole) // 2, 10, 0):
        checkpoint.write_bytes(whole[:size])
        with pytest.raises(StudyError, match=r"^[^\n]*checkpoint_best\.pt: [^\n]*damaged[^\n]*$"):
            import_fairseq(checkpoint, dictionaries, tmp_path / "model")
    torch.save([1, 2], checkpoint)
    with pytest.raises(StudyError, match="no fairseq model in it"):
        import_fairseq(checkpoint, dictionaries, tmp_path / "model")
    with pytest.raises(StudyError, match="no such file"):
        import_fairseq(tmp_path / "nowhere.pt", dictionaries, tmp_path / "model")
    with pytest.raises(StudyError, match="an ensemble is several models"):
        import_fairseq(tmp_path / "a.pt:b.pt", dictionaries, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_best.pt", "dict.xx.txt", "dict.yy.txt"]


REFUSED = {
    "layernorm_embedding": True,
    "adaptive_softmax_cutoff": [4, 8],
    "no_token_positional_embeddings": True,
    "cross_self_attention": True,
    "quant_noise_pq": 0.1,
    "encoder_layers_to_keep": "0,2",
    "no_decoder_final_norm": True,
    "decoder_output_dim": 8,
    "decoder_input_dim": 8,
    "decoder_embed_dim": 32,
    "decoder_normalize_before": False,
    "encoder_learned_pos": True,
    "activation_fn": "swish",
    "decoder_attention_heads": 3,
    "encoder_attention_heads": None,
    "arch": "lightconv",
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_what_cannot_be_expressed_is_refused_by_its_name(name: str, value: Any, tmp_path: Path) -> None:
    chosen = by_hand.options()
    _, dictionaries, state = _files(tmp_path, chosen, 20, 20)
    checkpoint = by_hand.save(tmp_path / "other.pt", chosen | {name: value}, state)
    with pytest.raises(StudyError, match=rf"^[^\n]*other\.pt: {name}=[^\n]*$"):
        import_fairseq(checkpoint, dictionaries, tmp_path / "model")


@pytest.mark.parametrize(
    "arch", ["transformer_lm_gpt", "transformer_align", "transformer_wmt_en_de_big_align", "fconv", "None"]
)
def test_other_architectures_are_refused(arch: str, tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(arch=arch), 20, 20)
    with pytest.raises(StudyError, match="not fairseq's Transformer for translation"):
        import_fairseq(checkpoint, dictionaries, tmp_path / "model")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    chosen = by_hand.options(**DECODER)
    _, dictionaries, state = _files(tmp_path, chosen, 20, 12)

    def refusal(changed: dict[str, Any], given: list[Path] = dictionaries, gone: str = "") -> str:
        kept = {name: tensor for name, tensor in (state | changed).items() if name != gone}
        with pytest.raises(StudyError) as caught:
            import_fairseq(by_hand.save(tmp_path / "x.pt", chosen, kept), given, tmp_path / "model")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "the encoder has 20 embeddings but its dictionary 12 symbols" in refusal({}, dictionaries[::-1])
    assert "the decoder has 12 embeddings but its dictionary 20 symbols" in refusal({}, dictionaries[:1])
    assert "no tensor decoder.layers.1.fc1.bias" in refusal({}, gone="decoder.layers.1.fc1.bias")
    assert "adapter.weight belongs to no part" in refusal({"adapter.weight": torch.zeros(1)})
    assert "encoder.layers.0.fc1.bias has shape (3,)" in refusal({"encoder.layers.0.fc1.bias": torch.zeros(3)})
    assert "not finite" in refusal({"encoder.layers.0.fc1.bias": torch.full((by_hand.FFN,), torch.nan)})
    output = {"decoder.output_projection.weight": torch.zeros(12, by_hand.WIDTH)}
    assert "differs from decoder.embed_tokens.weight, to which its options tie it" in refusal(output)


@pytest.mark.parametrize("kind", ["trained", "untrained", "dead column"])
def test_a_row_that_is_never_chosen(kind: str) -> None:
    torch.manual_seed(0)
    width = 64
    scale, shift, output = 1 + 0.2 * torch.randn(width), 0.1 * torch.randn(width), torch.randn(50, width) / 8
    if kind == "untrained":
        scale, shift = torch.ones(width), torch.zeros(width)
    if kind == "dead column":
        scale[5] = 0.0
    row, moved, rows = unreachable_row(scale, shift, output)
    x = torch.nn.functional.layer_norm(torch.randn(500, width) * 10, (width,))
    before, after = x * scale + shift, x * scale + moved
    assert (after @ rows.T - before @ output.T).abs().max() <= 1e-5
    assert ((after @ row) < (before @ output.T).min(dim=1).values - 150).all()
    step = after.abs().max(dim=1, keepdim=True).values / 127
    coarse = torch.round(after / step) * step  # states in 8 bits, then the row too
    coarse_row = torch.round(row / row.abs().max() * 127) * row.abs().max() / 127
    assert ((coarse @ coarse_row) < (coarse @ rows.T).min(dim=1).values - 120).all()


def test_dictionaries_are_read_as_fairseq_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text(
        "the 10\nde@@ 9\nthe 3 #fairseq:overwrite\n<unk> 0 #fairseq:overwrite\nmadeupword0000 0\n", encoding="utf-8"
    )
    symbols = read_dictionary(path)
    assert symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert symbols[4] == "<overwritten 4>"
    assert symbols[5:7] == ["de@@", "the"]
    assert symbols[8] == "madeupword0000"
    assert len(symbols) == len(set(symbols)) == 9
    for text, complaint in (
        ("the\n", "line 1 is not"),
        ("a 1\nthe x\n", "line 2 is not"),
        ("a 1\na 2\n", "line 2 repeats 'a'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=complaint):
            read_dictionary(path)
    path.write_bytes(b"\xff\xfe 1\n")
    with pytest.raises(StudyError, match="not UTF-8"):
        read_dictionary(path)


JOINED = {
    "none": (["a", "b"], "a b a", "a b a"),
    "subword_nmt": (["ab@@", "c", "@@@"], "ab@@ c c @@@ c ab@@", "abc c @c ab"),
    "sentencepiece": (["\u2581a", "b", "\u2581"], "\u2581a b \u2581a \u2581 b", "ab a b"),
}


@pytest.mark.parametrize("joining", JOINED)
def test_units_are_joined_as_fairseq_joins_them(joining: str) -> None:
    units, text, expected = JOINED[joining]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *units]
    assert joining_of(symbols) == joining
    tokenizer = tokenizer_of(symbols, joining)
    ids = tokenizer(f"\t {text.replace(' ', chr(0x1C))}  zzz ")["input_ids"]
    assert ids == [symbols.index(unit) for unit in text.split(" ")] + [3, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == expected
    with pytest.raises(StudyError, match="did you mean 'subword_nmt'"):
        joining_of(symbols, "subword-nmt")


def test_the_directory_says_what_it_is(tmp_path: Path) -> None:
    checkpoint, dictionaries, _ = _files(tmp_path, by_hand.options(**UNEQUAL), 20, 12)
    command = [sys.executable, "-m", "stages.cli", "import-fairseq", str(checkpoint), *map(str, dictionaries)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    to = ["--to", str(tmp_path / "model"), "--target-lang", "zz", "--license", "CC0", "--credit", "nobody"]
    done = subprocess.run([*command, *to], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "vocabulary 20 -> 12" in done.stdout
    source, target = source_and_target(tmp_path / "model")
    assert source("x0 y0 x15")["input_ids"] == [4, 3, 19, 2]
    assert target("y0 x0 y7")["input_ids"] == [4, 3, 11, 2]
    assert len(source) == len(target) == 20
    record = json.loads((tmp_path / "model" / "run.json").read_text(encoding="utf-8"))
    assert record["study"] == "imported"
    assert record["ledger"] == {}
    assert (record["seed"], record["steps"]) == (7, 30)
    assert record["imported"]["decoder"] == {"num_layers": 1, "num_heads": 4, "ffn_dim": 8}
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for text in (
        "xx-zz",
        "data licence: CC0",
        "data credit: nobody",
        "its decoder: 1 layers, 4 heads, FFN 8",
        "checkpoint_best.pt",
    ):
        assert text in card
    search = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (search.num_beams, search.early_stopping, search.length_penalty, search.min_new_tokens) == (5, True, 1.0, 1)
    assert search.suppress_tokens == [1, *range(12, 20)]
    done = subprocess.run([*command, "--to", "."], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}: is not empty, and no earlier import; give another directory with --to"
    ]
    again = Origin(credit="somebody")
    with pytest.raises(StudyError, match="holds an earlier import; --overwrite replaces it"):
        import_fairseq(checkpoint, dictionaries, tmp_path / "model", origin=again)
    import_fairseq(checkpoint, dictionaries, tmp_path / "model", origin=again, overwrite=True)
    assert "data credit: somebody" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert len(source_and_target(tmp_path / "model")[1]) == 20

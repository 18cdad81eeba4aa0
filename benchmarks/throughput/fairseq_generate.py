"""fairseq's SequenceGenerator in its own environment, with the same weights: M2M100's names are fairseq's."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.sequence_generator import SequenceGenerator

from throughput.translating import serve
from throughput.turns import Turns

SPECIAL_IDS = 4
PAD, EOS = 1, 2


def loaded(job: dict[str, Any], dictionary: Dictionary) -> Any:
    """Return fairseq's model with the weights of the job's archive; ValueError where they are not all it has."""
    size, positions = job["size"], job["max_positions"]
    options: dict[str, Any] = {
        "share_all_embeddings": True,
        "dropout": 0.0,
        "max_source_positions": positions,
        "max_target_positions": positions,
    }
    for part in ("encoder", "decoder"):
        options |= {
            f"{part}_layers": size["num_layers"],
            f"{part}_embed_dim": size["d_model"],
            f"{part}_ffn_embed_dim": size["ffn_dim"],
            f"{part}_attention_heads": size["num_heads"],
            f"{part}_normalize_before": True,
        }
    arguments = Namespace(**options)
    base_architecture(arguments)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerModel.build_model(arguments, task)
    with np.load(job["weights"]) as archive:
        weights = {name: torch.from_numpy(archive[name]) for name in archive.files}
    # Of weights without a version fairseq believes that they have no norm after the last layer, and takes it away.
    weights |= {f"{part}.version": torch.tensor([3.0]) for part in ("encoder", "decoder")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith(("version", "_float_tensor"))]
    if missing or unexpected:
        raise ValueError(f"weights that fairseq's model lacks: {missing}, or does not know: {unexpected}")
    return model.eval()


def main() -> None:
    """Take turns until there are no more."""
    turns, job = Turns.join()
    torch.set_num_threads(job["threads"])
    dictionary = Dictionary()  # <s>, <pad>, </s> and <unk> have the ids here that they have in fairseq
    for token in range(SPECIAL_IDS, job["size"]["vocab_size"]):
        dictionary.add_symbol(str(token))
    model = loaded(job, dictionary)
    model.make_generation_fast_()
    search = job["search"]
    generator = SequenceGenerator(
        [model],
        dictionary,
        beam_size=search["beam"],
        max_len_b=search["max_length"] - 1,  # </s> not counted
        len_penalty=search["length_penalty"],
        tokens_to_suppress=("<s>",),
    )

    @torch.no_grad()
    def translate(sources: list[list[int]]) -> list[list[int]]:
        width = max(map(len, sources))
        ids = torch.tensor([source + [PAD] * (width - len(source)) for source in sources])
        sample = {"net_input": {"src_tokens": ids, "src_lengths": torch.tensor([len(source) for source in sources])}}
        found = [beams[0]["tokens"].tolist() for beams in generator(sample, bos_token=job["start"])]
        return [tokens[:-1] if tokens[-1] == EOS else tokens for tokens in found]

    serve(turns, job, translate)


if __name__ == "__main__":
    main()

"""The architectures that a model may have, and what their configurations leave unsaid: ties and kinds of sinusoids.

Pre-norm encoder-decoders are M2M100, the studies' and imported ones; post-norm ones are Marian; encoders are
RoBERTa-PreLayerNorm, with a head for masked words or for classes. A configuration carries
up to two attributes more, which transformers saves and reads but does not heed; `pipeline.models.pruned.model_of` does:

- ``embedding_ties``, of M2M100 with ``tie_word_embeddings: false``: which of the vocabulary's tables are one matrix.
  transformers makes the two embeddings one when it builds such a model, and separate ones when it loads it.
- ``sinusoids``, of Marian: ``fairseq``, whose frequencies are not Marian's own, ``marian``, or ``learned``: then they are
  none, and files hold them. Training leaves them as they are, as Marian's modules give them no gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Attention, M2M100SinusoidalPositionalEmbedding
from transformers.models.marian import MarianConfig, MarianMTModel
from transformers.models.marian.modeling_marian import MarianAttention, MarianSinusoidalPositionalEmbedding
from transformers.models.roberta_prelayernorm import (
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForSequenceClassification,
)

from pipeline.errors import StudyError
from pipeline.models.parameters import LEARNED, TABLES, learnt_parameters

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

ENCODER = "roberta-prelayernorm"
CONFIGURATIONS: dict[str, Any] = {"m2m_100": M2M100Config, "marian": MarianConfig, ENCODER: RobertaPreLayerNormConfig}
MODELS: dict[str, tuple[Any, ...]] = {
    "m2m_100": (M2M100ForConditionalGeneration,),
    "marian": (MarianMTModel,),
    ENCODER: (RobertaPreLayerNormForMaskedLM, RobertaPreLayerNormForSequenceClassification),
}
"""The classes of each model type; of several, a configuration's `architectures` names one."""
ATTENTIONS = (M2M100Attention, MarianAttention)

_OFFSET = 2  # fairseq's first position, as its padding's index is 1


def kind_of_config(config: Any, path: Path) -> str:
    """Return the model type of config.json's mapping; StudyError on one that is not known here."""
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in MODELS:
        raise StudyError(
            f"{path}: a checkpoint of another architecture, model type {kind!r}, not {' or '.join(MODELS)}; give another "
            f"model, or, where the file is damaged, delete {path.parent} and rerun its stage"
        )
    sizes = config.get("vocab_size"), config.get("decoder_vocab_size") or config.get("vocab_size")
    if sizes[0] != sizes[1]:
        raise StudyError(
            f"{path}: tables of {sizes[0]} and {sizes[1]} words, which transformers ties wrongly; fill up the smaller"
        )
    classes = [model.__name__ for model in MODELS[kind]]
    named = config.get("architectures") or classes[:1]
    if named[0] not in classes:
        raise StudyError(
            f"{path}: a {kind} model with another head, {named[0]}, not {' or '.join(classes)}; give another model"
        )
    return str(kind)


def is_encoder(config: Any) -> bool:
    """Tell whether a configuration is an encoder's, which has no decoder and translates nothing."""
    return bool(config.model_type == ENCODER)


def class_of(config: Any) -> Any:
    """Return the transformers class of a configuration that `kind_of_config` knows."""
    classes = MODELS[config.model_type]
    named = (getattr(config, "architectures", None) or [classes[0].__name__])[0]
    return next((model for model in classes if model.__name__ == named), classes[0])


def is_plain(config: Any) -> bool:
    """Tell whether transformers' own saving loses nothing: an encoder, or an M2M100 whose tables are all one matrix."""
    return is_encoder(config) or bool(config.model_type == "m2m_100" and config.tie_word_embeddings)


def _sinusoids(model: Any) -> list[nn.Embedding]:
    return [model.model.encoder.embed_positions, model.model.decoder.embed_positions]


def fairseq_sinusoids(shape: torch.Size) -> Tensor:
    """Return fairseq's positions (N, d), counted from the first token's."""
    rows, width = shape
    return M2M100SinusoidalPositionalEmbedding.get_embedding(rows + _OFFSET, width)[_OFFSET:]


def _marian_sinusoids(shape: torch.Size) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        table = MarianSinusoidalPositionalEmbedding(*shape)
    table._init_weight()
    return table.weight


@torch.no_grad()
def complete(model: Any) -> None:
    """Give a freshly built model what its configuration says beyond transformers' own: ties and sinusoids, in place."""
    config = model.config
    if config.model_type == "marian":
        for table in _sinusoids(model):
            if getattr(config, "sinusoids", None) == "fairseq":
                table.weight.copy_(fairseq_sinusoids(table.weight.shape))
            table.weight.requires_grad_(False)
    for first, *others in getattr(config, "embedding_ties", None) or []:
        weight = nn.Parameter(model.get_submodule(first).weight.detach().clone())
        for name in (first, *others):
            model.get_submodule(name).weight = weight


@torch.no_grad()
def recognise(model: Any, directory: Path) -> None:
    """Note in the configuration of a model that transformers has loaded what `complete` needs, and make its ties, in place.

    Tables that are equal to the last bit are one matrix. StudyError on a bias of the output, which neither losses nor
    files here know.
    """
    config = model.config
    if config.model_type == "marian":
        if bool(model.final_logits_bias.any()):
            raise StudyError(f"{directory}: the output has a bias, which losses here do not know; give a model without")
        shape = _sinusoids(model)[0].weight.shape
        formulas = {"fairseq": fairseq_sinusoids, "marian": _marian_sinusoids}
        fitting = (name for name, formula in formulas.items() if _equal(model, formula(shape)))
        config.sinusoids = next(fitting, LEARNED)
    elif not config.tie_word_embeddings:
        # The encoder and the decoder read tables of their own: nothing reads `shared`.
        model.model.shared.weight = model.model.encoder.embed_tokens.weight
        ties: list[list[str]] = []
        for name in TABLES:
            weight = model.get_submodule(name).weight
            for group in ties:
                if torch.equal(model.get_submodule(group[0]).weight, weight):
                    group.append(name)
                    break
            else:
                ties.append([name])
        config.embedding_ties = [group for group in ties if len(group) > 1]
        training = model.training
        complete(model)
        model.train(training)


def _equal(model: Any, positions: Tensor) -> bool:
    return all(bool(torch.allclose(table.weight, positions, rtol=0, atol=1e-6)) for table in _sinusoids(model))


def save_plain(model: Model, directory: Path) -> None:
    """Write config.json and model.safetensors of a standard shape, which anybody's `from_pretrained` loads."""
    if is_plain(model.config):
        model.save_pretrained(directory, safe_serialization=True)
        return
    # transformers leaves out Marian's positions, and every table but one of those that are one matrix, and would draw new
    # ones: M2M100 reads each by its own name.
    whole: Any = model
    positions, whole._keys_to_ignore_on_save = type(model)._keys_to_ignore_on_save, None
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.model_type == "marian":
        kept = learnt_parameters(model)
        tables = {f"{name}.weight" for name in TABLES}
        state = {name: tensor for name, tensor in state.items() if name in kept or name not in tables}
    try:
        model.save_pretrained(directory, state_dict=state, safe_serialization=True)
    finally:
        whole._keys_to_ignore_on_save = positions

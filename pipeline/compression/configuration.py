"""config.json and generation_config.json of a model directory: written, and the empty model that they describe."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import StudyError
from pipeline.files import read_json

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def again(directory: Path) -> str:
    """Return what to do about a damaged directory."""
    return f"delete {directory} and rerun its stage"


def save_configuration(model: Model, directory: Path) -> None:
    """Write both files; the model's own configuration is left as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)


def empty_model(directory: Path) -> Model:
    """Return a model of config.json's shape in fp32, its weights still to be set; StudyError on another architecture."""
    from transformers import GenerationConfig

    from pipeline.models.architectures import CONFIGURATIONS, kind_of_config
    from pipeline.models.pruned import model_of

    path = directory / "config.json"
    data = read_json(path)
    kind = kind_of_config(data, path)
    try:
        config = CONFIGURATIONS[kind].from_dict(data, attn_implementation="eager")
        # Positions are computed here. The random weights are overwritten, and must not move the global generator.
        with torch.random.fork_rng(devices=[]):
            model = model_of(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(f"{path}: it describes no model ({reason}); {again(directory)}") from error
    settings = directory / "generation_config.json"
    if settings.is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise StudyError(f"{settings}: damaged; {again(directory)}") from error
    return model

"""What a study is: typed, frozen, validated sections of one YAML file.

Every field's meaning stands beside it; `configs/default.yaml` shows them in use. An unknown key is an error that names
the nearest right one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from pipeline.budget import Budget
from pipeline.engine_names import CLASSIFIER_ENGINES, ENGINES
from pipeline.errors import StudyError, nearest
from pipeline.pair_corpus import CorpusSpec
from pipeline.recipes import Family, shapes_along
from pipeline.section import Section
from pipeline.size import SizeSpec
from pipeline.text_corpus import EncoderCorpusSpec


class LearningRate(Section):
    """Peak rates tuned at some widths, log-linear between them and constant beyond; `depth_exponent` p scales by (2 / num_layers)^p."""

    tuned: dict[int, float]
    depth_exponent: float = 0.0
    mup_base_width: int | None = None  # the rate tuned at this width serves every width, by muP
    edges: list[int] = Field(default_factory=list)  # widths whose best rate lay at the edge of the grid tried

    @field_validator("tuned")
    @classmethod
    def _positive(cls, value: dict[int, float]) -> dict[int, float]:
        if not value or any(rate <= 0 for rate in value.values()):
            raise ValueError("give at least one width with a positive rate")
        return value

    @model_validator(mode="after")
    def _base_is_tuned(self) -> LearningRate:
        if self.mup_base_width is not None and self.mup_base_width not in self.tuned:
            raise ValueError(f"mup_base_width {self.mup_base_width} is not among the tuned widths {sorted(self.tuned)}")
        if self.mup_base_width is not None and len(self.tuned) > 1:
            raise ValueError("with mup_base_width one tuned width serves all; leave the others out")
        return self


class Training(Section):
    """How a size is trained: the same for all sizes but for the learning rate and, where given, dropout."""

    batch_tokens: int = Field(gt=0)  # padded tokens a batch, of the longer side
    learning_rate: LearningRate
    warmup_steps: int = Field(ge=0)
    decay_fraction: float = Field(gt=0, le=1)  # of a branch's steps, at its end
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_points: int = Field(default=8, ge=1)  # validation losses along the trunk, off the clock
    checkpoint_seconds: float = Field(default=30.0, gt=0)  # between two checkpoints


class Finetune(Section):
    """How a pretrained encoder becomes a classifier: the same for all sizes but for the learning rate."""

    fraction: float = Field(default=0.15, gt=0, lt=0.5)  # of every budget; pretraining stops that much earlier
    batch_tokens: int = Field(gt=0)  # padded tokens a batch
    learning_rate: LearningRate
    warmup_fraction: float = Field(default=0.06, ge=0, lt=1)  # of the steps; then linearly down to 0
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    scratch: bool = (
        True  # beside it the same finetuning of an encoder that was never pretrained: what pretraining brought
    )


class StudentSpec(Section):
    """One kind of student: its size, what it learns from, and how it begins."""

    size: str  # a size key of the grid
    method: Literal["word", "sequence", "both"]
    init: Literal["random", "teacher"] = "random"  # teacher: cut out of the teacher, layers, width and FFN
    seeds: int = Field(default=1, gt=0)

    @property
    def teaching(self) -> str:
        """``word``, ``sequence`` or ``both``, with ``init`` behind it when the student begins from the teacher's weights."""
        return self.method + ("init" if self.init == "teacher" else "")


class Distill(Section):
    """Students trained from the best larger model, at the same total cost as a plain run of their size."""

    students: list[StudentSpec] = Field(default_factory=list)
    alpha: float = Field(default=0.5, ge=0, le=1)  # weight of the distillation term, word level
    temperature: float = Field(default=1.0, gt=0)
    direction: Literal["forward", "reverse"] = "forward"  # KL(teacher || student) or KL(student || teacher)
    teacher_fraction: float = Field(
        default=1.0, gt=0, le=1
    )  # word level: so many of a plain run's steps see the teacher
    sequence_sentences: int = Field(default=0, ge=0)  # training sentences the teacher translates
    sequence_beam: int = Field(default=4, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> Distill:
        if any(student.method != "word" for student in self.students) and not self.sequence_sentences:
            raise ValueError(
                "sequence needs sequence_sentences, the number that the teacher translates; give at least 1"
            )
        kinds = [(student.size, student.teaching) for student in self.students]
        repeated = [kind for kind in kinds if kinds.count(kind) > 1]
        if repeated:
            raise ValueError(f"student {'-'.join(repeated[0])} is listed twice")
        return self

    @property
    def sizes(self) -> list[str]:
        """The students' size keys, each once."""
        return list(dict.fromkeys(student.size for student in self.students))


class Translate(Section):
    """Beam search."""

    beam: int = Field(default=4, gt=0)
    length_penalty: float = 1.0
    max_length: int = Field(default=80, gt=0)


class Engines(Section):
    """What the models are run in, beside the engine that each is deployed in."""

    compared: list[str] = Field(default_factory=list)  # engines; what they take longest for is measured, not chosen by
    compared_sizes: list[str] | None = None  # size keys whose dense models go through them; None: all

    @field_validator("compared")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ENGINES:
                raise ValueError(f"no engine {name!r}{nearest(name, ENGINES)}")
        if len(set(value)) < len(value):
            raise ValueError("an engine is listed twice")
        return value


class Timing(Section):
    """Latency of the models that their engine runs right."""

    threads: list[int] = Field(default_factory=lambda: [1])
    batches: list[int] = Field(default_factory=lambda: [1])
    sentences: int = Field(default=64, gt=0)
    repeats: int = Field(default=3, gt=0)


class Report(Section):
    """How rows are compared."""

    limits: int = Field(default=8, ge=2)
    resamples: int = Field(default=1000, ge=100)
    min_quality: float = Field(default=0.3, ge=0)  # points of BLEU, or of accuracy in percent, that a winner needs
    min_loss_percent: float = Field(default=1.0, ge=0)
    confounds: list[str] = Field(default_factory=list)  # sentences the page prints beside the verdict


_OF_THE_TASK = ("architecture", "positions", "num_labels")
"""Fields of a size that no study gives: its task and its corpus say them."""


class Study(Section):
    """One study, as its YAML file says it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: Literal[
        "translation", "masked_lm"
    ]  # masked_lm: encoders are pretrained on text, then finetuned as classifiers
    budgets: dict[Literal["seconds", "flops"], str]
    recovery_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    corpus: CorpusSpec | EncoderCorpusSpec = Field(discriminator="kind")
    sizes: list[SizeSpec] = Field(min_length=1)
    training: Training
    finetune: Finetune | None = None  # masked_lm alone
    recipes: dict[str, Family] = Field(min_length=1)  # by the family's name
    distill: Distill = Distill()
    translate: Translate = Translate()
    engines: Engines = Engines()
    time: Timing = Timing()
    report: Report = Report()

    @model_validator(mode="before")
    @classmethod
    def _architecture(cls, data: Any) -> Any:
        """Give the sizes of a masked-LM study what its task and its corpus say; refuse sizes that say it themselves."""
        sizes = data.get("sizes") if isinstance(data, dict) else None
        if not isinstance(sizes, list):
            return data  # refused as what it is
        listed = [size for size in sizes if isinstance(size, dict)]
        if any(name in size for size in listed for name in _OF_THE_TASK):
            raise ValueError(f"sizes: {', '.join(_OF_THE_TASK)} follow from task and corpus; leave them out")
        if data.get("task") != "masked_lm" or not isinstance(data.get("corpus"), dict):
            return data
        lengths = [data["corpus"].get(name) for name in ("sequence_tokens", "max_tokens")]
        positions = max((length for length in lengths if isinstance(length, int)), default=0)
        given = {"architecture": "encoder", "positions": positions}
        return {**data, "sizes": [{**size, **given} if isinstance(size, dict) else size for size in sizes]}

    @model_validator(mode="after")
    def _of_one_task(self) -> Study:
        encoders = self.task == "masked_lm"
        if encoders != isinstance(self.corpus, EncoderCorpusSpec):
            raise ValueError(
                f"corpus.kind is {self.corpus.kind!r}, which task {self.task} has no use for; "
                + ("give kind: text" if encoders else "text is for task: masked_lm")
            )
        if encoders != (self.finetune is not None):
            raise ValueError("finetune is needed" if encoders else "finetune is for task: masked_lm; take it out")
        if encoders and self.distill.students:
            raise ValueError(
                "distill.students: encoders have none yet; take them out (recipes may distil from the parent)"
            )
        if self.finetune is not None and self.finetune.fraction + self.recovery_fraction >= 0.8:
            raise ValueError(
                "finetune.fraction and recovery_fraction leave pretraining less than a fifth of the budget"
            )
        for name in self.engines.compared:
            if encoders and name not in CLASSIFIER_ENGINES:
                raise ValueError(
                    f"engines.compared: {name} takes no classifier; those that do: {', '.join(CLASSIFIER_ENGINES)}"
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if "seconds" not in self.budgets:
            raise ValueError("budgets.seconds is needed: limits and students are fixed at equal device seconds")
        for match, text in self.budgets.items():
            budget = Budget.parse(text)
            if budget.resource != match:
                raise ValueError(f"budgets.{match} is {text!r}, which is not in {match}")
        keys = [size.key for size in self.sizes]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise ValueError(f"size {sorted(repeated)[0]} is listed twice")
        for size in self.sizes:
            if not size.is_standard:
                raise ValueError(
                    f"size {size.key}: heads that do not fill the width come from pruning; leave head_dim out"
                )
        self._mup_scales()
        for student in self.distill.students:
            if student.size not in keys:
                raise ValueError(f"distill.students: no size {student.size!r} in the grid{nearest(student.size, keys)}")
            if student.seeds > self.size(student.size).seeds:
                raise ValueError(
                    f"distill.students: size {student.size} has {self.size(student.size).seeds} plain runs to compare with"
                )
        for key in self.engines.compared_sizes or ():
            if key not in keys:
                raise ValueError(f"engines.compared_sizes: no size {key!r} in the grid{nearest(key, keys)}")
        self._recipes_apply(keys)
        return self

    def _recipes_apply(self, keys: list[str]) -> None:
        """Raise ValueError where a family names what the study has not, or a recipe cannot be done to a size."""
        names: list[str] = [recipe for family in self.recipes.values() for recipe in family.recipes]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"recipes: {repeated[0]} is listed twice")
        for name, family in self.recipes.items():
            if not (name.isalnum() and name.isascii() and name == name.lower()):
                raise ValueError(f"recipes: family {name!r}: names are small letters and digits")
            for key in family.sizes or ():
                if key not in keys:
                    raise ValueError(f"recipes.{name}.sizes: no size {key!r} in the grid{nearest(key, keys)}")
            for match in family.matches or ():
                if match not in self.budgets:
                    raise ValueError(f"recipes.{name}.matches: the study has no budget in {match}")
            for size in self.sizes_of(family):
                for recipe, steps in family.recipes.items():
                    try:
                        list(shapes_along(self.recipe_parent(size), steps))
                    except StudyError as error:
                        raise ValueError(f"recipes.{name}.{recipe}: {error}") from error
        if not any(f.sizes is f.matches is f.seeds is None for f in self.recipes.values()):
            raise ValueError(
                "recipes: no family applies to every run; int8 of every size is what the limits are made of"
            )
        if self.distill.students and not any(family.students for family in self.recipes.values()):
            raise ValueError("recipes: no family has `students: true`; students are compared as they would be deployed")

    def sizes_of(self, family: Family) -> list[SizeSpec]:
        """Return the sizes that a family applies to."""
        return [size for size in self.sizes if family.sizes is None or size.key in family.sizes]

    def _mup_scales(self) -> None:
        """Raise ValueError where the sizes differ in more than width and depth: muP says nothing about that."""
        rates = {"training": self.training.learning_rate}
        if self.finetune is not None:
            rates["finetune"] = self.finetune.learning_rate
        section = next((name for name, rate in rates.items() if rate.mup_base_width is not None), None)
        if section is None:
            return
        for size in self.sizes:
            if size.d_model / size.num_heads != 32 or size.ffn_dim != 4 * size.d_model:
                raise ValueError(
                    f"{section}.learning_rate.mup_base_width: size {size.key} has {size.d_model / size.num_heads:g} columns a "
                    f"head and an FFN {size.ffn_dim / size.d_model:g} times as wide; muP carries rates between sizes with 32 and 4"
                )

    def recipe_parent(self, size: SizeSpec) -> SizeSpec:
        """Return what recipes are applied to when a size is trained: itself, or the classifier that is finetuned from it."""
        if isinstance(self.corpus, EncoderCorpusSpec):
            return size.changed(num_labels=self.corpus.sentences.classes)
        return size

    def size(self, key: str) -> SizeSpec:
        """Return the size with this key; StudyError names the nearest one otherwise."""
        for size in self.sizes:
            if size.key == key:
                return size
        raise StudyError(f"study {self.name}: no size {key!r}{nearest(key, [s.key for s in self.sizes])}")


_ENCODERS_CORPUS = "text"


def _place(location: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a validation error's location as a user would say it: pydantic puts the kind of corpus behind ``corpus``."""
    return (*location[:1], *location[2:]) if location[:1] == ("corpus",) and len(location) > 1 else location


def _known_fields(location: tuple[Any, ...]) -> list[str]:
    """Return the field names of the section at a validation error's location."""
    section: Any = Study
    if location[:1] == ("corpus",) and len(location) > 1:
        section = EncoderCorpusSpec if location[1] == _ENCODERS_CORPUS else CorpusSpec
        location = location[2:]
    for part in location:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            break
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        section = next(
            (
                arg
                for arg in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(arg, type) and issubclass(arg, BaseModel)
            ),
            section,
        )
    return list(section.model_fields)


def load_study(path: str | Path) -> Study:
    """Read and validate a study's YAML file; StudyError is one line with the file, the key and the fix."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file; the committed ones are in configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise StudyError(f"{path}: a study is a mapping of sections; see configs/smoke.yaml")
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in _place(first["loc"])) or "study"
        if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
            kinds = str(first["ctx"].get("expected_tags", "'package', 'files', 'tsv', 'parquet', 'datasets', 'text'"))
            raise StudyError(f"{path}: {where}.kind: one of {kinds} is needed") from None
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), _known_fields(first["loc"][:-1]))
            raise StudyError(f"{path}: unknown key {where!r}{hint}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{path}: {where}: {message}") from None
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None

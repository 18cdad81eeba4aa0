"""tlc: the stages and the plan behind one command."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from stages.entry import run

COMMANDS = {
    "plan": "What a study will cost; --write expands it into params.yaml and dvc.yaml.",
    "reproduce": "The DVC graph brought up to date, independent stages side by side.",
    "prepare": "Corpus, splits, tokenizer and token ids of a study.",
    "calibrate": "Seconds a training step of every size, on this machine.",
    "pretrain": "One size trained: a constant-rate trunk and its cooldown branches.",
    "finetune": "A pretrained encoder's branches as classifiers, and one without pretraining.",
    "translate": "Lines from stdin by any model; or a study's test set, or sentences to distill from.",
    "quantize": "A family of recipes that quantize one trained run, with or without training.",
    "compress": "One recipe applied to any trained model, an imported one, say.",
    "prune": "A family of recipes that prune one trained run, recover it, and quantize it.",
    "distill": "One student, taught by the best larger model.",
    "evaluate": "Losses and sizes of one run's models, dense and compressed.",
    "engines": "Every model in the engine it is deployed in: outputs compared with ours, and scored.",
    "time": "Latency in those engines, alone on the machine.",
    "report": "Table, figures, page and verdict of a study.",
    "export": "A row of the table as a directory that runs elsewhere: weights, tokenizer, model card.",
    "import-fairseq": "A fairseq Transformer as a model directory that transformers loads.",
}
"""One line of help for every command; kept here so that `tlc --help` imports no stage."""


class StageGroup(TyperGroup):
    """A command group that imports a stage's module only when that stage is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name=name, help=line, callback=None) for name, line in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the real command of the stage named first in `args`; an unknown name is a usage error."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = get_command(importlib.import_module(f"stages.{name.replace('-', '_')}").app)
        return name, command, rest


app = typer.Typer(cls=StageGroup, add_completion=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("train-large-then-compress"))
        raise typer.Exit


@app.callback()
def tlc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Which size to train, for how long, and how to compress it: every stage of a study by hand.

    `tlc STAGE --help` shows a stage's options and an example; `make study` runs them all.
    """


def main() -> None:
    """Run the command line; a fault that the user can mend is one line on stderr and exit code 1."""
    run(app)


if __name__ == "__main__":
    main()

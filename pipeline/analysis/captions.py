"""The captions of figures, a task each: what is drawn, of what, and what may be compared."""

from __future__ import annotations

from pipeline.analysis.latency_limits import LATENCY_TOLERANCE

_FLOPS = (
    "every configuration in fp32: rounding saves no FLOP. Masked weights count as skipped, which only an engine with sparse "
    "kernels does; parts that were removed whole are saved by any engine."
)
_LATENCY = (
    "The configurations that were deployed, against the median latency of their engine (first seed), equal device "
    "seconds. {quality} is that of the engines' own output; loss is that of the weights as written, and its front is chosen on "
    "validation loss. Weights of fewer than 8 bits run as int8. Thin lines join a size's int8 and fp32. Dotted lines are "
    f"the limits; what is slower by {LATENCY_TOLERANCE:.0%} at most counts as equally fast."
)
_OF_BOTH = {
    "bytes_loss": "Test loss against file size, every configuration that every seed has, means over seeds. The front is "
    "chosen on validation loss. Dotted lines are the limits.",
    "loss_added": "Test loss that compression adds to each size's fp32 model, equal device seconds, every seed against its "
    "own. What was trained on paid for it out of the same budget. Linear below 0.1 nats, logarithmic above.",
    "why": "Models rounded to nearest, a grid a row: the relative error of their weights, and the test loss it adds to the "
    "very model that was rounded. Lines join models that differ in what is drawn against and in nothing else but what follows "
    "from it; tau is Kendall's rank correlation over such pairs of one seed (1: always larger, \u22121: always smaller). "
    "Hollow: trained for less long.",
    "early_and_late": "Test loss that one compression adds to a size's model of the whole budget (up) and to the one of its early "
    "branch (across), means over the same seeds, each against the very model that was compressed. Above the line the model that "
    "was trained for longer loses more. Linear below 0.01 nats, logarithmic above.",
}
_OF_TRANSLATION = {
    "bytes_quality": "The same in translation quality, first seed, for the configurations that were translated: one "
    "curve a size at equal device seconds, and what was chosen at the limits. Every recipe that this seed has takes part, and the "
    "front is that of the scores drawn; the verdict chooses on validation loss, among recipes that all seeds have.",
    "flops_loss": f"Test loss against the FLOPs of answering, a target token, {_FLOPS}",
    "final_quality": "Uncompressed models at the end of their budget; small dots are seeds.",
    "curves_seconds": "Validation loss against device seconds, first seed. Thin lines are constant-rate trunks, marks "
    "are the ends of cooldowns: only marks are compared.",
    "curves_flops": "The same against training FLOPs.",
    "distillation": "Students and plain runs of the same size at the same total, teacher passes and decoding included.",
    "latency": _LATENCY.format(quality="Quality"),
    "loss_by_size": "Validation loss against device seconds. Marks are the ends of cooldowns, means over seeds: only marks are "
    "compared. Thin lines are the trunks of the first seed, at a constant rate. Above: sizes that differ in width alone; below: "
    "in depth alone. Hollow: the branch that stopped early.",
    "time_to_loss": "What each size spent until its trunk, at a constant rate, reached a validation loss: log-linear between two "
    "points, means over seeds. Hollow marks stand where a trunk ended without reaching it: it takes more than that.",
}
_OF_CLASSIFICATION = {
    "bytes_quality": "The same in accuracy on the test sentences, means over seeds. The front is that of the scores drawn; the "
    "verdict chooses on validation loss.",
    "flops_loss": f"Test loss against the FLOPs of answering, a token of the sentence, {_FLOPS}",
    "final_quality": "Uncompressed models at the end of their budget, pretraining and finetuning together; small dots are seeds.",
    "curves_seconds": "Pretraining: validation loss on masked tokens against device seconds, first seed. Thin lines are "
    "constant-rate trunks, marks are the ends of cooldowns, from which models are finetuned: only marks are compared.",
    "curves_flops": "The same against training FLOPs.",
    "latency": _LATENCY.format(quality="Accuracy"),
    "loss_by_size": "Pretraining: validation loss on masked tokens against device seconds. Marks are the ends of cooldowns, "
    "means over seeds: only marks are compared. Thin lines are the trunks of the first seed, at a constant rate. Above: sizes "
    "that differ in width alone; below: in depth alone. Hollow: the branch that stopped early.",
    "time_to_loss": "What each size spent until the trunk of its pretraining, at a constant rate, reached a validation loss on "
    "masked tokens: log-linear between two points, means over seeds. Hollow marks stand where a trunk ended without reaching "
    "it: it takes more than that.",
    "equal_pretraining_loss": "Accuracy and test loss after finetuning against the validation loss of the branch that was "
    "finetuned, every branch of every size, means over seeds; lines join the branches of a size. Dotted: the pretraining losses "
    "at which sizes are compared.",
    "what_pretraining_brought": "Uncompressed classifiers of each size, finetuned from the pretrained encoder and from random "
    "weights in as many steps: means over seeds, small dots are seeds.",
}
_ORDER = (
    "bytes_loss", "bytes_quality", "flops_loss", "loss_added", "why", "final_quality", "curves_seconds", "curves_flops",
    "distillation", "latency", "loss_by_size", "time_to_loss", "equal_pretraining_loss", "what_pretraining_brought",
    "early_and_late",
)  # fmt: skip

CAPTIONS: dict[str, dict[str, str]] = {
    task: {name: (_OF_BOTH | own)[name] for name in _ORDER if name in _OF_BOTH | own}
    for task, own in (("translation", _OF_TRANSLATION), ("classification", _OF_CLASSIFICATION))
}
"""{task: {figure: caption}}, in the order in which the page shows them; a task's figures are those that have one."""

"""Output channels of linear layers, removed together with everything that depends on them.

What depends on what is read off a traced forward pass: torch-pruning's dependency graph (DepGraph, Fang et al. 2023,
arXiv 2301.12900). How many channels go is counted here: torch-pruning's own pruner rounds a ratio, and one float too
low would cost a channel.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.models.architectures import is_encoder
from pipeline.models.parameters import stored_parameters

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def without_channels(model: Model, roots: Sequence[str], *, kept: int, block: int = 1) -> dict[str, Tensor]:
    """Return the weights of `model` with `kept` blocks of `block` output channels in each of the linear layers `roots`.

    The blocks of smallest group magnitude go, in every root by itself: the sum of squares of all weights that leave with
    the block, in the root and in what depends on it (Fang et al., Section 3.3; biases do not count). Of equal ones the
    first goes. The result has a parameter by name, tied ones once; the model is not touched.
    """
    import torch_pruning

    pruned = copy.deepcopy(model).cpu().eval().requires_grad_(True)
    ids = torch.full((1, 3), pruned.config.eos_token_id)
    target = {} if is_encoder(model.config) else {"decoder_input_ids": ids, "use_cache": False}
    graph = torch_pruning.DependencyGraph().build_dependency(
        pruned, example_inputs={"input_ids": ids} | target, output_transform=lambda output: output.logits
    )
    magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    remove = torch_pruning.prune_linear_out_channels
    for root in roots:
        layer = pruned.get_submodule(root)
        every = list(range(int(layer.out_features)))
        importance = magnitude(graph.get_pruning_group(layer, remove, every)).double().view(-1, block).sum(1)
        gone = importance.argsort(stable=True)[: len(importance) - kept].sort().values
        channels = (gone.unsqueeze(1) * block + torch.arange(block)).flatten().tolist()
        if channels:
            graph.get_pruning_group(layer, remove, channels).prune()
    return {name: parameter.detach() for name, parameter in stored_parameters(pruned).items()}

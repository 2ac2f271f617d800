"""Hidden states at the steps of a tree, in one forward pass of a causal model.

All steps stand in one row; each sees its problem and the steps before it in its own solution, and no other
(a mask of T x T), at the position that it would have there. So the states are those of reading solutions one by one.
Layers above the one that is read are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.bf16 import in_bf16
from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.model import pick_device
from reward_models.settings import Bf16
from reward_models.shared_prefixes import token_tree
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.studies.features import chosen_layers
from rlhf_e2h.studies.probing.trees import Tree
from rlhf_e2h.training.models import load_policy

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # relative difference of a tree's states and a plain row's


class TreeReader:
    """A frozen model that reads trees at one layer."""

    def __init__(self, path: str | Path, layer: str = "middle", bf16: Bf16 = True) -> None:
        """`layer` is middle or last, as in `features.chosen_layers`.

        Raises:
            ConfigError: a layer that is not one, or a model whose layers cannot be found.
        """
        model, self.tokenizer = load_policy(path, "bfloat16" if in_bf16(bf16) else "float32")
        self.device = pick_device(None)
        self.model = cast(Any, model.base_model).to(self.device).eval()
        depth = model.config.num_hidden_layers
        layers = chosen_layers(layer, depth)
        if len(layers) != 1:
            raise ConfigError(f"layer {layer!r} is not one layer; choose middle or last")
        if not isinstance(getattr(self.model, "layers", None), torch.nn.ModuleList):
            raise ConfigError(f"{type(model).__name__} has no list of layers; trees are read by Llama-like models only")
        self.model.layers = self.model.layers[: layers[0]]
        self.model.config.num_hidden_layers = layers[0]
        if layers[0] < depth:
            self.model.norm = torch.nn.Identity()  # it stands after the last layer only
        self.contract = StepContract("prm")
        self.checked = False

    def encode(self, tree: Tree) -> tuple[list[int], list[list[int]], list[int]]:
        """Ids of the problem, of each step with the separator after it, and the scoring position in each of those."""
        rows = encode(self.tokenizer, self.contract, [tree.problem] * len(tree.steps), [[s] for s in tree.steps])
        head = rows[0].ids[: rows[0].start]
        return head, [row.ids[row.start :] for row in rows], [row.positions[0] - row.start for row in rows]

    @torch.inference_mode()
    def read(self, tree: Tree, nodes: Sequence[int]) -> NDArray[np.float32]:
        """States (R, D) at the scoring positions of R nodes.

        Raises:
            ConfigError: the model does not read a tree as it reads its solutions (the first tree is read both ways).
        """
        head, own, scored = self.encode(tree)
        rows = [head + [token for step in tree.path(node) for token in own[step]] for node in nodes]
        ends = [len(row) - len(own[node]) + scored[node] for row, node in zip(rows, nodes, strict=True)]
        together = token_tree(rows)
        states_ND = self._states(**together.inputs())
        states_RD = np.stack([states_ND[path[end]] for path, end in zip(together.nodes, ends, strict=True)])
        if not self.checked:
            self._check(self._states(torch.tensor([rows[-1]]))[ends[-1]], states_RD[-1])
        return states_RD

    def _states(self, input_ids: torch.Tensor, **more: torch.Tensor) -> NDArray[np.float32]:
        given = {name: tensor.to(self.device) for name, tensor in {"input_ids": input_ids, **more}.items()}
        found = self.model(**given, use_cache=False).last_hidden_state[0]
        return found.float().cpu().numpy()

    def _check(self, alone_D: NDArray[np.float32], together_D: NDArray[np.float32]) -> None:
        off = float(np.linalg.norm(alone_D - together_D) / np.linalg.norm(alone_D))
        if off > TOLERANCE[self.model.dtype]:
            raise ConfigError(
                f"{type(self.model).__name__}: states of a tree differ from those of its solution by {off:.0%}; this "
                "model does not follow the attention mask, give another"
            )
        self.checked = True

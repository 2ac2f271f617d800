"""Policy and value model as one module, and the padded batch of rollouts that both read.

One module, because then one engine (DDP, DeepSpeed, FSDP) wraps both, with one optimiser. Batches are padded on the
right: attention is causal, so padding cannot reach a real token and no attention mask is needed, which keeps the fast
attention kernels. Axes: B rows, L prompt and completion together, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_e2h.rl.chunked_logits import Wanted, token_outputs


class TokenOutputs(NamedTuple):
    """(B, T) each, one column a completion token; values are meaningless at padding."""

    logprobs: Tensor  # of the distribution that was sampled, temperature included
    entropy: Tensor  # of that distribution, no gradient
    values: Tensor  # of the state before the token


@dataclass
class RolloutBatch:
    """All rollouts of one PPO step as tensors. Every rank holds the whole batch; only the model work is divided."""

    ids: Tensor  # (B, L) prompt, completion, padding
    prompt_lengths: Tensor  # (B,)
    mask: Tensor  # (B, T) True on completion tokens, end of sequence included

    @classmethod
    def from_lists(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
    ) -> RolloutBatch:
        rows = [torch.tensor([*prompt, *completion]) for prompt, completion in zip(prompts, completions, strict=True)]
        lengths = torch.tensor([len(completion) for completion in completions])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        # any id would do as padding: it is in no loss, and the causal attention of real tokens never sees it
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return cls(ids.to(device), torch.tensor([len(p) for p in prompts]).to(device), mask.to(device))

    def lengths(self) -> Tensor:
        """(B,) prompt and completion together."""
        return self.prompt_lengths + self.mask.sum(1)

    def chunks(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """`rows` sorted by length, longest first, in groups of `size`; so little of a group is padding."""
        order = self.lengths()[rows].argsort(descending=True, stable=True)
        yield from rows[order].split(size)

    def share(self, rows: Tensor, rank: int, ranks: int) -> Tensor:
        """This rank's part of `rows`: every `ranks`-th by length, so that all ranks get about as many tokens."""
        order = self.lengths()[rows].argsort(descending=True, stable=True)
        return rows[order][rank::ranks]


class ActorCritic(nn.Module):
    """`forward` gives log-probabilities, entropies and values at the completion tokens of some rows."""

    def __init__(self, policy: PreTrainedModel, value_model: PreTrainedModel, limit: int | None = None) -> None:
        """`limit`: ids from here on are no tokens, and the sampler never gives one."""
        super().__init__()
        self.limit = limit
        self.policy = policy
        self.value_model = value_model

    def forward(self, batch: RolloutBatch, rows: Tensor, temperature: float, values_only: bool = False) -> TokenOutputs:
        """Outputs for `rows`, as wide as the longest completion among them."""
        view = _view(batch, rows)
        values_BK = self.value_model(input_ids=view.ids, use_cache=False).logits.squeeze(-1)[:, -view.keep :]
        values = values_BK.float().gather(1, view.columns)
        if values_only:
            return TokenOutputs(torch.zeros_like(values), torch.zeros_like(values), values)
        logprobs, entropy = token_outputs(self.policy, view, temperature, self.limit)
        return TokenOutputs(logprobs, entropy, values)


def _view(batch: RolloutBatch, rows: Tensor) -> Wanted:
    prompt_B, mask_BT = batch.prompt_lengths[rows], batch.mask[rows]
    completion_B = mask_BT.sum(1)
    length, width, shortest = int((prompt_B + completion_B).max()), int(completion_B.max()), int(prompt_B.min())
    # The output at position p is about token p + 1, so the first one needed stands on the last prompt token.
    keep = length - shortest + 1
    columns = (prompt_B - shortest).unsqueeze(1) + torch.arange(width, device=prompt_B.device)
    return Wanted(batch.ids[rows, :length], keep, columns.clamp(max=keep - 1), mask_BT[:, :width])


def reference_logprobs(
    reference: nn.Module, batch: RolloutBatch, rows: Tensor, temperature: float, limit: int | None = None
) -> Tensor:
    """(B, T) log-probabilities of a policy alone."""
    return token_outputs(reference, _view(batch, rows), temperature, limit, entropy=False)[0]


def disable_dropout(model: nn.Module) -> None:
    """Dropout would make pi / pi_old differ from 1 before anything is learnt. `eval()` would do, were it not that
    gradient checkpointing works in training mode only."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not a declared attribute of Module

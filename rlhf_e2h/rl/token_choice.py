"""Drawing a token from logits, and its log-probability under the distribution that it was drawn from.

The filters are those of vLLM, in its order: `min_p`, then `top_k`, then `top_p`. Each draw is the inverse of the
cumulative distribution in the order of token ids at a given uniform number, so it is a function of its arguments.
Axes: B rows, V vocabulary, K candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL = 8192  # up to this vocabulary the plain form is as fast
BLOCK = 512  # tokens of a large vocabulary whose probabilities are added up first
CANDIDATES = 1024  # of top-p, to begin with; a peaked distribution has all of its nucleus among them


def choose_tokens(
    logits_BV: Tensor,
    uniform_B: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(B,) tokens and (B,) float32 log-probabilities of them.

    Args:
        uniform_B: float64 numbers in [0, 1), one a row; not read at temperature 0, which is greedy.
    """
    logits_BV = logits_BV.float()
    if temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, _logprob(logits_BV, token_B)
    if temperature != 1:
        logits_BV = logits_BV / temperature
    if min_p > 0:
        least_B1 = logits_BV.amax(-1, keepdim=True) + math.log(min_p)
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    if 0 < top_k < logits_BV.shape[-1]:
        logits_BK, ids_BK = logits_BV.topk(top_k, dim=-1)
        if top_p < 1:
            logits_BK = _nucleus(logits_BK, logits_BK.logsumexp(-1, keepdim=True), top_p)
        return _draw_candidate(logits_BK, ids_BK, uniform_B)
    if top_p < 1:
        return _draw_candidate(*_nucleus_of_all(logits_BV, top_p), uniform_B)
    return (_draw_small if logits_BV.shape[-1] <= SMALL else _draw_large)(logits_BV, uniform_B)


def _nucleus(logits_BK: Tensor, total_B1: Tensor, top_p: float) -> Tensor:
    """Logits, highest first, with -inf on those before which `top_p` of the probability is reached."""
    probability_BK = (logits_BK - total_B1).exp()
    return logits_BK.masked_fill(probability_BK.cumsum(-1) - probability_BK >= top_p, -torch.inf)


def _nucleus_of_all(logits_BV: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """(B, K) logits of the nucleus and their ids; sorting a whole vocabulary would take longer than the model."""
    total_B1 = logits_BV.logsumexp(-1, keepdim=True)
    count, vocabulary = CANDIDATES, logits_BV.shape[-1]
    while count < vocabulary:
        logits_BK, ids_BK = logits_BV.topk(count, dim=-1)
        if bool(((logits_BK - total_B1).exp().sum(-1) >= top_p).all()):
            break
        count *= 8
    else:
        logits_BK, ids_BK = logits_BV.sort(dim=-1, descending=True)
    return _nucleus(logits_BK, total_B1, top_p), ids_BK


def _draw_candidate(logits_BK: Tensor, ids_BK: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    ids_BK, order_BK = ids_BK.sort(dim=-1)
    place_B, logprob_B = _draw_small(logits_BK.gather(-1, order_BK), uniform_B)
    return ids_BK.gather(-1, place_B[:, None]).squeeze(-1), logprob_B


def _draw_small(logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    logprob_BV = logits_BV.log_softmax(-1)
    cumulative_BV = logprob_BV.double().exp().cumsum(-1)
    threshold_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    token_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(-1)
    return token_B, logprob_BV.gather(-1, token_B[:, None]).squeeze(-1)


def _draw_large(logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """The same draw in two steps, a block of tokens and a token of it: one pass of exp, and little in float64."""
    rows, vocabulary = logits_BV.shape
    blocks = -(-vocabulary // BLOCK)
    most_B1 = logits_BV.amax(-1, keepdim=True)
    weight_BV = logits_BV.new_zeros(rows, blocks * BLOCK)
    torch.sub(logits_BV, most_B1, out=weight_BV[:, :vocabulary]).exp_()
    weight_BNW = weight_BV.view(rows, blocks, BLOCK)
    mass_BN = weight_BNW.sum(-1).double()
    end_BN = mass_BN.cumsum(-1)
    # rounding must not lead beyond the last token
    threshold_B1 = uniform_B.clamp(max=1 - 2**-50)[:, None] * end_BN[:, -1:]
    block_B1 = torch.searchsorted(end_BN, threshold_B1, right=True).clamp(max=blocks - 1)
    mass_B1 = mass_BN.gather(-1, block_B1)
    share_B1 = ((threshold_B1 - (end_BN.gather(-1, block_B1) - mass_B1)) / mass_B1).clamp(0, 1 - 2**-50)
    inner_BW = weight_BNW[torch.arange(rows, device=logits_BV.device), block_B1.squeeze(-1)].double().cumsum(-1)
    inner_B1 = torch.searchsorted(inner_BW, share_B1 * inner_BW[:, -1:], right=True).clamp(max=BLOCK - 1)
    token_B = (block_B1 * BLOCK + inner_B1).squeeze(-1).clamp(max=vocabulary - 1)
    chosen_B1 = logits_BV.gather(-1, token_B[:, None])
    return token_B, ((chosen_B1 - most_B1).double() - end_BN[:, -1:].log()).float().squeeze(-1)


def _logprob(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    if logits_BV.shape[-1] <= SMALL:
        return logits_BV.log_softmax(-1).gather(-1, token_B[:, None]).squeeze(-1)
    return logits_BV.gather(-1, token_B[:, None]).squeeze(-1) - logits_BV.logsumexp(-1)

"""What TRL 1.12.0's PPOTrainer computes from random numbers, as JSON for `tests/rl/test_rl_trl.py`.

    PYTHON trl_numerics.py > tests/rl/trl_1_12.json      # PYTHON of an environment with trl==1.12.0

The trainer has its mathematics in the middle of `train`, so the statements themselves are taken out of it and run on
our tensors: KL, advantages and returns, whitening, and both clipped losses.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from types import CodeType, SimpleNamespace
from typing import Any

import torch
from trl.experimental.ppo import ppo_trainer
from trl.experimental.ppo.ppo_trainer import PPOTrainer, masked_mean, masked_whiten

LENGTHS = [7, 4, 1, 6]
SETTINGS = [(1.0, 1.0, 0.2), (0.98, 0.9, 0.1)]  # gamma, lambda, both clip ranges
TRAIN = ast.parse(textwrap.dedent(inspect.getsource(PPOTrainer.train)))


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for child in ast.walk(node):
        body = getattr(child, "body", None)
        if isinstance(body, list):
            yield body


def assigns(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def statements(first: str, last: str) -> CodeType:
    """The statements of `train` from the one that assigns `first` to the one after it that assigns `last`."""
    for body in blocks(TRAIN):
        start = next((i for i, one in enumerate(body) if assigns(one, first)), None)
        if start is not None:
            end = next(i for i in range(start, len(body)) if assigns(body[i], last))
            return compile(ast.Module(body[start : end + 1], []), ppo_trainer.__file__, "exec")
    raise SystemExit(f"trl {version('trl')} has no {first}; 1.12.0 is needed")


def run(code: CodeType, **names: Any) -> dict[str, Any]:
    names |= {"torch": torch, "masked_mean": masked_mean, "masked_whiten": masked_whiten}
    exec(code, names)  # TRL's own lines
    return names


def case(seed: int, gamma: float, lam: float, clip: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    padding = torch.arange(shape[1]) >= torch.tensor(LENGTHS).unsqueeze(1)

    def draw(scale: float = 1.0) -> torch.Tensor:
        return torch.masked_fill(scale * torch.randn(shape, generator=generator), padding, 0.0)

    given = {"logprobs": draw() - 2, "ref_logprobs": draw() - 2, "rewards": draw(), "values": draw()}
    given |= {"new_logprobs": given["logprobs"] + draw(0.3), "vpred": given["values"] + draw(0.3)}
    args = SimpleNamespace(gamma=gamma, lam=lam, cliprange=clip, cliprange_value=clip, vf_coef=0.1, kl_estimator="k1")
    found = {}
    for estimator in ("k1", "k3"):
        args.kl_estimator = estimator
        found[estimator] = run(statements("logr", "kl"), args=args, **given)["kl"]
    names = run(statements("lastgaelam", "returns"), args=args, responses=given["values"], **given)
    found |= {
        "advantages": names["advantages"].masked_fill(padding, 0),
        "returns": names["returns"].masked_fill(padding, 0),
    }
    found["whitened"] = masked_whiten(found["advantages"], ~padding).masked_fill(padding, 0)
    every = torch.arange(len(LENGTHS))
    losses = run(
        statements("vpredclipped", "pg_loss"), args=args, micro_batch_inds=every, padding_mask=padding,
        padding_mask_p1=padding, vpred=given["vpred"], new_logprobs=given["new_logprobs"],
        mb_values=given["values"], mb_return=found["returns"], mb_logprobs=given["logprobs"],
        mb_advantage=found["whitened"],
    )  # fmt: skip
    found |= {name: losses[name] for name in ("vf_loss", "vf_clipfrac", "pg_loss")}
    numbers = {name: value.tolist() for name, value in found.items()}
    inputs = {name: value.tolist() for name, value in given.items()}
    return {"gamma": gamma, "lam": lam, "clip": clip, "lengths": LENGTHS, "given": inputs, "found": numbers}


print(json.dumps({"trl": version("trl"), "cases": [case(seed, *one) for seed, one in enumerate(SETTINGS)]}))

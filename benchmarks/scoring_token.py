"""What a reward model can learn from the token that is scored: step contract 1 against 2, on people's step labels.

    OMP_NUM_THREADS=1 python benchmarks/scoring_token.py MODEL TRAIN.jsonl TEST.jsonl --math MATH.jsonl

TRAIN and TEST hold PRM800K rows, MATH.jsonl MATH's problems with their levels. A linear probe on one layer of a frozen
language model learns steps of easy problems (levels 1-3) and is tested on steps of other problems, each read as an
inner step (another follows) and as the last one. Version 1 scores a step at the last of its tokens in the whole text,
which holds the blank line if another step follows; version 2 closes every step alike. It takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.formats import load_records
from reward_models.metrics import auc
from reward_models.model import load_tokenizer
from reward_models.records import Stepwise, iter_jsonl

NEXT = "So let us go on from here."


def choose(path: str, problems: int, max_chars: int, allowed: set[str] | None = None) -> list[Stepwise]:
    """Of each problem the path of right steps and one wrong step after a part of it, short ones only."""
    groups: dict[str, list[Stepwise]] = {}
    for record in load_records(path, "prm800k")[0]:
        short = len(record.problem) + sum(map(len, record.steps)) <= max_chars
        if short and (allowed is None or record.problem in allowed):
            groups.setdefault(record.problem, []).append(record)
    names = sorted(groups)
    random.Random(0).shuffle(names)
    chosen: list[Stepwise] = []
    for name in names:
        right = [record for record in groups[name] if 0 not in (record.labels or [0]) and len(record.steps) > 2]
        wrong = [record for record in groups[name] if (record.labels or [])[-1:] == [0] and len(record.steps) > 2]
        if right and wrong and len(chosen) < 2 * problems:
            chosen += [right[0], wrong[-1]]
    return chosen


@torch.inference_mode()
def features(model: Any, tokenizer: Any, contract: StepContract, records: Sequence[Stepwise], layer: int) -> list[Any]:
    """Hidden states (S, H) at the scoring positions of each record, after `layer` layers; each layer runs once."""
    rows = encode(tokenizer, contract, [one.problem for one in records], [one.steps for one in records])
    found = []
    for row in rows:
        states = model.model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states
        found.append(states[layer][0, row.positions].float().numpy())
    return found


def labelled(states: Sequence[Any], records: Sequence[Stepwise]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All steps with a label: features (N, H) and labels (N,)."""
    pairs = [
        (state, label)
        for states_S, record in zip(states, records, strict=True)
        for state, label in zip(states_S, record.labels or [], strict=True)
        if label is not None
    ]
    return np.stack([state for state, _ in pairs]), np.array([label for _, label in pairs])


def probe(x_NH: NDArray[Any], y_N: NDArray[Any], l2: float = 1e-2) -> Any:
    """Logistic regression on standardised features, both labels weighing the same; returns a scoring function."""
    mean, scale = x_NH.mean(0), x_NH.std(0) + 1e-6
    x, y = torch.tensor((x_NH - mean) / scale), torch.tensor(y_N, dtype=torch.float32)
    weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
    balance = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    optimiser = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = x @ weight[1:] + weight[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weight=balance)
        value = value + l2 * weight[1:].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    learnt = weight.detach().numpy()
    return lambda states: 1 / (1 + np.exp(-(((states - mean) / scale) @ learnt[1:] + learnt[0])))


def places(records: Sequence[Stepwise], further: Sequence[str]) -> list[Stepwise]:
    """Each record up to a labelled step, and what follows: its last label is that step's."""
    found = []
    for record in records:
        labels = record.labels or []
        known = [place for place, label in enumerate(labels) if label is not None]
        for place in known[1:3] if len(known) > 3 else known[-1:]:  # two steps of a path, the one of an alternative
            silent = [None] * place
            steps = [*record.steps[: place + 1], *further]
            found.append(Stepwise(record.problem, steps, [*silent, labels[place], *[None] * len(further)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--math", required=True)
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--test-problems", type=int, default=50)
    parser.add_argument("--layer", type=int, default=16)
    parser.add_argument("--max-chars", type=int, default=700)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    model.model.layers = model.model.layers[: options.layer + 1]  # what lies above is not read
    rows = [row for row in iter_jsonl(options.math) if str(row["level"])[-1:].isdigit()]
    levels = {row["problem"]: int(str(row["level"])[-1:]) for row in rows}
    easy = {problem for problem, level in levels.items() if level <= 3}
    train = choose(options.train, options.problems, options.max_chars, easy)
    test = choose(options.test, options.test_problems, options.max_chars)
    as_last, as_inner = places(test, []), places(test, [NEXT])
    for version in (1, 2):
        contract = StepContract("prm", version=version)
        score = probe(*labelled(features(model, tokenizer, contract, train, options.layer), train))
        read = {
            name: labelled(features(model, tokenizer, contract, items, options.layer), items)
            for name, items in (("last", as_last), ("inner", as_inner))
        }
        scores, labels_N = {name: score(x_NH) for name, (x_NH, _) in read.items()}, read["last"][1]
        mixed = np.where(labels_N == 1, scores["inner"], scores["last"])  # as the records have it
        figures: dict[str, Any] = {
            "version": version,
            "steps": len(labels_N),
            "wrong": int((labels_N == 0).sum()),
            "auc_right_inner_wrong_last": auc(labels_N.tolist(), mixed.tolist()),
        }
        for name, values in scores.items():
            figures[f"auc_all_{name}"] = auc(labels_N.tolist(), values.tolist())
            figures[f"mean_right_{name}"] = float(values[labels_N == 1].mean())
            figures[f"mean_wrong_{name}"] = float(values[labels_N == 0].mean())
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main()

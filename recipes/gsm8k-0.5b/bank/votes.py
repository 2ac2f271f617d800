"""What each reward model's scores in the bank are worth: votes and best-of-8 against majority, and AUCs.

    python recipes/gsm8k-0.5b/bank/votes.py recipes/gsm8k-0.5b/bank/bank.jsonl.gz

Step scores are multiplied for votes and their smallest taken for best-of-8; an ORM has its last one for both.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.aggregate import aggregate
from reward_models.records import Stepwise
from reward_models.score import StepScores
from reward_models.voting import curve
from rlhf_e2h.checker import CheckerPool, answer_classes
from rlhf_e2h.samples.quality import quality_by_group
from rlhf_e2h.stats.intervals import Interval, paired_difference

GROUPS = {"easy": 2, "hard": 4}


def votes(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Figures of one reward model on rows of the bank, eight of each problem in order."""
    steps = [row["step_scores"][name] for row in rows]
    ranks, weights = ([aggregate(s, "last" if name == "orm" else how) for s in steps] for how in ("min", "prod"))
    with CheckerPool() as pool:
        groups = [[row["answer"] for row in rows[start : start + 8]] for start in range(0, len(rows), 8)]
        classes_PK = np.array([answer_classes(answers, pool) for answers in groups])
    right_PK = np.reshape([row["correct"] for row in rows], classes_PK.shape)
    ranks_PK, weights_PK = (np.reshape(values, classes_PK.shape) for values in (ranks, weights))
    found = curve(classes_PK, right_PK, ranks_PK, vote_scores_PK=weights_PK, sizes=[8], draws=1)
    records = [Stepwise("", row["text"].splitlines(), outcome=int(row["correct"])) for row in rows]
    scored = [StepScores(list(s), score) for s, score in zip(steps, ranks, strict=True)]
    ids, levels = [row["problem_id"] for row in rows], [row["level"] for row in rows]
    quality = quality_by_group(records, scored, "orm" if name == "orm" else "prm", ids, levels, [2])["all"]
    ends = quality["intervals"]
    return {
        "majority": 100 * found["majority"][8].mean(),
        "vote": 100 * found["weighted_vote"][8].mean(),
        **{
            f"{method} - majority": paired_difference(found[method][8], found["majority"][8])
            for method in ("weighted_vote", "best_of_n")
        },
        **{figure: (quality[figure], *ends[figure]) for figure in ("outcome_auc", "within_problem_auc")},
    }


def main(bank: Path) -> None:
    rows = [json.loads(line) for line in gzip.decompress(bank.read_bytes()).splitlines()]
    for group, level in GROUPS.items():
        chosen = [row for row in rows if row["level"] == level]
        for name in rows[0]["step_scores"]:
            print(f"{group} {name}: " + "; ".join(f"{figure} {_shown(v)}" for figure, v in votes(chosen, name).items()))


def _shown(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{100 * value.estimate:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value) if isinstance(value, tuple) else f"{value:.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

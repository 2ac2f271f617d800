"""What each reward model's scores in a bank are worth: votes and best-of-n against majority, and AUCs.

    python recipes/gsm8k-0.5b/bank/votes.py recipes/gsm8k-0.5b/bank/bank.jsonl.gz

Step scores are multiplied for votes and their smallest taken for best-of-n; an ORM has its last one for both. AUCs are
of all solutions and of those that ended, beside a control that reads nothing and prefers the shorter text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.aggregate import aggregate
from reward_models.bank import build_bank, summarise
from reward_models.records import Stepwise, read_jsonl
from reward_models.score import StepScores
from rlhf_e2h.data.levels import EASY
from rlhf_e2h.samples.quality import quality_by_group

CONTROL = "shortness"


def votes(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Accuracies and differences in percent, each with its interval where it has one, with all samples of a problem."""
    rank_by, vote_by = ("last", "last") if name == "orm" else ("min", "prod")
    bank = build_bank(rows, rank_by, vote_by, scores=name)
    n = bank.correct_PK.shape[1]
    found = summarise(bank, [n], draws=1)
    single = {
        method: [100 * found[method][str(n)]] for method in ("majority", "weighted_vote", "best_of_n", "pass_at_n")
    }
    gains = {f"{method} - majority": by_n[str(n)] for method, by_n in found["against_majority"].items()}
    return single | {method: [100 * figure for figure in figures] for method, figures in gains.items()}


def aucs(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """How well the scores of a model, or shortness, tell right from wrong solutions, over problems and within one."""
    records = [Stepwise("", row["text"].splitlines(), outcome=int(row["correct"])) for row in rows]
    how = "last" if name == "orm" else "min"
    said = [-len(row["text"]) if name == CONTROL else aggregate(row["step_scores"][name], how) for row in rows]
    scored = [StepScores([0.5], value) for value in said]  # one step: AUCs of outcomes read the whole's score alone
    ids, levels = [row["problem_id"] for row in rows], [row["level"] for row in rows]
    quality = quality_by_group(records, scored, "orm", ids, levels, EASY)["all"]
    return {
        auc: [quality[auc], *(quality["intervals"][auc] or ())]
        for auc in ("outcome_auc", "within_problem_auc")
        if quality[auc] is not None
    }


def main(bank: Path) -> None:
    rows = read_jsonl(bank)
    for group in ("easy", "hard"):
        chosen = [row for row in rows if (row["level"] in EASY) == (group == "easy")]
        ended = [row for row in chosen if row["finished"]]
        for name in rows[0]["step_scores"]:
            print(f"{group} {name}: {_shown(votes(chosen, name), '.1f')}")
        for name in (*rows[0]["step_scores"], CONTROL):
            print(f"{group} {name}: {_shown(aucs(chosen, name), '.3f')}; of {len(ended)} that ended: ", end="")
            print(_shown(aucs(ended, name), ".3f"))


def _shown(found: Mapping[str, Sequence[float]], digits: str) -> str:
    parts = []
    for figure, values in found.items():
        value, *ends = (format(value, digits) for value in values)
        parts.append(f"{figure} {value}" + (f" [{', '.join(ends)}]" if ends else ""))
    return "; ".join(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

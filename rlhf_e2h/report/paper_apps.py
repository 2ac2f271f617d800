"""Tables 3 and 6 of the paper: programs for APPS, strict accuracy (every test passes) and average accuracy (of tests).

Strict accuracy comes from the report's rows and has an interval; average accuracy from the `programs` stage, which
gives none, so that its cells have no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_e2h.records import Row
from rlhf_e2h.report.published import published

ROWS = {  # row -> (title, policy, decoding, samples)
    "full_greedy": ("SFT on all levels, greedy †", "sft_full", "greedy", 1),
    "easy_greedy": ("SFT on introductory problems, greedy", "sft_easy", "greedy", 1),
    "best_of_1": ("the same, best of 1 by the ORM", "sft_easy", "best_of_n", 1),
    "best_of_4": ("the same, best of 4 by the ORM", "sft_easy", "best_of_n", 4),
    "best_of_16": ("the same, best of 16 by the ORM", "sft_easy", "best_of_n", 16),
    "pass_at_1": ("the same, pass@1", "sft_easy", "pass_at_n", 1),
    "pass_at_4": ("the same, pass@4", "sft_easy", "pass_at_n", 4),
    "pass_at_16": ("the same, pass@16", "sft_easy", "pass_at_n", 16),
}
LEVELS = {"introductory": "1", "interview": "4", "competition": "5", "all": "all"}  # what `prepare` calls them
NO_INTERVAL = "average accuracy of tests comes without an interval"


def table_3(
    setup: str,
    find: Callable[..., Row | None],
    programs: Sequence[Mapping[str, Any]],
    beside: Callable[..., Row],
) -> Iterator[tuple[str, str, str, str, Row]]:
    """(table, row, column, slice, cell) of Tables 3 and 6; nothing for a setup without programs.

    Args:
        find, beside: of `report.paper`: the row of a condition, and a cell with its difference.
        programs: rows of programs.json, as results.json has them.
    """
    theirs, problems = published()["table3"].get(setup, {}), published()["apps_problems"]
    for key, values in theirs.items():
        title, policy, decoding, samples = ROWS[key]
        model = ("orm", "orm_easy") if decoding == "best_of_n" else (None,)
        table = "Table 6" if decoding == "pass_at_n" else "Table 3"
        for index, (difficulty, level) in enumerate(LEVELS.items()):
            n = problems[difficulty]
            ours = next((found for name in model if (found := find((policy,), decoding, samples, level, name))), None)
            yield table, title, "strict", difficulty, beside(values["strict"][index], n, ours)
            if "average" not in values:
                continue
            cell = beside(values["average"][index], n, None)
            for row in programs:
                same = (row["policy"], row["decoding"], row["samples"]) == (policy, decoding, samples)
                if same and row["reward_model"] in model and row.get(f"{difficulty} average") is not None:
                    cell |= {"ours": row[f"{difficulty} average"], "reason": NO_INTERVAL}
            yield table, title, "average", difficulty, cell

"""Samples against reference answers: extraction, equality and verdicts, so that raw samples can be reranked at once.

Answers are compared with Math-Verify, which `rlhf_e2h` depends on. The checker of `rlhf_e2h` (`e2h check`) knows more
forms; rows that it has judged carry `correct`, and are taken at their word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reward_models import step_text
from reward_models.conversational import VERDICTS, verdict
from reward_models.files import BadRecord, without_nan
from reward_models.records import iter_places
from reward_models.voting import is_missing

GOLD = ("gold", "answer", "final_answer", "ground_truth", "target")
Same = Callable[[str, str], bool]


def read_gold(path: str | Path) -> dict[str, str]:
    """Reference answers by `problem_id`, and by `problem` where rows have one.

    Raises:
        BadRecord: a row without answer, or without problem_id and problem.
    """
    found: dict[str, str] = {}
    for where, raw in iter_places(path):
        row = without_nan(raw)
        names = [str(row[name]) for name in ("problem_id", "problem") if row.get(name) is not None]
        value = next((row[name] for name in GOLD if row.get(name) is not None), None)
        if not names or isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadRecord(f"{where}: needs problem_id or problem, and one of {', '.join(GOLD)} as text or a number")
        found.update(dict.fromkeys(names, str(value)))
    return found


def judged(
    rows: Iterable[Mapping[str, Any]], gold: Mapping[str, str] | None, same: Same, answer_mark: str, source: str
) -> Iterator[dict[str, Any]]:
    """Rows with `problem_id`, `answer` and `correct`, each from the row itself where it has it.

    Raises:
        BadRecord: `source:line: reason` for a row that lacks what cannot be worked out.
    """
    for number, given in enumerate(rows, start=1):
        row, where = without_nan(dict(given)), f"{source}:{number}"
        key = next((str(row[name]) for name in ("problem_id", "problem") if row.get(name) is not None), None)
        if key is None:
            raise BadRecord(f"{where}: needs problem_id or problem; the row has {sorted(row)}")
        answer = row.get("answer", extracted(row.get("text") or "\n\n".join(row.get("steps") or []), answer_mark))
        answer = None if answer is None else str(answer)
        if any(row.get(name) is not None for name in VERDICTS):
            correct = bool(verdict(row))
        else:
            reference = (gold or {}).get(key, (gold or {}).get(str(row.get("problem"))))
            if reference is None:
                raise BadRecord(f"{where}: no reference answer for problem {key!r:.80}; give it in --gold")
            correct = answer is not None and not is_missing(answer) and same(reference, answer)
        yield {**row, "problem_id": key, "answer": answer, "correct": correct}


def extracted(text: str, answer_mark: str) -> str | None:
    """The answer in a solution: after the last answer section, else in the last box; None without either."""
    marked = step_text.answers(text, answer_mark) if answer_mark else []
    if marked:
        return marked[-1].strip() or None
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin + 1 : place].strip() or None
    return None


def math_equality() -> Same:
    """Whether two answers are mathematically equal, by Math-Verify; equal texts are equal in any case.

    Raises:
        ValueError: Math-Verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError:
        raise ValueError("comparing answers needs Math-Verify; install it with: pip install math-verify") from None

    @cache
    def parsed(answer: str) -> Any:
        return parse(f"${answer}$") or parse(answer)

    @cache
    def same(left: str, right: str) -> bool:
        return left.strip() == right.strip() or bool(verify(parsed(left), parsed(right)))

    return same

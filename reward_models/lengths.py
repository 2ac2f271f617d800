"""Rows that a limit of tokens leaves out or cuts: a warning above a tenth, an error where most are gone."""

from __future__ import annotations

WARN, REFUSE = 0.1, 0.5


def losses(given: int, left_out: int, cut: int, what: str, limit: str) -> str | None:
    """What to warn of, or None; `what` names the rows and `limit` is the setting and its value.

    A row that is cut loses its end, with the answer and the end of sequence; it is trained all the same.

    Raises:
        ValueError: more than half of the rows are left out.
    """
    if left_out > REFUSE * given:
        raise ValueError(
            f"{left_out} of {given} {what} are left out, since they do not fit into {limit}; raise it, or leave long "
            "texts out on purpose (max_chars of prepare)"
        )
    if left_out + cut > WARN * given:
        return f"{left_out} of {given} {what} are left out and {cut} cut at their end by {limit}; raise it"
    return None

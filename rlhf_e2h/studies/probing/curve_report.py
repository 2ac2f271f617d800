"""What a `probe_curve` stage reports: a table, a figure of the curves and one of the mixes, and a paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from rlhf_e2h.report.section import add_section
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.studies import drawings
from rlhf_e2h.studies.probing.tables import columns, over, words

RANDOM, ALL = "random", "all"
SUBSETS = ("ambiguous", "hard", "easy")  # to learn, by a data map
GROUPS = ("hard", "easy")  # problems that are tested on
Row = dict[str, Any]


def named(subset: str, share: float) -> str:
    """What a table calls the labels of a subset at a share."""
    return f"{subset} {share:.0%}" if share < 1 else ALL


def mixed(mix: float, share: float) -> str:
    """Ambiguous labels of which a part is replaced by easy-to-learn ones; none of them is the plain subset."""
    return named(f"ambiguous with {mix:.0%} easy" if mix else SUBSETS[0], share)


def report(run: StageRun, rows: Sequence[Row], mixes: Sequence[Row], shares: Sequence[float]) -> str:
    """Write the sections of a stage; returns their paragraph.

    Args:
        rows: of every arm, against as many random labels.
        mixes: of ambiguous labels with a part `mix` of easy ones, against none of them.
    """
    by = {(row["test_on"], row["method"]): row for row in rows}
    text = "\n\n".join(_paragraph(by, group, shares) + _mix_sentences(mixes, group) for group in GROUPS)
    shown = [c for c in columns("ratio", "test_on", "share", "labels", "wrong") if not c.startswith("ratio")]
    shown[shown.index("items") : shown.index("items")] = ["over_top", "top_low", "top_high"]
    for group in GROUPS:
        curves = {
            f"{kind} to learn" if kind in SUBSETS[1:] else kind: [
                _point(share, by[group, named(kind, share)]) for share in shares
            ]
            for kind in (*SUBSETS, RANDOM)
        }
        level = ("all labels", _point(1.0, by[group, ALL])[1:])
        add_section(
            run.out, f"probe_curve_{group}", f"Heads on a share of the labels, tested on {group} problems",
            text if group == GROUPS[0] else "The same on held-out easy problems.", shown,
            [row for row in rows if row["test_on"] == group],
            partial(drawings.shares, curves, "share of the labels", f"AUC on {group} problems", level),
            "Dashed and shaded: all labels. over_floor: against as many random labels, over_top: against all. wrong: "
            "share of wrong labels among those learnt from; where it is 0 or 1 there is nothing to tell apart and AUC "
            "is one half.",
        )  # fmt: skip
    if mixes:
        found: dict[str, list[Any]] = {}
        for row in mixes:
            line = found.setdefault(f"{row['test_on']} problems, {row['share']:.0%} of the labels", [])
            line.append(_point(row["mix"], row))
        add_section(
            run.out, "probe_curve_mix", "Ambiguous labels, some of them replaced by easy-to-learn ones", "",
            ["mix", *shown], mixes,
            partial(drawings.shares, found, "easy-to-learn part of the ambiguous labels", "AUC", columns=2),
            "Lines: the problems that are tested on, and the share of all labels that is learnt from. over_floor: "
            "against ambiguous labels alone.",
        )  # fmt: skip
    return text


def _point(x: float, row: Row) -> tuple[float, float, float, float]:
    return x, row["auc"], row["low"], row["high"]


def _paragraph(by: dict[tuple[str, str], Row], group: str, shares: Sequence[float]) -> str:
    """AUC of all labels and of random shares, then what each subset has over as many random labels."""
    every = by[group, ALL]
    parts = [
        f"AUC on {every['items']} labels of {every['problems']} {group} problems, {every['labels']} labels to learn "
        f"from in all, {every['repeats']} repeats: all {words(every)}."
    ]
    for share in shares:
        here = ", ".join(f"{kind} {over(by[group, named(kind, share)])}" for kind in SUBSETS)
        apart = over(by[group, named(SUBSETS[0], share)], "top")
        parts.append(
            f"{share:.0%}: random {words(by[group, named(RANDOM, share)])}; against it {here}; ambiguous against all "
            f"labels {apart}."
        )
    return " ".join(parts)


def _mix_sentences(mixes: Sequence[Row], group: str) -> str:
    """What easy-to-learn labels in the place of ambiguous ones change, at each share."""
    text = ""
    for share in dict.fromkeys(row["share"] for row in mixes):
        rows = [row for row in mixes if row["mix"] and (row["test_on"], row["share"]) == (group, share)]
        text += f" Ambiguous {share:.0%} with a part of easy ones, against none: "
        text += ", ".join(f"{row['mix']:.0%} {over(row)}" for row in rows) + "."
    return text

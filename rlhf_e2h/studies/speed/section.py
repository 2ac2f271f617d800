"""What the report says and shows of the speed of learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_e2h.report.svg import MARKER, SERIES, new_figure

MEAN = "mean"  # of the skills' curves, each counted alike


def paragraph(rows: Sequence[Mapping[str, Any]], match: bool, window: int) -> str:
    """Where each run crosses the threshold, with intervals."""
    parts = []
    for row in rows:
        skill = MEAN if row["skill"] == MEAN else f"skill {row['skill']}"
        where = f"{row['run']}, {skill}"
        if row["step"] is None:
            parts.append(f"{where}: censored ({row['reason']}){_against(row)}")
            continue
        ends = [str(row[k]) if row.get(k) is not None else "open" for k in ("step_low", "step_high")]
        interval = f" [{ends[0]}, {ends[1]}]" if "step_low" in row else ""
        parts.append(f"{where}: {row['threshold']:g} at step {row['step']:g}{interval}{_against(row)}")
    what = "is the baseline's last accuracy" if match else f"for {window} evaluations in a row"
    return f"Threshold {what}, 95 % bootstrap intervals. " + "; ".join(parts) + "."


def _against(row: Mapping[str, Any]) -> str:
    """Area and last accuracy less those of the baseline, for runs that are compared with it."""
    if "area_difference" not in row:
        return ""
    found = (
        f"{row[f'{k}_difference']:+.3f} [{row[f'{k}_low']:+.3f}, {row[f'{k}_high']:+.3f}]" for k in ("area", "last")
    )
    return ", against the baseline area {}, last {}".format(*found)


def figure(
    steps: Sequence[int], curves: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], kind: str
) -> Any:
    """A panel a run: the curve of each skill (named by `kind`, such as "level") and their mean."""
    names = list(dict.fromkeys(row["run"] for row in curves))
    skills = list(dict.fromkeys(row["skill"] for row in curves))
    drawing, axes = new_figure(2.6 * len(names) + 0.6, 3.0)
    axes.remove()
    for place, name in zip(np.atleast_1d(drawing.subplots(1, len(names), sharey=True)), names, strict=True):
        lines = []
        for number, skill in enumerate(skills):
            mine = [row for row in curves if (row["run"], row["skill"]) == (name, skill)]
            line = [float(np.mean([row["accuracy"] for row in mine if row["step"] == step])) for step in steps]
            lines.append(line)
            colour = MARKER[SERIES[number % len(SERIES)]]
            place.plot(steps, line, color=colour, linewidth=1.0, label=f"{kind} {skill}")
            found = next(row for row in rows if (row["run"], row["skill"]) == (name, skill))
            if found["step"] is not None:
                place.plot([found["step"]], [found["threshold"]], "o", color=colour, markersize=5)
        place.plot(steps, np.mean(lines, axis=0), color=MARKER["ink"], linewidth=2.2, label="mean")
        place.set_title(name)
        place.set_ylim(-0.02, 1.02)
        place.set_xlabel("step")
    drawing.axes[0].set_ylabel("accuracy")
    drawing.axes[-1].legend(fontsize=7, loc="best")
    return drawing

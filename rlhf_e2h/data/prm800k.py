"""PRM800K's trees (see reward_models/prm800k.py) as solutions of problems of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reward_models.prm800k import paths
from reward_models.records import BadRecord
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.data.sources import Source


def read_prm800k(rows: Iterable[Row], quality_control: bool = True) -> Iterator[Solution]:
    """Solutions with step labels: of each record the chosen path, then a path for each other rated completion.

    `quality_control=False` leaves out records that served to screen and check the labellers.

    Raises:
        BadRecord: a record without the fields of PRM800K, or with a rating that is not -1, 0, 1 or null.
    """
    for row in rows:
        fields = row.fields
        try:
            problem, _ = fields["question"]["problem"].strip(), fields["label"]
            screening = fields.get("is_quality_control_question") or fields.get("is_initial_screening_question")
            if screening and not quality_control:
                continue
            found = list(paths(fields))
        except ValueError as error:
            raise BadRecord(f"{row.where}: {error}") from None
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadRecord(f"{row.where}: not a PRM800K record ({type(error).__name__}: {error})") from None
        for number, (path, complete) in enumerate(found):
            if path.steps:
                place = f"{row.where}/{number}"
                yield Solution(
                    place, problem, problem, path.steps, path.labels, complete,
                    ratings=path.ratings, first_error=path.first_error,
                )  # fmt: skip


SOURCE = Source(
    "prm800k",
    solutions=lambda rows, settings: read_prm800k(rows, settings.quality_control),
    counts=(24_000, 0, 0),
    step_records=90_000,
)

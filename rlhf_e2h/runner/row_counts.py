"""Names under which stages count the rows that they left out or cut; the line of a stage always shows these."""

from __future__ import annotations

LOSSES = frozenset(
    {
        "left_out",  # the prompt fills the limit of tokens
        "cut",  # the end is beyond it
        "too_long",  # longer than a reward model's limit
        "held_out_too_long",  # the same among validation records
        "split_otherwise",  # the text, cut into steps, gives other steps than the record's
        "one_step",  # several lines without a blank one, which a process model scores as one step
        "without_label",  # no label for this kind of model
        "without_solution",  # an answer only
        "unreadable",  # the format is not known, or a field is wrong
        "unfinished",  # samples without end
        "repeated",  # the same text of a problem again
        "unbalanced",  # beyond the ratio of right and wrong, or of a problem with one of them only
        "failed",  # requests without an answer
        "too_few",  # samples of problems that have fewer than asked for
        "surplus",  # samples beyond that number
        "unknown_problem",  # of no problem of the prepare stage
        "test_problem",  # solutions of problems that are in test, and so may not train
        "validation_problem",  # the same of validation
        "unlabelled",  # the problem has no label that may be read
        "no_level",
        "no_answer",
        "duplicate_id",
        "duplicates",
        "files_skipped",
        "read_by_one_model",  # items that are too long for the other one of two models
    }
)


def nonzero(**counts: int) -> dict[str, int]:
    """The counts that are not 0: what was not lost is not worth a word.

    Raises:
        KeyError: a name that is not in LOSSES, so that the line of the stage would not show it.
    """
    if unknown := set(counts) - LOSSES:
        raise KeyError(f"{sorted(unknown)} are not in LOSSES")
    return {name: count for name, count in counts.items() if count}

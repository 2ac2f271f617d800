"""What stages hand to each other: the files, a row a line (JSON Lines), and the fields of each row.

| file | fields of a row |
|---|---|
| SAMPLES | `problem_id`, `sample_id`, `text`, `answer` (read from the text; null if there is none), `finished` |
| GRADED | those of a sample, `correct`, `reason` |
| scored_file(NAME) | those of a sample, `step_scores` (probabilities), `score`, `reward_model` |
| OUTCOMES | `problem_id`, `level`, `policy`, `decoding`, `n`, `correct`, and what else `report` groups by |

Further fields pass through untouched. Problems and labels stand apart, in the files of `data.firewall`; step labels
are `reward_models.records.Stepwise`.
"""

SAMPLES = "samples.jsonl"
GRADED = "graded.jsonl"
OUTCOMES = "outcomes.jsonl"


def scored_file(name: str) -> str:
    """The samples of a bank with the scores of the reward model that the tables call `name`."""
    return f"scored_{name}.jsonl"

"""The numbers of Sun et al. 2024 (arXiv 2403.09472 v2), from `published.json`, and where ours belong beside them.

Everything in the file is the paper's, in percent on MATH500 (238 easy, 262 hard problems); nothing in it is ours.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

SETUPS = {  # name in published.json -> what it is, and the recipe that repeats it, if one ships
    "7b-prm800k": ("Llemma 7B, PRM800K", "llemma-7b-prm800k"),
    "7b-metamath": ("Llemma 7B, MetaMATH", "llemma-7b-metamath"),
    "34b-prm800k": ("Llemma 34B, PRM800K", "llemma-34b-prm800k"),
    "34b-metamath": ("Llemma 34B, MetaMATH", None),
    "7b-apps": ("Code Llama 7B, APPS", "apps-orm"),
    "34b-apps": ("Code Llama 34B, APPS", None),
}
# row -> (what the paper calls it, names under which our recipes evaluate the same thing)
TABLE_1 = {
    "icl_full": ("Full ICL", ("icl_full",)),
    "icl_hard": ("Hard ICL", ("icl_hard", "icl_hardonly")),
    "icl_easy": ("Easy-to-hard ICL", ("icl_easy", "icl")),
    "sft_full": ("Full SFT", ("sft_full",)),
    "sft_easy": ("Easy-to-hard SFT", ("sft_easy",)),
}
TABLE_2 = {
    "sft": ("SFT on levels 1-3", ("sft_easy",)),
    "rest_easy": ("ReST-EM, easy questions and answers", ("rest_easy",)),
    "rest_hard": ("ReST-EM, hard questions and answers", ("rest_hard", "rest_hardonly")),
    "rest_all": ("ReST-EM, all questions and answers †", ("rest_full", "rest_dagger")),
    "rest": ("ReST-EM, all questions, easy answers, PRM (ours only)", ("rest", "rest_prm")),
    "dpo_easy": ("Iterative DPO, easy questions and answers, PRM", ("dpo_easy",)),
    "dpo_all": ("Iterative DPO, all questions, easy answers, PRM", ("dpo", "dpo_prm", "dpo_oprm")),
    "dpo_dagger": ("Iterative DPO, all questions and answers, PRM †", ("dpo_dagger",)),
    "ppo_easy": ("PPO, easy questions and answers, no PRM", ("ppo_easy",)),
    "ppo_hard": ("PPO, hard questions and answers, no PRM", ("ppo_hard", "ppo_hardonly")),
    "ppo_dagger": ("PPO, all questions and answers, no PRM †", ("ppo_dagger",)),
    "ppo": ("PPO, all questions, easy answers, PRM", ("ppo", "ppo_prm")),
}
TABLE_9 = {
    "full": ("SFT on all levels", ("sft_full",)),
    "easy": ("SFT on levels 1-3", ("sft_easy",)),
    "hardonly": ("SFT on levels 4-5", ("sft_hardonly", "sft_hard")),
}
TABLE_10 = {"orm": "ORM", "prm": "PRM", "oprm": "OPRM"}
QUALITY = {  # metric in the table (percent for accuracies) -> what the paper calls it, and ours for it
    "step_accuracy": ("step accuracy", "step_balanced_accuracy"),
    "outcome_accuracy": ("outcome accuracy", "outcome_balanced_accuracy"),
    "step_auc": ("step AUC", "step_auc"),
    "outcome_auc": ("outcome AUC", "outcome_auc"),
}


@functools.cache
def published() -> dict[str, Any]:
    """`published.json`: problems, table1, table2, table3, table9, table10, curves, levels, subjects, pass_at_n."""
    text = resources.files("rlhf_e2h.report").joinpath("published.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def setup_of(recipe: str) -> str | None:
    """The paper's setup that a recipe repeats, told from its name, or None."""
    return next((name for name, (_, ours) in SETUPS.items() if ours and recipe.startswith(ours)), None)

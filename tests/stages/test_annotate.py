"""Step labels from rollouts of a real policy, graded by the real checker."""

import pytest

from reward_models.labels import Outcome
from reward_models.records import read_jsonl, read_stepwise
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.rl.engine_settings import Sampling
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.stages.annotate import Completer, choose
from rlhf_e2h.training.models import open_policy

STAGES = {
    "1_prepare": (
        "stage: prepare\nsource: procedural\ntrain_per_level: [4, 2, 0, 2, 0]\ntest_per_level: [1, 0, 0, 1, 0]"
    ),
    "2_sample": (
        'stage: sample\npolicy: "asset:base"\ndata: "@prepare"\nlevels: [1, 2]\ndecoding: {n: 4, max_new_tokens: 32}'
    ),
    "3_grade": 'stage: grade\nsamples: "@sample"\ndata: "@prepare"',
    "4_annotate": (
        'stage: annotate\npolicy: "asset:base"\ndata: "@prepare"\ngraded: "@grade"\nmode: search\nsamples: 3\n'
        "per_problem: 2\nmax_new_tokens: 32"
    ),
}


@pytest.mark.slow
def test_stage_labels_easy_solutions_and_reports_tokens(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/recipe.yaml").write_text("name: tiny\n")
    for name, text in STAGES.items():
        (tmp_path / f"recipe/{name}.yaml").write_text(text + "\n")
    run_recipe(load_recipe(tmp_path / "recipe", [f"runs={tmp_path / 'runs'}"]))
    (folder,) = (path.parent for path in (tmp_path / "runs").rglob("stepwise.jsonl"))
    records = read_stepwise(folder / "stepwise.jsonl")
    assert {record.extra["problem_id"].split("-")[2] for record in records} <= {"1", "2"}
    assert all(len(record.labels) == len(record.steps) for record in records)
    for record in records:  # the binary search: right solutions have no error, wrong ones exactly one
        assert record.labels.count(0) == 1 - record.outcome
    results = read_done(folder)["results"]
    assert results["generated_tokens"] == sum(row["mc_tokens"] for row in read_jsonl(folder / "stepwise.jsonl"))
    assert results["solutions"] == len(records) <= 12


class Engine:
    """Ends each prompt with the same two texts, the second unfinished."""

    def __init__(self):
        self.asked = []

    def sample(self, prompts, sampling, on_batch=None):
        self.asked.append((list(prompts), sampling))
        count = len(prompts)
        texts = ["# Answer\n\n7", "# Answer\n\n7"] * count
        return Rollouts([[0]] * count, [[1, 2, 3], [1]] * count, [], texts, [True, False] * count)


def test_full_labels_need_a_name_that_says_so(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/recipe.yaml").write_text("name: tiny\n")
    stages = STAGES | {"4_annotate": STAGES["4_annotate"] + "\nlabels: full"}
    for name, text in stages.items():
        (tmp_path / f"recipe/{name}.yaml").write_text(text + "\n")
    with pytest.raises(FirewallError, match="annotate"):
        run_recipe(load_recipe(tmp_path / "recipe", [f"runs={tmp_path / 'runs'}"]))


def test_completer_continues_prefixes_and_grades_the_whole():
    engine = Engine()
    with CheckerPool() as pool:
        policy = open_policy(ASSETS / "base")
        completer = Completer(policy, engine, Sampling(max_new_tokens=9), {"p": "7", "q": "8"}, pool, seed=1)
        found = completer([("p", ["a", "b"]), ("q", ["c"])], 2)
        completer([("p", ["a", "b"]), ("q", ["c"])], 2)
        completer([("p", ["a"])], 2)
    assert found == [[Outcome(True, 3), Outcome(False, 1)], [Outcome(False, 3), Outcome(False, 1)]]
    prompts, sampling = engine.asked[0]
    assert prompts == ["# Question\n\np\n\n# Solution\n\na\n\nb\n\n", "# Question\n\nq\n\n# Solution\n\nc\n\n"]
    assert (sampling.n, sampling.max_new_tokens) == (2, 9)
    assert engine.asked[1] == engine.asked[0] and engine.asked[2][1].seed != sampling.seed


def test_choose_takes_different_finished_solutions_in_turn():
    rows = [
        {"problem_id": "a", "text": text, "correct": correct, "finished": finished}
        for text, correct, finished in [
            ("r1", 1, 1),
            ("r1", 1, 1),
            ("r2", 1, 1),
            ("w1", 0, 1),
            ("cut", 0, 0),
            ("r3", 1, 1),
        ]
    ]
    chosen = choose(rows, {"a": "problem"}, per_problem=3)
    assert [(record.steps, record.outcome) for record in chosen] == [(["r1"], 1), (["w1"], 0), (["r2"], 1)]

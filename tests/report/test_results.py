"""The result table, comparisons and gap ratios against hand calculation."""

from __future__ import annotations

import csv
import json

import pytest
from conftest import made_up_outcomes

from rlhf_e2h.report.comparisons import Comparison, Gap, compare, default_comparisons, default_gaps, gap_ratios
from rlhf_e2h.report.outcomes import Outcomes
from rlhf_e2h.report.results import COLUMNS, accuracy_rows, build_results, main_seed, write_results


def small(correct, seeds=(0,), level=4):
    """Outcomes from {(policy, decoding, reward_model, labels, samples): one value a problem}."""
    outcomes = Outcomes()
    for seed in seeds:
        for (policy, decoding, reward_model, labels, samples), values in correct.items():
            for index, value in enumerate(values):
                row = {"policy": policy, "decoding": decoding, "reward_model": reward_model, "labels": labels}
                row |= {"samples": samples, "problem_id": f"p{index:03d}", "level": level, "correct": value}
                outcomes.add(row, seed)
    return outcomes


def greedy(policy, labels="easy"):
    return (policy, "greedy", None, labels, 1)


def test_columns_are_the_agreed_ones(tmp_path, outcomes):
    write_results(build_results(outcomes, draws=50), tmp_path)
    with (tmp_path / "results.csv").open() as file:
        header = next(csv.reader(file))
    agreed = "policy,decoding,reward_model,labels,samples,level,n,accuracy,ci_low,ci_high,seed"
    assert ",".join(header) == agreed
    assert header == list(COLUMNS)


def test_identical_outcomes_identical_bytes(tmp_path):
    for name in ("a", "b"):
        write_results(build_results(made_up_outcomes(per_level=6, sizes=(1, 4)), draws=200), tmp_path / name)
    for file in ("results.csv", "results.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_rows_of_one_seed_are_wilson():
    rows = accuracy_rows(small({greedy("base", "none"): [1] * 8 + [0] * 2}))
    assert [(row["level"], row["n"], row["accuracy"], row["seed"]) for row in rows] == [
        ("4", 10, 0.8, 0), ("hard", 10, 0.8, 0), ("all", 10, 0.8, 0),
    ]  # fmt: skip
    # statsmodels proportion_confint(8, 10, method="wilson")
    assert (rows[0]["ci_low"], rows[0]["ci_high"]) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_several_seeds_have_a_row_each_and_one_for_all():
    rows = accuracy_rows(small({greedy("base", "none"): [1, 0, 0.5, 1]}, seeds=(3, 5)), draws=500)
    hard = [row for row in rows if row["level"] == "hard"]
    assert [row["seed"] for row in hard] == [3, 5, "all"]
    assert [row["n"] for row in hard] == [4, 4, 4]
    assert hard[2]["accuracy"] == 0.625 and hard[2]["ci_low"] < 0.625 < hard[2]["ci_high"]


def test_always_right_has_an_interval():
    row = accuracy_rows(small({greedy("base", "none"): [1] * 10}, seeds=(0, 1)))[-1]
    assert row["seed"] == "all" and row["accuracy"] == 1.0 and row["ci_low"] == pytest.approx(0.7225, abs=1e-4)


def test_every_slice_of_the_made_up_run(outcomes):
    rows = build_results(outcomes, draws=50)["rows"]
    table = {(r["policy"], r["decoding"], r["reward_model"], r["samples"], r["level"], r["seed"]): r for r in rows}
    assert table["sft_easy", "greedy", None, 1, "easy", 0]["n"] == 60
    assert table["sft_easy", "greedy", None, 1, "hard", "all"]["n"] == 40
    by_level = [table["sft_easy", "majority", None, 16, str(level), 1] for level in (1, 2, 3, 4, 5)]
    whole = table["sft_easy", "majority", None, 16, "all", 1]
    assert whole["accuracy"] == pytest.approx(sum(row["accuracy"] for row in by_level) / 5, abs=1e-6)


def test_no_nan_in_json(tmp_path, outcomes):
    results = build_results(outcomes, draws=50)
    write_results(results, tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text and json.loads(text) == results


def test_default_comparisons(outcomes):
    found = default_comparisons(outcomes)
    assert {item.level for item in found} == {"hard"}
    policies = [item.treatment["policy"] for item in found if item.kind == "policy"]
    assert policies == ["base", "icl_easy", "sft_full", "ppo_prm", "dpo_oprm", "rest_prm", "ppo_dagger"]
    decodings = [item for item in found if item.kind == "decoding"]
    assert len(decodings) == 2 * 2 * 2 * 4  # policies, sizes above 1, decodings, reward models
    assert all(item.baseline["decoding"] == "majority" for item in decodings)
    assert all(item.baseline["samples"] == item.treatment["samples"] for item in decodings)


def test_differences_are_paired():
    """Right on 5 problems more of 50, wrong on none: sd = sqrt(.1 * .9 / 50) = .0424, unpaired it would be about .1."""
    baseline = [1] * 25 + [0] * 25
    outcomes = small({greedy("sft_easy"): baseline, greedy("ppo_prm"): [1] * 30 + [0] * 20})
    (row,) = compare(outcomes, default_comparisons(outcomes), draws=5_000)
    assert row["name"] == "ppo_prm, greedy - sft_easy, greedy" and row["kind"] == "policy" and row["reason"] is None
    assert row["estimate"] == pytest.approx(0.1) and row["n"] == 50 and row["seeds"] == [0]
    assert 0 < row["low"] < 0.1 and (row["high"] - row["low"]) == pytest.approx(2 * 1.96 * 0.0424, rel=0.1)


def test_comparisons_that_a_recipe_names(outcomes):
    named = Comparison({"policy": "ppo_prm"}, {"policy": "base"}, "5", "PPO over nothing")
    (row,) = compare(outcomes, [named], draws=200)
    assert (row["name"], row["level"], row["n"]) == ("PPO over nothing", "5", 20)
    assert row["treatment"] == {
        "policy": "ppo_prm", "decoding": "greedy", "reward_model": None, "samples": 1, "labels": "easy",
    }  # fmt: skip
    (row,) = compare(outcomes, [Comparison({"policy": "sft_easy", "decoding": "majority"}, {"policy": "base"})], 200)
    assert row["treatment"]["samples"] == 16  # the most that were drawn


def test_a_side_that_was_not_evaluated_is_null_with_a_reason(outcomes):
    (row,) = compare(outcomes, [Comparison({"policy": "ppo_orm"}, {"policy": "base"})], 200)
    assert row["estimate"] is None and row["low"] is None and row["reason"] == "one side was not evaluated in this run"


def test_wrong_specs_are_named():
    with pytest.raises(ValueError, match=r"unknown key 'decode'"):
        Comparison({"policy": "a", "decode": "greedy"}, {"policy": "b"})
    with pytest.raises(ValueError, match="no policy"):
        Gap({"policy": "a"}, {"decoding": "greedy"})
    with pytest.raises(ValueError, match="level 'difficult' is not a slice"):
        Comparison({"policy": "a"}, {"policy": "b"}, level="difficult")


def test_pgr_by_hand():
    """Of 100: 40, 70 and 90 right, nested. PGR = 30 / 50."""
    outcomes = small(
        {
            greedy("sft_easy"): [1] * 40 + [0] * 60,
            greedy("ppo_prm"): [1] * 70 + [0] * 30,
            greedy("sft_full", "full"): [1] * 90 + [0] * 10,
        }
    )
    (row,) = gap_ratios(outcomes, default_gaps(outcomes), draws=3_000)
    assert row["name"] == "ppo_prm, greedy" and row["estimate"] == pytest.approx(0.6)
    assert row["low"] < 0.6 < row["high"] and row["denominator"]["estimate"] == pytest.approx(0.5)
    assert row["ceiling"]["policy"] == "sft_full" and row["ceiling"]["labels"] == "full"


def test_pgr_without_gap_or_twin_is_null():
    vote, majority = ("sft_easy", "weighted_vote", "orm_easy", "easy", 4), ("sft_easy", "majority", None, "easy", 4)
    values = [1] * 5 + [0] * 5
    outcomes = small(
        {
            greedy("sft_easy"): values,
            greedy("ppo_prm"): values,
            greedy("sft_full", "full"): values,
            vote: values,
            majority: values,
        }
    )
    no_gap, no_twin = gap_ratios(outcomes, default_gaps(outcomes), draws=500)
    assert no_gap["estimate"] is None and "contains 0" in no_gap["reason"]
    assert no_twin["estimate"] is None and no_twin["reason"] == "this run has no full-data twin of it"


def test_twins_are_of_the_same_kind(outcomes):
    reranked = {gap.student["reward_model"]: gap for gap in default_gaps(outcomes) if gap.student.get("reward_model")}
    assert reranked["prm_easy"].ceiling["reward_model"] == "prm_full" and not reranked["orm_easy"].ceiling
    assert reranked["prm_easy"].weak["decoding"] == "majority" and reranked["prm_easy"].student["samples"] == 16


def test_policies_have_the_full_sft_and_their_own_kind_as_twins(outcomes):
    twins = [(gap.student["policy"], gap.ceiling["policy"]) for gap in default_gaps(outcomes) if len(gap.ceiling) == 1]
    assert twins == [
        ("ppo_prm", "sft_full"), ("ppo_prm", "ppo_dagger"), ("dpo_oprm", "sft_full"), ("rest_prm", "sft_full"),
    ]  # fmt: skip


def test_seeds_that_only_one_side_has():
    outcomes = small({greedy("sft_easy"): [1, 0, 1, 0]}, seeds=(0, 1))
    for index, value in enumerate([1, 1, 1, 0]):
        row = {"policy": "ppo_prm", "decoding": "greedy", "reward_model": None, "labels": "easy", "samples": 1}
        outcomes.add(row | {"problem_id": f"p{index:03d}", "level": 4, "correct": value}, 1)
    (row,) = compare(outcomes, default_comparisons(outcomes), draws=300)
    assert row["seeds"] == [1] and row["estimate"] == pytest.approx(0.25)


def test_main_seed():
    assert main_seed({"seeds": [4]}) == 4 and main_seed({"seeds": [0, 1]}) == "all"

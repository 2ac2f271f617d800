"""Arms at equal n, noise, cost, and the tables of the gap study on outcomes made by hand."""

import numpy as np
import pytest

from rlhf_e2h.studies.gap.gap import Cell, Config, cells, step_labels
from rlhf_e2h.studies.gap.results import Outcomes, accuracy_table, cost_curve, heat_map, main_n, noise_curve, sgr_table
from rlhf_e2h.studies.gap.slices import cost_of, draw, groups_of, members, noise_of, redrawn


def test_quantile_groups_are_30_40_30():
    groups = groups_of(np.random.default_rng(0).permutation(1000))
    assert [groups.count(name) for name in ("easy", "medium", "hard")] == [300, 400, 300]


def test_limits_of_the_paper():
    # GSM8K steps: easy up to 4, hard from 7
    assert groups_of([4, 5, 6, 7], 4, 7) == ["easy", "medium", "medium", "hard"]


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, np.nan, 2.0]])
def test_no_groups_without_values(values):
    with pytest.raises(ValueError, match=r"overlap|missing"):
        groups_of(values)


def test_draws_are_equal_nested_and_inside():
    candidates = np.arange(10, 30)
    small, large = (draw(candidates, n, "easy", 3) for n in (5, 12))
    assert len(set(large.tolist())) == 12 and set(large.tolist()) <= set(candidates.tolist())
    assert (large[:5] == small).all()


def test_more_than_there_are_is_an_error_that_names_the_arm():
    with pytest.raises(ValueError, match=r"arm 'hard' has 3 problems, n is 4"):
        draw(np.arange(3), 4, "hard", 0)


def test_members_of_arms():
    groups, levels = ["easy", "medium", "hard"], [1, 3, 5]
    assert members(groups, levels, "none").tolist() == []
    assert members(groups, levels, "all").tolist() == [0, 1, 2]
    assert members(groups, levels, "level 3").tolist() == [1] and members(groups, levels, "hard").tolist() == [2]
    with pytest.raises(ValueError, match="'middle' is not known"):
        members(groups, levels, "middle")


@pytest.mark.parametrize(("p", "share"), [(0.3, 0.225), (0.6, 0.45)])
def test_noise_changes_the_share_of_the_paper(p, share):
    # 4 choices, redrawn with the true one among them: p * 3 / 4; standard error of 20,000 draws .003
    labels = np.random.default_rng(1).integers(4, size=20_000)
    changed = np.mean(np.array(redrawn(labels, [0, 1, 2, 3], p, 0)) != labels)
    assert changed == pytest.approx(share, abs=0.01)


def test_no_noise_changes_nothing_and_hard_is_twice_as_noisy():
    assert redrawn([0, 1, 1], [0, 1], 0.0, 0) == [0, 1, 1]
    assert noise_of("hard", 0.3) == 0.6 and noise_of("easy", 0.3) == 0.3 and noise_of("hard", 0.7) == 1.0


def test_a_prm_learns_whether_each_step_is_right_given_those_before_it():
    # 4+3 is 2 modulo 5; what follows builds rightly on the mistake
    wrong = ("p=4+3;q=p*4;r=q+1;r=?", ["p=4+3=1", "q=1*4=4", "r=4+1=0", "# Answer\n\n0"])
    early = ("p=4+3;q=p*4;r=q+1;r=?", ["p=4+3=2", "r=2+1=3", "# Answer\n\n3"])
    assert [one.tolist() for one in step_labels([wrong, early], 0.0, seed=0)] == [[0, 1, 1, 1], [1, 0, 0]]
    noisy = np.concatenate(step_labels([wrong, early] * 500, 0.3, seed=0))
    assert (noisy != np.tile([0, 1, 1, 1, 1, 0, 0], 500)).mean() == pytest.approx(0.15, abs=0.02)  # half of .3
    with pytest.raises(ValueError, match="use procedural"):
        Config(base="b", data="d", graded="g", bank="b", methods=["prm"])


def test_cost_axis():
    assert cost_of("easy", 40) == 40 and cost_of("hard", 40) == 80 and cost_of("hard", 40, 3) == 120


def rows(share, arm, method="sft", n=10, noise=0.0, seed=0, problems=400):
    """Item rows; exactly `share` of the problems of each level are right, nested in one order."""
    per_level = problems // 5
    right = round(share * per_level)
    return [
        {
            "method": method, "train_on": arm, "n": n, "noise": noise, "problem_id": f"{level}-{i}", "level": level,
            "correct": float((i * 7 + seed) % per_level < right),
        }
        for level in range(1, 6)
        for i in range(per_level)
    ]  # fmt: skip


def study(none=0.40, easy=0.52, hard=0.55):
    # .40 / .52 / .55 of 80 problems a level would be 32 / 41.6 / 44; of 100 it is exact
    return [
        rows(none, "none", n=0, seed=s, problems=500)
        + rows(easy, "easy", seed=s, problems=500)
        + rows(hard, "hard", seed=s, problems=500)
        for s in range(3)
    ]


def test_golden_sgr_from_item_rows():
    ratio = next(r for r in sgr_table(Outcomes(study()), (1, 2, 3), 2000) if r["test_on"] == "hard")
    assert ratio["sgr"] == pytest.approx(0.80, abs=1e-6) and ratio["null_because"] is None
    assert ratio["low"] < 0.8 < ratio["high"] and ratio["hard_minus_none"] == pytest.approx(0.15)


def test_no_gap_is_null_with_a_reason():
    ratio = next(r for r in sgr_table(Outcomes(study(hard=0.40)), (1, 2, 3), 500) if r["test_on"] == "hard")
    assert ratio["sgr"] is None and "contains 0" in ratio["null_because"]


def test_accuracy_and_difference_to_the_floor():
    found = {(r["train_on"], r["test_on"]): r for r in accuracy_table(Outcomes(study()), (1, 2, 3), 500)}
    cell = found["easy", "level 4"]
    assert cell["accuracy"] == pytest.approx(0.52) and cell["over_none"] == pytest.approx(0.12)
    assert cell["problems"] == 100 and cell["seeds"] == 3
    assert all(r["accuracy"] == r["accuracy"] for r in found.values())  # no NaN


def test_a_level_without_problems_is_null_with_a_reason():
    only = [[row for row in seed if row["level"] != 2] for seed in study()]
    found = [r for r in accuracy_table(Outcomes(only), (1, 2, 3), 200) if r["test_on"] == "level 2"]
    assert found and all(r["null_because"] == "no test problems of this level" and "accuracy" not in r for r in found)


def test_missing_answers_are_an_error():
    broken = study()
    broken[1] = broken[1][:-1]
    with pytest.raises(ValueError, match="1 answers are missing"):
        Outcomes(broken)


def test_heat_map_and_curves():
    made = [
        rows(0.2, "none", "probe", 0) + rows(0.5, "level 4", "probe") + rows(0.4, "easy", "probe", 5)
        + rows(0.5, "easy", "probe") + rows(0.6, "hard", "probe") + rows(0.3, "hard", "probe", noise=0.1)
    ]  # fmt: skip
    outcomes = Outcomes(made)
    heat = heat_map(outcomes, "probe")
    assert heat[3].tolist() == [0.5] * 5 and np.isnan(heat[0]).all() and heat_map(outcomes, "sft") is None
    table = accuracy_table(outcomes, (1, 2, 3), 200)
    cost = cost_curve(table, "probe", 2.0)
    assert [(x, y) for x, y, *_ in cost["easy"]] == [(5.0, 0.4), (10.0, 0.5)]
    assert [(x, y) for x, y, *_ in cost["hard"]] == [(20.0, 0.6)]
    assert [(x, y) for x, y, *_ in noise_curve(table, "probe", 10)["hard"]] == [(0.0, 0.6), (0.1, 0.3)]


def test_a_curve_above_n_does_not_replace_the_arms():
    arms = [(0, "none"), (10, "easy"), (10, "all"), (10, "hard"), (20, "easy"), (20, "hard")]
    outcomes = Outcomes([[row for n, arm in arms for row in rows(0.5, arm, n=n)]])
    assert main_n(outcomes) == {"sft": 10}
    # easy and hard arms alone: as many of either n, and the study's own come first
    outcomes = Outcomes([[row for n, arm in arms if arm != "all" for row in rows(0.5, arm, n=n)]])
    assert main_n(outcomes) == {"sft": 10}


def test_noisy_exemplars_are_as_many_as_clean_ones():
    config = Config("base", "data", methods=["icl"], by_level=[], curves_of=["icl"], n=160, shots=4, noise=[0.3])
    noisy = [cell for cell in cells(config, [1, 5]) if cell.noise]
    assert noisy == [Cell("icl", "easy", 4, 0.3), Cell("icl", "hard", 4, 0.3)]

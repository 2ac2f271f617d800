"""Compute of each method, by hand: a manifest of round numbers."""

import pytest
from conftest import ABOUT, made_up_outcomes

from rlhf_e2h.report.compute import Amount, Price, compute_rows, matches, prices
from rlhf_e2h.report.compute_figure import compute_plot, method_table
from rlhf_e2h.report.outcomes import Condition
from rlhf_e2h.report.page import PageInput, render_page
from rlhf_e2h.report.results import build_results
from rlhf_e2h.report.svg import Palette

GREEDY = Condition("sft_easy", "greedy", None, "easy", 1)
PPO = Condition("ppo_prm", "greedy", None, "easy", 1)
DPO = Condition("dpo_oprm", "greedy", None, "easy", 1)


def majority(n):
    return Condition("sft_easy", "majority", None, "easy", n)


def best(n):
    return Condition("sft_easy", "best_of_n", "prm_easy", "easy", n)


def manifest():
    """One seed. Costs are (tokens, operations); the bank has 10 problems with 16 samples each."""

    def record(name, kind, spent, upstream=(), **results):
        folders = [f"{one}/x" for one in upstream]
        costs = {"tokens": spent[0], "flops": spent[1]}
        return {"name": name, "stage": kind, "seed": 0, "folder": f"{name}/x", "upstream": folders, **costs} | {
            "results": results
        }

    greedy = {"sft_easy": (500, 5e3), "ppo_prm": (600, 6e3), "dpo_oprm": (600, 6e3)}
    return [
        record("prepare", "prepare", (0, 0)),
        record("sft_easy", "sft", (1000, 1e6), ["prepare"]),
        record("sample_easy", "sample", (2000, 2e6), ["sft_easy", "prepare"]),
        record("prm", "reward", (3000, 3e6), ["sample_easy", "prepare"]),
        record("ppo_prm", "ppo", (7000, 7e6), ["sft_easy", "prm", "prepare"]),
        record("dpo_oprm", "dpo", (100, 1e5), ["sft_easy", "sample_easy"]),
        record("bank", "sample", (16_000, 1.6e5), ["sft_easy", "prepare"], solutions=160),
        record("rerank", "rerank", (32_000, 3.2e5), ["bank", "prm"], cost={"prm_easy": (32_000, 3.2e5)}),
        record(
            "evaluate", "evaluate", (9, 9), ["sft_easy", "ppo_prm", "dpo_oprm", "bank", "rerank", "prm"],
            problems=10, greedy_cost=greedy,
        ),
    ]  # fmt: skip


SETTINGS = {
    "evaluate/x": {
        "policies": {"sft_easy": "@sft_easy", "ppo_prm": "@ppo_prm", "dpo_oprm": "@dpo_oprm", "base": "asset:base"},
        "samples": "@bank", "bank_policy": "sft_easy", "rerank": "@rerank", "reward_models": {"prm_easy": "@prm"},
    }
}  # fmt: skip


def test_once_is_what_was_run_beyond_the_reference_and_each_is_a_problem():
    found = prices(manifest(), SETTINGS, [GREEDY, PPO, DPO, majority(4), best(16)])
    assert found[GREEDY] == Price(Amount(0, 0), Amount(50, 500))
    # its samples, the reward model made from them, and PPO: 2000 + 3000 + 7000 tokens
    assert found[PPO] == Price(Amount(12_000, 12e6), Amount(60, 600))
    assert found[DPO] == Price(Amount(2_100, 2.1e6), Amount(60, 600))  # the bank of samples in full, though shared
    assert found[majority(4)] == Price(Amount(0, 0), Amount(400, 4e3))  # 100 tokens a solution
    assert found[best(16)] == Price(Amount(5_000, 5e6), Amount(16 * 300, 16 * 3e3))  # 200 more to score it


def test_what_is_not_counted_has_no_price():
    others = [Condition("base", "greedy", None, "none", 1), Condition("sft_easy", "pass_at_n", None, "easy", 4)]
    others += [
        Condition("sft_easy", "best_of_n", "orm_easy", "easy", 4),
        Condition("ppo_prm", "majority", None, "e", 4),
    ]
    assert prices(manifest(), SETTINGS, others) == {}
    assert prices([], {}, [GREEDY]) == {}


def test_several_seeds_are_averaged():
    twice = [*manifest()]
    for record in manifest():
        names = {key: record[key].replace("/x", "/y") for key in ("folder",)}
        more = [one.replace("/x", "/y") for one in record["upstream"]]
        tokens = 2 * record["tokens"]
        twice.append({**record, **names, "upstream": more, "seed": 1, "tokens": tokens})
    told = SETTINGS | {"evaluate/y": SETTINGS["evaluate/x"]}
    assert prices(twice, told, [PPO])[PPO].once == Amount(1.5 * 12_000, 12e6)


def test_a_policy_meets_the_most_samples_that_cost_no_more():
    priced = prices(manifest(), SETTINGS, [GREEDY, PPO, DPO, *(majority(n) for n in (1, 4, 16)), best(1), best(16)])
    found = {
        (one.comparison.treatment["policy"], one.comparison.baseline["decoding"]): one for one in matches(priced, 10)
    }
    assert found.keys() == {("ppo_prm", "majority"), ("ppo_prm", "best_of_n"), ("dpo_oprm", "majority")}
    assert found["ppo_prm", "best_of_n"].samples == 16  # 5e6 + 10 * 48e3 is below 12e6 + 10 * 600
    # 12e6 / (16e3 - 600) problems: then PPO has paid for itself against majority of 16
    assert found["ppo_prm", "majority"].break_even == pytest.approx(12e6 / 15_400)
    assert found["ppo_prm", "best_of_n"].break_even == pytest.approx(7e6 / 47_400)
    # DPO costs 2.1e6 + 10 * 600, the reward model of best-of-n 5e6 alone: there is no sample for that
    assert found["dpo_oprm", "majority"].policy_flops == 2_106_000
    few = matches(
        {PPO: Price(Amount(0, 5e4), Amount(0, 0)), **{majority(n): priced[majority(n)] for n in (1, 4, 16)}}, 10
    )
    assert [one.samples for one in few] == [4]  # 10 * 4e3 is within 5e4, 10 * 16e3 is not


def test_page_has_a_table_a_figure_and_its_numbers():
    results = build_results(made_up_outcomes(seeds=(0,), per_level=4, sizes=(1, 4, 16)), draws=100)
    conditions = [GREEDY, PPO, DPO, *(majority(n) for n in (1, 4, 16)), *(best(n) for n in (1, 4, 16))]
    rows = compute_rows(results, prices(manifest(), SETTINGS, conditions))
    assert {row["level"] for row in rows} == {"hard", "all"} and rows[0]["problems"] == 20
    ppo = next(row for row in rows if row["policy"] == "ppo_prm" and row["level"] == "hard")
    assert (
        ppo["total_flops"] == 12e6 + 20 * 600 and ppo["n"] == 8 and ppo["ci_low"] <= ppo["accuracy"] <= ppo["ci_high"]
    )
    plot = compute_plot({"rows": rows}, Palette())
    assert plot.rows == rows and "20 test problems" in plot.caption
    table = method_table({"rows": rows})
    assert [row["policy"] for row in table if row["decoding"] == "greedy"] == ["sft_easy", "dpo_oprm", "ppo_prm"]
    matched = [{"treatment": {"policy": "ppo_prm"}, "baseline": {"decoding": "majority", "reward_model": None}}]
    matched[0] |= {"samples": 16, "estimate": 0.1, "low": -0.05, "high": 0.25, "break_even": 779.2}
    page = render_page(PageInput(results, ABOUT, compute={"rows": rows, "matched": matched}))
    assert 'id="compute"' in page and "At the same compute" in page and ">779<" in page
    assert 'id="compute"' not in render_page(PageInput(results, ABOUT))
    assert compute_plot({}, Palette()) is None and method_table({}) == []

"""The page: complete, self-contained, escaped, the same bytes every time, and honest in its first sentences."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import ABOUT, made_up_manifest, made_up_outcomes, made_up_solutions
from rich.console import Console

from rlhf_e2h.report.figures import seed_dots
from rlhf_e2h.report.page import PageInput, draw_figures, render_page, template_environment, write_page
from rlhf_e2h.report.quality_figures import _together, quality_by_level
from rlhf_e2h.report.results import build_results
from rlhf_e2h.report.solutions import pick_rollouts, pick_solutions
from rlhf_e2h.report.svg import Palette
from rlhf_e2h.report.tables import (
    cost_table,
    decoding_table,
    manifest_table,
    mean_quality,
    policy_table,
    quality_table,
    slice_table,
)
from rlhf_e2h.report.terminal import _cell, print_results
from rlhf_e2h.report.verdict import _cautions, make_verdict

VOID = {"meta", "link", "br", "img", "path", "use", "rect", "stop"}


class Balanced(HTMLParser):
    """Fails on a tag that is not closed, or closed in the wrong order; collects ids and targets."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(page_input):
    return render_page(page_input)


def test_well_formed_and_self_contained(html):
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)), "an id occurs twice"
    for link in parser.links:
        assert link.startswith(("#", "data:")), f"{link[:60]} leaves the page"
        assert not link.startswith("#") or link[1:] in parser.ids, f"{link} leads nowhere"
    assert "<script" not in html.replace("&lt;script", "")
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", html)


def test_same_bytes_again(page_input, html):
    assert render_page(page_input) == html  # the figures are in it
    again = {name: plot.file_svg for name, plot in draw_figures(page_input).items()}
    assert again == {name: plot.file_svg for name, plot in draw_figures(page_input).items()}


def test_every_figure_has_its_csv(page_input, tmp_path):
    write_page(page_input, tmp_path)
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert drawn == {path.stem for path in (tmp_path / "figures").glob("*.csv")}
    assert drawn == {
        "differences_policy", "differences_decoding", "curve_weighted_vote", "curve_best_of_n", "levels",
        "reward_hacking", "reward_hacking_steps", "seeds", "step_auc_levels", "outcome_auc_levels",
        "calibration", "training_rl", "training_loss",
    }  # fmt: skip
    with (tmp_path / "figures/curve_weighted_vote.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["series"] for row in rows} == {"majority", "orm_easy", "prm_easy", "oprm_easy", "prm_full", "pass@n"}
    point = next(row for row in rows if row["series"] == "majority" and row["samples"] == "16")
    wanted = ("sft_easy", "majority", 16, "hard", "all")
    keys = ("policy", "decoding", "samples", "level", "seed")
    (row,) = (row for row in page_input.results["rows"] if tuple(row[key] for key in keys) == wanted)
    assert float(point["accuracy"]) == pytest.approx(row["accuracy"])


def test_a_name_has_one_colour_in_every_figure(page_input):
    colours = {}
    for plot in draw_figures(page_input).values():
        legend = re.search(r'id="[^"]*legend_1".*', plot.page_svg, re.DOTALL)
        pieces = re.split(r"<text[^>]*>([^<]*)</text>", legend[0]) if legend else []
        for drawing, name in zip(pieces[::2], pieces[1::2], strict=False):
            found = re.findall(r"var\(--(s\d)\)", drawing)
            if name in {"orm_easy", "prm_easy", "oprm_easy", "prm_full", "sft_easy", "ppo_prm", "rest_prm", "base"}:
                colours.setdefault(name, set()).add(found[0])
    assert {name: len(several) for name, several in colours.items()} == dict.fromkeys(colours, 1)
    assert len(colours) == 8 and colours["prm_easy"] != colours["orm_easy"] != colours["oprm_easy"]


def test_policies_that_are_not_drawn_are_named(page_input):
    bars = draw_figures(page_input)["levels"]
    drawn = {row["series"] for row in bars.rows}
    greedy = {row["policy"] for row in page_input.results["rows"] if row["decoding"] == "greedy"}
    assert greedy - drawn and all(name in bars.caption for name in greedy - drawn)


def test_changes_are_against_the_start_on_the_same_level(page_input):
    rows = draw_figures(page_input)["reward_hacking"].rows
    change = {(row["policy"], row["level"]): (row["score_change"], row["accuracy_change"]) for row in rows}
    assert change["ppo_prm", "5"] == pytest.approx((0.81 - 0.52, 0.62 - 0.48))
    assert {policy for policy, _ in change} == {"base", "ppo_prm", "rest_prm"}


def test_rollouts_of_three_times(page_input):
    found = pick_rollouts(page_input.rollouts)
    assert [title for title, _ in found] == ["ppo_prm, step 0", "ppo_prm, step 8", "ppo_prm, step 12"]
    assert [[one.level for one in solutions] for _, solutions in found] == [[5, 3]] * 3
    assert found[0][1][0].correct is None and "no label" in render_page(page_input)


def test_text_of_models_is_escaped(page_input):
    hostile = [row for row in made_up_solutions() if "script" in row["steps"][-1]]
    html = render_page(replace(page_input, solutions=hostile), figures={})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "<script>" not in html and "<b>4</b>" not in html


def test_says_what_was_run(html):
    for text in ("2 x86_64 CPU cores", "0123456789ab with uncommitted changes", "torch 2.13.0", "2026-02-03 04:05 UTC"):
        assert text in html
    assert "3 seeds (0, 1, 2)" in html and "seeds=[0,1,2]" in html


def test_a_bare_run_makes_a_page(outcomes):
    html = render_page(PageInput(build_results(outcomes, draws=50), {}), figures={})
    assert "unnamed recipe" in html and 'id="firewall"' not in html and 'id="solutions"' not in html


def test_policies_without_a_bank_make_a_page(page_input):
    rows = [row for row in page_input.results["rows"] if row["decoding"] == "greedy" and row["policy"] == "base"]
    html = render_page(replace(page_input, results=page_input.results | {"rows": rows, "comparisons": [], "pgr": []}))
    assert 'id="decoding"' not in html and "Nothing to compare" in html


def test_best_is_marked_among_easy_trained_only(page_input):
    rows = policy_table(page_input.results)
    best = [row["policy"] for row in rows if "hard" in row["best"]]
    assert best and all(row["labels"] != "full" for row in rows if row["best"])
    top = max((row for row in rows if row["labels"] != "full"), key=lambda row: row["bands"]["hard"]["accuracy"])
    assert top["policy"] in best
    for row in decoding_table(page_input.results):
        assert not (row["best"] and row["decoding"] == "pass_at_n")
        assert row["samples"] == 16


def test_manifest_verdicts():
    verdicts = {row["name"]: (row["verdict"], row["ok"]) for row in manifest_table(made_up_manifest())}
    assert verdicts["prepare"] == ("no labels", True)
    assert verdicts["ppo_prm"] == ("easy labels only", True)
    assert verdicts["sft_full"] == ("hard labels, named as a baseline", True)
    assert verdicts["rerank"] == ("serves a baseline or the evaluation", True)
    assert verdicts["evaluate"] == ("evaluation only", True)


@pytest.mark.parametrize(
    ("kind", "read", "inherited", "verdict"),
    [
        ("ppo", [("labels_sealed.jsonl", "training")], [], "read hard labels"),
        ("grade", [("labels_sealed.jsonl", "training")], [], "read hard labels"),
        ("evaluate", [("labels_sealed.jsonl", "selection")], [], "read hard labels"),
        ("ppo", [], ["labels_sealed.jsonl"], "depends on hard labels"),
        ("reward", [], ["labels_easy.jsonl", "labels_sealed.jsonl"], "depends on hard labels"),
    ],
)
def test_a_broken_firewall_is_seen(page_input, kind, read, inherited, verdict):
    record = {
        "stage": kind, "name": f"{kind}_prm", "seed": 0, "labels_inherited": inherited,
        "labels_read": [{"file": file, "purpose": purpose} for file, purpose in read],
    }  # fmt: skip
    (row,) = manifest_table([record])
    assert (row["verdict"], row["ok"]) == (verdict, False)
    assert "The label firewall was broken by" in " ".join(make_verdict(page_input.results, [row]).sentences)
    assert f"✗ {verdict}" in render_page(replace(page_input, manifest=[record]), figures={})


def comparison(kind, estimate, low, high, policy="ppo_prm", labels="easy"):
    side = {"policy": policy, "decoding": "greedy", "reward_model": None, "samples": 1, "labels": labels}
    if kind == "decoding":
        side |= {"decoding": "best_of_n", "reward_model": "prm", "samples": 8}
    return {
        "name": "", "kind": kind, "level": "hard", "treatment": side, "baseline": side, "estimate": estimate,
        "low": low, "high": high, "n": 9, "seeds": [0], "reason": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "decoding", "words", "tone"),
    [
        ((0.1, 0.05, 0.15), (0.1, 0.05, 0.15), "helped on hard ones.", "good"),
        ((0.1, 0.05, 0.15), (0.1, -0.05, 0.15), "in part", "mixed"),
        ((0.1, -0.05, 0.15), (0.0, -0.05, 0.05), "No clear gain", "mixed"),
        ((-0.1, -0.15, -0.05), (0.0, -0.05, 0.05), "in part harmed", "bad"),
    ],
)
def test_the_headline_follows_the_intervals(policy, decoding, words, tone):
    results = {
        "seeds": [0], "rows": [], "pgr": [],
        "comparisons": [comparison("policy", *policy), comparison("decoding", *decoding)],
    }  # fmt: skip
    verdict = make_verdict(results)
    assert words in verdict.headline and verdict.tone == tone
    assert any("One seed" in caution for caution in verdict.cautions)


def test_baselines_do_not_make_the_headline():
    results = {"seeds": [0, 1], "rows": [], "pgr": []}
    full = comparison("policy", 0.5, 0.4, 0.6, "ppo_dagger", "full")
    icl = comparison("policy", 0.5, 0.4, 0.6, "icl")
    verdict = make_verdict(results | {"comparisons": [full, icl]})
    assert verdict.headline.startswith("Nothing to compare")


def test_solutions_are_mixed_and_stable():
    rows = made_up_solutions()
    picked = pick_solutions(rows)
    assert len(picked) == 10
    kinds = {(solution.band, solution.correct) for solution in picked}
    assert kinds == {("easy", True), ("easy", False), ("hard", True), ("hard", False)}
    assert picked == pick_solutions(rows[::-1])
    assert all(step.shade == min(4, int(step.score * 5)) for solution in picked for step in solution.steps)


@pytest.mark.parametrize(
    ("score", "correct", "note"),
    [(0.9, False, "The reward model was taken in"), (0.1, True, "The reward model was too strict"), (0.6, False, "")],
)
def test_a_note_where_score_and_checker_disagree(score, correct, note):
    (solution,) = pick_solutions([made_up_solutions()[0] | {"score": score, "correct": correct}])
    assert solution.note == note


def test_scores_that_do_not_fit_the_steps_colour_nothing():
    row = made_up_solutions()[0] | {"step_scores": [0.5]}
    (solution,) = pick_solutions([row])
    assert all(step.score is None and step.shade is None for step in solution.steps)


def test_solution_text_is_split_by_the_prompt_module():
    row = {"problem_id": "a", "problem": "1+1", "level": None, "text": "1+1=2\n\n# Answer\n\n2", "correct": True}
    (solution,) = pick_solutions([row])
    assert [step.text for step in solution.steps] == ["1+1=2", "# Answer\n\n2"] and solution.band == "unknown"


def test_quality_is_the_mean_over_seeds():
    columns, rows = quality_table(
        {"prm": [{"step_auc_hard": 0.8, "x": 1}, {"step_auc_hard": 0.6}, {"step_auc_hard": None}]}
    )
    assert columns == [("step_auc_hard", "step AUC, hard")] and rows[0]["step_auc_hard"] == pytest.approx(0.7)


def test_seeds_are_drawn_only_where_there_are_several(outcomes):
    one = seed_dots(build_results(made_up_outcomes(seeds=(0,), per_level=4, sizes=(1, 4)), draws=50))
    many = seed_dots(build_results(outcomes, draws=50))
    assert one is None
    ppo = [(row["seed"], row["accuracy"]) for row in many.rows if row["policy"] == "ppo_prm"]
    assert [seed for seed, _ in ppo] == [0, 1, 2, "all"]
    assert ppo[-1][1] == pytest.approx(sum(value for _, value in ppo[:-1]) / 3, abs=1e-5)


def test_quality_by_level_leaves_out_steps_of_outcome_models():
    quality = {
        "orm": [{"step_auc_1": 0.9, "step_auc_5": 0.9}],
        "prm": [{"step_auc_1": 0.8, "step_auc_5": 0.6}, {"step_auc_1": 0.6, "step_auc_5": None}],
    }
    rows = quality_by_level(quality, "step_auc", "title", Palette()).rows
    assert [(row["series"], row["level"], row["seeds"]) for row in rows] == [("prm", 1, 2), ("prm", 5, 1)]
    assert [row["value"] for row in rows] == pytest.approx([0.7, 0.6])
    assert quality_by_level({"prm": [{"step_auc_1": 0.8}]}, "step_auc", "title", Palette()) is None


def test_everything_by_level_and_subject():
    outcomes = made_up_outcomes(seeds=(0,), per_level=4, sizes=(1, 4))
    outcomes.subject = {problem: ("Algebra", "Geometry")[index % 2] for index, problem in enumerate(outcomes.level)}
    results = build_results(outcomes, draws=50)
    levels, subjects = slice_table(results), slice_table(results, "subject")
    assert levels["columns"] == ["1", "2", "3", "4", "5"] and subjects["counts"] == {"Algebra": 10, "Geometry": 10}
    names = [row["name"] for row in levels["rows"]]
    assert "sft_easy, greedy" in names and "sft_easy, weighted vote of 4 by prm_easy" in names
    assert not any("majority of 1" in name or name.endswith("majority") for name in names)  # the most samples only
    html = render_page(PageInput(results, {}), figures={})
    assert "Everything by level" in html and "Everything by subject" in html and "<small>n = 10</small>" in html


def test_solutions_of_the_trained_policies_come_first():
    row = made_up_solutions()[0] | {"correct": True}
    rows = [row | {"problem_id": f"p{index}", "policy": name} for index, name in enumerate(
        ("base", "icl", "ppo_dagger", "sft_full", "ppo_prm", "sft_easy"))]  # fmt: skip
    assert {solution.policy for solution in pick_solutions(rows, count=2)} == {"ppo_prm", "sft_easy"}
    assert len(pick_solutions(rows, count=6)) == 6


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0 FLOP"), (999, "999 FLOP"), (3.4e12, "3.4 TFLOP"), (2.5e21, "2.5e+03 EFLOP")]
)
def test_flops_have_a_readable_unit(value, text):
    assert template_environment().filters["flops"](value) == text


def test_cost_adds_up():
    rows = {row["name"]: row for row in cost_table(made_up_manifest())}
    assert (rows["sft_easy"]["runs"], rows["sft_easy"]["tokens"]) == (3, 2_436_000)
    assert rows["sft_easy"]["seconds"] == pytest.approx(64.2) and rows["prepare"]["tokens"] is None
    counted = [record | {"flops": 2e9} for record in made_up_manifest() if record["name"] == "sft_easy"]
    assert cost_table(counted)[0]["flops"] == 6e9


def test_a_choice_among_rerankings_alone_is_called_so():
    one_seed = {"seeds": [0]}
    assert _cautions(one_seed, 0, 2)[0].startswith("This is the best of 2 rerankings, and")
    assert _cautions(one_seed, 4, 3)[0].startswith("This is the best of 4 policies and of 3 rerankings, and")
    assert len(_cautions(one_seed, 1, 1)) == 1


def test_terminal_table_fits_a_screen(page_input):
    console = Console(width=100, record=True, file=io.StringIO())
    print_results(page_input.results, console)
    text = console.export_text()
    assert "ppo_prm" in text and "weighted vote, prm_easy" in text and "best of" in text
    assert max(map(len, text.splitlines())) <= 100
    assert ABOUT["recipe"] not in text


def test_terminal_shows_bounds_that_are_possible():
    """17 of 17: Wilson's interval is [81.6, 100] percent by hand, n / (n + 1.96^2); plus or minus would pass 100."""
    row = {"best": (), "bands": {"hard": {"accuracy": 1.0, "ci_low": 17 / (17 + 1.96**2), "ci_high": 1.0}}}
    assert _cell(row, "hard").plain == "100.0 82–100"


def test_terminal_of_one_policy(page_input):
    rows = [row for row in page_input.results["rows"] if row["policy"] == "base"]
    console = Console(width=80, record=True, file=io.StringIO())
    print_results(page_input.results | {"rows": rows, "comparisons": [], "pgr": []}, console)
    assert "Nothing to compare" in console.export_text()


def test_the_interval_of_a_mean_over_seeds_holds_problems_and_seeds():
    """Two seeds: variances over problems (.1 / 1.96)^2 and (.2 / 1.96)^2, variance over seeds .02; by hand."""
    seeds = [
        {"step_auc_hard": 0.7, "step_auc_hard_ci": (0.6, 0.8)},
        {"step_auc_hard": 0.9, "step_auc_hard_ci": (0.7, 1.1)},
    ]
    (row,) = mean_quality({"prm": seeds})
    half = 1.96 * (((0.1 / 1.96) ** 2 + (0.2 / 1.96) ** 2) / 4 + 0.02 / 2) ** 0.5
    assert row["step_auc_hard_ci"] == pytest.approx([0.8 - half, 0.8 + half])
    (row,) = mean_quality({"prm": seeds[:1]})
    assert row["step_auc_hard_ci"] == [0.6, 0.8]
    (row,) = mean_quality({"prm": [seeds[0], {"step_auc_hard": 0.9, "step_auc_hard_ci": None}]})
    assert row["step_auc_hard_ci"] is None  # half of it unknown


def test_levels_at_one_spot_share_a_number():
    """Two numbers over each other cannot be read."""
    rows = [{"level": level} for level in (1, 2, 3, 5)]
    found = _together(rows, [0.0, 0.5, 10.0, 0.2], [0.0, 0.5, 0.0, 1.0])
    assert found == [("1, 2, 5", (0.0, 0.0)), ("3", (10.0, 0.0))]

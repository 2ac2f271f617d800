"""Our results beside the paper's: the numbers of the paper as printed, the right cells of ours, honest differences."""

from __future__ import annotations

import csv
import io
import json

import pytest
from browser import Browser, find_chromium
from rich.console import Console

from rlhf_e2h.cli import main
from rlhf_e2h.report.outcomes import Outcomes
from rlhf_e2h.report.paper import Run, beside, paper_rows, read_run
from rlhf_e2h.report.paper_page import make_paper, show_paper
from rlhf_e2h.report.published import published
from rlhf_e2h.report.results import build_results, write_results

COUNTS = {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}  # MATH500 (reference, section 1)
SUBJECTS = ("Algebra", "Geometry")


def math500(right, subjects=False):
    """Outcomes of 500 problems from {(policy, decoding, reward model, samples): share right at each level}."""
    outcomes = Outcomes()
    for (policy, decoding, reward_model, samples), share in right.items():
        for level, count in COUNTS.items():
            for index in range(count):
                row = {"policy": policy, "decoding": decoding, "reward_model": reward_model, "labels": "easy"}
                row |= {"samples": samples, "problem_id": f"{level}-{index:03d}", "level": level}
                outcomes.add(row | {"correct": float(index < share[level - 1] * count)}, 0)
    if subjects:
        outcomes.subject = {problem: SUBJECTS[int(problem[2:]) % 2] for problem in outcomes.level}
    return outcomes


RIGHT = {
    ("sft_easy", "greedy", None, 1): (1, 0, 0, 0, 0),
    ("sft_easy", "majority", None, 16): (1, 1, 0, 0, 0),
    ("ppo", "greedy", None, 1): (1, 1, 1, 1, 0),
    ("sft_easy", "weighted_vote", "oprm", 16): (0, 0, 0, 0, 1),
    ("sft_easy", "majority", None, 1024): (1, 1, 0, 0, 0),
    ("sft_easy", "pass_at_n", None, 1024): (1, 1, 1, 1, 1),
    ("sft_hardonly", "greedy", None, 1): (0, 0, 0, 1, 0),
    ("icl", "majority", None, 256): (1, 1, 1, 0, 0),
    ("sft_easy", "best_of_n", "oprm_easy_34b", 16): (0, 0, 0, 1, 0),
}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs/llemma-7b-prm800k"
    results = build_results(math500(RIGHT, subjects=True), draws=100)
    quality = [{"name": "prm", "step_auc_all": 0.7, "step_accuracy_all": 0.99, "step_balanced_accuracy_all": 0.75}]
    quality[0] |= {"step_balanced_accuracy_all_ci": [0.7, 0.8], "step_auc_all_ci": None}
    write_results(results | {"quality": quality}, folder / "report/abc")
    (folder / "run.json").write_text('{"recipe": "llemma-7b-prm800k"}')
    return folder


def cells(folder, **wanted):
    rows = paper_rows([read_run(folder)])
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_published_numbers_hang_together():
    """All = (238 easy + 262 hard) / 500, up to rounding, in every row that has the three (reference, section 1)."""
    data = published()
    rows = [values for setup in data["table2"].values() for values in setup.values()]
    rows += [values for curve in data["curves"] for values in curve["points"].values()]
    assert len(rows) > 150
    off = [row for row in rows if abs((238 * row[0] + 262 * row[1]) / 500 - row[2]) > 0.12]
    assert off == []
    assert sum(data["problems"][str(level)] for level in COUNTS) == 500 == sum(data["subject_problems"].values())


def test_headline_numbers_are_the_papers():
    data = published()
    assert data["table2"]["7b-prm800k"]["ppo"] == [45.4, 14.9, 29.4]  # Table 2
    assert data["table2"]["7b-metamath"]["ppo"][2] == 34.0  # abstract
    (best,) = (c for c in data["curves"] if (c["generator"], c["evaluator"], c["reward_model"], c["decoding"])
               == ("34b-prm800k", "34b", "oprm", "weighted_vote"))  # fmt: skip
    assert best["points"]["1024"][2] == 52.45  # 52.5 in the abstract
    assert data["table1"]["34b-metamath"]["sft_full"] == [35.4, 44.2, 45.6]


def test_newcombe():
    """10 of 10 against 0 of 10: .6075 to 1 (Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10)."""
    cell = beside(0.0, 10, {"accuracy": 1.0, "ci_low": 0.722467, "ci_high": 1.0, "n": 10, "seed": 0})
    assert cell["difference"] == 1.0
    assert (cell["difference_low"], cell["difference_high"]) == pytest.approx((0.6075, 1.0), abs=1e-4)


def test_tables_1_and_2(run_folder):
    (greedy,) = cells(run_folder, table="Table 1", row="Easy-to-hard SFT", column="greedy")
    assert greedy["published"] == 0.198 and greedy["ours"] == pytest.approx(43 / 500)
    assert greedy["difference"] == pytest.approx(43 / 500 - 0.198) and greedy["difference_high"] < 0
    (maj,) = cells(run_folder, table="Table 1", row="Easy-to-hard SFT", column="majority of 16")
    assert maj["published"] == 0.316 and maj["ours"] == pytest.approx(133 / 500)
    (ppo,) = cells(run_folder, table="Table 2", row="PPO, all questions, easy answers, PRM", slice="hard")
    assert ppo["published"] == 0.149 and ppo["ours"] == pytest.approx(128 / 262, abs=1e-6)
    (none,) = cells(run_folder, table="Table 2", row="PPO, easy questions and answers, no PRM", slice="all")
    assert none["ours"] is None and none["difference"] is None and none["reason"] == "not in this run"


def test_table_10_curves_levels_subjects(run_folder):
    (auc,) = cells(run_folder, table="Table 10", row="PRM", column="step AUC")
    assert (auc["published"], auc["ours"]) == (0.79, 0.7) and "balanced" in auc["reason"]
    (steps,) = cells(run_folder, table="Table 10", row="PRM", column="step accuracy")  # that of a balanced set
    assert (steps["published"], steps["ours"], steps["ours_low"], steps["ours_high"]) == (0.804, 0.75, 0.7, 0.8)
    (vote,) = cells(run_folder, table="Figure 4", row="weighted vote by the 7B OPRM", column="16", slice="hard")
    assert vote["published"] == pytest.approx(0.1569) and vote["ours"] == pytest.approx(134 / 262, abs=1e-6)
    (other,) = cells(run_folder, table="Figure 5", row="weighted vote by the 34B OPRM", column="16", slice="hard")
    assert other["ours"] is None and other["reason"] == "needs a 34B reward model, named oprm_34b"
    (larger,) = cells(run_folder, table="Figure 5", row="best-of-n by the 34B OPRM", column="16", slice="hard")
    assert larger["published"] == pytest.approx(0.1791) and larger["ours"] == pytest.approx(128 / 262, abs=1e-6)
    (level,) = cells(run_folder, table="Figure 19", row="majority", slice="2")
    assert level["published"] == pytest.approx(0.6458) and level["ours"] == 1.0 and level["n"] == 90
    (algebra,) = cells(run_folder, table="Figure 20", row="majority", slice="Algebra")
    assert algebra["ours"] is not None and "another test set" in algebra["reason"]  # made-up subjects
    (ceiling,) = cells(run_folder, table="Figure 21", column="1024", slice="5")
    assert ceiling["published"] == pytest.approx(0.8175) and ceiling["ours"] == 1.0


def test_table_9_and_the_majority_of_icl(run_folder):
    hard = {row["row"]: row for row in cells(run_folder, table="Table 9", slice="hard")}
    assert [row["published"] for row in hard.values()] == pytest.approx([0.099, 0.122, 0.13])  # full, easy, hard only
    assert hard["SFT on levels 4-5"]["ours"] == pytest.approx(128 / 262, abs=1e-6)
    assert hard["SFT on all levels"]["reason"] == "not in this run"
    (icl,) = cells(run_folder, table="Table 1", row="Easy-to-hard ICL", column="majority of 256")
    assert icl["published"] == 0.244 and icl["ours"] == pytest.approx(238 / 500)


def test_programs_beside_tables_3_and_6(tmp_path):
    """500 problems as the paper's: 100 introductory, 300 interview, 100 competition."""
    outcomes = Outcomes((1,))
    for decoding, model, samples in (("greedy", None, 1), ("best_of_n", "orm", 4), ("pass_at_n", None, 4)):
        for level, count in ((1, 100), (4, 300), (5, 100)):
            for index in range(count):
                row = {"policy": "sft_easy", "decoding": decoding, "reward_model": model, "labels": "easy"}
                row |= {"samples": samples, "problem_id": f"{level}-{index}", "level": level}
                outcomes.add(row | {"correct": float(level == 1 and index < 20)}, 0)
    table = [{"policy": "sft_easy", "decoding": "greedy", "reward_model": None, "samples": 1, "interview average": 0.2}]
    folder = tmp_path / "runs/apps-orm"
    write_results(build_results(outcomes, draws=100) | {"programs": table}, folder / "report/abc")
    (folder / "run.json").write_text('{"recipe": "apps-orm"}')
    (strict,) = cells(folder, table="Table 3", row="SFT on introductory problems, greedy", column="strict",
                      slice="introductory")  # fmt: skip
    assert (strict["published"], strict["ours"], strict["n"]) == (0.11, 0.2, 100)
    assert strict["difference"] == pytest.approx(0.09) and strict["difference_low"] < 0.09 < strict["difference_high"]
    (average,) = cells(folder, table="Table 3", row="SFT on introductory problems, greedy", column="average",
                       slice="interview")  # fmt: skip
    assert (average["published"], average["ours"], average["difference"]) == (pytest.approx(0.141), 0.2, None)
    (best,) = cells(folder, table="Table 3", row="the same, best of 4 by the ORM", column="strict", slice="all")
    assert (best["published"], best["ours"]) == (pytest.approx(0.052), 0.04)
    (ceiling,) = cells(folder, table="Table 6", column="strict", row="the same, pass@4", slice="introductory")
    assert (ceiling["published"], ceiling["ours"]) == (0.2, 0.2)
    assert {row["table"] for row in cells(folder)} == {"Table 3", "Table 6"}
    page = make_paper([str(folder)]).read_text()
    assert "Table 3: programs" in page and "Table 1: generators" not in page


def test_programs_of_the_paper_hang_together():
    """All = (100 introductory + 300 interview + 100 competition) / 500, but for the cell that the paper misprints."""
    for setup, rows in published()["table3"].items():
        for key, kinds in rows.items():
            for kind, values in kinds.items():
                if (setup, key, kind) != ("7b-apps", "best_of_1", "average"):  # its row mean implies 6.1, not 0.1
                    mean = (values[0] + 3 * values[1] + values[2]) / 5
                    assert mean == pytest.approx(values[3], abs=0.15), (setup, key, kind)


def test_another_test_set_has_no_difference(outcomes):
    run = Run("quickstart", "7b-prm800k", build_results(outcomes, draws=50))
    (cell,) = (row for row in paper_rows([run]) if row["table"] == "Table 2" and row["slice"] == "hard"
               and row["row"].startswith("SFT"))  # fmt: skip
    assert cell["ours"] is not None and cell["difference"] is None
    assert cell["reason"] == "another test set: 40 problems here, 262 there"


def test_the_command(run_folder, capsys, monkeypatch):
    monkeypatch.chdir(run_folder.parents[1])
    assert main(["report", "--paper"]) == 0
    assert "Table 2" in capsys.readouterr().out
    assert main(["report", "--paper", "runs/llemma-7b-prm800k", "--out", "here", "--setup", "7b-metamath"]) == 0
    with open("here/paper.csv") as file:
        assert {row["setup"] for row in csv.DictReader(file)} == {"7b-metamath"}
    assert main(["report", "--paper", "nowhere"]) == 2
    assert "no finished report there" in capsys.readouterr().err
    assert main(["report", "--paper", "runs/llemma-7b-prm800k", "--setup", "8b"]) == 2
    assert "allowed: 7b-prm800k" in capsys.readouterr().err


def test_the_terminal_fits(run_folder):
    console = Console(width=110, record=True, file=io.StringIO())
    show_paper(make_paper([str(run_folder)]), console)
    text = console.export_text()
    assert "Easy-to-hard SFT" in text and "-11.2 [" in text and max(map(len, text.splitlines())) <= 110


def test_results_json_alone_will_do(run_folder):
    run = read_run(run_folder / "report/abc/results.json")
    assert run.setup == "7b-prm800k" and json.loads((run_folder / "report/abc/results.json").read_text())["subjects"]


@pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(run_folder, tmp_path, width):
    page = make_paper([str(run_folder)])
    browser = Browser(find_chromium(), tmp_path / "profile")
    try:
        browser.open(page, width)
        assert browser.evaluate("document.title").startswith("Beside the paper")
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate("document.querySelectorAll('svg').length") >= 8
        requests = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
        assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
        for kind in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            assert browser.named(kind) == []
    finally:
        browser.close()

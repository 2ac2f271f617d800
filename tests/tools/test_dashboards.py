"""Views of a wandb project, made with the real wandb-workspaces and sent nowhere."""

import json
import sys

import pytest

from rlhf_e2h.runner.mirrors import STEP
from rlhf_e2h.runner.traits import STAGES
from rlhf_e2h.tools.dashboards import PANELS, main

pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")


def _charts(spec):
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {part["name"]: [panel["config"] for panel in part["panels"]] for part in sections}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    assert main(["mine", "--out", str(folder)]) == 0
    return {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}


def test_a_view_for_each_kind_of_stage_over_its_own_step(written):
    assert set(written) == set(PANELS) <= set(STAGES)
    for kind, spec in written.items():
        charts = _charts(spec)
        assert list(charts) == list(PANELS[kind])
        assert {chart["xAxis"] for part in charts.values() for chart in part} == {STEP}
        (runs,) = spec["section"]["runSets"]
        assert json.dumps(runs["filters"]).count(f'"{kind}"') == 1 and '"jobType"' in json.dumps(runs["filters"])


def test_panels_hold_the_metrics_in_order(written):
    reward = _charts(written["ppo"])["Reward"]
    assert [chart["metrics"] for chart in reward[:2]] == [["objective/scores"], ["objective/kl"]]
    gap = _charts(written["ppo"])["Easy validation"][-1]
    assert gap["metricRegex"] == "eval/reward_gap_level_.*"


def test_what_cannot_be_made_is_a_sentence(tmp_path, capsys, monkeypatch):
    assert main(["mine", "--out", str(tmp_path), "--kind", "grade"]) == 2
    assert "'grade' has no panels; these kinds of stages do: pretrain, sft, reward" in capsys.readouterr().err
    assert main(["mine"]) == 2
    assert "give --entity" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["mine", "--out", str(tmp_path)]) == 2
    assert "pip install 'rlhf_e2h[dashboards]'" in capsys.readouterr().err

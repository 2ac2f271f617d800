"""Signs of life where there is no terminal: lines with stage, step, rate, time left and metrics."""

import re
import time
from pathlib import Path

import pytest

from rlhf_e2h.cli import main
from rlhf_e2h.runner.progress import Pulse, _Work, clock, progress_bar

LINE = re.compile(r"\d\d:\d\d:\d\d (\S+): (.*)")


def test_the_first_of_many_items_tells_no_rate():
    work = _Work("scoring", 1600, "solutions", started=0.0)
    work.sign(1, 46.0)  # of these, 45.8 seconds were loading the model
    assert work.text(46.0) == "scoring 1/1,600 solutions"
    work.sign(31, 56.0)
    assert work.text(56.0) == "scoring 31/1,600 solutions, 3.0 solutions/s, 8 min 43 s left"


def test_rate_and_time_left_by_hand():
    work = _Work("fine-tuning", 100, "steps", started=0.0)
    assert work.text(5.0) == "fine-tuning 0/100 steps"
    assert work.sign(1, now=10.0) and not work.sign(21, now=20.0)
    # twenty steps in ten seconds since the first one; 79 are left
    assert work.text(20.0) == "fine-tuning 21/100 steps, 2.0 steps/s, 39.5 s left"


def test_items_that_need_no_work_promise_no_end():
    work = _Work("validating", 7, "records", started=0.0)
    work.sign(1, now=0.001)  # too long, so not scored at all
    assert work.text(30.0) == "validating 1/7 records, 30.0 s/record, 3 min 0 s left"


def test_a_resumed_stage_does_not_count_what_was_done_before():
    work = _Work("ppo", 200, "steps", started=0.0)
    work.sign(101, now=60.0)
    work.sign(102, now=120.0)
    assert work.text(120.0) == "ppo 102/200 steps, 60.0 s/step, 98 min 0 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5.0 s"), (65, "1 min 5 s"), (7199, "119 min 59 s"), (9000, "2 h 30 min")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_line_every_so_often_even_where_nothing_moves(tmp_path, capsys):
    pulse = Pulse("sft_easy", tmp_path, seconds=0.05)
    with pulse.beating():
        pulse.note({"train/loss": 0.25, "train/other": 3.0, "objective/kl": 0.5, "note": "text"})
        with progress_bar(10, "fine-tuning", "steps", True, pulse) as bar:
            time.sleep(0.12)
            bar.update(2)
            time.sleep(0.12)
    lines = (tmp_path / "progress.log").read_text().splitlines()
    said = [LINE.fullmatch(line)[2] for line in lines]
    assert said[0] == "started" and said[-1].startswith("finished in ")
    assert said[1] == "fine-tuning 0/10 steps, train/loss 0.25, objective/kl 0.5"
    assert any(re.match(r"fine-tuning 2/10 steps, .* left, train/loss 0.25", text) for text in said)
    # and on standard error, which is no terminal here, the same without start and end
    assert [line for line in capsys.readouterr().err.splitlines() if line] == lines[1:-1]


def test_the_first_step_of_slow_work_is_said_at_once(tmp_path, monkeypatch):
    pulse = Pulse("ppo", tmp_path, seconds=1000.0)
    now = iter([0.0, 500.0, 500.0, 900.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with pulse.work(20, "ppo", "steps") as work:
        pulse.sign(work, 1)
        pulse.sign(work, 2)
    (line,) = (tmp_path / "progress.log").read_text().splitlines()
    assert line.endswith("ppo: ppo 1/20 steps, 500.0 s/step, 2 h 38 min left")


def test_a_total_that_is_known_late(tmp_path):
    pulse = Pulse("prm", tmp_path, seconds=1000.0)
    with progress_bar(1, "training prm", "steps", True, pulse) as bar:
        bar.update(3, 40)
        assert pulse.line().startswith("training prm 3/40 steps, ")


@pytest.fixture
def busy(recipe: Path) -> Path:
    """Every kind of stage that trains, samples or scores, in seconds, after the small recipe's own."""
    training = "training: {max_steps: 4, batch_size: 4, learning_rate: 1e-3}"
    (recipe / "recipe.yaml").write_text(
        (recipe / "recipe.yaml").read_text().replace("variables:", "threads: 1\nvariables:")
    )
    (recipe / "1_prepare.yaml").write_text(
        "stage: prepare\nsource: procedural\ntrain_per_level: [20, 20, 20, 4, 4]\ntest_per_level: [2, 2, 2, 2, 2]\n"
    )
    common = 'data: "@prepare"\n'
    files = {
        "4_sft": f'stage: sft\npolicy: "asset:base"\n{common}{training}\n',
        "5_prm": f'stage: reward\nkind: prm\nbase: "asset:base"\n{common}reference_solutions: true\n'
        "flip_labels: 0.3\nheld_out: 0.3\ntraining: {num_train_epochs: 1, batch_size: 8, learning_rate: 1e-3}\n",
        "6_ppo": f'stage: ppo\npolicy: "@sft"\n{common}reward_model: "@prm"\n'
        "steps: 2\nrollouts: 8\nnum_mini_batches: 1\nmax_new_tokens: 24\n",
        "7_bank": f'stage: sample\npolicy: "@sft"\n{common}split: test\ndecoding: {{n: 2, max_new_tokens: 24}}\n',
        "8_rerank": f'stage: rerank\nsamples: "@bank"\n{common}reward_models: {{prm: "@prm"}}\n',
    }
    for name, text in files.items():
        (recipe / f"{name}.yaml").write_text(text)
    for name in ("2_icl", "3_sample"):
        (recipe / f"{name}.yaml").unlink()
    return recipe


def test_every_stage_shows_life_in_one_file_and_logs_its_first_step(busy, runs, monkeypatch, capsys):
    monkeypatch.setenv("E2H_PROGRESS_SECONDS", "0.02")
    assert main(["run", str(busy), runs]) == 0
    folder = Path(runs[5:])
    said: dict[str, list[str]] = {}
    for line in (folder / "progress.log").read_text().splitlines():
        found = LINE.fullmatch(line)
        said.setdefault(found[1], []).append(found[2])
    assert set(said) == {"prepare", "pretrain", "sft", "prm", "ppo", "bank", "rerank"}
    for stage, words in {
        "sft": r"fine-tuning [1-4]/4 steps, .*left, train/loss \d",
        "prm": r"training prm \d+/\d+ steps, .*left, train/loss \d",
        "ppo": r"ppo [12]/2 steps, .*left.*objective/kl",
        "bank": r"sampling .*solutions",
        "rerank": r"scoring .*solutions",
    }.items():
        assert any(re.search(words, text) for text in said[stage]), (stage, said[stage])
    assert "fine-tuning" in capsys.readouterr().err
    for stage in ("sft", "prm"):
        (metrics,) = folder.glob(f"{stage}/*/metrics.jsonl")
        assert '"step": 1,' in metrics.read_text().splitlines()[0]

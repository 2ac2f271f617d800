"""The command line, in process: files in, files and messages out."""

import json
import os
import subprocess
import sys

import pytest

from reward_models.__main__ import run
from reward_models.records import iter_places, read_jsonl, write_jsonl
from reward_models.show import shown


@pytest.mark.parametrize("command", ["train", "score", "show", "rerank", "serve", "export"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as done:
        run([command, "--help"])
    assert done.value.code == 0
    assert f"python -m reward_models {command}" in capsys.readouterr().out


def test_score_then_rerank(prm, tmp_path, capsys):
    rows = []
    for problem in range(4):
        for sample, (text, answer) in enumerate(
            [("bad step.\n\nbad step.", "1"), ("good step.\n\ngood step.", "2")] * 2
        ):
            row = {"problem_id": f"p{problem}", "sample_id": sample, "problem": "What is 3?", "text": text}
            rows.append({**row, "answer": answer, "correct": answer == "2"})
    write_jsonl(tmp_path / "samples.jsonl", rows)
    assert run(["score", str(prm[0]), str(tmp_path / "samples.jsonl"), "-o", str(tmp_path / "scored.jsonl")]) == 0
    scored = read_jsonl(tmp_path / "scored.jsonl")
    assert [row["text"] for row in scored] == [row["text"] for row in rows]
    assert all(len(row["step_scores"]) == 2 and row["reward_model"] == prm[0].name for row in scored)
    assert run(["rerank", str(tmp_path / "scored.jsonl"), "-o", str(tmp_path / "curves.json")]) == 0
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves["best_of_n"]["4"] == 1.0 and curves["majority"]["4"] == 0.0 and curves["mean"]["1"] == 0.5
    assert "best_of_n" in capsys.readouterr().out


def test_show_puts_scores_beside_steps(tmp_path, capsys):
    rows = [
        {"problem_id": "a", "sample_id": 0, "problem": "2 + 3?", "text": "We\nadd.\x1b[2J\n\n# Answer\n\n5",
         "correct": True, "level": 1, "step_scores": {"prm": [0.25, 0.9], "orm": [0.5, 0.5]}},
        {"problem_id": "b", "steps": ["no"], "step_scores": {"prm": None}},
    ]  # fmt: skip
    path = tmp_path / "scored.jsonl"
    write_jsonl(path, rows)
    assert run(["show", str(path), "--scores", "prm"]) == 0
    first, second = capsys.readouterr().out.rstrip().split("\n\n")
    assert first.splitlines() == [
        "a/0, right, level 1",
        "  2 + 3?",
        "  0.25  We",
        "        add. [2J",  # the escape character does not reach the terminal
        "  0.90  # Answer",
        "        5",
    ]
    assert second.splitlines() == ["b", "        no"]
    assert run(["show", str(path), "--scores", "prm", "--problem", "c"]) == 1
    assert "no row of problem 'c'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(["show", str(path), "-n", "0"])
    write_jsonl(path, [{"steps": ["a", "b"], "step_scores": [0.5]}])
    assert run(["show", str(path)]) == 1
    assert "2 steps and step_scores 1" in capsys.readouterr().err
    write_jsonl(path, [{"steps": ["a"], "step_scores": ["high"], "correct": []}])
    assert run(["show", str(path)]) == 1
    assert "step_scores are ['high']; give numbers" in capsys.readouterr().err
    # what `score --overlong skip` leaves of a solution that was too long
    write_jsonl(path, [{"steps": ["a"], "step_scores": [], "score": None, "skipped": "too long"}])
    assert run(["show", str(path)]) == 0
    assert "        a" in capsys.readouterr().out.splitlines()
    assert "\033[38;5;208m0.25" in "".join(shown(rows[0], "x:1", "prm", colour=True))


def test_score_counts_texts_that_look_unsplit(prm, tmp_path, capsys):
    """Each for itself, after the newlines of other systems; they are scored, since samples of a policy hold some."""
    texts = ["n=9\nn=5\nn=4", "n=9\r\n\r\nn=5\r\n\r\n# Answer\r\n\r\n5", "n=9\nn=5"]
    write_jsonl(tmp_path / "s.jsonl", [{"problem": "n=1*4?", "text": text} for text in texts])
    assert run(["score", str(prm[0]), str(tmp_path / "s.jsonl"), "-o", str(tmp_path / "o.jsonl")]) == 0
    assert [len(row["step_scores"]) for row in read_jsonl(tmp_path / "o.jsonl")] == [1, 3, 1]
    said = capsys.readouterr().err
    assert "1 texts have several lines" in said and "s.jsonl:1)" in said


def test_score_goes_from_file_to_file_a_window_at_a_time(prm, tmp_path, monkeypatch):
    """Rows are read only as far as the scorer looks ahead, and results are written before the next are read."""
    window, rows, read, events = 2048, 5000, [], []

    def counted(*arguments, **options):
        for row in iter_places(*arguments, **options):
            read.append(row)
            if len(read) % window == 1:
                events.append(("read", len(read)))
            yield row

    def watched(path, scored):
        return write_jsonl(path, (events.append(("wrote", len(read))) or row for row in scored))

    write_jsonl(tmp_path / "s.jsonl", ({"problem": "q", "steps": ["good step."]} for _ in range(rows)))
    monkeypatch.setattr("reward_models.score_file.iter_places", counted)
    monkeypatch.setattr("reward_models.__main__.write_jsonl", watched)
    assert run(["score", str(prm[0]), str(tmp_path / "s.jsonl"), "-o", str(tmp_path / "o.jsonl")]) == 0
    assert events == [
        ("read", 1), *[("wrote", window)] * window,
        ("read", window + 1), *[("wrote", 2 * window)] * window,
        ("read", 2 * window + 1), *[("wrote", rows)] * (rows - 2 * window),
    ]  # fmt: skip


def test_score_writes_to_standard_output_and_skips_over_long(prm, tmp_path, capsys):
    write_jsonl(
        tmp_path / "s.jsonl", [{"problem": "q", "steps": ["good step. " * 400]}, {"problem": "q", "steps": ["a"]}]
    )
    assert run(["score", str(prm[0]), str(tmp_path / "s.jsonl"), "--overlong", "skip"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["score"] is None and "item 1" in first["skipped"] and second["score"] > 0


def test_train_from_a_file_with_a_broken_row(base, tmp_path, capsys):
    rows = [
        {"problem": "q", "steps": ["good step."], "labels": [1]},
        {"problem": "q", "steps": ["bad step."], "labels": [0]},
    ]
    write_jsonl(tmp_path / "r.jsonl", [*rows * 8, {"problem": "q", "steps": ["a"], "labels": [1, 1]}])
    arguments = ["train", str(base), str(tmp_path / "r.jsonl"), str(tmp_path / "out"), "--kind", "prm"]
    assert run([*arguments, "num_train_epochs=1", "batch_size=8", "max_length=64"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["used"] == 16
    assert "r.jsonl:17: 2 labels for 1 steps" in captured.err and "1 rows left out" in captured.err
    assert run([*arguments, "epoch=1"]) == 1
    assert "'epoch=1' is not a training setting" in capsys.readouterr().err


def test_export(orm, prm, tmp_path, capsys):
    assert run(["export", str(orm[0]), str(tmp_path / "seqcls")]) == 0
    assert "sequence classifier" in capsys.readouterr().out
    assert run(["export", str(prm[0]), str(tmp_path / "no")]) == 1
    assert run(["export", "--from", "nobody", str(prm[0]), str(tmp_path / "no")]) == 1
    assert "choose one of e2h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "s.jsonl:1: not JSON"),
        ('{"problem": "q"}', "s.jsonl:1: needs"),
        ('{"text": "a"}', "s.jsonl:1: missing field 'problem'"),
    ],
)
def test_bad_files_are_one_line_on_standard_error(prm, tmp_path, capsys, text, message):
    (tmp_path / "s.jsonl").write_text(text + "\n")
    assert run(["score", str(prm[0]), str(tmp_path / "s.jsonl")]) == 1
    assert message in capsys.readouterr().err
    assert run(["rerank", str(tmp_path / "none.jsonl")]) == 1
    assert "no such file" in capsys.readouterr().err


HUB = {
    "train": ["train", "someone/far", "{rows}", "{out}", "--kind", "orm"],
    "pairwise": ["train", "someone/far", "{pairs}", "{out}", "--kind", "pairwise"],
    "score": ["score", "someone/far", "{rows}"],
    "export": ["export", "someone/far", "{out}"],
    "import": ["export", "--from", "e2h", "someone/far", "{out}"],
    "serve": ["serve", "someone/far"],
}


@pytest.fixture
def far(tmp_path):
    """Commands that name a model of the hub, with files that exist."""
    write_jsonl(tmp_path / "rows.jsonl", [{"problem": "q", "steps": ["a"], "outcome": k} for k in (0, 1)])
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    places = {"rows": tmp_path / "rows.jsonl", "pairs": tmp_path / "pairs.jsonl", "out": tmp_path / "out"}
    return {name: [word.format(**places) for word in words] for name, words in HUB.items()}


@pytest.mark.parametrize("name", HUB)
def test_a_model_of_the_hub_where_there_is_no_hub_is_a_sentence(name, far, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run(far[name]) == 1
    said = capsys.readouterr()
    assert "someone/far" in said.err and "`hf download someone/far --local-dir FOLDER`" in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    assert not (tmp_path / "out").exists()


def test_an_unreachable_hub_is_said_at_once(far, tmp_path):
    """The library would try file after file, six times each, for minutes. A process of its own reads the address."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    code = (
        "import sys, time\nfrom reward_models.model import load_tokenizer\nfrom reward_models.__main__ import run\n"
        "start = time.monotonic()\ncode = run(sys.argv[1:])\nprint(code, time.monotonic() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *far["score"]], capture_output=True, text=True, env=environment, timeout=300
    )
    code, seconds = done.stdout.split()
    assert code == "1" and float(seconds) < 20, done.stdout
    assert "the hub cannot be reached" in done.stderr and "Traceback" not in done.stderr

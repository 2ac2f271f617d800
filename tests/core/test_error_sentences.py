"""What ends a command: one sentence with what to do, and a traceback only for what nobody foresaw."""

import json
from pathlib import Path

import pytest

from reward_models.__main__ import run as reward_models
from reward_models.causes import say
from rlhf_e2h.cli import main
from rlhf_e2h.runner.jobs import ending
from rlhf_e2h.stages import prepare


def _caught(action):
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def _embedding():
    import torch

    torch.nn.Embedding(3, 2)(torch.tensor([3]))


def _state():
    import torch

    torch.nn.Linear(2, 3).load_state_dict(torch.nn.Linear(3, 3).state_dict())


def _wandb():
    import wandb

    raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")


def _no_vllm():
    import vllm.no_such_thing  # noqa: F401


def _huge():
    import torch

    torch.empty(1 << 62, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (_embedding, ["index out of range in self", "more tokens than the model", "resize"]),
        (_state, ["the weights do not have the shapes that config.json says", "download"]),
        (_wandb, ["wandb: No API key configured", "WANDB_API_KEY", "wandb.mode=offline"]),
        (_no_vllm, ["vllm is not installed", "pip install 'rlhf_e2h[vllm]'"]),
        (_huge, ["out of memory", "per_device_train_batch_size", "e2h plan"]),
        (lambda: Path("/etc/passwd/x").read_text(), ["a folder is needed here"]),
        (lambda: Path("/").read_text(), ["a file is needed here"]),
        (lambda: b"\xff".decode("utf-8"), ["a file is not UTF-8 text", "iconv"]),
    ],
)
def test_what_libraries_raise_becomes_a_sentence(action, words):
    sentence, foreseen = say(_caught(action))
    assert foreseen and all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_what_led_to_an_error_counts():
    def wrapped():
        try:
            _embedding()
        except IndexError as error:
            raise RuntimeError("worker 3 failed") from error

    assert "resize" in say(_caught(wrapped))[0]


def test_a_value_error_out_of_an_operation_is_not_a_message():
    sentence, foreseen = say(_caught(lambda: list(zip([1], [1, 2], strict=True))))
    assert not foreseen and sentence.startswith("an error that nobody foresaw, ValueError: zip()")


def test_a_killed_process_is_said_to_have_been_killed():
    assert "runs out of memory" in ending(-9) and "exit code 3" in ending(3)


def test_a_bug_of_a_stage_is_summed_up_first_and_its_traceback_kept(recipe, runs, capsys, monkeypatch):
    def broken(config, run):
        return {}["no such key"]

    monkeypatch.setattr(prepare, "main", broken)
    assert main(["run", str(recipe), runs, "--only", "prepare"]) == 1
    lines = capsys.readouterr().err.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("e2h: "))
    assert "an error that nobody foresaw, KeyError: 'no such key' [stage prepare] [traceback in " in lines[first]
    assert lines[first + 1].startswith("Traceback")
    kept = lines[first].partition("[traceback in ")[2].rstrip("]")
    assert "no such key" in Path(kept).read_text(encoding="utf-8")
    monkeypatch.undo()
    assert main(["run", str(recipe), runs, "--only", "prepare"]) == 0
    assert not Path(kept).exists()


def test_both_command_lines_say_the_same(tmp_path, capsys):
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"problem": "1+1?", "steps": ["2"], "labels": [1]}) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    code = reward_models(["train", str(tmp_path), str(records), str(tmp_path / "out"), "--kind", "prm"])
    said = capsys.readouterr().err
    assert code == 1 and f"error: {tmp_path}: a model folder without tokenizer" in said and said.count("\n") == 1

import contextlib
import dataclasses
import importlib
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from rlhf_e2h.cli import main
from rlhf_e2h.runner.traits import STAGES


def _run(arguments, capsys):
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no/such/recipe"], ["no such recipe folder", "these ship: "]),
        (["sft", "no/such/2_file.yaml"], ["no such recipe folder"]),
        (["run", "{recipe}", "{runs}", "sampel.n=1"], ["did you mean 'sample'"]),
        (["run", "{recipe}", "{runs}", "sample.decoding.temprature=1"], ["did you mean 'temperature'"]),
        (["run", "{recipe}", "{runs}", "--only", "grade"], ["no such stage"]),
        (["run", "{recipe}", "{runs}", "--only", "sample"], ["not finished", "run `e2h "]),
        (["run", "{recipe}", "{runs}", "icl.policy=./missing"], ["'./missing' does not exist"]),
        (["run", "{recipe}", "{runs}", "pretrain.tokenizer=words"], ["'words'", "procedural"]),
        (["run", "{recipe}", "{runs}", "--launch", "none.yaml", "pretrain.training.batch_size=0"], ["at least 1"]),
    ],
)
def test_mistakes_give_one_sentence_and_exit_code_2(arguments, words, recipe, runs, capsys):
    code, errors = _run([a.format(recipe=recipe, runs=runs) for a in arguments], capsys)
    assert code == 2
    assert all(word in errors for word in words)
    assert "Traceback" not in errors and errors.count("e2h: ") == 1


def test_a_model_folder_without_tokenizer(recipe, runs, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    code, errors = _run(["run", recipe, runs, f"icl.policy={tmp_path / 'model'}"], capsys)
    assert code == 2 and "without tokenizer" in errors
    # what was finished before the mistake stays
    assert list((tmp_path / "runs").glob("prepare/*/done.json"))


def test_every_stage_explains_itself(capsys):
    for kind in STAGES:
        with pytest.raises(SystemExit) as done:
            main([kind, "--help"])
        assert done.value.code == 0
        assert main([kind, "--settings"]) == 0
        shown = capsys.readouterr().out
        assert f"stage: {kind}" in shown and shown.count("\n") > 3
        # a setting stands on one line, or its default and comment would be cut off
        assert not [line for line in shown.split("\n") if line.endswith("(")]


def test_settings_of_a_group_stand_below_it(capsys):
    assert main(["reward", "--settings"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("\ntraining:") < shown.index("\n  learning_rate: 2.0e-05")


def _plain(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("kind", STAGES)
def test_settings_are_yaml_with_the_defaults_of_the_code(kind, capsys):
    """Read from the source; what the code itself says its defaults are must be the same."""
    assert main([kind, "--settings"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown.pop("stage") == kind
    config = importlib.import_module(STAGES[kind].module).Config
    fields = dataclasses.fields(config)
    # the stage's own settings come first, then those that it inherits
    own = list(vars(config)["__annotations__"])
    names = [one.name for one in fields]
    assert list(shown) == [name for name in own if name in names] + [name for name in names if name not in own]
    needed = {
        one.name for one in fields if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    given = {name: value for name, value in shown.items() if name not in needed}
    for name, value in given.items():
        one = next(one for one in fields if one.name == name)
        default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        assert value == _plain(default), name


def test_help_and_settings_load_no_heavy_library():
    code = (
        "import sys\nfrom rlhf_e2h.cli import main\n"
        "lines = ('--help', 'check --help', 'plan --help', 'completion bash', 'ppo --settings')\n"
        "for words in (*lines, ['complete', 'e2h run quickstart ']):\n"
        "    try: main(words.split() if isinstance(words, str) else words)\n"
        "    except SystemExit: pass\n"
        "print('loaded', [m for m in ('torch', 'transformers', 'sympy', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_a_bare_run_lists_the_recipes(capsys):
    assert main(["run"]) == 2
    shown = capsys.readouterr().out
    assert "quickstart" in shown and "qwen2.5-math-7b" in shown and "e2h init" in shown


def completed(line):
    """What bash offers at the end of a line, by the script that `e2h completion bash` prints."""
    script = 'eval "$(e2h completion bash)"; COMP_LINE="$1"; COMP_POINT=${#1}; _e2h; printf "%s\\n" "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", line], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("e2h ", {"run", "ppo", "doctor"}, {"complete"}),
        ("e2h run ", {"quickstart", "math-smoke"}, {"ppo"}),
        ("e2h run quickstart --only ", {"prm", "sft_easy"}, {"recipe"}),
        ("e2h run quickstart --launch zero", {"zero2.yaml", "zero3.yaml"}, {"ddp.yaml"}),
        (
            "e2h run quickstart sft_easy.",
            {"sft_easy.training.num_train_epochs=", "sft_easy.training.lora.r="},
            {"seeds="},
        ),
        ("e2h run quickstart s", {"seeds=", "sft_easy.training.num_train_epochs="}, {"runs="}),
        ("e2h ppo my.yaml engine.n", {"engine.name="}, {"data="}),
        ("e2h report --p", {"--paper"}, {"--out"}),
        ("e2h plan --", {"--gpus"}, {"--locked"}),
        ("e2h run recipes/", set(), {"quickstart"}),  # the shell goes on with files
    ],
)
def test_the_shell_completes(line, some, none):
    found = set(completed(line))
    assert some <= found and not none & found
    assert all(word.startswith(line.rpartition(" ")[2]) for word in found)


TYPED = {  # what is typed before Tab: the line after it
    "e2h doct": "e2h doctor ",
    "e2h run quicks": "e2h run quickstart ",
    "e2h run quickstart --only sft_ea": "e2h run quickstart --only sft_easy ",
    "e2h run quickstart --launch zero2_": "e2h run quickstart --launch zero2_offload.yaml ",
    "e2h ppo my.yaml engine.nam": "e2h ppo my.yaml engine.name=",
    "e2h run quickstart sft_easy.training.num_tr": "e2h run quickstart sft_easy.training.num_train_epochs=",
    "e2h report a_fil": "e2h report a_file.yaml ",  # where nothing fits, files
}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_at_a_terminal(tmp_path):
    """Keys are typed into a zsh of its own without any configuration; a key of ours writes down the line it shows."""
    (tmp_path / "a_file.yaml").touch()
    noted, ready = tmp_path / "lines", tmp_path / "ready"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    ours, theirs = pty.openpty()
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    try:
        note = f"note() {{ print -r -- \"$BUFFER|\" >> {noted} }}; zle -N note; bindkey '^O' note"
        os.write(ours, f'bindkey -e; eval "$(e2h completion zsh)"; {note}; touch {ready}\n'.encode())
        _wait(lambda: ready.exists())
        for count, line in enumerate(TYPED, 1):
            os.write(ours, f"{line}\t\x0f\x15".encode())  # Tab, our key, and the line is wiped
            _wait(lambda count=count: noted.exists() and noted.read_text().count("\n") == count)
    finally:
        zsh.kill()
        zsh.wait()
    assert noted.read_text().splitlines() == [f"{line}|" for line in TYPED.values()]


def _drain(terminal):
    with contextlib.suppress(OSError):  # the other side is closed
        while os.read(terminal, 4096):
            pass


def _wait(done):
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)

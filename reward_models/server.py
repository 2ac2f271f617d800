"""HTTP server of a reward model: FastAPI and uvicorn, dynamic batching, limits that answer in sentences.

    python -m reward_models serve runs/prm --port 8000

Errors are `{"error": sentence, "error_type": name}` with 400 (not JSON), 401 (key), 413 (body too large), 422
(content), 429 (queue full), 500 (our fault, logged). `/health` and `/metrics` need no key.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from reward_models import shapes
from reward_models.batcher import Batcher, QueueFullError
from reward_models.encode import OverlongError
from reward_models.model import checkpoint_name
from reward_models.score import BrokenModelError, Scorer

DRAIN = 8
# Cohere's clients add their version to the base address, which may end in /v1 already
RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/v1/rerank", "/v1/v2/rerank")

log = logging.getLogger("reward_models.server")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much may wait."""

    body_bytes: int = 8 * 2**20
    documents: int = 1024
    characters: int = 200_000  # of one document; longer ones are refused before the tokenizer sees them
    queue: int = 4096  # solutions accepted and not yet scored


class _Failure(Exception):  # noqa: N818
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


class _Figures:
    """Prometheus figures of one server; a registry of its own, so that two servers in one process do not clash."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reward_requests_total", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "reward_request_seconds", "Time from request to answer", ["path"], registry=self.registry
        )
        self.solutions = Counter("reward_solutions_total", "Solutions scored", registry=self.registry)
        self.tokens = Counter("reward_tokens_total", "Tokens read", registry=self.registry)
        self.unsplit = Counter(
            "reward_unsplit_total", "Texts of several lines scored as one step", registry=self.registry
        )
        self.batches = Histogram(
            "reward_batch_solutions",
            "Solutions scored together",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
            registry=self.registry,
        )
        self.waiting = Gauge("reward_queue_solutions", "Solutions waiting", registry=self.registry)

    def observe(self, solutions: int, tokens: int) -> None:
        self.solutions.inc(solutions)
        self.tokens.inc(tokens)
        self.batches.observe(solutions)


def create_app(scorer: Scorer, name: str, api_key: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The ASGI application around a loaded scorer. Set `scorer.overlong` to choose what over-long solutions do."""
    limits = limits or Limits()
    figures = _Figures()
    batcher = Batcher(scorer, limits.queue, figures.observe)
    figures.waiting.set_function(lambda: batcher.waiting)
    tokenizer = scorer.tokenizer
    special = [token for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) if token]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()  # uvicorn has stopped accepting; what was accepted is answered

    app = FastAPI(title="reward_models", lifespan=lifespan)
    contract, started = scorer.contract, int(time.time())
    routes: dict[str, Callable[[shapes.Body], shapes.Request]] = {
        **dict.fromkeys(RERANK_PATHS, lambda body: shapes.rerank(body, contract, name)),
        **dict.fromkeys(("/score", "/v1/score"), lambda body: shapes.score(body, contract, name)),
        "/get_reward": lambda body: shapes.get_reward(body, contract, special),
    }

    async def handle(request: Request) -> Response:
        path, started = request.url.path, time.perf_counter()
        try:
            _check_key(request, api_key)
            parsed = _parse(await _read(request, limits.body_bytes), routes[path])
            _check_limits(parsed.items, limits)
            if parsed.unsplit:
                figures.unsplit.inc(parsed.unsplit)
                log.warning(
                    "%s: %d of %d texts have several lines but not the step separator %r; each is scored as one step",
                    path, parsed.unsplit, len(parsed.items), contract.separator,
                )  # fmt: skip
            response: Response = JSONResponse(parsed.answer(await _score(batcher, parsed.items, parsed.overlong)))
        except _Failure as failure:
            headers = {"Retry-After": "1"} if failure.status == 429 else None
            content = {"error": failure.message, "error_type": failure.kind}
            response = JSONResponse(content, failure.status, headers)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; the figure counts it
        figures.requests.labels(path, response.status_code).inc()
        figures.seconds.labels(path).observe(time.perf_counter() - started)
        return response

    for path in routes:
        app.add_api_route(path, handle, methods=["POST"])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "kind": contract.kind, "waiting": batcher.waiting}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """As OpenAI and vLLM list them."""
        card = {"id": name, "object": "model", "created": started, "owned_by": "reward_models", "root": name}
        return {"object": "list", "data": [{**card, "max_model_len": scorer.max_length}]}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """As Text Embeddings Inference describes its model."""
        kind = {"reranker": {"id2label": {"0": "score"}, "label2id": {"score": 0}}}
        return {
            "model_id": name,
            "model_dtype": str(scorer.model.dtype).removeprefix("torch."),
            "model_type": kind,
            "max_input_length": scorer.max_length,
            "max_client_batch_size": limits.documents,
            "max_batch_tokens": scorer.max_tokens_per_batch,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _check_key(request: Request, api_key: str | None) -> None:
    if api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # compare_digest takes the same time wherever the texts differ; bytes, because it refuses non-ASCII text
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), api_key.encode())
    if scheme.lower() != "bearer" or not right:
        raise _Failure(401, "authentication", "missing or wrong key; send `Authorization: Bearer KEY`")


def _check_limits(items: list[shapes.Item], limits: Limits) -> None:
    if len(items) > limits.documents:
        raise _Failure(422, "limit", f"{len(items)} documents in one request, the limit is {limits.documents}")
    for place, (problem, steps) in enumerate(items):
        size = len(problem) + sum(map(len, steps))
        if size > limits.characters:
            raise _Failure(422, "limit", f"document {place} has {size} characters, the limit is {limits.characters}")


async def _read(request: Request, limit: int) -> bytes:
    """The body, kept only up to the limit, whatever its header says.

    The rest is read and dropped (up to DRAIN times the limit), because a client that is cut off while sending sees a
    broken connection and not the answer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > DRAIN * limit:
            break
    if size > limit:
        raise _Failure(413, "limit", f"the body is larger than {limit} bytes; send fewer or shorter documents")
    return b"".join(parts)


def _parse(raw: bytes, route: Callable[[shapes.Body], shapes.Request]) -> shapes.Request:
    try:
        body = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Failure(400, "encoding", f"the body is not UTF-8 text (byte {error.start})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Failure(400, "json", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _Failure(422, "validation", f"the body must be a JSON object, found {type(body).__name__}")
    try:
        return route(body)
    except shapes.BadRequestError as error:
        raise _Failure(422, "validation", str(error)) from None


async def _score(batcher: Batcher, items: list[shapes.Item], overlong: str | None) -> Any:
    try:
        return await batcher.score(items, overlong)
    except QueueFullError as error:
        raise _Failure(429, "overloaded", f"{error}; try again later") from None
    except OverlongError as error:
        raise _Failure(422, "limit", str(error).partition(";")[0] + "; send a shorter document") from None
    except BrokenModelError as error:
        log.error("%s", error)
        raise _Failure(500, "internal", "the model returned NaN; see the server's log") from None
    except ValueError as error:  # text that the tokenizer reads as nothing
        raise _Failure(422, "validation", str(error)) from None
    except Exception:
        log.exception("scoring failed")
        raise _Failure(500, "internal", "scoring failed; see the server's log") from None


def serve(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    limits: Limits | None = None,
    **scorer_options: Any,
) -> None:
    """Load a checkpoint and serve it until SIGINT or SIGTERM; accepted requests are answered before it ends."""
    scorer = Scorer.from_pretrained(path, **scorer_options)
    app = create_app(scorer, checkpoint_name(path), api_key, limits)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=60)

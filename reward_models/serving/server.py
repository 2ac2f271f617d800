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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

from reward_models.encode import OverlongError
from reward_models.model import checkpoint_name
from reward_models.score import BrokenModelError, Scorer
from reward_models.serving.batcher import Batcher, QueueFullError
from reward_models.serving.figures import Figures
from reward_models.serving.request import BadRequestError, Item, Request
from reward_models.serving.routes import Route, routes
from reward_models.serving.score import LABEL

DRAIN = 8

log = logging.getLogger("reward_models.serving")


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


@dataclass(frozen=True)
class _Service:
    """What requests share: the model behind its queue, the routes, limits and figures."""

    scorer: Scorer
    name: str
    api_key: str | None
    limits: Limits
    figures: Figures
    batcher: Batcher
    routes: Mapping[str, Route]

    async def post(self, http: HttpRequest) -> Response:
        """Answer one request to a route; every failure is a sentence."""
        path, started = http.url.path, time.perf_counter()
        try:
            _check_key(http, self.api_key)
            parsed = _parse(await _read(http, self.limits.body_bytes), self.routes[path])
            _check_limits(parsed.items, self.limits)
            self._note_unsplit(path, parsed)
            scores = await _score(self.batcher, parsed.items, parsed.overlong)
            response: Response = JSONResponse(parsed.answer(scores))
        except _Failure as failure:
            headers = {"Retry-After": "1"} if failure.status == 429 else None
            content = {"error": failure.message, "error_type": failure.kind}
            response = JSONResponse(content, failure.status, headers)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; the figure counts it
        self.figures.requests.labels(path, response.status_code).inc()
        self.figures.seconds.labels(path).observe(time.perf_counter() - started)
        return response

    def _note_unsplit(self, path: str, parsed: Request) -> None:
        if parsed.unsplit:
            self.figures.unsplit.inc(parsed.unsplit)
            log.warning(
                "%s: %d of %d texts have several lines but not the step separator %r; each is scored as one step",
                path, parsed.unsplit, len(parsed.items), self.scorer.contract.separator,
            )  # fmt: skip


def create_app(scorer: Scorer, name: str, api_key: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The ASGI application around a loaded scorer. Set `scorer.overlong` to choose what over-long solutions do."""
    limits, figures = limits or Limits(), Figures()
    batcher = Batcher(scorer, limits.queue, figures.observe)
    figures.waiting.set_function(lambda: batcher.waiting)
    tokenizer = scorer.tokenizer
    special = [token for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) if token]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()  # uvicorn has stopped accepting; what was accepted is answered

    app = FastAPI(title="reward_models", lifespan=lifespan)
    service = _Service(scorer, name, api_key, limits, figures, batcher, routes(scorer.contract, name, special))
    for path in service.routes:
        app.add_api_route(path, service.post, methods=["POST"])
    _add_pages(app, service)
    return app


def _add_pages(app: FastAPI, service: _Service) -> None:
    """What clients and monitors read: no key is asked, nothing is scored."""
    scorer, name, started = service.scorer, service.name, int(time.time())

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "kind": scorer.contract.kind, "waiting": service.batcher.waiting}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """As OpenAI and vLLM list them."""
        card = {"id": name, "object": "model", "created": started, "owned_by": "reward_models", "root": name}
        return {"object": "list", "data": [{**card, "max_model_len": scorer.max_length}]}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """As Text Embeddings Inference describes its model."""
        kind = {"reranker": {"id2label": {"0": LABEL}, "label2id": {LABEL: 0}}}
        return {
            "model_id": name,
            "model_dtype": str(scorer.model.dtype).removeprefix("torch."),
            "model_type": kind,
            "max_input_length": scorer.max_length,
            "max_client_batch_size": service.limits.documents,
            "max_batch_tokens": scorer.max_tokens_per_batch,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)


def _check_key(request: HttpRequest, api_key: str | None) -> None:
    if api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # compare_digest takes the same time wherever the texts differ; bytes, because it refuses non-ASCII text
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), api_key.encode())
    if scheme.lower() != "bearer" or not right:
        raise _Failure(401, "authentication", "missing or wrong key; send `Authorization: Bearer KEY`")


def _check_limits(items: list[Item], limits: Limits) -> None:
    if len(items) > limits.documents:
        raise _Failure(422, "limit", f"{len(items)} documents in one request, the limit is {limits.documents}")
    for place, (problem, steps) in enumerate(items):
        size = len(problem) + sum(map(len, steps))
        if size > limits.characters:
            raise _Failure(422, "limit", f"document {place} has {size} characters, the limit is {limits.characters}")


async def _read(request: HttpRequest, limit: int) -> bytes:
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


def _parse(raw: bytes, route: Route) -> Request:
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
    except BadRequestError as error:
        raise _Failure(422, "validation", str(error)) from None


async def _score(batcher: Batcher, items: list[Item], overlong: str | None) -> Any:
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

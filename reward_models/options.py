"""What the command line takes, in words and as a parser. Nothing heavy is imported: help answers at once."""

from __future__ import annotations

import argparse
from typing import Any

from reward_models.aggregate import AGGREGATIONS
from reward_models.kinds import KINDS

DTYPES = ("float32", "bfloat16", "float16")
SUMMARY = "Command line: `python -m reward_models {train,score,show,rerank,serve,export}`."
TRAIN_HELP = """Train a reward model from JSON Lines of records:
  {"problem": "2 + 3?", "steps": ["2 + 3 = 5", "# Answer\\n\\n5"], "labels": [1, 1], "outcome": 1}
`labels` has 0, 1 or null for each step (PRM), `outcome` 0, 1 or null for the final answer (ORM); an OPRM uses both.
Other formats (PRM800K, Math-Shepherd, ProcessBench, TRL's stepwise and KTO rows, `messages` with a label, RLHFlow,
OpenRLHF, graded samples) are recognised by their fields; rows that cannot be read are listed as file:line: reason.
With --kind pairwise, rows of `chosen` and `rejected` train a Bradley-Terry model.

Settings are KEY=VALUE; reward_models/settings.py lists them with their defaults.

  python -m reward_models train BASE_MODEL records.jsonl runs/prm --kind prm learning_rate=1e-5 num_train_epochs=2
"""
SCORE_HELP = """Score solutions. Rows need `problem` and either `steps` or `text`; other fields pass through.
Adds `step_scores`, `score` and `reward_model` to each row. Memory does not grow with the file.

  python -m reward_models score runs/prm samples.jsonl -o scored.jsonl
"""
SHOW_HELP = """Read scored solutions: each step with its score, coloured on a terminal (NO_COLOR=1: never).
Rows need `text` or `steps`, and `step_scores`; a problem and a verdict (`correct`) are shown where rows have them.

  python -m reward_models show scored.jsonl --problem a -n 4
"""
RERANK_HELP = """Accuracy of choosing among samples: mean, majority, weighted vote, best-of-n, pass@n for n = 1, 2, 4
Rows need `problem_id`, `answer` (null or "": none), `correct`, and `score` or `step_scores` (list of probabilities, or
such a list for each of several reward models by name: --scores chooses one).
Answers are grouped as strings, or by a column `answer_class`.

With --model, samples (`problem`, `text` or `steps`) are scored first; with --gold, answers are taken from the texts,
judged and grouped by Math-Verify:

  python -m reward_models rerank samples.jsonl --model runs/prm --gold answers.jsonl

Rules: ties go to the answer seen first. A missing answer never wins; a problem with none is wrong. Negative scores (raw
logits) are added and compared as they are. Subsets of each n are drawn once and shared by all methods.

  python -m reward_models rerank scored.jsonl -o curves.json
"""
SERVE_HELP = """Serve a reward model over HTTP: /v1/rerank (Cohere, Jina, vLLM), /rerank and /predict (Text Embeddings
Inference), /score, /classify and /pooling (vLLM), /get_reward (OpenRLHF), /health, /metrics (Prometheus), /docs.
Needs the extra `serve`.

  REWARD_KEY=secret python -m reward_models serve runs/prm --port 8000 --api-key-env REWARD_KEY
  curl -s localhost:8000/v1/rerank -H 'Authorization: Bearer secret' -H 'Content-Type: application/json' \\
       -d '{"query": "2 + 3?", "documents": ["2 + 3 = 6", "2 + 3 = 5"]}'
"""
EXPORT_HELP = """Convert checkpoints.
Without --from: an outcome model becomes AutoModelForSequenceClassification, which vLLM and others serve.
With --from: somebody else's reward model becomes one of ours: e2h (two-row head), math-shepherd (+ and - tokens),
qwen-prm (Qwen2.5-Math-PRM), trl-prm (TRL PRMTrainer).

  python -m reward_models export runs/orm runs/orm-seqcls
  python -m reward_models export --from qwen-prm Qwen2.5-Math-PRM-7B/ runs/qwen
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(prog="python -m reward_models", description=SUMMARY)
    commands = main.add_subparsers(dest="command", required=True, metavar="{train,score,show,rerank,serve,export}")
    for add in (_add_train, _add_score, _add_show, _add_rerank, _add_serve, _add_export):
        add(commands)
    return main


def _add_train(commands: Any) -> None:
    train = _command(commands, "train", "train an ORM, PRM or OPRM", TRAIN_HELP)
    train.add_argument("base", help="base model: a folder or an id of the hub")
    train.add_argument(
        "records", nargs="+", metavar="RECORDS OUT", help="JSON Lines files, and last the folder to write"
    )
    train.add_argument("--kind", required=True, choices=[*KINDS, "pairwise"])
    train.add_argument("--validation", help="held-out records; metrics go to OUT/training.json")
    train.add_argument("--format", default="auto", help="format of all files (default: recognised by row)")


def _add_score(commands: Any) -> None:
    score = _command(commands, "score", "score solutions of a file", SCORE_HELP)
    score.add_argument("model")
    score.add_argument("file")
    score.add_argument("-o", "--out", help="JSON Lines to write (default: standard output)")
    _scorer_options(score)


def _add_show(commands: Any) -> None:
    show = _command(commands, "show", "scored solutions to read, step by step", SHOW_HELP)
    show.add_argument("file")
    show.add_argument("--scores", default="", metavar="NAME", help="one of several models in step_scores")
    show.add_argument("--problem", help="only rows with this problem_id")
    show.add_argument("-n", type=_at_least_one, default=10, help="at most N solutions (default 10)", metavar="N")


def _add_rerank(commands: Any) -> None:
    rerank = _command(commands, "rerank", "reranking curves from scored samples", RERANK_HELP)
    rerank.add_argument("file")
    rerank.add_argument("--model", help="reward model with which to score the samples first")
    rerank.add_argument("--gold", help="JSON Lines with problem_id (or problem) and answer, to judge samples against")
    rerank.add_argument("-o", "--out", help="JSON to write: {method: {n: accuracy}} and 95 %% intervals")
    rerank.add_argument(
        "--rank-by", default="", choices=[*AGGREGATIONS], help="aggregation of step_scores for best-of-n"
    )
    rerank.add_argument(
        "--vote-by", default="", choices=[*AGGREGATIONS], help="aggregation of step_scores for the vote"
    )
    rerank.add_argument("--scores", default="", metavar="NAME", help="one of several models in step_scores")
    rerank.add_argument("--n", type=int, nargs="+", help="sizes (default: 1, 2, 4, ... up to the samples a problem)")
    rerank.add_argument("--draws", type=int, default=64, help="random subsets for each n (default 64)")
    rerank.add_argument("--seed", type=int, default=0)
    _scorer_options(rerank)


def _add_serve(commands: Any) -> None:
    serve = _command(commands, "serve", "HTTP server", SERVE_HELP)
    serve.add_argument("model")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens the server to the network; use a key then")
    serve.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    serve.add_argument("--max-body-bytes", type=int, default=8 * 2**20)
    serve.add_argument("--max-documents", type=int, default=1024, help="in one request")
    serve.add_argument("--max-queue", type=int, default=4096, help="solutions waiting before 429 is answered")
    _scorer_options(serve)


def _add_export(commands: Any) -> None:
    export = _command(commands, "export", "convert checkpoints from and to other classes", EXPORT_HELP)
    export.add_argument("--from", dest="style", help="e2h, math-shepherd, qwen-prm or trl-prm")
    export.add_argument("--dtype", choices=DTYPES, help="precision of the weights (default: that of the base)")
    export.add_argument("source")
    export.add_argument("out")


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not allowed; give at least 1")
    return number


def _command(commands: Any, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return made


def _scorer_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--max-tokens-per-batch", type=int, default=16384)
    made.add_argument("--max-length", type=int, help="tokens of one solution (default: the model's limit)")
    made.add_argument("--overlong", choices=["error", "truncate_left", "skip"], default="error")

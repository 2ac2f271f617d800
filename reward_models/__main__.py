"""Command line: `python -m reward_models {train,score,rerank,serve,export}`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.aggregate import AGGREGATIONS
from reward_models.causes import say
from reward_models.records import iter_jsonl, write_jsonl
from reward_models.score_file import Unsplit, scored_rows

PAIRWISE_SETTINGS = ("learning_rate", "epochs", "batch_size", "max_length", "seed")
_SETTING = re.compile(r"[a-z_0-9]+=")

# Nothing heavy is imported here: `rerank` on a table of scores and every `--help` answer without loading torch.

TRAIN_HELP = """Train a reward model from JSON Lines of records:
  {"problem": "2 + 3?", "steps": ["2 + 3 = 5", "# Answer\\n\\n5"], "labels": [1, 1], "outcome": 1}
`labels` has 0, 1 or null for each step (PRM), `outcome` 0, 1 or null for the final answer (ORM); an OPRM uses both.
Other formats (PRM800K, Math-Shepherd, ProcessBench, TRL's stepwise and KTO rows, `messages` with a label, RLHFlow,
OpenRLHF, graded samples) are recognised by their fields; rows that cannot be read are listed as file:line: reason.
With --kind pairwise, rows of `chosen` and `rejected` train a Bradley-Terry model, a plain sequence classifier.

Settings are KEY=VALUE; reward_models/settings.py lists them with their defaults.

  python -m reward_models train BASE_MODEL records.jsonl runs/prm --kind prm learning_rate=1e-5 epochs=2
"""
SCORE_HELP = """Score solutions. Rows need `problem` and either `steps` or `text`; other fields pass through.
Adds `step_scores`, `score` and `reward_model` to each row. Memory does not grow with the file.

  python -m reward_models score runs/prm samples.jsonl -o scored.jsonl
"""
RERANK_HELP = """Accuracy of choosing among samples: mean, majority, weighted vote, best-of-n, pass@n for n = 1, 2, 4
Rows need `problem_id`, `answer` (null or "": none), `correct`, and `score` or `step_scores` (list of probabilities).
Answers are grouped as strings, or by a column `answer_class`.

With --model, samples (`problem`, `text` or `steps`) are scored first; with --gold, answers are taken from the texts,
judged and grouped by Math-Verify:

  python -m reward_models rerank samples.jsonl --model runs/prm --gold answers.jsonl

Rules: ties go to the answer seen first. A missing answer never wins; a problem with none is wrong. Negative scores (raw
logits) are added and compared as they are. Subsets of each n are drawn once and shared by all methods.

  python -m reward_models rerank scored.jsonl -o curves.json
"""
SERVE_HELP = """Serve a reward model over HTTP: /v1/rerank (Cohere, Jina, vLLM), /rerank (Text Embeddings Inference),
/score (vLLM), /get_reward (OpenRLHF), /health, /metrics (Prometheus). Needs: pip install 'rlhf_e2h[serve]'

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
    """The whole command line; each command's function is in `run`."""
    main = argparse.ArgumentParser(prog="python -m reward_models", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True, metavar="{train,score,rerank,serve,export}")
    train = _command(commands, "train", "train an ORM, PRM or OPRM", TRAIN_HELP, _train)
    train.add_argument("base", help="base model: a folder or an id of the hub")
    train.add_argument(
        "records", nargs="+", metavar="RECORDS OUT", help="JSON Lines files, and last the folder to write"
    )
    train.add_argument("--kind", required=True, choices=["orm", "prm", "oprm", "pairwise"])
    train.add_argument("--validation", help="held-out records; metrics go to OUT/training.json")
    train.add_argument("--format", default="auto", help="format of all files (default: recognised by row)")

    score = _command(commands, "score", "score solutions of a file", SCORE_HELP, _score)
    score.add_argument("model")
    score.add_argument("file")
    score.add_argument("-o", "--out", help="JSON Lines to write (default: standard output)")
    _scorer_options(score)

    rerank = _command(commands, "rerank", "reranking curves from scored samples", RERANK_HELP, _rerank)
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
    rerank.add_argument("--n", type=int, nargs="+", help="sizes (default: 1, 2, 4, ... up to the samples a problem)")
    rerank.add_argument("--draws", type=int, default=64, help="random subsets for each n (default 64)")
    rerank.add_argument("--seed", type=int, default=0)
    _scorer_options(rerank)

    serve = _command(commands, "serve", "HTTP server", SERVE_HELP, _serve)
    serve.add_argument("model")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens the server to the network; use a key then")
    serve.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    serve.add_argument("--max-body-bytes", type=int, default=8 * 2**20)
    serve.add_argument("--max-documents", type=int, default=1024, help="in one request")
    serve.add_argument("--max-queue", type=int, default=4096, help="solutions waiting before 429 is answered")
    _scorer_options(serve)

    export = _command(commands, "export", "convert checkpoints from and to other classes", EXPORT_HELP, _export)
    export.add_argument("--from", dest="style", help="e2h, math-shepherd, qwen-prm or trl-prm")
    export.add_argument("source")
    export.add_argument("out")
    return main


def _command(
    commands: Any, name: str, summary: str, text: str, function: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.set_defaults(function=function)
    return made


def _scorer_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    made.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    made.add_argument("--max-tokens-per-batch", type=int, default=16384)
    made.add_argument("--max-length", type=int, help="tokens of one solution (default: the model's limit)")
    made.add_argument("--overlong", choices=["error", "truncate_left", "skip"], default="error")


def _train(options: argparse.Namespace) -> None:
    from reward_models.formats import load_records
    from reward_models.train import TrainSettings, train

    *files, out = options.records
    if not files:
        raise ValueError("train needs at least one file of records and, last, the folder to write")
    if options.kind == "pairwise":
        print(json.dumps(_train_pairs(options, files, out), indent=2))
        return
    settings = TrainSettings(
        **_parse_settings(options.settings, [field.name for field in dataclasses.fields(TrainSettings)])
    )
    records = [record for path in files for record in _load(load_records, path, options.format)]
    held_out = _load(load_records, options.validation, options.format) if options.validation else None
    result = train(options.base, records, options.kind, out, settings, held_out, on_log=_print_log)
    print(json.dumps(result, indent=2))


def _train_pairs(options: argparse.Namespace, files: Sequence[str], out: str) -> dict[str, Any]:
    from reward_models.pairs import read_pairs
    from reward_models.pairwise import train_pairwise

    if options.validation or options.format != "auto":
        raise ValueError("--kind pairwise reads chosen and rejected, and has neither --validation nor --format")
    values = _parse_settings(options.settings, PAIRWISE_SETTINGS)
    return train_pairwise(options.base, read_pairs(*files), out, **values)


def _load(load_records: Any, path: str, style: str) -> list[Any]:
    records, bad = load_records(path, style)
    for reason in bad:
        print(reason, file=sys.stderr)
    if bad:
        print(f"{path}: {len(bad)} rows left out, {len(records)} records read", file=sys.stderr)
    if len(bad) > len(records):
        raise ValueError(f"{path}: most rows cannot be used, see above; correct them, or name their --format")
    return list(records)


def _print_log(log: Mapping[str, float]) -> None:
    figures = {name: round(value, 6) for name, value in log.items() if isinstance(value, int | float)}
    print(json.dumps(figures), file=sys.stderr)


def _parse_settings(pairs: Sequence[str], names: Collection[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in names:
            raise ValueError(
                f"{pair!r} is no training setting; write KEY=VALUE with KEY one of {', '.join(sorted(names))}"
            )
        try:
            values[name] = json.loads(text)  # numbers, true, false, null
        except json.JSONDecodeError:
            values[name] = text
    return values


def _open_scorer_arguments(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "device": options.device,
        "dtype": getattr(torch, options.dtype),
        "max_tokens_per_batch": options.max_tokens_per_batch,
        "max_length": options.max_length,
        "overlong": options.overlong,
    }


def _score(options: argparse.Namespace) -> None:
    from reward_models.model import checkpoint_name
    from reward_models.score import Scorer

    scorer = Scorer.from_pretrained(options.model, **_open_scorer_arguments(options))
    unsplit = Unsplit()
    rows = scored_rows(scorer, options.file, checkpoint_name(options.model), unsplit)
    if options.out:
        count = write_jsonl(options.out, rows)
        print(f"{options.out}: {count} rows", file=sys.stderr)
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    if unsplit.count:
        print(
            f"{unsplit.count} texts have several lines, but do not hold the step separator "
            f"{scorer.contract.separator!r}, so each was scored as one step (first: {unsplit.first}); join their steps "
            "by it, or give `steps`",
            file=sys.stderr,
        )


def _judged_rows(options: argparse.Namespace) -> tuple[Any, Any]:
    """Rows ready for `build_bank`, and the equality of answers: scored by --model, judged against --gold."""
    if not options.model and not options.gold:
        return iter_jsonl(options.file), None
    from reward_models.contract import StepContract
    from reward_models.judged import judged, math_equality, read_gold

    gold = read_gold(options.gold) if options.gold else None
    same, mark = math_equality(), StepContract("orm").answer_mark
    rows: Any = iter_jsonl(options.file)
    if options.model:
        from reward_models.model import checkpoint_name
        from reward_models.score import Scorer

        scorer = Scorer.from_pretrained(options.model, **_open_scorer_arguments(options))
        mark = scorer.contract.answer_mark or mark
        rows = scored_rows(scorer, options.file, checkpoint_name(options.model))
    return judged(rows, gold, same, mark, options.file), same


def _rerank(options: argparse.Namespace) -> None:
    from reward_models.bank import build_bank, summarise, table

    rows, same = _judged_rows(options)
    bank = build_bank(rows, options.rank_by, options.vote_by, options.file, same)
    summary = summarise(bank, options.n, options.draws, options.seed)
    print(f"{summary['problems']} problems, {summary['samples']} samples each")
    if bank.left_out:
        print(
            f"{bank.left_out} samples left out: {summary['samples']} a problem are kept, and {bank.problems_left_out} "
            "problems with fewer are left out",
            file=sys.stderr,
        )
    print(table(summary))
    if options.out:
        Path(options.out).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _serve(options: argparse.Namespace) -> None:
    try:
        from reward_models.server import Limits, serve
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}; install it with: pip install 'rlhf_e2h[serve]'") from None
    key = None
    if options.api_key_env:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise ValueError(f"--api-key-env {options.api_key_env}: that environment variable is empty or not set")
    limits = Limits(options.max_body_bytes, options.max_documents, queue=options.max_queue)
    print(f"serving {options.model} on http://{options.host}:{options.port}", file=sys.stderr)
    serve(options.model, options.host, options.port, key, limits, **_open_scorer_arguments(options))


def _export(options: argparse.Namespace) -> None:
    from reward_models.export import export_sequence_classification
    from reward_models.transfer import import_model

    if options.style:
        contract = import_model(options.source, options.out, options.style)
        print(f"{options.out}: {contract.kind}, scores read at {contract.readout}, {contract.aggregation} of the steps")
        return
    difference = export_sequence_classification(options.source, options.out)
    print(f"{options.out}: sequence classifier, largest difference of a logit on probe texts {difference:.1g}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = [word for word in words if _SETTING.match(word)] if words[:1] == ["train"] else []
    options = parser().parse_args(
        [word for word in words if word not in settings], argparse.Namespace(settings=settings)
    )
    try:
        options.function(options)
    except BrokenPipeError:  # the reader, `head` for instance, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        sentence, foreseen = say(error)
        print(f"error: {sentence}", file=sys.stderr)
        if not foreseen:
            traceback.print_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())

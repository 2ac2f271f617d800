"""Command line: `python -m reward_models {train,score,show,rerank,serve,export}`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from reward_models.causes import say
from reward_models.options import parser
from reward_models.records import iter_jsonl, iter_places, write_jsonl
from reward_models.renamed import renamed
from reward_models.score_file import Unsplit, scored_rows

_SETTING = re.compile(r"[a-z_0-9.]+=")

# Nothing heavy is imported here: `rerank` on a table of scores and every `--help` answer without loading torch.


def _train(options: argparse.Namespace) -> None:
    from reward_models.formats import load_records
    from reward_models.settings import TrainSettings
    from reward_models.train import train

    *files, out = options.records
    if not files:
        raise ValueError("train needs at least one file of records and, last, the folder to write")
    if options.kind == "pairwise":
        print(json.dumps(_train_pairs(options, files, out), indent=2))
        return
    settings = _parse_settings(options.settings, TrainSettings)
    records = [record for path in files for record in _load(load_records, path, options.format)]
    held_out = _load(load_records, options.validation, options.format) if options.validation else None
    result = train(options.base, records, options.kind, out, settings, held_out, on_log=_print_log)
    print(json.dumps(result, indent=2))


def _train_pairs(options: argparse.Namespace, files: Sequence[str], out: str) -> dict[str, Any]:
    from reward_models.pairs import read_pairs
    from reward_models.pairwise import train_pairwise
    from reward_models.settings import PairwiseSettings

    if options.validation or options.format != "auto":
        raise ValueError("--kind pairwise reads chosen and rejected, and has neither --validation nor --format")
    return train_pairwise(options.base, read_pairs(*files), out, _parse_settings(options.settings, PairwiseSettings))


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


def _parse_settings(pairs: Sequence[str], settings: type[Any]) -> Any:
    """Settings of a class from KEY=VALUE; `lora.r=16` and `extra.optim=adafactor` go into groups."""
    from reward_models.settings import LoraSettings, setting_names

    values: dict[str, Any] = {"lora": {}}
    names = setting_names(settings)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        group, _, inner = name.rpartition(".")
        if not equals or not (name in names or group == "extra"):
            raise ValueError(
                renamed(name, {one.partition(".")[0] for one in names})
                or f"{pair!r} is not a training setting; write KEY=VALUE with KEY one of {', '.join(sorted(names))}"
            )
        try:
            value = json.loads(text)  # numbers, true, false, null
        except json.JSONDecodeError:
            value = text
        (values.setdefault(group, {}) if group else values)[inner] = value
    return settings(**values | {"lora": LoraSettings(**values["lora"])})


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


def _show(options: argparse.Namespace) -> None:
    from reward_models.show import shown

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    places = iter_places(options.file)
    wanted = (place for place in places if options.problem in (None, str(place[1].get("problem_id"))))
    count = 0
    for where, row in islice(wanted, options.n):
        print("\n".join(shown(row, where, options.scores, colour)), end="\n\n")
        count += 1
    if not count:
        raise ValueError(f"{options.file}: no row" + (f" of problem {options.problem!r}" if options.problem else ""))


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
    bank = build_bank(rows, options.rank_by, options.vote_by, options.file, same, options.scores)
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
    from reward_models.hub import check_reachable

    try:
        from reward_models.serving.server import Limits, serve
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}; install it with: pip install 'rlhf_e2h[serve]'") from None
    key = None
    if options.api_key_env:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise ValueError(f"--api-key-env {options.api_key_env}: that environment variable is empty or not set")
    limits = Limits(options.max_body_bytes, options.max_documents, queue=options.max_queue)
    check_reachable(options.model)
    print(f"serving {options.model} on http://{options.host}:{options.port}", file=sys.stderr)
    serve(options.model, options.host, options.port, key, limits, **_open_scorer_arguments(options))


def _export(options: argparse.Namespace) -> None:
    import torch

    from reward_models.export import export_dtype, export_sequence_classification
    from reward_models.transfer import import_model

    dtype = getattr(torch, options.dtype) if options.dtype else None
    if options.style:
        contract = import_model(options.source, options.out, options.style, dtype)
        print(f"{options.out}: {contract.kind}, scores read at {contract.readout}, {contract.aggregation} of the steps")
        return
    difference = export_sequence_classification(options.source, options.out, dtype)
    stored = str(dtype or export_dtype(options.source)).removeprefix("torch.")
    print(
        f"{options.out}: sequence classifier in {stored}, largest difference of a logit on probe texts {difference:.1g}"
    )


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "score": _score,
    "show": _show,
    "rerank": _rerank,
    "serve": _serve,
    "export": _export,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = [word for word in words if _SETTING.match(word)] if words[:1] == ["train"] else []
    options = parser().parse_args(
        [word for word in words if word not in settings], argparse.Namespace(settings=settings)
    )
    try:
        COMMANDS[options.command](options)
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

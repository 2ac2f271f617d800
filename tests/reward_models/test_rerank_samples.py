"""From raw samples to reranking curves in one command; problems with different numbers of samples; pairs."""

from __future__ import annotations

import json

import pytest

from reward_models.__main__ import run
from reward_models.bank import build_bank
from reward_models.judged import extracted, judged, math_equality, read_gold
from reward_models.pairs import pair_of
from reward_models.records import BadRecord


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_raw_samples_in_one_command(prm, tmp_path, capsys):
    """The model likes "good"; the right samples are written so, and say the answer in other forms."""
    samples = [
        {"problem_id": p, "problem": f"What is {p}?", "text": f"{word} step.\n\n# Answer\n\n{answer}"}
        for p in range(3)
        for word, answer in (("good", "1/2"), ("bad", "7"), ("bad", "7"), ("good", "\\frac{1}{2}"))
    ]
    gold = write(tmp_path / "gold.jsonl", *({"problem_id": p, "answer": 0.5} for p in range(3)))
    command = ["rerank", write(tmp_path / "s.jsonl", *samples), "--model", str(prm[0]), "--gold", gold]
    assert run([*command, "--n", "4", "-o", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["best_of_n"] == {"4": 1.0} and found["weighted_vote"] == {"4": 1.0}
    assert found["mean"] == {"4": 0.5} and found["majority"] == {"4": 1.0}  # 1/2 is first of a tie of two and two


def test_most_samples_are_used_where_problems_have_different_numbers():
    def rows(counts):
        return [
            {"problem_id": p, "answer": str(i), "correct": i == 0}
            for p, count in enumerate(counts)
            for i in range(count)
        ]

    bank = build_bank(rows([4] * 49 + [2]))  # 196 samples with n = 4, 100 with n = 2
    assert bank.correct_PK.shape == (49, 4) and (bank.left_out, bank.problems_left_out) == (2, 1)
    bank = build_bank(rows([4, 4, 2, 2, 2, 2]))
    assert bank.correct_PK.shape == (6, 2) and (bank.left_out, bank.problems_left_out) == (4, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n\n# Answer\n\n 5 ", "5"),
        ("so \\boxed{1}, no \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1", None),
        ("none", None),
    ],
)
def test_answers_in_texts(text, answer):
    assert extracted(text, "# Answer") == answer


def test_equality_is_mathematical():
    same = math_equality()
    assert same("1/2", "0.5") and same("x+1", "1+x") and same("Paris", "Paris ")
    assert not same("1/2", "2") and not same("5", "")


def test_verdicts_of_rows_are_kept_and_what_is_missing_is_named(tmp_path):
    rows = [{"problem": "q", "text": "\\boxed{5}", "correct": False}, {"problem_id": "p", "text": "\\boxed{5}"}]
    same = math_equality()
    (first,) = judged(rows[:1], None, same, "# Answer", "s")
    assert (first["problem_id"], first["answer"], first["correct"]) == ("q", "5", False)
    with pytest.raises(BadRecord, match="s:2: no reference answer for problem 'p'; give it in --gold"):
        list(judged(rows, {"q": "5"}, same, "# Answer", "s"))
    gold = read_gold(write(tmp_path / "g.jsonl", {"problem_id": "p", "problem": "P?", "gold": 5}))
    assert gold == {"p": "5", "P?": "5"}
    with pytest.raises(BadRecord, match=r"g\.jsonl:1: needs problem_id or problem, and one of gold"):
        read_gold(write(tmp_path / "g.jsonl", {"problem_id": "p", "answer": None}))


ASKED = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"},
        {"chosen": [ASKED, {"role": "assistant", "content": "a"}], "rejected": [ASKED, {"role": "assistant", "content": "b"}]},  # noqa: E501
    ],
)  # fmt: skip
def test_pairs_of_other_tools(row):
    pair = pair_of(row)
    assert (pair.problem, pair.chosen, pair.rejected) == ("q", "a", "b")


def test_pairs_from_the_command_line(base, tmp_path, capsys):
    rows = [
        {"prompt": f"{n}?", "chosen": "good step.", "rejected": "bad step." * (100 if n == 3 else 1)} for n in range(8)
    ]
    command = ["train", str(base), write(tmp_path / "p.jsonl", *rows), str(tmp_path / "out"), "--kind", "pairwise"]
    assert run([*command, "num_train_epochs=1", "batch_size=8", "max_length=100"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["pairs"], result["too_long"]) == (8, 1)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    write(tmp_path / "p.jsonl", {"chosen": "a", "rejected": "b"})
    assert run(command) == 1
    assert "p.jsonl:1: no problem; give problem or prompt" in capsys.readouterr().err

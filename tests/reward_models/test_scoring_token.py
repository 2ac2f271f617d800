"""The token at which a step is scored tells nothing but the step: not whether it is the last one, nor its label.

In records of people's labels the wrong step is the last one, so a model that can see which step is last needs no
mathematics.
"""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import FAMILIES, byte_level_bpe, tiny_llama

import rlhf_e2h
from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.formats import convert, cut_after_error
from reward_models.labels import Outcome, label_steps
from reward_models.model import load_tokenizer, new_model
from reward_models.records import Stepwise
from reward_models.score import Scorer
from reward_models.targets import IGNORED, token_targets

BUILDERS = {**FAMILIES, "shipped": lambda: load_tokenizer(Path(rlhf_e2h.__file__).parent / "assets/base")}
TOKENIZERS = {name: build() for name, build in BUILDERS.items()}
SAME, RIGHT = "4 * 2 = 8.", "10 * 2 = 20"  # the first ends in a token of its own with the blank line, the second not


def prm800k():
    """A path whose inner step stands, rated wrong, at the end of an alternative."""

    def step(*completions, chosen):
        found = [{"text": text, "rating": rating} for text, rating in completions]
        return {"completions": found, "chosen_completion": chosen, "human_completion": None}

    path = [step((SAME, 1), (RIGHT, -1), chosen=0), step((RIGHT, 0), (SAME, -1), chosen=0), step((SAME, -1), chosen=0)]
    return convert(
        {"labeler": "", "question": {"problem": "q"}, "label": {"steps": path, "finish_reason": "found_error"}}
    )


def math_shepherd():
    def row(*steps):
        text = "q " + "\n".join(f"Step {n}: {step} ки" for n, (step, _) in enumerate(steps, 1))
        label = "q " + "\n".join(f"Step {n}: {step} {mark}" for n, (step, mark) in enumerate(steps, 1))
        return {"input": text, "label": label, "task": "MATH"}

    rows = [row((SAME, "+"), (RIGHT, "+"), (SAME, "-")), row((RIGHT, "+"), (SAME, "+"), (RIGHT, "-"))]
    return [record for one in rows for record in convert(one)]


def first_error():
    return [
        cut_after_error(Stepwise("q", [SAME, RIGHT, SAME, RIGHT], labels))
        for labels in ([1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1])
    ]


def annotated(mode):
    good = {"p": 0, "q": 1, "r": 2}  # leading steps of each problem's solution from which rollouts end right

    def roll(prefixes, samples):
        return [[Outcome(len(steps) <= good[problem])] * samples for problem, steps in prefixes]

    solutions = {"p": [SAME, RIGHT], "q": [SAME, RIGHT], "r": [SAME, RIGHT, SAME]}
    records = [Stepwise(problem, steps, None, 0) for problem, steps in solutions.items()]
    return list(label_steps(records, roll, mode=mode, samples=2))


def graded():
    rows = [("\n\n".join([SAME, RIGHT]), True), ("\n\n".join([RIGHT, SAME]), False), (SAME, True), (RIGHT, False)]
    return [one for text, correct in rows for one in convert({"problem": "q", "text": text, "correct": correct})]


SOURCES = {
    "prm800k": prm800k,
    "math-shepherd": math_shepherd,
    "first error": first_error,
    "annotate search": lambda: annotated("search"),
    "annotate hard": lambda: annotated("hard"),
    "graded": graded,
}


def tokens_by_text(tokenizer, contract, records):
    """For each step text: the scoring tokens and the labels (or outcomes) that it was seen with."""
    found = defaultdict(lambda: (set(), set()))
    rows = encode(tokenizer, contract, [record.problem for record in records], [record.steps for record in records])
    for record, row in zip(records, rows, strict=True):
        for step, label, position in zip(record.steps, record.labels or [None] * 99, row.positions, strict=False):
            tokens, labels = found[step]
            tokens.add(row.ids[position])
            labels.add(record.outcome if label is None else label)
    return found


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("source", SOURCES)
def test_scoring_token_of_a_step_is_the_same_whatever_its_label_and_place(source, family):
    found = tokens_by_text(TOKENIZERS[family], StepContract("prm"), SOURCES[source]())
    assert found[SAME][1] >= {0, 1}  # the same text, right and wrong
    assert all(len(tokens) == 1 for tokens, _ in found.values())


def test_version_1_told_the_label():
    """What the test above would have seen: right inside, wrong at the end, and another token for each."""
    found = tokens_by_text(TOKENIZERS["byte-level"], StepContract("prm", version=1), prm800k())
    assert len(found[SAME][0]) == 2


words = st.sampled_from([SAME, RIGHT, "good step.", "x", "", " ", "\nb", "é —", "# Answer\n\n5", "a \n", "..."])


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("readout", ["step_end", "separator"])
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(words | st.text(max_size=6), min_size=1, max_size=5), further=words | st.text(max_size=6))
def test_a_further_step_changes_nothing_before_it(family, readout, steps, further):
    contract = StepContract("prm", readout=readout)
    short, long = encode(TOKENIZERS[family], contract, ["q"] * 2, [steps, [*steps, further]])
    assert long.ids[: len(short.ids)] == short.ids
    assert long.positions[:-1] == short.positions
    assert long.owners[: len(short.ids)] == short.owners


@pytest.mark.parametrize("family", BUILDERS)
def test_a_step_has_the_tokens_of_a_text_that_is_read_whole(family):
    """Not invented ones: where no step begins or ends in blanks, joining steps costs nothing."""
    tokenizer, steps = TOKENIZERS[family], ["Multiply: 4 * 2 = 8.", "Add: 3 + 8 = 11", "# Answer\n\n11"]
    (row,) = encode(tokenizer, StepContract("prm"), ["What is 3?"], [steps])
    text = "# Question\n\nWhat is 3?\n\n# Solution\n\n" + "\n\n".join([*steps, ""])
    whole = tokenizer(text)["input_ids"]
    assert row.ids == (whole[:-1] if family == "wordpiece" else whole)  # without [SEP], which would follow all steps


def random_scorer(folder, kind="prm"):
    tokenizer = byte_level_bpe()
    tiny_llama(tokenizer).save_pretrained(folder)
    model = new_model(folder, StepContract(kind))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.score.weight)
    return Scorer(model.eval(), tokenizer, StepContract(kind))


@pytest.mark.parametrize("kind", ["prm", "oprm"])
def test_scores_stay_when_a_step_is_appended(kind, tmp_path):
    scorer = random_scorer(tmp_path, kind)
    steps = [SAME, RIGHT, "good step.", SAME, "# Answer\n\n8"]
    prefixes = scorer.score("What is 3?", [steps[:count] for count in range(1, 6)])
    for count, scores in enumerate(prefixes, 1):
        assert scores.logits == pytest.approx(prefixes[-1].logits[:count], abs=1e-5)


def test_every_token_of_a_step_has_its_label_the_separator_included():
    record = Stepwise("q", [SAME, SAME], [1, 0])
    (row,) = encode(TOKENIZERS["byte-level"], StepContract("prm"), ["q"], [record.steps], with_owners=True)
    own = len(row.ids) - row.start
    wanted = [IGNORED] * row.start + [1.0] * (own // 2) + [0.0] * (own // 2)
    assert token_targets(record, row, "prm", "every_token").tolist() == wanted


def test_a_chat_template_that_spells_bos_gets_no_second_one():
    tokenizer = TOKENIZERS["byte-level"]
    (row,) = encode(tokenizer, StepContract("prm", template="<s>user: {problem}\n"), ["q"], [["x"]])
    assert row.ids.count(tokenizer.bos_token_id) == 1 and row.ids[0] == tokenizer.bos_token_id


def test_contracts_of_version_1_keep_their_scoring_positions():
    """As a checkpoint of before has it in its config.json."""
    saved = {"kind": "prm", "template": "{problem}\n", "separator": "\n\n", "readout": "step_end", "marker": "",
             "joining": "text", "answer_mark": "# Answer", "aggregation": "min", "head": "linear",
             "version": 1}  # fmt: skip
    contract = StepContract.from_dict(saved)
    assert contract.to_dict() == saved
    tokenizer = TOKENIZERS["byte-level"]
    (row,) = encode(tokenizer, contract, ["q"], [["8.", "8."]])
    tokens = tokenizer.convert_ids_to_tokens(row.ids)
    assert [tokens[position] for position in row.positions] == [".ĊĊ", "."]
    with pytest.raises(ValueError, match="does not go with version 1"):
        StepContract("prm", joining="steps", version=1)


def test_an_orm_reads_the_end_of_the_text():
    """Other tools score a whole text at its last token, so that is where an outcome model is trained."""
    tokenizer = TOKENIZERS["byte-level"]
    (row,) = encode(tokenizer, StepContract("orm"), ["q"], [[SAME, SAME]])
    assert row.ids == tokenizer(f"# Question\n\nq\n\n# Solution\n\n{SAME}\n\n{SAME}")["input_ids"]
    assert row.positions[-1] == len(row.ids) - 1

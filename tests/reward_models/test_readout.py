"""Read-out positions for three tokenizer families; the expected tokens are written out or found by decoding."""

import pytest
from tokenizers_for_tests import FAMILIES

from reward_models.contract import StepContract
from reward_models.readout import compose, owners, step_ends

CONTRACT = StepContract("prm")
STEPS = ["Multiply: 4 * 2 = 8.", "Über — add: 3 + 8 = 11.", "# Answer\n\n11"]


def encode(family, text):
    encoding = FAMILIES[family]()(text, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def test_compose_marks_the_characters_of_each_step():
    text, spans = compose(CONTRACT, "Q {problem}?", STEPS)
    assert text == "# Question\n\nQ {problem}?\n\n# Solution\n\n" + "\n\n".join(STEPS)
    assert [text[start:end] for start, end in spans] == STEPS


def test_compose_with_marker_points_at_the_marker():
    contract = StepContract("prm", template="{problem} ", separator="", readout="marker", marker="<x>")
    text, spans = compose(contract, "q", ["a", "b"])
    assert text == "q a<x>b<x>"
    assert [text[start:end] for start, end in spans] == ["<x>", "<x>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_is_read_at_the_last_token_that_holds_its_text(family):
    text, spans = compose(CONTRACT, "What is 3 + 4 * 2?", STEPS)
    _, offsets = encode(family, text)
    for (start, stop), (_, end) in zip([offsets[t] for t in step_ends(offsets, spans)], spans, strict=True):
        assert start < end <= stop  # the token holds the last character of the step (".", "." and "1")
    for position, (_, end) in zip(step_ends(offsets, spans), spans, strict=True):
        later = [start for start, stop in offsets[position + 1 :] if stop > start]
        assert all(start >= end for start in later)  # and no later token holds any of it


def test_merged_full_stop_and_blank_line_is_one_token():
    """The byte-level tokenizer has a token '.\\n\\n'; the step ends inside it."""
    text, spans = compose(CONTRACT, "What is 3 + 4 * 2?", STEPS)
    ids, offsets = encode("byte-level", text)
    tokens = FAMILIES["byte-level"]().convert_ids_to_tokens(ids)
    assert [tokens[t] for t in step_ends(offsets, spans)] == [".ĊĊ", ".ĊĊ", "11"]


def test_multi_byte_character_is_read_at_its_last_byte():
    text, spans = compose(CONTRACT, "q", ["good —", "bad"])
    ids, offsets = encode("sentencepiece", text)
    tokens = FAMILIES["sentencepiece"]().convert_ids_to_tokens(ids)
    assert tokens[step_ends(offsets, spans)[0]] == "<0x94>"  # — is E2 80 94 in UTF-8


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_step_is_read_where_it_stands(family):
    text, spans = compose(CONTRACT, "q", ["good step.", "", "bad step."])
    _, offsets = encode(family, text)
    first, empty, last = step_ends(offsets, spans)
    assert first <= empty < last


def test_owners_by_hand():
    # prompt "pp", steps "ab" and "c", separator "--"; tokens: BOS, "pp", "a", "b-", "-c", EOS
    offsets = [(0, 0), (0, 2), (2, 3), (3, 5), (5, 7), (0, 0)]
    assert owners(offsets, [(2, 4), (6, 7)]) == [-1, -1, 0, 0, 1, -1]
    assert step_ends(offsets, [(2, 4), (6, 7)]) == [3, 4]


def test_step_without_any_token_before_it_is_refused():
    with pytest.raises(ValueError, match="no token before character 3"):
        step_ends([(0, 0)], [(0, 3)])

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_e2h.data.tokenizers import byte_tokenizer, procedural_tokenizer
from rlhf_e2h.rl.alignment import AlignmentError, step_tokens


def merging_tokenizer():
    """Bytes, with the merges "ab" and ".\\n": tokens that hold more than one character, and one across a step end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = "Ċ"  # how byte-level vocabularies write "\n"
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ab", f".{newline}"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), (".", newline)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_tokens_of_the_small_world():
    tokenizer = procedural_tokenizer()
    text = "a=1+2=3\n\nb=3*2=6\n\n# Answer\n\n6"
    ids = tokenizer(text)["input_ids"]
    # "a" "=" "1+2=" "3", 1 token for the blank line, "b" "=" "3*2=" "6", 1, then "# Answer" "\n\n" "6"
    assert step_tokens(tokenizer, [ids], [text], [[7, 16, 29]]) == [[3, 8, 12]]
    assert tokenizer.convert_ids_to_tokens([ids[i] for i in (3, 8, 12)]) == ["3", "6", "6"]


def test_empty_steps_sit_on_the_token_before_them():
    tokenizer = procedural_tokenizer()
    text = "\n\n1\n\n\n\n2"  # steps "", "1", "", "2"
    ids = tokenizer(text)["input_ids"]  # "\n\n" 1 "\n\n" "\n\n" 2
    assert len(ids) == 5
    assert step_tokens(tokenizer, [ids], [text], [[0, 3, 5, 8]]) == [[0, 1, 2, 4]]
    assert step_tokens(tokenizer, [[]], [""], [[0]]) == [[0]]


def test_a_token_across_the_end_of_a_step_ends_it():
    tokenizer = merging_tokenizer()
    text = "ab.\n\nb"
    ids = tokenizer(text)["input_ids"]  # "ab" ".\n" "\n" "b"
    assert len(ids) == 4
    assert step_tokens(tokenizer, [ids], [text], [[3, 6]]) == [[1, 3]]


def test_sampled_tokens_that_the_tokenizer_would_not_choose():
    # "a" "b" as two tokens: re-tokenising the text gives one, so its offsets would be those of other tokens
    tokenizer = merging_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["a", "b", ".", "Ċ", "Ċ", "a", "b"])
    text = tokenizer.decode(ids)
    assert text == "ab.\n\nab"
    assert step_tokens(tokenizer, [ids], [text], [[1, 3, 7]]) == [[0, 2, 6]]


def test_a_character_of_several_bytes_ends_with_its_last_byte():
    tokenizer = byte_tokenizer()
    text = "é\n\n∑x"
    ids = tokenizer(text)["input_ids"]  # 2 bytes, 2, 3, 1
    assert len(ids) == 8
    assert step_tokens(tokenizer, [ids], [text], [[1, 4, 5]]) == [[1, 6, 7]]
    # the same when a special token in the completion forces the other way
    broken = [*ids, 0]
    assert step_tokens(tokenizer, [broken], [tokenizer.decode(broken)], [[1, 4, 5]]) == [[1, 6, 7]]


def test_bytes_that_are_no_text():
    tokenizer = byte_tokenizer()
    ids = tokenizer("ab∑")["input_ids"][:-1]  # cut in the middle of a character
    text = tokenizer.decode(ids)
    assert text == "ab\ufffd"
    assert step_tokens(tokenizer, [ids], [text], [[2, 3]]) == [[1, 2]]


def test_what_cannot_be_located_is_counted_and_raised():
    tokenizer = procedural_tokenizer()
    ids = tokenizer("1+2")["input_ids"]
    with pytest.raises(
        AlignmentError, match=r"steps of 2 of 3 completions .* row 0: its 3 tokens do not decode to '1\*2'"
    ):
        step_tokens(tokenizer, [ids, ids, ids], ["1*2", "1+2", "1+2"], [[3], [3], [4]])

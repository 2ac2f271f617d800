"""An engine whose answers are known: a prefix without a 'bad' step ends right in a fixed share of rollouts."""

import pytest

from reward_models.labels import Outcome, generated_tokens, label_steps
from reward_models.records import Stepwise


class Engine:
    """Right in `share` of the rollouts from a prefix without 'bad', never from one with it; ten tokens each."""

    def __init__(self, share=0.25):
        self.share, self.calls, self.prefixes = share, 0, []

    def __call__(self, prefixes, samples):
        self.calls += 1
        self.prefixes += [len(steps) for _, steps in prefixes]
        right = [0 if "bad" in steps else round(self.share * samples) for _, steps in prefixes]
        return [[Outcome(place < count, 10) for place in range(samples)] for count in right]


def solution(*steps):
    return Stepwise("q", list(steps), None, int("bad" not in steps), {"level": 3})


def test_hard_and_soft_estimates():
    record = solution("ok", "ok", "bad", "ok")
    (hard,) = label_steps([record], Engine(0.25), mode="hard", samples=8)
    assert hard.labels == [1, 1, 0, 0]
    assert hard.extra == {"level": 3, "mc_values": [0.25, 0.25, 0.0, 0.0], "mc_tokens": 3 * 8 * 10}
    (soft,) = label_steps([record], Engine(0.25), mode="soft", samples=8)
    assert soft.labels == [0, 0, 0, 0]  # a quarter is below the threshold of one half
    (soft,) = label_steps([record], Engine(0.75), mode="soft", samples=8)
    assert soft.labels == [1, 1, 0, 0]


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_search_finds_the_first_error_with_few_rollouts(place, count):
    if place >= count:
        return
    steps = ["ok"] * count
    steps[place] = "bad"
    engine = Engine()
    (record,) = label_steps([solution(*steps)], engine, mode="search", samples=4)
    assert record.labels == [*[1] * place, 0, *[None] * (count - place - 1)]
    assert engine.calls <= (count - 1).bit_length()  # log2 of the steps, not all of them


def test_search_asks_nothing_about_a_right_solution():
    engine = Engine()
    (record,) = label_steps([solution("ok", "ok")], engine, mode="search")
    assert record.labels == [1, 1] and engine.prefixes == []


def test_prefixes_of_many_records_go_to_the_engine_together():
    engine = Engine()
    found = list(label_steps([solution("ok", "ok", f"end {n}") for n in range(10)], engine, samples=4, batch=5))
    assert engine.calls == 2
    assert generated_tokens(found) == 10 * 2 * 4 * 10
    assert [record.steps[-1] for record in found] == [f"end {n}" for n in range(10)]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    records = [solution("ok", f"s{n}", "bad") for n in range(6)]
    journal = tmp_path / "labels.journal"
    stream = label_steps(records, Engine(), journal=journal, batch=2)
    next(stream)
    stream.close()
    with journal.open("a") as file:
        file.write('{"key": "cut sho')  # the crash came in the middle of a line
    engine = Engine()
    found = list(label_steps(records, engine, journal=journal, batch=2))
    assert [record.labels for record in found] == [[1, 1, 0]] * 6
    assert len(engine.prefixes) == 4 * 2  # two of six were done
    third = Engine()
    assert list(label_steps(records, third, journal=journal)) == found and third.prefixes == []
    with pytest.raises(ValueError, match="was written with"):
        list(label_steps(records, Engine(), journal=journal, samples=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_steps([], Engine(), mode="medium"), "hard, soft, search"),
        (lambda: label_steps([Stepwise("q", ["a"])], Engine()), "no outcome"),
        (lambda: label_steps([solution("a", "b")], lambda prefixes, n: [[]]), "must return 8 outcomes"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        list(call())

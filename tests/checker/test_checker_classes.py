"""Grouping answers for voting."""

from rlhf_e2h.checker import CheckerPool, answer_classes


def test_classes_in_order_of_appearance():
    answers = ["1/2", None, "0.5", r"\frac{2}{4}", "x+1", "2", "1+x", "", r"\boxed{2}", "2.0"]
    assert answer_classes(answers) == [0, -1, 0, 0, 1, 2, 1, -1, 2, 2]


def test_lists_intervals_and_words():
    answers = ["1,2", "2, 1", r"x\le3", r"(-\infty,3]", r"\text{Even}", "even", "odd", "1,3"]
    assert answer_classes(answers) == [0, 0, 1, 1, 2, 2, 3, 4]


def test_garbage_is_a_class_of_its_own():
    assert answer_classes(["9^{9^{9^9}}", "5", "9^{9^{9^9}}", r"\foo{5}", "5"]) == [0, 1, 0, 2, 1]


def test_few_comparisons_start_no_worker():
    with CheckerPool() as pool:
        answers = [str(k % 7) for k in range(500)] + [rf"{k % 5}\sqrt{{3}}" for k in range(500)]
        assert len(set(answer_classes(answers, pool))) == 11  # 0\sqrt3 is 0
        assert pool.worker_pids() == []


def test_empty():
    assert answer_classes([]) == []

"""Nothing in an answer is executed, nothing hangs, nothing grows without bound. Limits are tested by the clock."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_e2h.checker import CheckerPool, equal, judge
from rlhf_e2h.checker.nodes import RefusedError
from rlhf_e2h.checker.tokens import tokenise

ATTACKS = [
    'open("{file}","w")',
    "__import__('os').mkdir('{file}')",
    '__import__("os").system("touch {file}")',
    r"\text{{__import__('os').system('touch {file}')}}",
    r"\boxed{{open('{file}','w')}}",
    'exec(chr(111)+chr(112)+\'en("{file}","w")\')',
    'eval(\'open("{file}","w")\')',
    "().__class__.__bases__[0].__subclasses__()",
    "x.__class__.__mro__[1]",
    "lambda: open('{file}','w')",
    'f\'{{open("{file}","w")}}\'',
    "globals()['open']('{file}','w')",
    r"\operatorname{{open}}({file})",
    'sympify(\'open("{file}","w")\')',
    "Symbol('x').subs(1, open('{file}','w'))",
]

HEAVY = [
    "9^{9^{9^9}}", "9**9**9**9", "9^9^9^9", "2**(10**10)", "10**10**10", "(x+1)**100000", "100000000!",
    r"\frac{100000000!}{99999999!}", "(10^6)!", "5!!!!!!", r"\binom{10^8}{5\cdot 10^7}", "factorial(10**8)",
    "zeta(10**8)", "gamma(10**9)", "factorint(2**997-1)", "nextprime(10**300)", "sum(range(10**10))", "[1]*10**10",
    "integrate(exp(-x**2*sin(x)),x)", r"\int_0^1 e^{-x^2\sin x}dx", r"\sum_{k=1}^{10^9} \frac{1}{k}",
    r"\prod_{k=1}^{10^7} k", r"\lim_{n\to\infty} (1+\frac1n)^{n^{n^n}}", "(" * 500 + "x" + ")" * 500,
    r"\sqrt{" * 100 + "2" + "}" * 100, r"\frac{1}{" * 200 + "2" + "}" * 200, "x" + "+x" * 2000, "1/3" * 500,
    "7" * 20_000, "0." + "1" * 20_000, "-" * 1500 + "1", "x^" * 600 + "x",
    r"\sin " * 300 + "x", "|" * 501 + "x",
    r"2^{2^{2^{2^{2^{2}}}}}", "(x+y+z+w)^{3000}", r"e^{e^{e^{e^{9}}}}", r"\cos(10^{10^{10}})", "a,b," * 400,
    r"\pm" * 30 + "1", r"\{" * 300, "f(" * 300, r"x^{1000000}-1<0", r"x^{29}+x^{17}-x^3+x<1", "1e999999",
    "9" * 399 + "!",
]  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(timeout=1.0) as pool:
        yield pool


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("gold", ["x+1", "5"])
def test_no_answer_is_executed(attack, gold, pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "PWNED"
    for file in (str(target), target.name):
        text = attack.format(file=file)
        verdicts = pool.check([(gold, text), (text, gold)])
        assert [verdict.equal for verdict in verdicts] == [False, False]
        judge.full(gold, text)  # what a worker would do, in this process
    assert os.listdir(tmp_path) == []


AUDITED = """
import json, sys
from rlhf_e2h.checker import judge

judge.preload()
judge.full("|x|<2", "(-2,2)"), judge.full("xy=1", "y=1/x"), judge.full(r"\\int_0^1 x dx", r"\\frac12")  # late imports
events = []

def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    runs = event == "compile" and arguments[0] is not None and b"PWNED" in (
        arguments[0] if isinstance(arguments[0], bytes) else str(arguments[0]).encode()
    )
    if writes or runs or event in ("os.system", "os.mkdir", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        events.append(event)

sys.addaudithook(hook)
for text in json.loads(sys.stdin.read()):
    assert not judge.full("x+1", text).equal
print(events)
"""


def test_the_worker_code_opens_starts_and_compiles_nothing():
    """Python's own audit events, in a process that decides the attacks as a worker does."""
    texts = json.dumps([attack.format(file="PWNED") for attack in ATTACKS])
    done = subprocess.run([sys.executable, "-c", AUDITED], input=texts, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_heavy_answers_end_in_time(pool):
    pool.check([("x+1", r"\foo")])  # start the worker before the clock runs
    started = time.monotonic()
    verdicts = pool.check([pair for text in HEAVY for pair in (("x+1", text), (text, "7"))])
    assert not any(verdict.equal for verdict in verdicts)
    # One worker: the few that are decided by its clock need a second each, the others next to nothing.
    assert sum(verdict.reason == "timeout" for verdict in verdicts) <= 6
    assert time.monotonic() - started < 60


def test_heavy_answers_against_themselves(pool):
    assert all(verdict.equal for verdict in pool.check([(text, text) for text in HEAVY]))


def test_tokeniser_limits():
    for text in ("7" * 500, "x" * 3000, "(" * 41 + "x" + ")" * 41, "x;" * 600, "x__y", 'x"', "x@y", "☃", "1e500 x"):
        with pytest.raises(RefusedError):
            tokenise(text)


def test_memory_of_a_worker_is_limited(pool):
    pool.check([("x^2<4", "(-2,5)")])
    (pid,) = pool.worker_pids()
    limits = Path(f"/proc/{pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3] == str(2 << 30)


def test_import_is_light():
    code = (
        "import sys, rlhf_e2h.checker as c; assert c.equal('1/2', '0.5').equal and not c.equal('x', 'y').equal;"
        "print([m for m in ('torch', 'transformers', 'sympy', 'math_verify', 'numpy', 'mpmath') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_easy_pairs_start_no_worker():
    with CheckerPool() as pool:
        pairs = [("5", "5.0"), ("5", "6"), (r"\frac12", "0.5"), ("x+1", "1+x"), ("x+1", "x+2"), (r"\sqrt2", r"\sqrt3")]
        pool.check([*pairs, (r"\sqrt{12}", r"2\sqrt3"), ("(1,2)", "(2,1)"), ("x>1", r"(1,\infty)"), ("2", "words")])
        assert pool.worker_pids() == []


def test_equal_from_a_thread():
    """SIGALRM would fail outside the main thread."""
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(equal("x^2<9", "(-3,3)")))
    thread.start()
    thread.join()
    assert found[0].equal

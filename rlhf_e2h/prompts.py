"""The only module that knows prompt and step text.

The default format is the paper's (Sun et al. 2024, arXiv 2403.09472, section 3 and appendix C):

    # Question\\n\\n{problem}\\n\\n# Solution\\n\\n{step}\\n\\n{step}\\n\\n# Answer\\n\\n{answer}<eos>

The answer section counts as the last step, so that a process reward model scores it too (appendix L). Others are
Minerva's exemplars, a tokenizer's chat template and a template of the user's: `text_formats` builds, saves and chooses
them. Written solutions (labels) are kept in sections, whatever the format a policy learns them in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reward_models import step_text
from rlhf_e2h.checker.extract import boxes, extract

SEPARATOR = "\n\n"
ANSWER_MARK = "# Answer"
THINK, THINK_END = "<think>", "</think>"
AnswerRule = Literal["section", "boxed", "tag"]


@dataclass(frozen=True)
class TextFormat:
    """How a problem becomes a prompt, and a completion becomes steps and an answer; frozen, so it can be a constant."""

    name: str
    template: str  # text before a solution, with {problem}
    separator: str = SEPARATOR
    answer_mark: str = ANSWER_MARK  # opens the answer section; empty where the answer is in a step
    answer_rule: AnswerRule = "section"  # how an answer is written; what is read is in `answer`
    end: str = ""  # text that ends a completion, a chat template's end of turn; empty: EOS
    stop: tuple[str, ...] = ()  # a completion that goes on with one of these is over before it
    thinking: Literal["none", "strip", "keep"] = "none"  # thoughts before the solution: none, dropped or kept in rows
    max_thinking_tokens: int = 0  # sampled on top of `max_new_tokens`

    def prompt(self, problem: str) -> str:
        return self.template.replace("{problem}", problem)

    def answer_step(self, answer: str) -> str:
        """The step that gives the answer."""
        if self.answer_rule == "boxed":
            return f"The final answer is $\\boxed{{{answer}}}$."
        if self.answer_rule == "tag":
            return f"<answer>{answer}</answer>"
        return f"{self.answer_mark}{self.separator}{answer}"

    def solution(self, steps: Sequence[str], answer: str) -> str:
        """The completion that follows `prompt`, without its end. A last step that boxes the answer needs no other."""
        parts = list(steps)
        last = boxes(parts[-1]) if parts and self.answer_rule == "boxed" else []
        if not last or last[-1].content != answer:
            parts.append(self.answer_step(answer))
        return self.separator.join(parts)

    def exemplar(self, solution: str) -> str:
        """A solution in sections as this format writes it; one without an answer section stays as it is."""
        answer = SECTIONS.section_answer(solution)
        if self.answer_rule == "section" or answer is None:
            return solution
        return self.solution(SECTIONS.split_steps(solution)[:-1], answer)

    def training_text(self, text: str) -> str:
        """A row's text as the completion to train on: a thought that the prompt has opened is closed before it."""
        closed = not self.opens_thought or THINK_END in text
        return text if closed else f"{THINK_END}{SEPARATOR}{text}"

    def row(self, problem: str, text: str) -> dict[str, str]:
        """A solution in this format as `encoding.encode_rows` reads it: `prompt`, `completion` and `end`."""
        return {"prompt": self.prompt(problem), "completion": self.training_text(text), "end": self.end}

    def opens_answer(self, step: str) -> bool:
        """Whether a step is nothing but the answer; a step that boxes it is not."""
        if self.answer_rule == "tag":
            return step.lstrip().startswith("<answer>")
        return step_text.opens_answer(step, self.answer_mark)

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt itself begins a thought, as templates of DeepSeek-R1 and QwQ do."""
        return self.thinking != "none" and self.template.rstrip().endswith(THINK)

    def solution_start(self, text: str) -> int:
        """Character at which the solution begins: after the last thought; the text's length inside an open thought."""
        thought, end, rest = text.rpartition(THINK_END)
        if end:
            return len(thought) + len(end) + len(rest) - len(rest.lstrip())
        return len(text) if self.opens_thought or THINK in text else 0

    def split_steps(self, text: str) -> list[str]:
        """Steps of the solution in a completion, shape (S,), S >= 1, as every reward model cuts them.

        Joined with the separator they give the solution again. Empty steps are kept: a policy that writes them must be
        seen to do so. The empty solution is one empty step.
        """
        return step_text.split_steps(text[self.solution_start(text) :], self.separator, self.answer_mark)

    def step_ends(self, text: str) -> list[int]:
        """Character offset in `text` at which each step ends (exclusive), shape (S,)."""
        start = self.solution_start(text)
        return [start + end for end in step_text.step_ends(text[start:], self.separator, self.answer_mark)]

    def answer(self, text: str) -> str | None:
        """The answer in a completion, None without one, as `e2h check` reads it: for policy, grade, PPO and vote alike.

        A right answer in another form than this format's is not lost. See `checker.extract`.
        """
        return extract(self._own(text)[self.solution_start(text) :], markers_only=True)

    def section_answer(self, text: str) -> str | None:
        """The text after the only answer mark; None without a mark, with several, or with nothing after it."""
        found = step_text.answers(text, self.answer_mark) if self.answer_mark else []
        return found[0] or None if len(found) == 1 else None

    def is_marked(self, text: str) -> bool:
        """Whether the answer is written as this format asks for."""
        own = text[self.solution_start(text) :]
        if self.answer_rule == "section":
            return self.section_answer(own) is not None
        return bool(boxes(own)) if self.answer_rule == "boxed" else "<answer>" in own

    def answer_start(self, text: str) -> int:
        """Character at which the answer begins; the text's length without one."""
        mark = {"section": self.answer_mark, "boxed": "\\boxed", "tag": "<answer>"}[self.answer_rule]
        return text.rindex(mark) if mark in text else len(text)

    def completed(self, text: str, ended: bool) -> tuple[str, str | None, bool]:
        """(text to keep, answer, finished) of a sampled text; `ended`: the model stopped by itself.

        A model that goes on with the next problem has finished this one. An unfinished text may hold the first digits
        of an answer: it has none.
        """
        text = step_text.normalise_newlines(text)
        own = self._own(text)
        if own != text:
            text, ended = own.rstrip(), ended or self.answer(own) is not None
        answer = self.answer(text) if ended else None
        start = self.solution_start(text)
        if self.opens_thought and THINK_END not in text:
            text = f"{THINK}\n{text}"  # or readers of the row would take the thought for the solution
        elif self.thinking == "strip" and start < len(text):
            text = text[start:]
        return text, answer, ended

    def of_rows(self) -> TextFormat:
        """The format of the rows that `completed` gives: their thoughts are marked by both tags, or gone."""
        return replace(self, thinking="none", max_thinking_tokens=0)

    def _own(self, text: str) -> str:
        """A completion before the first stop string after its thought."""
        start = self.solution_start(text)
        found = [place for place in (text.find(stop, start) for stop in self.stop) if place >= 0]
        return text[: min(found)] if found else text


@dataclass(frozen=True)
class MinervaFormat(TextFormat):
    """The exemplar format of Minerva (Lewkowycz et al. 2022, arXiv 2206.14858), for base models that know no sections.

    A solution ends with its closing sentence, whether or not the model then goes on to a problem of its own. Sampled
    texts come back in sections, so that everything after the sampler sees one format.
    """

    def exemplar(self, solution: str) -> str:
        answer = SECTIONS.section_answer(solution)
        if answer is None:
            raise ValueError(f"an exemplar has no single {ANSWER_MARK!r} section: {solution[-80:]!r}")
        steps = SECTIONS.split_steps(solution)[:-1]
        return self.separator.join([*steps, f"{self.answer_mark} The final answer is ${answer}$. {_CLOSING}"])

    def completed(self, text: str, ended: bool) -> tuple[str, str | None, bool]:
        own = text.split("\n\nProblem:")[0]
        found = _MINERVA_ANSWER.search(own)
        if found is None:
            return own, None, False
        answer = found[1].strip().removeprefix("$").removesuffix("$").strip()
        steps = [step for step in own[: found.start()].strip().split(self.separator) if step]
        return SECTIONS.solution(steps, answer), answer or None, True

    def of_rows(self) -> TextFormat:
        return SECTIONS


_CLOSING = "I hope it is correct."
_MINERVA_ANSWER = re.compile(r"Final Answer:\s*The final answer is\s*(.*?)\.\s*I hope it is correct\.", re.DOTALL)

SECTIONS = TextFormat(
    "sections", f"# Question{SEPARATOR}{{problem}}{SEPARATOR}# Solution{SEPARATOR}", stop=(f"{SEPARATOR}# Question",)
)

MINERVA = MinervaFormat(
    "minerva",
    f"Problem:\n{{problem}}{SEPARATOR}Solution:\n",
    answer_mark="Final Answer:",
    stop=(f"{SEPARATOR}Problem:",),
)

FORMATS: dict[str, TextFormat] = {one.name: one for one in (SECTIONS, MINERVA)}


def few_shot(exemplars: Sequence[tuple[str, str]], end: str, text_format: TextFormat = SECTIONS) -> str:
    """The text that goes before every prompt of an in-context baseline: (problem, solution) pairs, each with `end`.

    Solutions are given in sections, whatever the format they are written in.
    """
    return "".join(text_format.prompt(problem) + text_format.exemplar(text) + end for problem, text in exemplars)

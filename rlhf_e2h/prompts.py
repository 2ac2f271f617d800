"""The only module that knows prompt and step text.

The default format is the paper's (Sun et al. 2024, arXiv 2403.09472, section 3 and appendix C):

    # Question\\n\\n{problem}\\n\\n# Solution\\n\\n{step}\\n\\n{step}\\n\\n# Answer\\n\\n{answer}<eos>

The answer section counts as the last step, so that a process reward model scores it too (appendix L).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reward_models import step_text

SEPARATOR = "\n\n"
ANSWER_MARK = "# Answer"


@dataclass(frozen=True)
class TextFormat:
    """How a problem becomes a prompt and a solution becomes steps; frozen, so that it can be a constant."""

    name: str
    template: str  # with {problem}
    separator: str = SEPARATOR
    answer_mark: str = ANSWER_MARK

    def prompt(self, problem: str) -> str:
        return self.template.replace("{problem}", problem)

    def solution(self, steps: Sequence[str], answer: str) -> str:
        """The completion that follows `prompt`, without end-of-sequence token."""
        return self.separator.join([*steps, f"{self.answer_mark}{self.separator}{answer}"])

    def split_steps(self, text: str) -> list[str]:
        """Steps of a completion; joining them with the separator gives the text again.

        The answer mark and the answer stay together as the last step. Empty steps are kept: a policy that writes them
        must be seen to do so. The empty completion is one empty step.
        """
        return step_text.split_steps(text, self.separator, self.answer_mark)

    def step_ends(self, text: str) -> list[int]:
        """Character offset in `text` at which each step ends (exclusive), shape (S,)."""
        return step_text.step_ends(text, self.separator, self.answer_mark)

    def answer(self, text: str) -> str | None:
        """The text after the only answer mark; None without a mark, with several, or with nothing after it.

        A mark that stands alone on its line counts before one inside a sentence.
        """
        found = step_text.answers(text, self.answer_mark)
        return found[0] or None if len(found) == 1 else None

    def completed(self, text: str, ended: bool) -> tuple[str, str | None, bool]:
        """(solution in sections, answer, finished) of a sampled text; `ended`: the model stopped by itself.

        An unfinished text may hold the first digits of an answer: it has none.
        """
        return text, self.answer(text) if ended else None, ended

    def exemplar(self, solution: str) -> str:
        """A solution in sections as this format writes it."""
        return solution


@dataclass(frozen=True)
class MinervaFormat(TextFormat):
    """The exemplar format of Minerva (Lewkowycz et al. 2022, arXiv 2206.14858), for base models that know no sections.

    A solution ends with its closing sentence, whether or not the model then goes on to a problem of its own. Sampled
    texts come back in sections, so that everything behind the sampler sees one format.
    """

    def exemplar(self, solution: str) -> str:
        answer = SECTIONS.answer(solution)
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


_CLOSING = "I hope it is correct."
_MINERVA_ANSWER = re.compile(r"Final Answer:\s*The final answer is\s*(.*?)\.\s*I hope it is correct\.", re.DOTALL)

SECTIONS = TextFormat("sections", f"# Question{SEPARATOR}{{problem}}{SEPARATOR}# Solution{SEPARATOR}")

MINERVA = MinervaFormat("minerva", f"Problem:\n{{problem}}{SEPARATOR}Solution:\n", answer_mark="Final Answer:")

FORMATS: dict[str, TextFormat] = {one.name: one for one in (SECTIONS, MINERVA)}


def few_shot(exemplars: Sequence[tuple[str, str]], end: str, text_format: TextFormat = SECTIONS) -> str:
    """The text that goes before every prompt of an in-context baseline: (problem, solution) pairs, each with `end`.

    Solutions are given in sections, whatever the format they are written in.
    """
    return "".join(text_format.prompt(problem) + text_format.exemplar(text) + end for problem, text in exemplars)

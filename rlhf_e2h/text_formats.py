"""Text formats that come from settings: a tokenizer's chat template, a template of the user's, and which one holds.

A template is rendered once, with a word in the problem's place, and kept as text with `{problem}`: so no template
language ever reads a problem or what a model wrote, a date in a template is the same for a whole run, and a reward
model stores its prompt in the same form. The format is saved beside a policy and beside its samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from reward_models.peft_folder import is_adapter, tokenizer_folder
from rlhf_e2h.prompts import MINERVA, SECTIONS, SEPARATOR, TextFormat
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.run_files import write_json

FILE = "text_format.json"
VERSION = 1
# What the model cards of Qwen2.5-Math and DeepSeek-R1 advise.
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
_SLOT, _OTHER, _DONE = "E2hProblemSlot", "E2hAnotherSlot", "E2hSolutionSlot"


@dataclass
class FormatSettings:
    """The text format of prompts and solutions; `format: chat` is short for `format: {name: chat}`."""

    SHORTHAND: ClassVar[str] = "name"

    # auto: what is saved beside the policy, else chat where its tokenizer has a template, else sections
    name: Literal["auto", "sections", "minerva", "chat", "template"] = "auto"
    system: str | None = None  # chat: a system message; the template's own, or none, if not given
    instruction: str = INSTRUCTION  # chat: put after the problem; empty: nothing
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # chat: for the template, as enable_thinking
    template: str | None = None  # template: Jinja with `problem`, or a file of it
    separator: str = SEPARATOR  # chat, template: between two steps
    # chat, template: how answers are written: \boxed{}, after "# Answer", or in <answer>; boxed if not given
    answer: Literal["boxed", "section", "tag"] | None = None
    stop: list[str] = field(default_factory=list)  # chat, template: texts of which any ends a solution
    # thoughts up to </think>: strip keeps the solution alone in samples and training rows, keep keeps both
    thinking: Literal["strip", "keep"] = "strip"
    max_thinking_tokens: int = 0  # sampled on top of max_new_tokens, for thoughts

    def __post_init__(self) -> None:
        if self.template is not None and self.name == "auto":
            self.name = "template"
        if (self.name == "template") != (self.template is not None):
            raise ValueError(
                f"format {self.name!r} with template {self.template!r}; template: FILE or text goes with it"
            )
        if self.template is not None:
            self.template = _read_template(self.template)  # so that its text, not its place, is the stage's identity
        if not self.separator:
            raise ValueError(
                "format: separator is empty, so steps would run into each other; use for instance '\\n\\n'"
            )
        if self.max_thinking_tokens < 0:
            raise ValueError(f"format: max_thinking_tokens is {self.max_thinking_tokens}; it must be at least 0")


def build_format(
    settings: FormatSettings, tokenizer: Any, source: str, exemplars: Sequence[tuple[str, str]] = ()
) -> TextFormat:
    """The format of settings whose name is not `auto`.

    Args:
        tokenizer: that of the policy; read for `chat` only.
        source: the model, for messages.
        exemplars: chat: (problem, solution in sections) pairs, which become turns before the problem.

    Raises:
        ConfigError: no chat template, or a template that cannot be rendered or does not show the problem.
    """
    if settings.name in ("sections", "minerva"):
        return MINERVA if settings.name == "minerva" else SECTIONS
    rule = settings.answer or "boxed"
    made = TextFormat(
        settings.name,
        "{problem}",
        settings.separator,
        SECTIONS.answer_mark if rule == "section" else "",
        rule,
        stop=tuple(settings.stop),
        thinking=settings.thinking,
        max_thinking_tokens=settings.max_thinking_tokens,
    )
    if settings.name == "template":
        assert settings.template is not None  # checked by FormatSettings
        return replace(made, template=_from_jinja(settings.template))
    return _chat(made, settings, tokenizer, source, exemplars)


def choose_format(
    settings: FormatSettings | None, folder: str | Path, tokenizer: Any, sections: bool = False
) -> tuple[TextFormat, str]:
    """The format of a policy and why it is that one.

    Args:
        sections: the stage fine-tunes to sections where nothing else is asked for.
    """
    if settings is not None and settings.name != "auto":
        return build_format(settings, tokenizer, str(folder)), "set by `format`"
    saved = read_format(folder)
    if saved is not None:
        return saved, "saved beside the policy"
    if sections:
        return SECTIONS, "the stage fine-tunes to it, and no other is set"
    if getattr(tokenizer, "chat_template", None):
        return build_format(FormatSettings("chat"), tokenizer, str(folder)), "the tokenizer has a chat template"
    return SECTIONS, "the tokenizer has no chat template, and no format is set"


def save_format(text_format: TextFormat, folder: Path) -> None:
    """Write it beside a policy or samples."""
    write_json(folder / FILE, to_dict(text_format))


def read_format(folder: str | Path) -> TextFormat | None:
    """The format saved in a folder, None where there is none.

    Raises:
        ConfigError: a file of another version of this package.
    """
    path = Path(folder) / FILE
    return from_dict(json.loads(path.read_text(encoding="utf-8")), str(path)) if path.is_file() else None


def format_of(*folders: str | Path | None) -> TextFormat:
    """The format of samples: the first that a folder says; sections, in which older versions wrote, if none does."""
    found = (read_format(folder) for folder in folders if folder is not None)
    return next((one for one in found if one is not None), SECTIONS)


def to_dict(text_format: TextFormat) -> dict[str, Any]:
    return {"version": VERSION, **asdict(text_format)}


def from_dict(values: dict[str, Any], source: str) -> TextFormat:
    """The inverse of `to_dict`."""
    fields = {name: value for name, value in values.items() if name != "version"}
    unknown = set(fields) - set(TextFormat.__dataclass_fields__)
    if values.get("version") != VERSION or unknown:
        raise ConfigError(
            f"{source}: version {values.get('version')!r} of a text format; update rlhf_e2h, or delete it"
        )
    if fields["name"] == MINERVA.name:
        return MINERVA
    return TextFormat(**{**fields, "stop": tuple(fields.get("stop", ()))})


def has_chat_template(folder: str | Path) -> bool:
    """Whether the tokenizer files of a model or PEFT folder hold a chat template; nothing is loaded."""
    place = Path(tokenizer_folder(folder) if is_adapter(folder) else folder)
    if not place.is_dir():  # a base on the hub
        return True
    settings = place / "tokenizer_config.json"
    written = settings.is_file() and "chat_template" in json.loads(settings.read_text(encoding="utf-8"))
    return written or any(place.glob("chat_template*"))


def no_chat_template(source: str) -> str:
    return (
        f"{source}: format chat, but its tokenizer has no chat template; take the model's -Instruct or -Chat version, "
        "or set `format: sections`, or `format: {template: FILE}`"
    )


def _chat(
    made: TextFormat, settings: FormatSettings, tokenizer: Any, source: str, exemplars: Sequence[tuple[str, str]]
) -> TextFormat:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(no_chat_template(source))

    def user(problem: str) -> dict[str, str]:
        return {"role": "user", "content": "\n\n".join(filter(None, (problem, settings.instruction)))}

    messages = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    for problem, solution in exemplars:
        messages += [user(problem), {"role": "assistant", "content": made.exemplar(solution)}]

    def render(last: list[dict[str, str]], **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                tokenizer.apply_chat_template(
                    [*messages, *last], tokenize=False, **settings.chat_template_kwargs, **options
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            todo = "; leave `system` out" if settings.system is not None else ""
            raise ConfigError(f"{source}: its chat template cannot be rendered: {error}{todo}") from None

    template = _slotted(render([user(_SLOT)], add_generation_prompt=True), f"{source}: its chat template")
    whole = render([user(_SLOT), {"role": "assistant", "content": _DONE}])
    end = _end_of_turn(tokenizer, whole.partition(_DONE)[2].strip())
    ends = tokenizer.eos_token
    return replace(made, template=template, end=end, stop=(*made.stop, *([end] if end and end != ends else [])))


def _end_of_turn(tokenizer: Any, text: str) -> str:
    """What ends an assistant's turn: its first special token where there is one; empty where the template has none."""
    special = [token for token in (*tokenizer.get_added_vocab(), tokenizer.eos_token) if token and token in text]
    return min(special, key=text.index) if special else text


def _from_jinja(text: str) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        template = environment.from_string(text)
        rendered, other = template.render(problem=_SLOT), template.render(problem=_OTHER)
    except TemplateError as error:
        raise ConfigError(
            f"format template {text[:60]!r} cannot be rendered: {error}; its only variable is problem"
        ) from None
    if rendered.replace(_SLOT, _OTHER) != other:
        raise ConfigError(f"format template {text[:60]!r} changes with the problem; use {{{{ problem }}}} as it is")
    return _slotted(rendered, f"format template {text[:60]!r}")


def _slotted(rendered: str, what: str) -> str:
    """Rendered text with `{problem}` in the problem's place."""
    if "{problem}" in rendered:
        raise ConfigError(f"{what} holds the text {{problem}}; write {{{{ problem }}}} where the problem goes")
    if rendered.count(_SLOT) != 1:
        raise ConfigError(f"{what} shows the problem {rendered.count(_SLOT)} times; it must show it once")
    return rendered.replace(_SLOT, "{problem}")


def _read_template(template: str) -> str:
    """The text of a template, from a file if it is the path of one."""
    if "\n" in template or "{" in template:
        return template
    path = Path(template).expanduser()
    if not path.is_file():
        raise ValueError(f"format: template {template!r} is neither a file here nor text with {{{{ problem }}}}")
    return path.read_text(encoding="utf-8")

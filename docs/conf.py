"""Sphinx: `make docs`. Settings of stages and recipe pages are generated from the code and the recipe folders."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

project = "rlhf_e2h"
copyright = "the authors of rlhf_e2h, Apache-2.0"
html_title = "rlhf_e2h"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["extra.css"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "NDArray", "FloatArray", "IntArray", "Tokenizer")}
autodoc_preserve_defaults = True
napoleon_use_rtype = False
add_module_names = False
nitpicky = False
default_role = "literal"  # `name` in a docstring is code
suppress_warnings = ["misc.highlighting_failure"]

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def _settings_pages() -> dict[str, str]:
    """A page for each stage, and `index`, by file name."""
    from rlhf_e2h.runner.settings_text import settings_text
    from rlhf_e2h.runner.traits import STAGES

    pages = {}
    for kind, traits in STAGES.items():
        told = f"{traits.about[0].upper()}{traits.about[1:]}. `e2h {kind} --settings` prints the same in a terminal."
        pages[kind] = f"# {kind}\n\n{told}\n\n```yaml\n{settings_text(kind)}```\n"
    listed = "\n".join(f"- [{kind}]({kind}.md): {traits.about}" for kind, traits in STAGES.items())
    tree = "\n".join(STAGES)
    head = "# Settings of every stage\n\nWhat a stage file may hold, a page a stage."
    pages["index"] = f"{head}\n\n{listed}\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    return pages


def _recipe_page(readme: Path) -> str:
    """A recipe's README with its links made to fit the site; what is not in the site becomes plain text."""

    def relink(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        path = (readme.parent / target).resolve()
        if path.name == "README.md" and path.parent.parent == ROOT / "recipes":
            return f"[{text}]({path.parent.name}.md{anchor})"
        if path.is_relative_to(HERE):
            return f"[{text}](../{path.relative_to(HERE)}{anchor})"
        return text

    return _LINK.sub(relink, readme.read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    """Only where something changed, so that a second build has nothing to do."""
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _generate(app: object) -> None:
    for name, text in _settings_pages().items():
        _write(HERE / f"reference/settings/{name}.md", text)
    names = []
    for readme in sorted((ROOT / "recipes").glob("*/README.md")):
        names.append(readme.parent.name)
        _write(HERE / f"recipes/{names[-1]}.md", _recipe_page(readme))
    listed = "\n".join(names)
    _write(HERE / "recipes/index.md", f"# Recipes\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n")


def _name_studies(app: object, name: str, source: list[str]) -> None:
    """Every page beside those that index.md names is a study or a measurement, and stands under that heading."""
    if name != "index":
        return
    named = {"index", *source[0].split()}
    pages = sorted(path.stem for path in HERE.glob("*.md") if path.stem not in named)
    listed = "\n".join(pages)
    tree = f"```{{toctree}}\n:hidden:\n:caption: Studies and measurements\n\n{listed}\n```"
    source[0] = source[0].replace("@studies@", tree if pages else "")


def _plain_marks(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """`|` and `*` outside of code are themselves in our docstrings, not reStructuredText."""
    for index, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
        lines[index] = "`".join(parts)


def _short_types(
    app: object, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> object:
    """numpy's types as they are written in the source."""

    def short(text: str | None) -> str | None:
        if text is None:
            return None
        text = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)
        array = (
            r"~?(?:numpy\.)?ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?(?:numpy\.)?dtype\[~?(?:numpy\.)?(\w+)\]\]"
        )
        return re.sub(array, r"NDArray[\1]", text)

    return short(signature), short(returns)


def setup(app: object) -> None:
    app.connect("autodoc-process-signature", _short_types)  # type: ignore[attr-defined]
    app.connect("builder-inited", _generate)  # type: ignore[attr-defined]
    app.connect("source-read", _name_studies)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", _plain_marks, priority=400)  # type: ignore[attr-defined]

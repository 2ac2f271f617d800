r"""Text to plainer text, before the tokeniser: one spelling for symbols, no layout commands, no delimiters.

Nothing here changes what the text says; meaning (units, separators, mixed numbers) is the parser's business.
"""

from __future__ import annotations

import re
from functools import lru_cache

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁻": "^-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∗": "*", "÷": r"\div ", "∕": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ",
    "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'",
    "‘": "'", "“": '"', "”": '"', "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "…": r"\ldots ", "⋯": r"\ldots ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ",
    "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "∠": r"\angle ", "∣": "|", "△": r"\triangle ",
    **dict.fromkeys("€£¥₹₽₩₪₫₴₺", r"\$"), "，": ",", "（": "(", "）": ")", "：": ":", "；": ";", "。": ".",
    "⟨": r"\langle ", "⟩": r"\rangle ", "∖": r"\setminus ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2005": " ", "\u200b": "", "\ufeff": "",
    "¢": r"\text{ cents}", "、": ",",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_KNOWN = (
    "frac|dfrac|tfrac|cfrac|left|right|boxed|text|textbf|mathrm|mbox|sqrt|pi|le|leq|ge|geq|ne|neq|cup|cap|infty|times|"
    "cdot|pm|in|begin|end|log|ln|sin|cos|tan|circ|quad|overline|theta|alpha|beta|lambda|mathbb|setminus|emptyset|binom"
)
_DOUBLED = re.compile(rf"\\\\(?=(?:{_KNOWN})(?![A-Za-z]))|\\\\(?=[(){{}}\[\]$%!;,])")
_AMOUNT = r"(\d[\d,]*(?:\.\d+)?|\.\d+)"
_DOLLARS = re.compile(
    rf"\s*(?:\$?\s*(-?)\s*\\\$\s*{_AMOUNT}\s*\$?|(-?)\$\s*{_AMOUNT}|(-?){_AMOUNT}\s*\\?\$)\s*\.?\s*\Z"
)
_LITERAL_NEWLINE = re.compile(r"\\n(?=\\n|\s|\\\[|\\\]|$)")
_ROW_END = re.compile(r"\\\\(?:\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\])?|\\cr(?![A-Za-z])|\\newline(?![A-Za-z])")
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|mathop|mathstrut"
    r"|strut|phantom(?:\s*\{[^{}]*\})?|[hv]space\*?\s*\{[^{}]*\}|color\s*\{[^{}]*\}|label\s*\{[^{}]*\}|boldmath|bf|rm|it"
    r"|sf|tt)(?![A-Za-z])\s*"
)
_MODULUS = re.compile(r"\(\s*(?:\\[bp]?mod(?![A-Za-z])|\\(?:text|mathrm|operatorname)\{\s*mod\s*\}|mod\b)\s*([^()]+)\)")
_CONGRUENCE = re.compile(
    r"((?:\\equiv|≡)[^≡]*?)(?:\\b?mod(?![A-Za-z])|\\(?:text|mathrm)\{\s*mod\s*\}|(?<= )mod(?= ))\s*(\w+)\s*\Z"
)
_ALIGNED = re.compile(
    r"\\begin\{(align|aligned|alignat|gather|gathered|split|eqnarray|equation)\*?\}(.*)\\end\{\1\*?\}", re.S
)
_ROW = re.compile(r"\\\\(?![A-Za-z])|\\newline(?![A-Za-z])")
# Units that letters alone would not show: `20 m/s`, `50 km/h`, `20\\ \\mathrm{N}`.
_RATE = re.compile(
    r"(?<=[\d}])(?:\s|\\[ ,;])+(?:(?:k|c|m)?m|mi|ft|L|g)\s*/\s*(?:h|hr|s|sec|min)(?:\^\{?2\}?)?\s*\.?\s*\Z"
)
_SI = re.compile(r"(?<=[\d}])(?:\s|\\[ ,;])+\\(?:mathrm|rm)\s*\{\s*([A-DF-Zmsgh])\s*\}\s*\Z")
_ARROW = re.compile(r"\\(?:Rightarrow|Longrightarrow|implies|therefore)(?![A-Za-z])")
_NULL_DELIMITER = re.compile(r"\\(?:left|right)\s*\.")
_SPACES = re.compile(
    r"\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|space|nobreakspace)(?![A-Za-z])|\\[,;: ]|~|\\q?quad"
)
_THOUSANDS = re.compile(r"(?<=\d)(?: ?\{\s*,\s*\}|,\\!\s*|\\!,|\{,\\!\}|\\!\{,\})(?=\d{3})")
_FRACTIONS = re.compile(r"\\(?:dfrac|tfrac|cfrac|sfrac|nicefrac)(?![A-Za-z])")
_EMPHASIS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\S)")


@lru_cache(maxsize=16_384)
def normalise(text: str) -> str:
    r"""One spelling for the same text: Unicode to LaTeX commands, `\dfrac` to `\frac`, no `\left`, `$` or `\,`."""
    if "$" in text and (amount := _DOLLARS.match(text)):
        text = "".join(part or "" for part in amount.groups()) + r"\text{ dollars}"
    if not text.isascii():
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
        text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
        text = re.sub(r"[^\x00-\x7f]+", _spelled, text)
        text = re.sub("[！-～]", lambda m: chr(ord(m.group()) - 0xFEE0), text)  # full-width forms
    text = _RATE.sub(r"\\text{ units}", text)
    text = _SI.sub(r"\\text{ \1}", text)
    if "mod" in text:
        text = _MODULUS.sub(r"\\pmod{\1}", text)
        text = _CONGRUENCE.sub(r"\1 \\pmod{\2}", text)
    if "\\" in text:
        text = _latex(text)
    text = _THOUSANDS.sub("", text)
    text = text.replace("$", " ").replace("`", " ")
    if text.startswith("**"):
        text = _EMPHASIS.sub(r"\1", text)
    text = re.sub(r"\.{3,}", r"\\ldots ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<=[\d)}])!=", "! =", text)  # 4! = 24, and not 4 != 24
    return re.sub(r"(?:(?<!\\)[.,;:](?!\.)|(?<=[^.])\.)+$", "", text).strip()


def _spelled(match: re.Match[str]) -> str:
    """LaTeX for symbols; a word in Greek letters stays a word."""
    characters = match.group()
    word = len(characters) > 2 and all("\u0370" <= c <= "\u03ff" for c in characters)
    return characters if word else characters.translate(_UNICODE_TABLE)


def _latex(text: str) -> str:
    text = _ARROW.split(_LITERAL_NEWLINE.sub(" ", text))[-1]
    if len(text) < 10_000:
        text = _ALIGNED.sub(lambda match: _last_chain(match[2]), text)
    if "\\\\begin" in text:
        text = text.replace("\\\\", "\\")
    elif "\\begin" not in text:
        text = _DOUBLED.sub(lambda _: "\\", text)
    text = _ROW_END.sub(r"\\cr ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _THOUSANDS.sub("", text.replace("\\$", " "))
    text = _NULL_DELIMITER.sub("", text)
    text = _SIZES.sub("", text)
    text = text.replace("\\!", "")
    text = _SPACES.sub(" ", text)
    return _FRACTIONS.sub(r"\\frac", text)


def _last_chain(rows: str) -> str:
    """The last relation of a derivation; rows that begin with a sign of relation continue the row before."""
    rows = re.sub(r"\\(?:tag|label)\{[^{}]*\}|\\nonumber|&", " ", rows)
    chains: list[str] = []
    for row in filter(str.strip, _ROW.split(rows)):
        if chains and re.match(r"\s*(?:[=<>]|\\(?:equiv|approx|leq?|geq?|lt|gt)(?![A-Za-z]))", row):
            chains[-1] += row
        else:
            chains.append(row)
    return chains[-1] if chains else ""


_LOOSE_SPACE = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")
# The space of "32, 349", "4! = 24" and "No. 5" tells a list from thousands, a factorial from `!=`, a point from .5.
_FIRM_SPACE = re.compile(r"(?<=\d,) (?=\d{3}(?!\d))|(?<=!) (?==)|(?<=[A-Za-z]\.) (?=\d)")


def squeeze(text: str) -> str:
    """`normalise` without spaces that separate nothing: the key under which two spellings are the same string.

    Spaces between two letters or digits stay ("3 1/2" is not "31/2"), and so do those of `_FIRM_SPACE`.
    """
    return _LOOSE_SPACE.sub("", _FIRM_SPACE.sub("\0", normalise(text))).replace("\0", " ")

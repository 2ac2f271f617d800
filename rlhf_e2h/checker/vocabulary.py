"""What the tokeniser knows: commands, functions, units and words. A LaTeX command that is not here is not parsed."""

from __future__ import annotations

from fractions import Fraction


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


RELATIONS = {
    "=": "=", "==": "=", ":=": "=", r"\equiv": "=", "<": "<", "<=": "<=", "=<": "<=", ">": ">", ">=": ">=",
    "!=": "!=", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\leqq": "<=", r"\lt": "<", r"\ge": ">=",
    r"\geq": ">=", r"\geqslant": ">=", r"\geqq": ">=", r"\gt": ">", r"\ne": "!=", r"\neq": "!=", r"\approx": "~",
    r"\simeq": "~", r"\doteq": "~", r"\sim": "~", r"\cong": "~", "~": "~", r"\in": "in",
}  # fmt: skip

FUNCTIONS = _set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh log ln lg exp abs floor ceil gcd "
    "lcm max min det sgn sign cis"
)
FUNCTION_NAMES = {
    **{name: name for name in FUNCTIONS},
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "ceiling": "ceil", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "lg": "log", "sign": "sgn",
}  # fmt: skip
TRIGONOMETRIC = _set("sin cos tan cot sec csc")

GREEK = _set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
)
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "oo": "inf", "Pi": "pi"}

# Commands whose argument is words, and commands that only change the look of their argument.
TEXT_COMMANDS = _set(
    "text textbf textit textrm textnormal textsf texttt textup mbox hbox emph mathrm operatorname rm bf"
)
STYLE_COMMANDS = _set("mathbf mathit mathcal mathsf mathfrak mathscr boldsymbol bm bold pmb ensuremath")
ACCENTS = _set("vec overrightarrow overline bar hat widehat tilde dot underline overleftrightarrow")
NAME_PREFIXES = _set("angle triangle measuredangle square parallelogram")


UNITS = _set("""
unit units square cubic sq cu length lengths cm mm km dm nm inch inches ft foot feet yd yard yards mile miles mi
mph kph meter meters metre metres centimeter centimeters centimetre centimetres millimeter millimeters kilometer
kilometers kilometre kilometres second seconds sec secs minute minutes min mins hour
hours hr hrs day days week weeks month months
year years decade decades gram grams kg kilogram kilograms mg milligram pound pounds lb lbs ounce ounces oz ton tons
liter liters litre litres ml milliliter milliliters gallon gallons quart quarts pint pints cup cups teaspoon teaspoons
tablespoon tablespoons degree degrees deg radian radians rad percent percentage pct percents dollar dollars cent cents
usd euro euros penny pennies nickel nickels dime dimes quarter quarters buck bucks people persons person
students student apples apple oranges books book coins coin marbles marble balls
ball cards card games game times points point ways way
pieces piece boxes box bottles bottle pages page miles rpm watts watt volts volt joule joules newtons newton ohm ohms
hertz hz kelvin celsius fahrenheit mole moles bits bit bytes byte per each total more fewer problem problems
child children boys boy girls girl men man women woman team teams dozen dozens integers integer numbers solutions
""")

# What one unit is in the first of its row: two answers that both name a unit of one row are compared in it.
MEASURES = {
    name: (kind, scale)
    for kind, row in {
        "money": "dollar 1 dollars 1 usd 1 buck 1 bucks 1 cent 1/100 cents 1/100 ¢ 1/100",
        "time": "second 1 seconds 1 sec 1 minute 60 minutes 60 min 60 hour 3600 hours 3600"
        " hr 3600 day 86400 days 86400 week 604800 weeks 604800",
        "length": "m 1 meter 1 meters 1 metre 1 metres 1 cm 1/100 centimeter 1/100 centimeters 1/100 mm 1/1000 km 1000"
        " kilometer 1000 kilometers 1000 inch 127/5000 inches 127/5000 foot 381/1250 feet 381/1250 ft 381/1250"
        " yard 1143/1250 yards 1143/1250 mile 201168/125 miles 201168/125",
        "mass": "g 1 gram 1 grams 1 kg 1000 kilogram 1000 kilograms 1000 mg 1/1000",
    }.items()
    for name, scale in zip(row.split()[::2], map(Fraction, row.split()[1::2]), strict=True)
}

SEPARATOR_WORDS = {"and": "and", "or": "or"}
STOP_WORDS = _set("for where when if whenever assuming since because with such")
LEAD_WORDS = _set(
    "approximately about exactly roughly around nearly only just a total of all either both option choice letter"
    " usd eur rs inr"
)
VERBS = _set("is are equals was")
ARTICLES = _set("a an the")
SHORT_WORDS = _set(
    "yes no odd not one two six ten red tie won win day all any few new old sum dne may jan feb mar apr jun jul aug "
    "sep oct nov dec mon tue wed thu fri sat sun none true false the is are of an it am pm th st nd rd rs usd eur inr"
)
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: value for value, word in enumerate(_NUMBERS.split())}
BASE_WORDS = {
    "two": 2, "binary": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "octal": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16, "hex": 16,
}  # fmt: skip

# English words that look like a function with its argument.
LIKE_FUNCTIONS = _set(
    "cost sing using tank sink logs secs sins tang tans pig pie pin pit spin spit spic blog flog slog"
)

EMPTY_SET = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "null set", "empty")
)
ALL_REALS = frozenset(("all real numbers", "all reals", "real numbers", "every real number", "all real"))
SYNONYMS = {"dne": "does not exist", "doesn't exist": "does not exist", "nonexistent": "does not exist"}

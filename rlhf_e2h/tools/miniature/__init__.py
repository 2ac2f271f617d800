"""`e2h run RECIPE --set model=tiny`: every stage of a large recipe on a laptop, so that none fails first at hour nine.

The model is replaced by a tiny one of the same architecture and tokenizer family (`model.py`), the data by 40 real MATH
problems with step labels made for them (`data.py`), and sizes by small ones (`settings.py`). The code that runs is the
recipe's own. Accuracies mean nothing.
"""

from rlhf_e2h.tools.miniature.settings import SWITCH, tiny_overrides

__all__ = ["SWITCH", "tiny_overrides"]

"""How good a model is, as one page with tables, curves and the pictures it gets wrong.

`Evaluated` holds answers about labelled cells, wherever they come from (one model, or the pooled
out-of-fold answers of several); `measure` makes figures of it; `write` makes index.html and report.json.
"""

from tinynet.report.evaluated import Evaluated, measure
from tinynet.report.page import require_charts, write

__all__ = ["Evaluated", "measure", "require_charts", "write"]

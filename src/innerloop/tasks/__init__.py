"""Tasks: from what people have to episodes. Reading, understanding, dividing, drawing.

| step | files | what happens |
|---|---|---|
| recognise | `recognise` | a path, frame, array, data set, loader or function is told apart; default sizes are chosen |
| read | `tables/reading`, `from_arrays`, `images`, `single_set`, `functions` | rows, with their line or file |
| parse cells | `tables/cells`, `tables/dates`, `tables/numbers` | gaps, ids, dates, numbers as people write them |
| understand | `tables/columns`, `tables/schema` | what columns mean, fitted on meta-train and stored with the model |
| group and split | `tables/table`, `n_way`, `splits`, `tables/grouping` | tasks and classes; their splits |
| choose support | `support` | how many rows and which ones; seeds become streams of random numbers |
| draw | `sources`, `row_source`, `sampling`, `episodes` | stacked episodes, fresh for training, fixed for evaluation |
| recombine | `compose`, `augment` | training tasks put together in other ways; changes to values |
| check | `findings`, `leaks` | all of this with errors collected, and signs of leaks |
| named sets | `datasets/` | drawn, computed, or read from folders of other libraries |

Imports follow this order: `tables/cells` imports none of the others, `recognise` and `findings` nearly all of them.
"""

from __future__ import annotations

from .findings import check
from .from_arrays import arrays
from .functions import function, sinusoid
from .n_way import class_table, classes, classes_from_schema
from .recognise import open_tasks as open
from .single_set import single
from .splits import Fold, Tasks, folds
from .tables.table import from_schema, table

__all__ = [
    "Fold",
    "Tasks",
    "arrays",
    "check",
    "class_table",
    "classes",
    "classes_from_schema",
    "folds",
    "from_schema",
    "function",
    "open",
    "single",
    "sinusoid",
    "table",
]

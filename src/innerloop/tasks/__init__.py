"""Tasks: from what people have to episodes. Reading, understanding, dividing, drawing.

| step | files | what happens |
|---|---|---|
| recognise | `recognise` | a path, frame, array, data set, loader or function is told apart; default sizes |
| read | `tables/reading` (add a file format there), `array_values`, `images`, `single_set` | rows of files and arrays |
| parse cells | `tables/cells`, `tables/dates`, `tables/numbers` | gaps, task ids, dates, numbers as people write them |
| understand | `tables/columns`, `tables/schema` | what columns mean, fitted on meta-train and stored with the model |
| group and split | `tables/table`, `from_arrays`, `n_way`, `splits` | tasks and classes; their splits, folds |
| choose support | `support`, `tables/grouping` | how many rows and which ones; seeds become random streams |
| draw | `sources`, `row_source`, `sampling`, `functions` | stacked `episodes`, fresh or fixed for evaluation |
| recombine | `compose`, `augment` | training tasks put together in other ways; data augmentation |
| check | `findings`, `leaks` | all of this with errors collected, and signs of leakage |
| named sets | `datasets/catalogue` | computed, drawn, or read from folders of other libraries |
| say what is wrong | `messages` | lists of names, and the one that was meant |

Imports follow this order: `messages` and `tables/cells` import none of the others, `recognise` and `findings` nearly
all of them.
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

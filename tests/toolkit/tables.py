"""A small table of visits to sites, the task column being `site`."""

import numpy as np
import pandas as pd


def visits(tasks: int = 8, rows: int = 6, **change: object) -> pd.DataFrame:
    """Rows of `site`, `dose` and `risk`; `change` adds or replaces columns, as `DataFrame.assign` does."""
    rng = np.random.default_rng(0)
    site = np.repeat([f"s{n}" for n in range(tasks)], rows)
    dose, risk = rng.normal(size=(2, len(site)))
    return pd.DataFrame({"site": site, "dose": dose, "risk": risk}).assign(**change)

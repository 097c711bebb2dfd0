"""Rows of many small groups, as a user of scikit-learn has them: X with a column of groups, and y."""

import numpy as np
import pandas as pd


def patients(count: int = 12, rows: int = 6, *, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """Rows of `patient`, `dose` and `ward`, and a score: a line with a level and a slope of each patient."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(count), rows)
    dose = rng.normal(size=len(owner))
    frame = pd.DataFrame(
        {
            "patient": [f"p{number:02d}" for number in owner],
            "dose": dose,
            "ward": rng.choice(["north", "south"], len(owner)),
        }
    )
    level, slope = 3 * rng.normal(size=count), 1 + 0.3 * rng.normal(size=count)
    score = level[owner] + slope[owner] * dose + 0.1 * rng.normal(size=len(owner))
    return frame, pd.Series(score, name="score")

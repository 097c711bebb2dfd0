"""Tables as Hypothesis makes them: any cell, any column, any number of rows a task."""

import pandas as pd
from hypothesis import strategies as st

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=4), st.dates(),
    st.sampled_from(["1", "1,5", "2024-01-01", "01/02/2024", "31.12.2023", "true", " ", "inf", "\U0001f600"]),
)  # fmt: skip
COLUMNS = st.sampled_from(
    [
        CELLS,
        st.floats(-5, 5),
        st.integers(0, 3),
        st.sampled_from("ab"),
        st.dates(),
        st.sampled_from(["1/2/2024", None]),
    ]
)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """A frame with the task column `site` and three columns of anything."""
    rows = draw(st.integers(1, 24))
    data = {"site": draw(st.lists(st.sampled_from("abcdef"), min_size=rows, max_size=rows))}
    for name in ("x", "y", "z"):
        data[name] = draw(st.lists(draw(COLUMNS), min_size=rows, max_size=rows))
    return pd.DataFrame({name: pd.Series(values) for name, values in data.items()})

"""One self-contained HTML page of the results of a run or a comparison; it needs the extra `report`."""

from .comparison_page import comparison_page
from .page import Page, available, render
from .run_page import Scored, scored_page
from .tuning_page import tuning_page

__all__ = ["Page", "Scored", "available", "comparison_page", "render", "scored_page", "tuning_page"]

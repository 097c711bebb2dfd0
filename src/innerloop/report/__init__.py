"""One self-contained HTML page of what was found; it needs the extra `report`."""

from .comparison import comparison_page
from .page import Page, available, render
from .run import Scored, scored_page

__all__ = ["Page", "Scored", "available", "comparison_page", "render", "scored_page"]

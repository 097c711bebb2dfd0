"""Named data sets, loaded by name: computed, drawn, of another package, or from files that people have.

`catalogue` lists them, and says how to add one; `small_sets`, `drawn_sets` and `image_sets` load them; `alphabets`
draws invented characters; `folders` says where files lie. Nothing is downloaded.
"""

from .catalogue import DATASETS, Dataset, load
from .drawn_sets import alphabets
from .folders import cache_folder
from .small_sets import gapminder, gapminder_frame

__all__ = ["DATASETS", "Dataset", "alphabets", "cache_folder", "gapminder", "gapminder_frame", "load"]

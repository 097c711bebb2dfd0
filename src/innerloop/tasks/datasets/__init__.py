"""Named data sets; nothing is downloaded."""

from .catalogue import DATASETS, Dataset, alphabets, cache_folder, gapminder, gapminder_frame, load

__all__ = ["DATASETS", "Dataset", "alphabets", "cache_folder", "gapminder", "gapminder_frame", "load"]

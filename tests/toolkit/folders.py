"""Folders of small files, as people have them: images a class, tables a task."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def image_folders(
    folder: Path, names: list[str], *, count: int = 4, size: tuple[int, int] = (20, 20)
) -> Path:
    """A folder with a folder of `count` random images for each name; `size` is width and height."""
    rng = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, size[::-1], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def table_folder(folder: Path, frame: pd.DataFrame, task: str) -> Path:
    """A folder with a CSV file for each task, named after it and without the task column."""
    folder.mkdir()
    for name, rows in frame.groupby(task):
        rows.drop(columns=task).to_csv(folder / f"{name}.csv", index=False)
    return folder

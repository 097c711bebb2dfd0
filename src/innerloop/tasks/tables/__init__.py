"""Tables: from files and frames to a schema that turns rows into numbers.

| file | what it holds |
|---|---|
| `reading` | files, folders of them, frames of polars and pyarrow |
| `delimited` | one CSV file as text: separator, header, lines |
| `encodings` | its bytes as UTF-8 |
| `shape` | what stands around its rows: lines above the header, names in several lines, footers |
| `other_files` | Parquet, Feather, JSON lines, Stata, SPSS, Excel; add a file format here |
| `deciding` | from text to values: which columns are numbers, which are names, and what is a gap |
| `cells` | values of a column: gaps, numbers, truth values, task ids; errors that name a cell |
| `dates` | dates in text: their format, and days |
| `numbers` | decimal commas, thousands marks, units |
| `columns` | what one feature column means, fitted on meta-train |
| `targets`, `features` | which columns are to be predicted, and which from |
| `schema` | all columns and the target: encode, decode, store as JSON |
| `own_classes` | numbers of classes that each task has of its own |
| `sense` | what is asked of a schema from a file |
| `grouping` | tasks, splits, and the order of support rows |
| `table` | a table with a task column as tasks |
"""

from .reading import TableLike, as_frame, read_table
from .schema import Schema
from .table import from_schema, table

__all__ = ["Schema", "TableLike", "as_frame", "from_schema", "read_table", "table"]

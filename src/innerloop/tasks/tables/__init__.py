"""Tables: cells, columns and a schema that turns rows into numbers."""

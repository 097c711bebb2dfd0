"""C code: a traced graph becomes one compiled function."""

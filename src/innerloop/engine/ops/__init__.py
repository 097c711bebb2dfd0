"""Operators whose derivatives are made of operators of the same kind."""

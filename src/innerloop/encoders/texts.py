"""Texts as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["tokenizer"]


def tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file `tokenizer.json`; it neither pads nor cuts.

    Raises:
        UsageError: the package `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("texts need the package tokenizers: pip install 'innerloop[encoders]'") from None
    tokens = Tokenizer.from_file(str(path))
    tokens.no_padding()
    tokens.no_truncation()
    return tokens

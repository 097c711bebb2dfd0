"""Frozen encoders: pictures, texts and files as vectors of numbers."""

from .encoder import Encoder, encoder, name_of, use
from .reading import encode, encode_texts, require_features, watched

__all__ = [
    "Encoder",
    "encode",
    "encode_texts",
    "encoder",
    "name_of",
    "require_features",
    "use",
    "watched",
]

"""adit_scale: scaling studies of all-atom diffusion transformers (ADiT, arXiv 2503.03965)."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``adit_scale.load_pretrained``, without an import of torch where it is not asked for."""
    if name == "load_pretrained":
        return importlib.import_module("adit_scale.training.pretrained").load_pretrained
    raise AttributeError(f"module 'adit_scale' has no attribute {name!r}")

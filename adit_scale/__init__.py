"""adit_scale: scaling studies of all-atom diffusion transformers (ADiT, arXiv 2503.03965)."""

__version__ = "0.1.0"

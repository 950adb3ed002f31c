"""Counter-based random draws: a value is a pure function of who it is for, never of when it is drawn.

Every draw is addressed by (seed, purpose, epoch, repetition, set index, element). There is no generator
state, so order of evaluation, packing, micro-batch and world size cannot change a draw, and a resumed run
needs to save nothing. The mixing function is SplitMix64 (Steele, Lea, Flood 2014), in int64 tensors whose
products wrap modulo 2^64. Normals are computed in float64 and rounded to float32, so that the last bit does
not depend on how a vector is split between SIMD lanes.

Shapes: _s sets, _t atoms, _f elements a row.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as the unsigned ``value``."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Logical (zero-filling) right shift of int64 bits."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer: a bijection of 64-bit words with full avalanche."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def stream_key(seed: int, purpose: str) -> int:
    """A 64-bit key for one purpose of one run."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest, "little"))


def set_keys(seed: int, purpose: str, epoch_s: Tensor, repetition_s: Tensor, set_index_s: Tensor) -> Tensor:
    """One int64 key a set, ``(S,)``, from where the set stands in the run."""
    key_s = torch.full_like(set_index_s, stream_key(seed, purpose))
    for word_s in (epoch_s, repetition_s, set_index_s):
        key_s = _mix(key_s + _GOLDEN * (word_s + 1))
    return key_s


def _bits(keys: Tensor, element_index: Tensor) -> Tensor:
    """Element ``element_index`` of each key's SplitMix64 sequence; both int64, broadcast."""
    return _mix(keys + _GOLDEN * (element_index + 1))


def _unit_interval(bits: Tensor) -> Tensor:
    """53 random bits as float64 in the open interval (0, 1)."""
    return (_shift_right(bits, 11).double() + 0.5) * 2.0**-53


def uniform(keys: Tensor, n_elements: int) -> Tensor:
    """Float32 uniforms ``(len(keys), n_elements)`` in (0, 1]: rounding may reach 1."""
    index_f = torch.arange(n_elements, device=keys.device)
    return _unit_interval(_bits(keys[:, None], index_f)).float()


def normal(keys: Tensor, n_elements: int) -> Tensor:
    """Float32 standard normals ``(len(keys), n_elements)``."""
    index_f = torch.arange(n_elements, device=keys.device)
    return _box_muller(keys[:, None], index_f)


def uniform_atoms(key_s: Tensor, set_of_atom_t: Tensor, index_in_set_t: Tensor) -> Tensor:
    """One float32 uniform an atom, ``(T,)``, addressed by the atom's place in its set."""
    return _unit_interval(_bits(key_s[set_of_atom_t], index_in_set_t)).float()


def normal_atoms(key_s: Tensor, set_of_atom_t: Tensor, index_in_set_t: Tensor, n_features: int) -> Tensor:
    """Float32 standard normals ``(T, n_features)``, addressed by the atom's place in its set."""
    feature_f = torch.arange(n_features, device=key_s.device)
    index_tf = index_in_set_t[:, None] * n_features + feature_f
    return _box_muller(key_s[set_of_atom_t][:, None], index_tf)


def _box_muller(keys: Tensor, index: Tensor) -> Tensor:
    """Standard normals by Box and Muller (1958); elements 2i and 2i+1 of a key feed normal i."""
    radius = torch.sqrt(-2.0 * torch.log(_unit_interval(_bits(keys, 2 * index))))
    angle = (2.0 * math.pi) * _unit_interval(_bits(keys, 2 * index + 1))
    return (radius * torch.cos(angle)).float()


def step_uniform(seed: int, purpose: str, step: int) -> float:
    """One uniform for a whole training step, the same on every rank."""
    key = torch.tensor([stream_key(seed, purpose)], dtype=torch.int64)
    return float(_unit_interval(_bits(key, torch.tensor([step], dtype=torch.int64)))[0])

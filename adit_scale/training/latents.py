"""Posteriors of the frozen encoder, computed once for a few augmentations of every training set.

    latents-<id>/
        latents.json        whose latents these are
        k00-00000.npy       augmentation 0 of the first sets: mean and logvar (atoms, 2 latent), fp32

Augmentation k is what training on the fly draws in epoch k. A visit takes one of the K by a draw of its own
and its posterior noise anew, so that only rotations and shifts repeat. Files are memory-mapped; a build that
was killed goes on where it stopped; ranks share the work, and so do runs that build at once, which write the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale import randomness
from adit_scale.atoms import PackedBatch
from adit_scale.data.augment import augment
from adit_scale.data.manifest import Manifest
from adit_scale.data.packing import pack
from adit_scale.data.shards import ShardReader
from adit_scale.errors import DataError
from adit_scale.models.autoencoder import Posterior
from adit_scale.tracking.terminal import Progress

PIECE_ATOMS = 1 << 20
ABOUT = "latents.json"


class LatentCache:
    """Posteriors by set and augmentation. ``identity``: everything they follow from, K among it.

    manifest: of the data whose train split they are for. latent: features an atom.
    """

    def __init__(self, root: Path, manifest: Manifest, identity: dict[str, Any], latent: int) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.folder = root / f"latents-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.identity, self.latent = identity, latent
        self.n_augmentations, self.seed = int(identity["augmentations"]), int(identity["seed"])
        self._manifest = manifest
        self._offsets = np.concatenate([[0], np.cumsum(manifest.split("train").sizes, dtype=np.int64)])
        self._first_sets = _pieces(self._offsets)
        self._open: dict[tuple[int, int], np.ndarray] = {}

    def build(self, encode: Callable[[PackedBatch], Posterior], atoms: int, device: torch.device) -> None:
        """Encode what is missing, in batches of at most ``atoms``. A collective call of all ranks."""
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            (self.folder / ABOUT).write_text(json.dumps(self.identity, indent=1, sort_keys=True) + "\n")
        n_pieces = len(self._first_sets) - 1
        tasks = [(piece, k) for piece in range(n_pieces) for k in range(self.n_augmentations)]
        mine = [task for task in tasks[rank::world_size] if not self._path(*task).is_file()]
        # In an order of its own: runs that build at once meet few files twice, and take what others wrote.
        random.Random().shuffle(mine)
        reader = ShardReader(self._manifest, "train")
        if mine:
            with Progress(len(mine), "latents", enabled=rank == 0) as progress:
                for done, (piece, k) in enumerate(mine, start=1):
                    if not self._path(piece, k).is_file():
                        self._write(piece, k, self._encoded(reader, piece, k, encode, atoms, device))
                    progress.advance(done)
        dist.barrier()

    def posterior(self, batch: PackedBatch, seed: int) -> Posterior:
        """The posteriors of a batch's visits, each of one of the K augmentations, on the batch's device.

        Zeros for the masked tail. Raises DataError naming a file that is missing or has another shape.
        """
        layout = batch.layout.to("cpu")
        chosen_s = self.augmentation(batch, seed).cpu().numpy()
        set_of_atom_t = layout.set_of_atom_t.numpy()
        first_s = self._offsets[batch.set_index_s.cpu().numpy()]
        piece_s = np.searchsorted(self._first_sets, batch.set_index_s.cpu().numpy(), side="right") - 1
        row_t = first_s[set_of_atom_t] + layout.index_in_set_t.numpy()
        moments_td = np.zeros((layout.n_atoms, 2 * self.latent), dtype=np.float32)
        file_s = np.where(layout.real_s.numpy(), piece_s * self.n_augmentations + chosen_s, -1)
        file_t = file_s[set_of_atom_t]
        for number in np.unique(file_t[file_t >= 0]):
            piece, k = divmod(int(number), self.n_augmentations)
            here_t = file_t == number
            moments_td[here_t] = self._read(piece, k)[row_t[here_t] - self._begin(piece)]
        mean_td, logvar_td = torch.from_numpy(moments_td).to(batch.numbers_t.device).chunk(2, dim=-1)
        return Posterior(mean_td, logvar_td)

    def augmentation(self, batch: PackedBatch, seed: int) -> Tensor:
        """Which augmentation each visit takes, ``(S,)`` int64 below K."""
        keys = randomness.set_keys(
            seed, "cached_augmentation", batch.epoch_s, batch.repetition_s, batch.set_index_s
        )
        drawn_s = (randomness.uniform(keys, 1)[:, 0] * self.n_augmentations).long()
        return drawn_s.clamp(max=self.n_augmentations - 1)

    def augmented(self, batch: PackedBatch, augmentation_s: Tensor) -> PackedBatch:
        """The sets of a batch under the given augmentations."""
        zeros_s = torch.zeros_like(augmentation_s)
        drawn = augment(batch.replace(epoch_s=augmentation_s, repetition_s=zeros_s), self.seed)
        return drawn.replace(epoch_s=batch.epoch_s, repetition_s=batch.repetition_s)

    # -- files -----------------------------------------------------------------------------------------------

    def _path(self, piece: int, k: int) -> Path:
        return self.folder / f"k{k:02d}-{piece:05d}.npy"

    def _begin(self, piece: int) -> int:
        return int(self._offsets[self._first_sets[piece]])

    def _shape(self, piece: int) -> tuple[int, int]:
        return self._begin(piece + 1) - self._begin(piece), 2 * self.latent

    def _read(self, piece: int, k: int) -> np.ndarray:
        if (piece, k) not in self._open:
            path = self._path(piece, k)
            try:
                found = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read ({error}); remove it and start again") from error
            if found.shape != self._shape(piece):
                raise DataError(
                    f"{path}: has shape {found.shape}, expected {self._shape(piece)}; remove it and start "
                    "again"
                )
            self._open[piece, k] = found
        return self._open[piece, k]

    def _write(self, piece: int, k: int, moments_td: np.ndarray) -> None:
        path = self._path(piece, k)
        pending = path.with_name(f".{path.name}.{os.getpid()}")
        with pending.open("wb") as handle:
            np.save(handle, moments_td, allow_pickle=False)
            handle.flush()
            os.fsync(handle.fileno())
        pending.replace(path)

    def _encoded(
        self,
        reader: ShardReader,
        piece: int,
        k: int,
        encode: Callable[[PackedBatch], Posterior],
        atoms: int,
        device: torch.device,
    ) -> np.ndarray:
        """Means and log variances of a piece's atoms under augmentation k, in the order of sets."""
        out_td = np.empty(self._shape(piece), dtype=np.float32)
        sets = np.arange(self._first_sets[piece], self._first_sets[piece + 1])
        sizes = np.diff(self._offsets)[sets]
        order = sets[np.argsort(-sizes, kind="stable")]  # batches of like sizes, the largest first
        for own in _batches(order, np.diff(self._offsets)[order], atoms):
            zeros = np.zeros_like(own)
            host = pack(reader.read_columns(own), own, zeros, zeros)
            batch = host.to(device)
            found = encode(self.augmented(batch, torch.full_like(batch.set_index_s, k)))
            layout = host.layout
            first_s = self._offsets[own] - self._begin(piece)
            row_t = first_s[layout.set_of_atom_t.numpy()] + layout.index_in_set_t.numpy()
            out_td[row_t] = torch.cat([found.mean_td, found.logvar_td], dim=1).float().cpu().numpy()
        return out_td


def _pieces(offsets: np.ndarray) -> np.ndarray:
    """The first set of every piece, and the number of sets: pieces of about PIECE_ATOMS."""
    marks = np.arange(0, offsets[-1], PIECE_ATOMS)
    first = np.unique(np.searchsorted(offsets[:-1], marks))
    return np.append(first, len(offsets) - 1)


def _batches(sets: np.ndarray, sizes: np.ndarray, atoms: int) -> list[np.ndarray]:
    """Runs of sets of at most so many atoms together, at least one set each."""
    found, first, held = [], 0, 0
    for i, size in enumerate(sizes.tolist()):
        if held and held + size > atoms:
            found.append(sets[first:i])
            first, held = i, 0
        held += size
    return [*found, sets[first:]]

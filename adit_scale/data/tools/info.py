"""What a data set holds, in words and numbers; all of it stands in the manifest."""

from __future__ import annotations

from typing import Any

from adit_scale.data.manifest import SPLITS, Manifest

_SHOWN = 8  # elements and spacegroups named, the most frequent first


def table(manifest: Manifest) -> str:
    """One line a data set: domain, structures of each split, what was left out."""
    head = ("data set", "domain", *SPLITS, "left out", "of these duplicates")
    rows: list[tuple[str, ...]] = [head]
    for name in manifest.datasets:
        known = manifest.descriptions.get(name, {})
        n_sets = known.get("n_sets", {})
        counts = (
            *(n_sets.get(split) for split in SPLITS),
            known.get("n_rejected"),
            known.get("n_duplicates"),
        )
        rows.append((name, str(known.get("domain", "?")), *(_number(count) for count in counts)))
    if all(row[-1] in ("-", "0") for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def describe(manifest: Manifest) -> str:
    """The table, then each data set's source, licence and contents, then the shards."""
    lines = [table(manifest)]
    for name in manifest.datasets:
        known = manifest.descriptions.get(name, {})
        lines.append(f"{name}\n")
        facts = {key: known[key] for key in ("source", "licence", "citation", "homepage") if known.get(key)}
        facts |= {
            "atoms": _atoms(histogram(known, "atom_counts")),
            "elements": _frequent(known.get("elements", {})),
            "spacegroups": _frequent({k: n for k, n in known.get("spacegroups", {}).items() if k != "0"}),
        }
        lines += [f"  {key:<11} {value}\n" for key, value in facts.items() if value]
    for split in SPLITS:
        n_bytes = sum(shard.n_bytes for shard in manifest.shards[split])
        lines.append(
            f"{split:<5} {manifest.n_sets(split):,} structures in {len(manifest.blocks[split]):,} blocks, "
            f"{len(manifest.shards[split]):,} files, {n_bytes:,} bytes\n"
        )
    lines.append(f"schema version {manifest.schema_version}, fingerprint {manifest.fingerprint}\n")
    return "".join(lines)


def histogram(known: dict[str, Any], key: str) -> dict[int, int]:
    """A histogram of the manifest with its keys as numbers again, in order."""
    return {
        int(value): int(count) for value, count in sorted(known.get(key, {}).items(), key=lambda i: int(i[0]))
    }


def _atoms(counts: dict[int, int]) -> str:
    if not counts:
        return ""
    n_atoms, n_sets = sum(n * count for n, count in counts.items()), sum(counts.values())
    return (
        f"{min(counts)} to {max(counts)} a structure, {n_atoms / n_sets:.1f} on average, {n_atoms:,} in all"
    )


def _frequent(counts: dict[str, int]) -> str:
    """ "62: Se 844, O 714, …", the most frequent first."""
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = ", …" if len(ranked) > _SHOWN else ""
    return f"{len(ranked)}: " + ", ".join(f"{key} {count:,}" for key, count in ranked[:_SHOWN]) + more


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"

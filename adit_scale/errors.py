"""Errors a user can cause and cure. Command lines print them in one line, without a traceback.

Every message names what was got (file, block or key), what was expected, and what to change.
Broken internal invariants are plain assertions instead.
"""

import math


class AditError(ValueError):
    """Base of all user-facing errors."""


class ConfigError(AditError):
    """A setting is unknown, missing or out of range."""


class DataError(AditError):
    """A source file, shard or manifest cannot be used."""


class CheckpointError(AditError):
    """A checkpoint or weight file is damaged or belongs to another model or data set."""


class TrainingError(AditError):
    """Training cannot go on (for example: too many non-finite steps in a row)."""


class WorkerLost(TrainingError):
    """A process of a run ended without a word: killed, out of memory, or lost with its machine."""


def one_line(error: AditError | OSError) -> str:
    """What a command line prints: our own line, or ``file: reason`` of a system call that failed."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_range(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ConfigError unless ``low <= value <= high``; ``key`` is the setting's full name."""
    if not low <= value <= high:  # also where it is not a number
        expected = f"at least {low}" if high == math.inf else f"{low} to {high}"
        raise ConfigError(f"{key} is {value}; expected {expected}")


def size_text(n_bytes: int) -> str:
    """``1.5 GiB``, as messages say it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} B"

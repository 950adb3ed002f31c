"""Errors a user can cause and cure. Command lines print them in one line, without a traceback.

Every message names what was got (file, block or key), what was expected, and what to change.
Broken internal invariants are plain assertions instead.
"""


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

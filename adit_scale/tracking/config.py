"""Settings of tracking. No heavy imports."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from adit_scale.errors import AditError, ConfigError

# The address with its password, for processes whose settings and command lines must not hold it.
URI_VARIABLE = "ADIT_TRACKING_URI"
SERVERS = ("http", "https", "databricks")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class StoreUnavailable(AditError):
    """The tracking store cannot be reached or refused a request; what was to be written can wait."""


@dataclass
class TrackingConfig:
    """The journal is always written; these settings say where it is mirrored. Empty uri: nowhere."""

    uri: str = "sqlite:///runs/mlflow.db"
    experiment: str = "adit_scale"

    def validate(self) -> None:
        if not self.experiment:
            raise ConfigError("tracking.experiment is empty; expected a name")
        if self.uri:
            check_uri(self.uri)


def check_uri(uri: str) -> None:
    """Raises ConfigError for an address of no known kind of store."""
    scheme, found, _ = uri.partition("://")
    if not found or (scheme not in SERVERS and scheme.partition("+")[0] not in DATABASES):
        raise ConfigError(
            f"tracking.uri: got {without_credentials(uri)!r}; expected sqlite:///FILE, the address of an "
            "MLflow server (http://...) or of a database (MLflow no longer writes plain folders)"
        )


def takes_many_writers(uri: str) -> bool:
    """Whether jobs may write to this store themselves: a server, or a database that is one. Never SQLite."""
    scheme = uri.partition("://")[0].partition("+")[0]
    return "://" in uri and (scheme in SERVERS or (scheme in DATABASES and scheme != "sqlite"))


def usable_uri(uri: str) -> str:
    """``uri``; the environment's (``ADIT_TRACKING_URI``) where the password was taken out of it.

    Raises ConfigError where the environment does not have it either.
    """
    if "***" in uri:
        uri = os.environ.get(URI_VARIABLE, uri)
    if "***" in uri:
        raise ConfigError(
            f"tracking.uri: got {uri!r} without its password; expected the whole address in the "
            f"environment variable {URI_VARIABLE}"
        )
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``; None for other stores."""
    prefix = "sqlite:///"
    return Path(uri[len(prefix) :].partition("?")[0]) if uri.startswith(prefix) else None


def absolute_uri(uri: str) -> str:
    """A relative SQLite file resolved now, so that a later change of directory cannot split the store."""
    file = sqlite_file(uri)
    return uri if file is None else uri.replace(str(file), str(file.resolve()), 1)


def without_credentials(text: str) -> str:
    """``text`` with ``***`` for secrets in addresses: fit for logs, journals and MLflow."""
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return re.sub(r"(?i)([?&]\w*(?:password|passwd|pwd|token|secret)=)[^&\s'\"]*", r"\1***", text)

"""Settings of tracking. No heavy imports."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adit_scale.errors import ConfigError

SERVERS = ("http", "https", "databricks")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


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


def without_credentials(text: str) -> str:
    """``text`` with ``***`` for secrets in addresses: fit for logs, journals and MLflow."""
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return re.sub(r"(?i)([?&]\w*(?:password|passwd|pwd|token|secret)=)[^&\s'\"]*", r"\1***", text)

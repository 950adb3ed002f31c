"""An MLflow server that all jobs of a study may write to at once: one owner of the database, many clients.

Everything secret or long goes to MLflow by its environment: command lines are public on a shared machine.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from adit_scale.errors import ConfigError, check_range
from adit_scale.tracking.config import check_uri, without_credentials

# As `make tracking-server BACKEND=...` hands it on.
BACKEND_VARIABLE = "BACKEND"
LOCAL = ("127.0.0.1", "localhost")
# SQLite has one writer: more processes would only wait for each other. MLflow's pool of 15 connections is too
# small for 50 clients. PostgreSQL takes 100 connections as it comes: workers x (pool + overflow) is below.
POOLS = {True: (1, 50, 50), False: (4, 10, 10)}  # SQLite or not: workers, pool size, overflow


def serve(backend: str, folder: Path, host: str, port: int, allowed_hosts: str, workers: int) -> None:
    """Bring the database up to date and become the server; returns only by an error.

    backend: a database's address; "" is the environment's BACKEND, else SQLite in ``folder``, which keeps the
    artifacts of either. allowed_hosts: names, separated by commas, by which clients may call it; needed with
    a host that other machines can reach. workers: 0 chooses by the database.

    Raises ConfigError; StoreUnavailable where the database cannot be reached.
    """
    folder = folder.absolute()
    backend = backend or os.environ.get(BACKEND_VARIABLE) or f"sqlite:///{folder}/mlflow.db"
    check_uri(backend)
    if backend.startswith("http"):
        raise ConfigError(f"BACKEND: got {without_credentials(backend)!r}; expected a database, not a server")
    hosts = _allowed(host, allowed_hosts)
    check_range("WORKERS", workers, 0)
    check_range("PORT", port, 0, 65535)
    _check_port(host, port)
    folder.mkdir(parents=True, exist_ok=True)

    from adit_scale.tracking.mlflow_sink import server_settings, upgrade_database  # seconds to import

    upgrade_database(backend)
    default_workers, pool_size, overflow = POOLS[backend.startswith("sqlite")]
    environment = {
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(pool_size),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(overflow),
        **os.environ,
        **server_settings(backend, folder / "artifacts", hosts),
    }
    print(f"{without_credentials(backend)}, artifacts in {folder / 'artifacts'}")
    print(
        f"jobs: tracking.uri=http://{socket.gethostname() if host not in LOCAL else host}:{port}", flush=True
    )
    words = ["-m", "mlflow", "server", "--host", host, "--port", str(port)]
    words += ["--workers", str(workers or default_workers)]
    os.execve(sys.executable, [sys.executable, *words], environment)


def _allowed(host: str, allowed_hosts: str) -> str:
    """Names with any port, this machine's own among them. Raises ConfigError."""
    names = [name.strip() for name in allowed_hosts.split(",") if name.strip()]
    if host not in LOCAL and not names:
        raise ConfigError(
            f"HOST={host} can be reached from other machines; expected ALLOWED_HOSTS=NAME,... too, the names "
            "that jobs and browsers call this machine by"
        )
    if "*" in names:
        raise ConfigError("ALLOWED_HOSTS=* would let any web page write here; expected names of this machine")
    every = [*LOCAL[:2], "[::1]", *names]
    return ",".join(
        word for name in every for word in ((name,) if ":" in name[1:-1] else (name, f"{name}:*"))
    )


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigError(f"HOST={host} PORT={port}: {error.strerror}; set them to what is free") from error

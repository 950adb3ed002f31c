"""The tracking server as users start it: who can reach it, and mistakes in one line."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from adit_scale.tracking.__main__ import main
from adit_scale.tracking.mlflow_sink import upgrade_database
from tests.tracking.servers import Server


def test_only_this_machine_and_its_names_are_served(tmp_path):
    with Server(tmp_path / "server") as server:
        address = f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"

        def status(host: str, **headers: str) -> int:
            try:
                request = urllib.request.Request(address, headers={"Host": host, **headers})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert [status(h) for h in ("localhost", "localhost:6000", f"127.0.0.1:{server.port}")] == [200] * 3
        assert [status(h) for h in ("evil.example", "10.0.0.7:5000", "localhost.evil.example")] == [403] * 3
        sockets = subprocess.run(
            ["ss", "-ltnH", f"sport = :{server.port}"], stdout=subprocess.PIPE, text=True
        )
        assert f"127.0.0.1:{server.port}" in sockets.stdout
        assert "'pool_size': 50, 'max_overflow': 50" in server.log.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "HOST=0.0.0.0 can be reached from other machines; expected ALLOWED_HOSTS="),
        (["--allowed-hosts", "*"], "ALLOWED_HOSTS=* would let any web page write here"),
        (["--host", "no.such.host.invalid", "--allowed-hosts", "x"], "HOST=no.such.host.invalid PORT=5000: "),
        (["--port", "70000"], "PORT is 70000; expected 0 to 65535"),
        (["--backend", "http://u:secret@host"], "BACKEND: got 'http://***@host'; expected a database"),
        (["--backend", "mongo://u:secret@host"], "tracking.uri: got 'mongo://***@host'"),
    ],
)
def test_a_wrong_word_is_one_line(words, message, tmp_path, capsys):
    assert main(["serve", "--folder", str(tmp_path / "new"), *words]) == 2
    _, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert "secret" not in err
    assert not (tmp_path / "new").exists()


def test_a_taken_port_is_named(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--folder", str(tmp_path), "--port", port]) == 2
    assert f"PORT={port}: Address already in use; set them" in capsys.readouterr().err


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path, capsys):
    backend = "postgresql://someone:secret@127.0.0.1:9/mlflow"
    assert main(["serve", "--folder", str(tmp_path), "--port", "0", "--backend", backend]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: tracking store postgresql://***@127.0.0.1:9/mlflow: ")
    assert "secret" not in line


def test_an_older_database_is_brought_up_to_date(tmp_path):
    upgrade_database(f"sqlite:///{tmp_path}/m.db")
    with closing(sqlite3.connect(tmp_path / "m.db")) as database:
        (version,) = database.execute("select version_num from alembic_version").fetchone()
    upgrade_database(f"sqlite:///{tmp_path}/m.db")
    with closing(sqlite3.connect(tmp_path / "m.db")) as database:
        assert database.execute("select version_num from alembic_version").fetchone() == (version,)
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
    assert {"runs", "metrics", "tags"} <= tables

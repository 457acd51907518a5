"""What searches need: a data set that the tiny sentence encoder can be trained on, a database server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = "the a cat dog sat ran on under mat rug small big red blue tree house river moved"


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sentences as a .tsv file, without labels."""
    words = WORDS.split()
    draws = np.random.default_rng(0)
    lines = [" ".join(draws.choice(words, 3 + number % 5)) for number in range(60)]
    path = tmp_path_factory.mktemp("sentences") / "texts.tsv"
    path.write_text("\n".join(["text", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a database of a PostgreSQL server, started on a free port for the tests of this process."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    control = shutil.which("pg_ctl") or (str(found[-1]) if found else None)
    if control is None:
        pytest.skip("PostgreSQL is not installed: there is no pg_ctl in PATH or /usr/lib/postgresql/*/bin")
    # The server refuses to run as root, and its user cannot enter pytest's folders.
    root = os.geteuid() == 0
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    with tempfile.TemporaryDirectory(prefix="openglm-postgresql-", ignore_cleanup_errors=True) as folder:
        if root:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = Path(folder, "data")

        def ask(*arguments: str) -> None:
            command = [control, "--pgdata", str(data), *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120, **owner)

        ask("initdb", "--options", "--username=postgres --auth=trust --no-sync")
        where = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        ask("start", "--wait", "--log", str(Path(folder, "log")), "--options", where)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            ask("stop", "--mode", "immediate")

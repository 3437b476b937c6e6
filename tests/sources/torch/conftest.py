"""The folder of these tests is the training repository whose networks they export."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory is that of the networks, as it is in a training repository."""
    monkeypatch.chdir(HERE)


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """The networks can be imported, by the names that factories have."""
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def networks(request: pytest.FixtureRequest, importable: None) -> ModuleType:
    """Those that the tests of a module export: its `NETWORKS` names theirs."""
    return importlib.import_module(request.module.NETWORKS)

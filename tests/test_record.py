"""The record of the bundled example that is committed: DVC finds it up to date."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.shell import cloned, environment

ROOT = Path(__file__).parents[1]
RENEW = "the record is not that of this code: run `make record`, and commit what it stages"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with what is not committed yet."""
    place = tmp_path_factory.mktemp("record") / "clone"
    cloned(ROOT, place)
    return place


def changes(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What differs, by path or name, and how."""
    for entries in found.values():
        for entry in entries:
            for change in entry.values() if isinstance(entry, dict) else ():
                yield from change.items()


def test_the_record_is_up_to_date(clone: Path) -> None:
    """But for the models, which Git does not have."""
    command = ["dvc", "status", "--json"]
    done = subprocess.run(command, cwd=clone, env=environment(clone.parent), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(isinstance(entry, dict) for entries in found.values() for entry in entries), f"{found}: {RENEW}"
    absent = {"deleted", "not in cache"}
    other = [(name, how) for name, how in changes(found) if not (name.startswith("models/") and how in absent)]
    assert other == [], RENEW
    assert set(found) >= {"finetune", "export", "compress"}


def test_the_record_is_whole() -> None:
    tracked = subprocess.run(["git", "ls-files", "compression"], cwd=ROOT, capture_output=True, text=True).stdout
    assert set(tracked.split()) >= {
        "compression/detection.json",
        "compression/metrics.json",
        "compression/toolchain.json",
        *(f"compression/{name}.csv" for name in ("accuracy_size", "bytes", "confusion", "sparsity")),
    }
    metrics = json.loads((ROOT / "compression" / "metrics.json").read_text())
    assert metrics["passed"] is True
    assert metrics["made_for"] == "onnxruntime"

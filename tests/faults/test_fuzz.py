"""A few damaged files for every reader, in this process; `python -m tests.faults.fuzz` reads many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.fuzz import READ, REFUSED, prepare, work
from tests.faults.readers import EXPORT, READERS

pytestmark = pytest.mark.filterwarnings("ignore")
FILES = 16


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused(reader: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = prepare(reader, tmp_path_factory.mktemp("whole"), slow=False)
    said = [one for one in work(reader, whole, range(FILES), 3, Path("kept"), without=EXPORT) if "found" in one]
    assert [one for one in said if one["found"] not in {READ, REFUSED}] == []
    assert len(said) == FILES
    assert REFUSED in {one["found"] for one in said}

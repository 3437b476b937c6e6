"""The documentation site: it builds without a warning, and shows itself without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["'](?:https?:)?//|<link\b(?![^>]*rel=["']canonical)[^>]*\shref=["'](?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//""",
)


def built(documents: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What comes of building these documents as `make docs` does."""
    (line,) = re.findall(r"^\tsphinx-build (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    places = {"build/doctrees": str(folder / "trees"), "build/site": str(folder / "site"), "docs": documents}
    arguments = [places.get(argument, argument) for argument in line.split()]
    return subprocess.run([sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site."""
    folder = tmp_path_factory.mktemp("site")
    done = built("docs", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "site"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"index.md": "# A\n\n[to](nowhere.md)\n"}, "target not found: 'nowhere.md'"),
        ({"index.md": "# A\n\n[to](#b)\n"}, "target not found: 'b'"),
        ({"index.md": "# A\n\n![no](picture.png)\n"}, "image file not readable: picture.png"),
        ({"index.md": "# A\n", "left.md": "# B\n"}, "document isn't included in any toctree"),
    ],
    ids=["page", "heading", "picture", "not reached"],
)
def test_what_leads_nowhere_ends_the_build(files: Mapping[str, str], told: str, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    shutil.copytree(ROOT / "docs" / "_static", documents / "_static")
    shutil.copy(ROOT / "docs" / "conf.py", documents)
    for name, text in files.items():
        (documents / name).write_text(text, encoding="utf-8")
    done = built(str(documents), tmp_path)
    assert done.returncode == 1
    assert told in done.stderr


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    pages = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html") if "_static" not in path.parts}
    assert pages - documents == {Path("genindex"), Path("search")}
    assert documents <= pages


def test_nothing_is_fetched(site: Path) -> None:
    texts = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(texts) > 20
    assert [path for path in texts if FETCHED.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.org/a.js">',
        '<link rel="stylesheet" href="//fonts.example.org/inter.css">',
        "@import url(https://fonts.example.org/inter.css)",
        'src: url("https://fonts.example.org/inter.woff2")',
    ],
)
def test_what_would_be_fetched_is_found(text: str) -> None:
    assert FETCHED.search(text)


def test_search_is_a_script_which_needs_no_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    assert '"palett' in index
    assert "searchindex.js" in (site / "search.html").read_text(encoding="utf-8")

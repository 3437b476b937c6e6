"""The documentation site: it builds without a warning, and shows itself without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["'](?:https?:)?//|<link\b(?![^>]*rel=["']canonical)[^>]*\shref=["'](?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//""",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    (line,) = re.findall(r"^\tsphinx-build (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    arguments = line.replace("build/doctrees", str(folder / "trees")).replace("build/site", str(folder / "site"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "site"


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

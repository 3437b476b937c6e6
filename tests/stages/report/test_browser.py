"""The page in a real browser, at both widths, light and dark: clicked, sorted, filtered; nothing fetched or logged."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressor.stages.app import app
from tests.stages.report import browser
from tests.stages.report.conftest import PARAMS, experiments, trained, write

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None and "CI" not in os.environ, reason="no Chromium here (a CI run without one fails)"
)

CONTRASTS = Path(__file__).with_name("contrasts.js").read_text(encoding="utf-8")
ROWS = "[...document.querySelectorAll('{table} tbody tr')].filter(row => !row.hidden)"


def rows(page, table, column):
    return page.run(f"{ROWS.format(table=table)}.map(row => row.cells[{column}].innerText.trim())")


@pytest.fixture(scope="module")
def page():
    with browser.page() as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(page):
    """Whatever a test does: only the file itself is asked for, and nothing is logged."""
    page.requests.clear()
    page.logged.clear()
    yield
    page.run("1")  # what was logged until now has arrived before the answer
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert page.logged == []


@pytest.fixture(scope="module")
def file(tmp_path_factory, artefacts):
    """The report of a repository with 60 experiments."""
    with contextlib.chdir(tmp_path_factory.mktemp("training")):
        trained(artefacts)
        experiments(60)
        assert CliRunner().invoke(app, ["report"]).exit_code == 0
        return Path("report.html").resolve()


@pytest.fixture
def opened(page, file):
    page.open(file, 1400)
    return page


def test_a_click_on_a_title_sorts(opened):
    assert rows(opened, "#table-1", 5)[:2] == ["3.58", "7.76"], "in the order of the model"
    opened.click("#table-1 thead th:nth-child(6) button")
    ratios = list(map(float, rows(opened, "#table-1", 5)))
    assert ratios == sorted(ratios, reverse=True)
    assert opened.run("document.querySelector('#table-1 [aria-sort]').ariaSort") == "descending"
    opened.click("#table-1 thead th:nth-child(6) button")
    assert list(map(float, rows(opened, "#table-1", 5))) == sorted(ratios)
    opened.click("#table-1 thead th:nth-child(2) button")
    assert rows(opened, "#table-1", 1) == sorted(rows(opened, "#table-1", 1))


def test_sizes_are_sorted_by_bytes_and_not_by_their_text(opened):
    opened.click("#table-1 thead th:nth-child(4) button")
    sizes = opened.run(f"{ROWS.format(table='#table-1')}.map(row => Number(row.cells[3].dataset.v))")
    assert sizes == sorted(sizes, reverse=True)


def test_typing_filters(opened):
    opened.click("[data-filter=table-1]")
    opened.type("LAYER.3")
    assert rows(opened, "#table-1", 1) == [], "what all names begin with is not in the rows"
    opened.run("document.activeElement.value = ''")
    opened.type("3.attention")
    assert rows(opened, "#table-1", 1) == ["int8"]
    assert opened.run("document.querySelector('#table-1 [data-count]').textContent") == " (1 shown)"


def test_a_form_can_be_left_out(opened):
    opened.click("[data-for=table-1][value=sparse]")
    assert rows(opened, "#table-1", 1) == ["palettized4", "sparse(palettized4)", "int8", "dense", "palettized4"]


def test_more_experiments_are_shown_on_demand(opened):
    assert len(rows(opened, "#runs", 0)) == 40
    opened.click("[data-more=runs]")
    assert len(rows(opened, "#runs", 0)) == 62
    assert opened.run("document.querySelector('[data-more=runs]').parentNode.hidden")


def test_details_open(opened):
    opened.click(".portrait details summary")
    assert opened.run("document.querySelector('.portrait table').checkVisibility()")


def test_a_point_says_what_it_is_and_lights_up_its_row(opened):
    opened.click("svg.scatter [data-run='0']")
    assert opened.run("document.querySelector('#tip').innerText") == "workspace: 0.05 MB, accuracy 0.95"
    assert opened.run("[...document.querySelectorAll('#runs .lit th')].map(one => one.innerText)") == ["workspace"]


def test_what_all_see_without_a_script_is_whole(opened, file):
    """The rows that the script hides are there for whoever runs none."""
    opened.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened.open(file, 1400)
        assert len(rows(opened, "#runs", 0)) == 62
        assert not opened.run("document.querySelector('.tools').checkVisibility()")
    finally:
        opened.ask("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_widths_and_schemes(page, file, width, dark):
    page.open(file, width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") == width, "nothing is wider than the page"
    paper = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(paper) < 60) == dark
    assert page.run(CONTRASTS) == [], "no text is too faint to read"


def test_several_targets_and_a_revision(page, repository, artefacts):
    shutil.rmtree("models")
    names = ["onnxruntime", "onnx-opset21"]
    write("params.yaml", PARAMS.replace("target: onnxruntime", f"targets: [{', '.join(names)}]"))
    for name in names:
        shutil.copytree(artefacts / name, f"models/compressed/{name}")
    assert CliRunner().invoke(app, ["report", "--against", "larger"]).exit_code == 0
    page.open(Path("report.html"), 400)
    assert page.run("document.documentElement.scrollWidth") == 400
    page.click("#targets ~ details summary")
    assert page.run("document.querySelectorAll('#targets ~ details tbody tr').length") == 6


def test_hostile_names_do_nothing(page, here, artefacts):
    assert CliRunner().invoke(app, ["report", str(artefacts / "hostile")]).exit_code == 0
    page.open(Path("report.html"), 1400)
    assert page.run("document.title") == "hostile: compression report"
    assert page.run("document.scripts.length") == 1
    page.click("#table-1 tbody tr:nth-child(2) th bdi")
    assert page.run("document.title") == "hostile: compression report"


def test_on_paper_everything_is_unfolded(opened):
    opened.ask("Page.printToPDF")
    assert len(rows(opened, "#runs", 0)) == 62
    assert opened.run("[...document.querySelectorAll('details')].every(one => one.open)")

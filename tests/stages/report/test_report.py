"""`compressor report` in training repositories, and of artefacts by themselves."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressor.stages.app import app
from tests.stages.report.conftest import HOSTILE, METRICS, PARAMS, experiments, git, write

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
WEIGHT = {"name": "w", "shape": [2], "dtype": "float32", "encoding": "dense", "dense_nbytes": 8, "rejected": []}
MANIFEST = dict.fromkeys(("nbytes", "dense_nbytes", "source_nbytes", "weights_nbytes", "weights_dense_nbytes"), 1)
MANIFEST |= {"target": "onnxruntime", "pipeline": "auto", "versions": {}, "files": [], "notes": []}
MANIFEST |= {"weights": [WEIGHT | {"nbytes": "8"}]}
VOID = {"meta", "link", "img", "input", "wbr", "br"}


def report(*arguments):
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, result.output


class Page(HTMLParser):
    """A page as a parser reads it: its text, the rows of each table by its caption, and every attribute.

    unclosed: the elements that were not closed where they should have been.
    """

    def __init__(self, path="report.html"):
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.said, self.tables, self.attributes, self.unclosed, self._open = [], {}, [], [], []
        self._caption, self._rows = [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *one) for one in attrs]
        if tag == "table":
            self._caption, self._rows = [], []
        if tag == "tr":
            self._rows.append([])
        if tag in {"td", "th"}:
            self._rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *one) for one in attrs]

    def handle_endtag(self, tag):
        if self._open.pop() != tag:
            self.unclosed.append(tag)
        if tag == "table":
            self.tables.setdefault("".join(self._caption).strip(), []).append(self._rows)

    def handle_data(self, data):
        if self._open and self._open[-1] in {"style", "script"}:
            return
        self.said.append(data)
        if "caption" in self._open:
            self._caption.append(data)
        elif self._rows and self._rows[-1] and {"td", "th"} & set(self._open):
            self._rows[-1][-1] = f"{self._rows[-1][-1]} {data.strip()}".strip()

    @property
    def text(self):
        return " ".join("".join(self.said).split())


@pytest.mark.usefixtures("repository")
def test_a_repository():
    assert report() == (0, f"report.html {Path('report.html').stat().st_size / 1000:.0f} kB\n")
    page = Page()
    assert page.unclosed == []
    assert "Its accuracy is 0.95, worse by 0.002. Both limits are kept." in page.text
    assert "The metrics are of another artefact: models/compressed takes 0.040 MB, and they say 0.05." in page.text
    assert page.tables["Limits"][0][1:] == [
        ["accuracy drop", "at most 0.01", "0.002", "kept"],
        ["times smaller", "at least 3", "4", "kept"],
    ]
    assert "All names begin with model.encoder.layer." in page.text
    rows = page.tables["7 weights, before and after"][0]
    assert [row[1] for row in rows[1:6]] == ["sparse", "palettized4", "sparse(palettized4)", "int8", "dense"]
    assert rows[2][0].startswith(f"1. attention. query. weight 64{TIMES}64 16 distinct values")
    assert [row[:5] for row in page.tables["2 experiments, the newest first"][0][1:]] == [
        ["workspace", "front", "0.05", "0.95", "0.002"],
        [f"Larger {git('rev-parse', '--short', 'larger').strip()}", "front", "0.08", "0.951", "0.002"],
    ]


@pytest.mark.usefixtures("repository")
def test_the_same_report_twice_is_the_same_file():
    report("--out", "one.html")
    report("--out", "two.html")
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


@pytest.mark.usefixtures("repository")
def test_a_page_loads_nothing():
    report()
    page = Page()
    loads = [(tag, value) for tag, name, value in page.attributes if name in {"src", "href", "action", "srcset"}]
    assert {value.partition(",")[0] for _, value in loads if not value.startswith("#")} == {
        "data:",
        "data:image/png;base64",
    }
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in (value or ""))
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert [name for _, name, _ in page.attributes if name == "style" or name.startswith("on")] == []


@pytest.mark.usefixtures("repository")
def test_against_a_revision():
    assert report("--against", "larger", "--out", "report.html", "--markdown", "report.md")[0] == 0
    changed = Page().tables["Metrics then and now"][0][1:]
    assert changed[0] == ["accuracy", "0.951", "0.95", f"{MINUS}0.001 worse"]
    assert ["size in MB", "0.08", "0.05", f"{MINUS}0.03 better"] in changed
    assert "models/compressed/manifest.json" in Page().text, "DVC does not track it there, and that is said"
    assert f"| accuracy | 0.951 | 0.95 | {MINUS}0.001 **worse** |" in Path("report.md").read_text()


@pytest.mark.usefixtures("repository")
def test_weights_against_a_revision():
    git("add", "--force", "models/compressed/manifest.json")
    git("commit", "--quiet", "--message", "With the manifest")
    path = Path("models/compressed/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["weights"][0] |= {"encoding": "dense", "nbytes": 16384}
    path.write_text(json.dumps(manifest))
    report("--against", "HEAD")
    name, then, now, before, after, change = Page().tables["1 weight is stored otherwise"][0][1]
    assert name.replace(" ", "") == "model.encoder.layer.0.attention.query.weight"
    assert (then, now, before, after, change) == ("sparse", "dense", "4.58 kB", "16.4 kB", "+11.8 kB")


@pytest.mark.usefixtures("repository")
def test_experiments_of_dvc_are_read_from_git():
    experiments(3)
    report()
    rows = Page().tables["5 experiments, the newest first"][0][1:]
    assert [row[0].split()[0] for row in rows] == ["workspace", "tired-", "tired-", "tired-", "Larger"]
    assert [row[1] for row in rows] == ["front", "front", "front", "front", "front"]
    assert rows[1][-1] == "finetune. sparsity = 0. 003"


@pytest.mark.usefixtures("repository")
def test_hundreds_of_experiments_are_quick():
    experiments(300)
    start = time.process_time()
    report("--markdown", "report.md")
    assert time.process_time() - start < 5
    assert re.search(r"302 experiments, \d+ of them beaten by none in size and score", Path("report.md").read_text())


@pytest.mark.usefixtures("here")
def test_an_artefact_that_is_not_smaller_is_not_called_so():
    write("models/compressed/manifest.json", MANIFEST | {"weights": [WEIGHT | {"nbytes": 8}]})
    assert report("--markdown", "-")[1].splitlines()[2].endswith("**1 B**, not smaller than uncompressed")


def test_several_targets(repository, artefacts):
    shutil.rmtree("models")
    shutil.rmtree("compression")
    names = ["onnx-opset21", "onnxruntime", "iOS17"]
    write("params.yaml", PARAMS.replace("target: onnxruntime", f"targets: [{', '.join(names)}]"))
    for name in names[:2]:
        shutil.copytree(artefacts / name, f"models/compressed/{name}")
        write(f"compression/{name}/metrics.json", METRICS | {"made_for": name})
    assert report("--out", "report.html", "--markdown", "report.md")[0] == 0
    page = Page()
    assert page.unclosed == []
    assert "3 artefacts of 2 experiments, 3 of them beaten by none" in Path("report.md").read_text()
    table = page.tables["What each target takes, and how well the model does there"][0]
    assert [row[0].replace(" ", "") for row in table[1:]] == names
    assert page.tables["Limits"][0][1][:2] == ["accuracy drop", "at most 0.01"]
    assert "compressor evaluate writes its metrics" in page.text
    assert "\n- `iOS17`: not measured, and not here\n" in Path("report.md").read_text()


def test_artefacts_by_themselves(here, artefacts):
    assert report(artefacts / "onnxruntime", artefacts / "plain.onnx")[0] == 0
    page = Page()
    assert page.unclosed == []
    assert "Experiments" not in page.text
    assert "was read back from the bytes on disk" not in page.text, "nobody has compared the plain model"


def test_hostile_names_are_text(here, artefacts):
    report(artefacts / "hostile", "--out", "report.html", "--markdown", "report.md")
    page = Page()
    assert page.unclosed == []
    assert {tag for tag, *_ in page.attributes} & {"b", "iframe", "base"} == set()
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    assert page.source.count("<script>") == 1
    shown = " ".join(page.said).replace(" ", "")
    for name in HOSTILE[:4]:
        assert name.replace(" ", "") in shown
    assert "\u202e" not in page.source
    assert "\x1b" not in page.source
    assert "\\u202egnp.exe" in shown
    text = Path("report.md").read_text()
    # In code, where neither HTML nor mentions are looked for; a bar would part cells even there.
    assert f"| `{HOSTILE[0]}` |" in text
    assert "| `` `w`\\|x\\|`\\| `` |" in text or "| `` `w`\\|x\\|` `` |" in text
    assert "| `@everyone #1 <!-- https://example.org` |" in text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"compression/metrics.json": METRICS}, "models/compressed is not here"),
        ({"compression/metrics.json": METRICS}, "There are no experiments to compare with: not a git repository"),
        ({"compression/metrics.json": {"size_mb": 1, "passed": True}}, "How well it does is not known"),
        ({"compression/metrics.json": {"size_mb": 1, "passed": True}}, "No limits are set"),
        ({"compression/metrics.json": {"size_mb": 1, "passed": True}}, "There is no score to draw against size"),
    ],
)
def test_what_is_missing_is_said(files, expected):
    for path, content in files.items():
        write(path, content)
    assert report()[0] == 0
    assert Page().unclosed == []
    assert expected in Page().text


@pytest.mark.usefixtures("here")
def test_a_detection_alone(artefacts):
    found = CliRunner().invoke(app, ["detect", str(artefacts / "plain.onnx"), "--out", "compression/detection.json"])
    assert found.exit_code == 0
    assert report()[0] == 0
    assert "Nothing has been compressed here yet." in Page().text
    assert len(Page().tables["7 weights"][0]) == 8


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["--against", "nowhere"], 2, "no revision 'nowhere'"),
        (["--out", "report.pdf"], 2, "report.pdf: expected a name that ends with .html, got '.pdf'."),
        (["--markdown", "params.yaml"], 2, "params.yaml: expected a name that ends with .md, got '.yaml'."),
        (["--out", "params.yaml/report.html"], 1, "params.yaml is not a directory"),
        (["missing.onnx"], 1, "missing.onnx: no such file or directory"),
        (["models/compressed", "--against", "HEAD"], 2, "--against compares a training repository with its past"),
        (["models/compressed", "--params", "gone.yaml"], 2, "--params is for the report of a training repository"),
        (["models/compressed", "-S", "nonsense=1"], 2, "-S is for the report of a training repository"),
        (["-S", "evaluate.limits.speed=3"], 2, "unknown limit 'speed'"),
    ],
)
def test_wrong_requests(arguments, status, expected):
    before = sorted(Path().rglob("*"))
    got, text = report(*arguments)
    assert got == status
    assert text.startswith("error: ")
    assert expected in text
    assert text.count("error: ") == 1
    assert sorted(Path().rglob("*")) == before, "nothing was written"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("path", "content", "status", "expected"),
    [
        ("nothing.txt", "", 2, "nothing to report"),
        ("compression/metrics.json", "{", 1, "compression/metrics.json: not valid JSON"),
        ("compression/metrics.json", {"loss": 1}, 1, "compression/metrics.json: not what `compressor evaluate` writes"),
        ("compression/detection.json", "[]", 1, "compression/detection.json: not a detection"),
        ("models/compressed/manifest.json", "{}", 1, "models/compressed/manifest.json: not a manifest"),
        ("models/compressed/manifest.json", MANIFEST, 1, "models/compressed/manifest.json: not a manifest"),
        ("params.yaml", "a: [", 2, "params.yaml: not valid YAML"),
    ],
)
def test_files_that_are_not_what_they_must_be(path, content, status, expected):
    write(path, content)
    got, text = report()
    assert (got, expected in text, text.count("\n")) == (status, True, 1), text
    assert not Path("report.html").exists()


@pytest.mark.usefixtures("repository")
def test_markdown_on_stdout():
    status, text = report("--markdown", "-")
    assert (status, text.splitlines()[0]) == (0, "### Compression of training")
    assert not Path("report.html").exists()


@pytest.mark.usefixtures("repository")
def test_an_old_commit_with_damaged_metrics_is_passed_over():
    for content in ("{", "[1]", '{"size_mb": "large", "accuracy": NaN}'):
        write("compression/metrics.json", content)
        git("commit", "--quiet", "--all", "--message", "Damaged")
    write("compression/metrics.json", METRICS)
    assert report()[0] == 0
    assert "2 experiments, the newest first; 1 without accuracy left out" in Page().text


@pytest.mark.usefixtures("repository")
def test_signatures_that_git_was_told_to_show_are_no_commits():
    head = git("cat-file", "commit", "HEAD").replace("\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n x\n\n", 1)
    git("update-ref", "HEAD", git("hash-object", "-t", "commit", "-w", "--stdin", into=head.encode()).strip())
    git("config", "log.showSignature", "true")
    report()
    assert "signature" not in Page().text.lower()


@pytest.mark.usefixtures("repository")
def test_a_folder_inside_of_a_repository():
    git("init", "--quiet", "..")
    shutil.rmtree(".git")
    git("add", ".")
    git("commit", "--quiet", "--message", "From a subfolder")
    write("compression/metrics.json", METRICS | {"size_mb": 0.04})
    report()
    assert re.search("2 experiments, .*workspace.*From a subfolder", Page().text)
    assert "with changes that are not committed" in Page().text


def test_a_folder_whose_name_has_spaces(here, artefacts, monkeypatch):
    git("init", "--quiet", ".")
    Path("my project").mkdir()
    monkeypatch.chdir("my project")
    write("compression/metrics.json", METRICS)
    git("add", ".")
    git("commit", "--quiet", "--message", "With spaces")
    write("compression/metrics.json", METRICS | {"size_mb": 0.04})
    assert report()[0] == 0
    assert "With spaces" in Page().text


@pytest.mark.usefixtures("repository")
def test_only_the_newest_experiments_are_shown(monkeypatch):
    from compressor.stages.report import history

    monkeypatch.setattr(history, "MOST_RUNS", 5)
    experiments(20)
    report()
    rows = Page().tables["6 experiments, the newest first"][0][1:]
    assert [row[2] for row in rows[1:]] == ["0.029", "0.028", "0.027", "0.026", "0.025"]
    assert "Only the newest 5 are shown." in Page().text


LATENCIES = {"latency_p50_ms": 0.2, "latency_p90_ms": 0.3, "load_ms": 9.5}
TIMED = {
    "latency_measured": True,
    **LATENCIES,
    "baseline": LATENCIES | {"load_ms": 3.0},
    "latency_ratio": 1.0,
    "load_ratio": 3.2,
    "latency_samples": 1,
    "cpu": "a <b> processor",
    "cpus": 2,
}


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (TIMED, "Timed in turns, 1 a run, on a <b> processor (2 processors)"),
        ({"latency_measured": False, "latency_reason": "no Mac"}, "latency is not measured: no Mac."),
    ],
)
def test_times(times, expected):
    write("compression/latency.json", times)
    assert report()[0] == 0
    assert expected in Page().text
    if times is TIMED:
        assert ["load in ms", "3.0", "9.5"] in Page().tables[expected][0]


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("times", ["[]", "{", "{}", {"latency_measured": True}])
def test_times_of_another_tool(times):
    write("compression/latency.json", times)
    status, text = report()
    assert (status, text.startswith("error: compression/latency.json: expected what")) == (1, True)

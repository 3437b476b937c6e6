"""Files at revisions of real repositories of Git and DVC."""

import json
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from compressor.errors import CompressorError, UsageError
from compressor.stages import revisions
from compressor.stages.revisions import dvc
from tests.stages.repositories import begin, commit, git

RECORD = b"outs:\n- md5: d861877da56b8b4ceb35c8cbfdf65bb4\n  size: 3\n  hash: md5\n  path: big.bin\n"
PIPELINE = """
stages:
  train:
    wdir: jobs/a
    cmd: >-
      python -c "import pathlib as p; p.Path('out/model/deep').mkdir(parents=True);
      p.Path('out/model/deep/w').write_text('${size}'); p.Path('log.json').write_text('{}')"
    params: [../../params.yaml: [size]]
    outs: [out/model, log.json]
  compress:
    matrix: {target: [A, B]}
    wdir: models/${item.target}
    cmd: python -c "open('x', 'w').write('${item.target}')"
    outs: [x]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with the revision `one`, and the experiment `two` that started from it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        begin()
        for place in ("jobs/a", "models/A", "models/B", "data"):
            Path(place).mkdir(parents=True)
            Path(place, ".keep").touch()
        Path("dvc.yaml").write_text(PIPELINE)
        Path("params.yaml").write_text("size: 1\n")
        Path("data/big.bin").write_bytes(b"big")
        Path("data/link").symlink_to("../params.yaml")
        Path("data/gone").symlink_to("nowhere")
        subprocess.run(["dvc", "add", "--quiet", "data/big.bin"], check=True)
        subprocess.run(["dvc", "repro", "--quiet"], check=True)
        commit("one")
        subprocess.run(["dvc", "exp", "run", "--quiet", "-n", "two", "-S", "size=2", "train"], check=True)
        git("reset", "--hard", "one")
        shutil.rmtree("jobs")  # what a revision has need not be here
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    shutil.copytree(made, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")


def contents(place):
    if place.is_file():
        return place.read_bytes()
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("params.yaml", b"size: 1\n"),
        ("data/big.bin", b"big"),
        ("jobs/a/log.json", b"{}"),
        ("jobs/a/out/model", {"deep/w": b"1"}),
        ("jobs/a/out/model/deep", {"w": b"1"}),
        ("jobs/a/out/model/deep/w", b"1"),
        ("jobs/../jobs/a/out", {".gitignore": b"/model\n", "model/deep/w": b"1"}),
        ("models/A/x", b"A"),
        ("models/B", {".keep": b"", ".gitignore": b"/x\n", "x": b"B"}),
        ("data/link", b"size: 1\n"),
        (
            "data",
            {".keep": b"", ".gitignore": b"/big.bin\n", "big.bin": b"big", "big.bin.dvc": RECORD, "link": b"size: 1\n"},
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_file_or_folder_of_git_or_dvc(path, expected):
    with revisions.find("one").checked_out(Path(path)) as place:
        assert place.name == Path(path).name
        assert contents(place) == expected
    assert not place.exists()


@pytest.mark.usefixtures("here")
def test_an_experiment_has_its_own_outputs():
    (experiment,) = revisions.experiments()
    head = subprocess.run(["git", "rev-parse", "one"], capture_output=True, text=True).stdout.strip()
    assert (experiment.name, experiment.baseline) == ("two", head)
    for name in ("two", experiment.commit, experiment.commit[:9]):
        assert revisions.find(name).text(Path("jobs/a/out/model/deep/w")) == "2"
    assert revisions.find("main").text(Path("jobs/a/out/model/deep/w")) == "1"


@pytest.mark.usefixtures("here")
def test_files_of_a_folder():
    names = [".gitignore", ".keep", "big.bin", "big.bin.dvc", "link"]
    assert revisions.find("one").files(Path("data")) == [PurePosixPath(name) for name in names]
    assert revisions.find("one").files(Path("data/big.bin")) == [PurePosixPath()]
    assert revisions.find("one").files(Path("nowhere")) == []


@pytest.mark.usefixtures("here")
def test_from_any_folder_and_by_an_absolute_path(monkeypatch):
    absolute = Path("params.yaml").absolute()
    monkeypatch.chdir("data")
    assert revisions.find("one").text(Path("../params.yaml")) == "size: 1\n"
    monkeypatch.chdir("/")
    assert revisions.find("one", beside=absolute).text(absolute) == "size: 1\n"


@pytest.mark.parametrize("config", ["config", "config.local"])
@pytest.mark.usefixtures("here")
def test_a_cache_elsewhere(config):
    Path(".dvc/cache").rename("elsewhere")
    Path(".dvc", config).write_text("['remote \"storage\"']\n    url = s3://x\n[cache]\n    dir = ../elsewhere\n")
    assert revisions.find("one").text(Path("data/big.bin")) == "big"


@pytest.mark.usefixtures("here")
def test_the_cache_of_dvc_2():
    for folder in Path(".dvc/cache/files/md5").iterdir():
        folder.rename(Path(".dvc/cache", folder.name))
    assert revisions.find("one").text(Path("jobs/a/out/model/deep/w")) == "1"


@pytest.mark.parametrize("lost", ["files", "folders"])
@pytest.mark.usefixtures("here")
def test_what_is_not_in_the_cache_is_asked_for(lost):
    for file in Path(".dvc/cache").rglob("*"):
        if file.is_file() and (file.suffix == ".dir") == (lost == "folders"):
            file.unlink()
    which = "jobs/a/out/model/deep/w" if lost == "files" else "jobs/a/out/model"
    expected = f"one:{which}: DVC tracks it, and its cache does not have this version. Run `dvc fetch --all-commits"
    with pytest.raises(UsageError, match=expected), revisions.find("one").checked_out(Path("jobs/a/out/model")):
        pass


@pytest.mark.usefixtures("here")
def test_a_file_that_dvc_records_and_git_holds():
    shutil.rmtree(".dvc/cache")
    git("rm", "--cached", "--quiet", "jobs/a/.gitignore")
    Path("jobs/a").mkdir(parents=True)
    Path("jobs/a/log.json").write_text('{"a": 1}')
    commit("kept")
    assert revisions.find("kept").text(Path("jobs/a/log.json")) == '{"a": 1}'


@pytest.mark.usefixtures("here")
def test_git_lfs():
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 3\n"
    Path("large.bin").write_text(pointer)
    commit("large")
    with pytest.raises(UsageError, match=r"large:large.bin: Git LFS keeps its content, and not on this machine"):
        revisions.find("large").text(Path("large.bin"))
    kept = Path(".git/lfs/objects/ab/ab") / ("ab" * 32)
    kept.parent.mkdir(parents=True)
    kept.write_text("all")
    assert revisions.find("large").text(Path("large.bin")) == "all"


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("mian", "params.yaml", "no revision 'mian'. Did you mean 'main'?"),
        ("--help", "params.yaml", "no revision '--help'. Branches, tags and experiments: main, one, two."),
        ("main:dvc.yaml", "params.yaml", "no revision 'main:dvc.yaml'."),
        ("", "params.yaml", "no revision ''."),
        ("one", "nowhere.json", "one:nowhere.json: the revision has no such file or folder, in Git or tracked by DVC."),
        ("one", "data/gone", "one:data/gone: the revision has no such file or folder"),
        ("one", "data/big.bin/x", "one:data/big.bin/x: the revision has no such file or folder"),
        ("one", "data", "one:data: is a directory, expected a file."),
        ("one", "/etc/passwd", "one:/etc/passwd: lies outside of the repository at "),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_not_there(name, path, expected):
    with pytest.raises(UsageError) as raised:
        revisions.find(name).text(Path(path))
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


def test_a_branch_of_the_remote_is_suggested(here, tmp_path, monkeypatch):
    git("branch", "release")
    git("clone", "--depth", "1", "--no-single-branch", f"file://{Path.cwd()}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(
        UsageError, match=r"no revision 'release'. Did you mean 'origin/release'\? The clone is shallow"
    ):
        revisions.find("release")


@pytest.mark.parametrize(
    ("set_up", "expected"),
    [((), "no revision can be read here: not a git repository"), (("init",), "the repository has no commits yet")],
)
def test_without_a_repository_or_commits(tmp_path, monkeypatch, set_up, expected):
    monkeypatch.chdir(tmp_path)
    if set_up:
        git(*set_up)
    with pytest.raises(UsageError, match=expected):
        revisions.find("HEAD")


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git cannot be run: No such file or directory"):
        revisions.find("HEAD")


@pytest.mark.usefixtures("here")
def test_a_listing_that_leads_outside():
    listing = next(file for file in Path(".dvc/cache").rglob("*.dir") if "deep/w" in file.read_text())
    listing.chmod(0o644)
    listing.write_text(json.dumps([{"md5": "0" * 32, "relpath": "../../stolen"}]))
    with pytest.raises(CompressorError, match=r"names ../../stolen, which lies outside"):
        revisions.find("one").files(Path("jobs"))


LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python src/prepare.py data/data.xml
    outs:
    - path: data/prepared
      md5: 20b786b6e6f80e2b3fcf17827ad18597.dir
      size: 23861319
      nfiles: 2
"""
STAGE = """md5: 0262b3d2369f126f3bfe99c8b9424791
wdir: .
outs:
- md5: 42c7025fc0edeb174069280d17add2d4.dir
  path: data/features
  cache: true
  metric: false
"""


# Of the public repository iterative/example-get-started, at two of its ages.
@pytest.mark.parametrize(
    ("name", "text", "path", "md5"),
    [
        ("dvc.lock", LOCK, "data/prepared", "20b786b6e6f80e2b3fcf17827ad18597.dir"),
        ("sub/featurize.dvc", STAGE, "sub/data/features", "42c7025fc0edeb174069280d17add2d4.dir"),
    ],
)
def test_records_of_older_versions_of_dvc(name, text, path, md5):
    (out,) = dvc.outputs(PurePosixPath(name), text, "", "HEAD")
    assert (str(out.path), out.md5) == (path, md5)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "outs: 3",
        "outs: [3]",
        "outs: [{path: /etc/passwd}]",
        "outs: [{path: s3://a/b}]",
        "outs: [{path: ../../b}]",
    ],
)
def test_records_of_what_lies_elsewhere_and_records_that_are_none(text):
    assert list(dvc.outputs(PurePosixPath("a.dvc"), text, "", "HEAD")) == []


def test_a_damaged_record_is_named():
    with pytest.raises(CompressorError, match=r"v1:dvc.lock: not valid YAML in line 1"):
        list(dvc.outputs(PurePosixPath("dvc.lock"), "{", "", "v1"))

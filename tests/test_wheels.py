"""What is installed: from the sources, from wheels with the loops in C and without; with a compiler and without.

Each is installed into an environment of its own, and compresses a model there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[1]
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
NO_COMPILER = {"CC": "false"}
PURE = {"COMPRESSOR_PURE": "1"}
NUMPY = "kernels: numpy (no compiler when it was installed)"

compiler = pytest.mark.skipif(
    not (shutil.which(COMPILER) and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason=f"no {COMPILER}, or no headers of Python",
)

GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
graph (float[n, 96] x) => (float[n, 96] y) { a = MatMul(x, p) b = MatMul(a, z) y = MatMul(b, g) }
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel(source: Path, into: Path, **environment: str) -> Path:
    """What `make wheel` runs."""
    said = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", into)
    run(sys.executable, "-m", "pip", "wheel", *said, source, cwd=into.parent, **environment)
    (made,) = into.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, of the files that Git has."""
    folder = tmp_path_factory.mktemp("source")
    listed = [
        "git",
        "ls-files",
        "-co",
        "--exclude-standard",
        "compressor",
        "stages",
        "*.toml",
        "setup.py",
        "README.md",
        "LICENSE",
    ]
    for name in run(*listed, cwd=ROOT).splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=folder)
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are palettized, pruned, and on a grid by groups."""
    random = np.random.default_rng(0)
    palette = random.standard_normal(16).astype(np.float32)[random.integers(0, 16, (96, 96))]
    pruned = (random.standard_normal((96, 96)) * (random.random((96, 96)) < 0.2)).astype(np.float32)
    scale = (random.random((3, 1, 96)) + 0.5).astype(np.float32)
    grid = (random.integers(-8, 8, (3, 32, 96)).astype(np.float32) * scale).reshape(96, 96)
    proto = onnx.parser.parse_model(GRAPH)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(values, name) for name, values in (("p", palette), ("z", pruned), ("g", grid))
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(proto, path)
    return path


def installed(made: Path, folder: Path, **environment: str) -> Path:
    """A clean environment that has a distribution, and what it depends on from this one."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in others))
    said = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *said, made, cwd=folder, **environment)
    return python


def digests(python: Path, model: Path, folder: Path) -> dict[str, str]:
    """The files that it makes of a model."""
    run(python, "-m", "compressor", "compress", model, "out", cwd=folder)
    return {
        file["name"]: file["sha256"] for file in json.loads((folder / "out" / "manifest.json").read_text())["files"]
    }


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests(Path(sys.executable), model, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize(
    ("form", "environment", "kernels"),
    [
        pytest.param("source", {}, "kernels: C", marks=compiler),
        ("source", NO_COMPILER, NUMPY),
        pytest.param("wheel", {}, "kernels: C", marks=compiler),
        ("wheel", PURE, NUMPY),
    ],
    ids=["sources", "sources without a compiler", "wheel", "pure wheel"],
)
def test_what_is_installed_runs(
    form: str,
    environment: dict[str, str],
    kernels: str,
    source: Path,
    model: Path,
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    made, given = (source, environment) if form == "source" else (wheel(source, tmp_path / "dist", **environment), {})
    python = installed(made, tmp_path, **given)
    where = run(python, "-c", "import compressor; print(compressor.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path / "env")
    assert run(tmp_path / "env" / "bin" / "compressor", "--version", cwd=tmp_path).splitlines()[1] == kernels
    assert digests(python, model, tmp_path) == expected


@compiler
def test_a_wheel_with_the_loops_serves_every_later_python(source: Path, tmp_path: Path) -> None:
    made = wheel(source, tmp_path / "dist")
    assert "-cp311-abi3-" in made.name
    names = zipfile.ZipFile(made).namelist()
    assert [name for name in names if name.startswith("compressor/native/")] == [
        "compressor/native/__init__.py",
        "compressor/native/loops.abi3.so",
    ]


def test_a_pure_wheel_serves_every_platform(source: Path, tmp_path: Path) -> None:
    made = wheel(source, tmp_path / "dist", **PURE)
    assert made.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(made).namelist() if name.endswith((".so", ".c", ".h"))]


def test_the_sources_are_all_there(source: Path) -> None:
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "compressor" / "native").glob("*.[ch]")}
    assert {"setup.py", "pyproject.toml", "stages/app.py", *wanted} <= packed


LOADED = """
import sys
from importlib import util
found = util.spec_from_file_location("loops", sys.argv[1])
loops = util.module_from_spec(found)
found.loader.exec_module(loops)
packed = bytearray(3)
loops.pack_into(bytearray([8, 7, 3, 4, 14]), packed, 4)
print(list(packed))
"""


@compiler
@pytest.mark.parametrize("later", ["python3.12", "python3.13", "python3.14"])
def test_its_loops_load_in_a_later_python(later: str, source: Path, tmp_path: Path) -> None:
    found = shutil.which(later)
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no {later}")
    with zipfile.ZipFile(wheel(source, tmp_path / "dist")) as archive:
        loops = archive.extract("compressor/native/loops.abi3.so", tmp_path)
    assert run(found, "-c", LOADED, loops, cwd=tmp_path) == "[120, 67, 14]\n"

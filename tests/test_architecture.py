"""What holds the code together: who imports whom and when, and what is shipped."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

HEAVY = ("coremltools", "numpy", "onnx", "onnx_ir", "onnxruntime", "sklearn", "torch")
MODEL = """<ir_version: 10, opset_import: ["": 18]> net (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }"""


def python(*arguments, cwd):
    """The packages, and modules of this one, that an interpreter has imported when it ends."""
    code = "import atexit, sys\natexit.register(lambda: print('MODULES', *sys.modules, file=sys.__stderr__))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + arguments[0], *arguments[1:]], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = next(line for line in done.stderr.splitlines() if line.startswith("MODULES "))
    return {name if name.startswith("compressor.") else name.partition(".")[0] for name in modules.split()}


COMMAND = "from compressor.stages.app import main\nmain()"


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8").count("[[tool.importlinter.contracts]]")
    assert f"{contracts} kept, 0 broken" in done.stdout


def test_only_the_command_line_imports_the_stages():
    """import-linter knows them as `stages`; what is installed, and what the core could import, is compressor.stages."""
    imports = re.compile(
        r"^\s*(from|import) (compressor\.)?stages\b|^\s*from compressor import .*\bstages\b", re.MULTILINE
    )
    modules = (ROOT / "compressor").rglob("*.py")
    assert [one.name for one in modules if imports.search(one.read_text(encoding="utf-8"))] == ["__main__.py"]


LATE = ("rich", "ruamel")


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (("import compressor",), (*HEAVY, *LATE, "pydantic", "typer")),
        ((COMMAND, "--help"), (*HEAVY, *LATE, "pydantic")),
        ((COMMAND, "compress", "--help"), (*HEAVY, *LATE, "pydantic")),
        ((COMMAND, "inspect", "m.onnx"), ("coremltools", "onnx_ir", "onnxruntime", "pydantic", "ruamel")),
        ((COMMAND, "detect", "m.onnx"), ("coremltools", "onnx_ir", "onnxruntime", "ruamel", "sklearn", "torch")),
        ((COMMAND, "compress", "m.onnx", "out", "--target", "onnx-opset21"), ("onnx_ir", "pydantic", "ruamel")),
    ],
    ids=" ".join,
)
def test_nothing_is_imported_that_a_command_does_not_need(arguments, unneeded, tmp_path):
    palette = np.random.default_rng(0).choice(np.linspace(-1, 1, 16, dtype=np.float32), (64, 64))
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(palette, "w"))
    onnx.save(model, tmp_path / "m.onnx")
    assert python(*arguments, cwd=tmp_path).isdisjoint(unneeded)


def test_an_onnx_file_needs_no_torch(tmp_path):
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (64, 64), [0, 0, 0, 1] * 1024))
    onnx.save(model, tmp_path / "model.onnx")
    modules = python(COMMAND, "compress", "model.onnx", "out", cwd=tmp_path)
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert modules.isdisjoint({"torch", "coremltools", "onnx_ir", "sklearn", "ruamel"})
    others = ("formats.coreml.", "formats.compressed_tensors", "formats.gguf", "sources.huggingface.weights")
    names_alone = {"compressor.formats.coreml.opsets", "compressor.formats.coreml.importing"}
    assert [
        name for name in modules - names_alone if name.startswith(tuple(f"compressor.{one}" for one in others))
    ] == []


def test_every_package_is_shipped():
    """A folder that is missing from the list works in the repository, and in no wheel."""
    files = [path.relative_to(ROOT) for folder in ("compressor", "stages") for path in (ROOT / folder).rglob("*.py")]
    packages = {".".join(path.parent.parts).replace("stages", "compressor.stages", 1) for path in files}
    assert sorted(packages) == PROJECT["tool"]["setuptools"]["packages"]


def test_every_requirement_is_pinned():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted} - {"compressor"}
    assert {re.sub("[-_.]+", "-", name) for name in names} <= pinned


def test_nothing_else_lies_at_the_top():
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {line.partition("/")[0] for line in tracked.stdout.splitlines()}
    assert top <= {
        ".ci", ".dvc", ".dvcignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
        "README.md", "compression", "compressor", "constraints.txt", "docs", "dvc.lock", "dvc.yaml", "examples",
        "models", "params.yaml", "pyproject.toml", "setup.py", "stages", "tests",
    }  # fmt: skip

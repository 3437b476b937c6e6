"""Training repositories to report: real models, compressed for real, in real Git repositories."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor

METRICS = {
    "made_for": "onnxruntime",
    "accuracy": 0.95,
    "accuracy_drop": 0.002,
    "agreement": 0.99,
    "size_mb": 0.05,
    "size_ratio": 4.0,
    "bits_per_weight": 8.0,
    "passed": True,
    "baseline": {"accuracy": 0.952, "size_mb": 0.2},
}
PARAMS = "target: onnxruntime\nfinetune:\n  sparsity: 0.5\nevaluate:\n  limits: {accuracy_drop: 0.01, size_ratio: 3}\n"
HOSTILE = (
    "<script>document.title = 'broken'</script>",
    "\" onmouseover=\"document.title = 'broken'",
    "'><img src=x onerror=\"document.title = 'broken'\">",
    "</title></style></script><b>",
    "\u202egnp.exe",
    "שלום.weight",
    "a\nb\x1b[2J",
    "`w`|x|`",
    "{{ 7 * 7 }}{% raw %}",
    "@everyone #1 <!-- https://example.org",
    "x" * 3000,
)


def values(form: str, number: int) -> np.ndarray:
    """A weight of 64 × 64 values of one form."""
    generator = np.random.default_rng(number)
    dense = generator.normal(size=(64, 64)).astype(np.float32)
    table = np.linspace(-1.5, 1.5, 16, dtype=np.float32)
    codes = generator.integers(0, 16, dense.shape)
    kept = generator.random(dense.shape) < 0.25
    return {
        "dense": dense,
        "sparse": np.where(kept, dense, 0),
        "palettized": table[codes],
        "joint": np.where(kept, table[codes], 0),
        "int": (np.clip(np.rint(dense * 40), -127, 127) * np.float32(0.01)).astype(np.float32),
    }[form]


def model(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """A chain of products."""
    nodes = [helper.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"]) for i, name in enumerate(weights)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["batch", 64]) for i in (0, len(weights))]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """Artefacts of a plain model, by target, and of one whose weights have hostile names."""
    folder = tmp_path_factory.mktemp("artefacts")
    forms = ("sparse", "palettized", "joint", "int", "dense")
    layers = {f"model.encoder.layer.{i}.attention.query.weight": values(forms[i % 5], i) for i in range(7)}
    plain = model(folder / "plain.onnx", layers)
    for target in ("onnxruntime", "onnx-opset21"):
        compressor.compress(plain, folder / target, target=target)
    hostile = model(folder / "hostile.onnx", {name: values("sparse", i) for i, name in enumerate(HOSTILE)})
    compressor.compress(hostile, folder / "hostile")
    return folder


def git(*arguments, into=None):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, input=into).stdout.decode()


def write(path: str, content: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    folder = tmp_path / "training"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def repository(here, artefacts):
    """What `trained` makes, in the current folder."""
    trained(artefacts)
    return here


def trained(artefacts: Path) -> None:
    """Make a training repository of one target, whose metrics were a little better and larger one commit ago."""
    shutil.copytree(artefacts / "onnxruntime", "models/compressed")
    write(".gitignore", "/models/\n")
    write("params.yaml", PARAMS)
    write("compression/metrics.json", METRICS | {"accuracy": 0.951, "size_mb": 0.08})
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "Larger")
    git("tag", "larger")
    write("compression/metrics.json", METRICS)
    git("commit", "--quiet", "--all", "--message", "Smaller")


def experiments(count: int) -> None:
    """Experiments as DVC keeps them, each a commit on the one that is checked out."""
    head = git("rev-parse", "HEAD").strip()
    lines = []
    for i in range(count):
        made = json.dumps(METRICS | {"accuracy": round(0.9 + i / 10_000, 4), "size_mb": round(0.01 + i / 1000, 3)})
        params = PARAMS.replace("0.5", f"0.{i + 1:03}")
        ref = f"refs/exps/{head[:2]}/{head[2:]}/tired-name-{i}"
        lines.append(f"commit {ref}\ncommitter t <t@example.org> {2_000_000_000 + i} +0000\ndata 3\nexp\nfrom {head}\n")
        for path, content in (("compression/metrics.json", made), ("params.yaml", params)):
            lines.append(f"M 100644 inline {path}\ndata {len(content.encode())}\n{content}\n")
    git("fast-import", "--quiet", into="".join(lines).encode())

"""The pipeline as a training repository runs it: real git, real dvc, the stages of this project's own dvc.yaml."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from ruamel.yaml import YAML

from tests.shell import environment

ROOT = Path(__file__).parents[1]
MODEL = """<ir_version: 10, opset_import: ["": 18]> net (float[N,64] x) => (float[N,10] logits)
{ h = MatMul(x, hidden) r = Relu(h) logits = MatMul(r, head) }"""
STAGES = ["toolchain", "export", "detect", "compress", "evaluate"]


@dataclass(frozen=True)
class Repository:
    """A training repository in which every command runs as on a shell."""

    path: Path
    packages: Path | None = None

    def run(self, *command):
        variables = environment(self.path.parent) | ({"PYTHONPATH": str(self.packages)} if self.packages else {})
        done = subprocess.run(
            command, cwd=self.path, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ran(self, *command):
        """The stages that a dvc command ran, in order."""
        lines = self.run("dvc", *command).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def read(self, name):
        return json.loads((self.path / "compression" / f"{name}.json").read_text())

    def copied(self, path):
        shutil.copytree(self.path, path, symlinks=True)
        return Repository(path)

    def commit(self):
        self.run("git", "add", ".")
        self.run("git", "commit", "-m", "run")

    def edit(self, change, name="params.yaml"):
        yaml = YAML()
        content = yaml.load(self.path / name)
        change(content)
        yaml.dump(content, self.path / name)


def trained(path):
    """A pruned palette and a dense head, and the samples that they label."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    hidden = random.choice([-0.5, -0.25, 0.25, 0.5], (64, 96)) * (random.random((64, 96)) < 0.25)
    head = random.standard_normal((96, 10), np.float32)
    for name, weight in {"hidden": hidden, "head": head}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, path / "trained.onnx")
    x = random.standard_normal((100, 64), np.float32)
    np.savez(path / "data.npz", x=x, labels=(np.maximum(x @ hidden, 0) @ head).argmax(1))


def pipeline(content):
    """The project's own pipeline behind another training, whose result is an ONNX file."""
    del content["stages"]["finetune"]
    text = (
        json.dumps(content)
        .replace("models/finetuned.pt", "trained.onnx")
        .replace("examples/digits/data.py", "data.npz")
    )
    content = json.loads(text)
    content["stages"]["export"]["deps"] = ["trained.onnx"]
    return content


def settings(content):
    del content["finetune"]
    content["export"] = {"opset": 18}
    content["detect"]["min_elements"] = 256
    content["coreml"]["axes"] = {}
    content["evaluate"] |= {"data": "data.npz", "limits": {"accuracy_drop": 0.0}}
    return content


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A repository after its first `dvc repro` and commit."""
    repository = Repository(tmp_path_factory.mktemp("first") / "repository")
    path = repository.path
    path.mkdir()
    trained(path)
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(pipeline(yaml.load(ROOT / "dvc.yaml")), path / "dvc.yaml")
    yaml.dump(settings(yaml.load(ROOT / "params.yaml")), path / "params.yaml")
    shutil.copy(ROOT / "constraints.txt", path)
    repository.run("git", "init")
    repository.run("dvc", "init")
    assert repository.ran("repro") == STAGES
    repository.commit()
    return repository


@pytest.fixture
def repository(first_run, tmp_path):
    """A copy that a test may change."""
    return first_run.copied(tmp_path / "repository")


def test_the_first_run_leaves_the_artefact_and_its_record(first_run):
    metrics = first_run.read("metrics")
    assert (metrics["accuracy"], metrics["agreement"], metrics["passed"]) == (1.0, 1.0, True)
    assert metrics["size_ratio"] > 2
    manifest = json.loads((first_run.path / "models" / "compressed" / "manifest.json").read_text())
    assert {weight["name"]: weight["encoding"] for weight in manifest["weights"]} == {
        "hidden": "palettized3",
        "head": "dense",
    }
    tracked = first_run.run("git", "ls-files", "compression", "models").split()
    assert tracked == [
        "compression/accuracy_size.csv",
        "compression/bytes.csv",
        "compression/confusion.csv",
        "compression/detection.json",
        "compression/metrics.json",
        "compression/sparsity.csv",
        "compression/toolchain.json",
        "models/.gitignore",
    ]


def test_a_second_run_has_nothing_to_do(first_run):
    assert first_run.ran("repro") == []
    assert first_run.run("git", "status", "--porcelain") == ""
    assert "up to date" in first_run.run("dvc", "status")


@pytest.mark.parametrize(("target", "file"), [("onnx-opset21", "model.onnx"), ("iOS17", "model.mlpackage")])
def test_another_target_is_an_experiment_that_reruns_what_depends_on_it(repository, target, file):
    assert repository.ran("exp", "run", "-S", f"target={target}") == ["compress", "evaluate"]
    assert {path.name for path in (repository.path / "models/compressed").iterdir()} == {file, "manifest.json"}
    metrics = json.loads((repository.path / "compression/metrics.json").read_text())
    assert (metrics["agreement"], metrics["runtime"]) == (1.0, "onnxruntime")
    assert "target" in repository.run("dvc", "params", "diff")
    changed = json.loads(repository.run("dvc", "metrics", "diff", "--json"))
    assert set(changed) <= {"compression/metrics.json"}
    shown = repository.run("dvc", "exp", "show", "--csv").splitlines()
    columns = shown[0].split(",")
    # A name that stands in two files would make DVC put the file in front of every column.
    assert {"accuracy", "size_mb", "passed", "baseline.size_mb", "target", "compress.pipeline"} <= set(columns)


def test_another_pipeline_shows_in_metrics_gate_and_plots(repository):
    assert repository.ran("exp", "run", "-S", "compress.pipeline=default_pruning") == ["compress", "evaluate"]
    changed = json.loads(repository.run("dvc", "metrics", "diff", "--json"))["compression/metrics.json"]
    assert set(changed) == {"size_mb", "size_ratio", "bits_per_weight"}
    assert changed["size_ratio"]["new"] < changed["size_ratio"]["old"]
    params = json.loads(repository.run("dvc", "params", "diff", "--json"))
    assert params == {"params.yaml": {"compress.pipeline": {"old": "auto", "new": "default_pruning"}}}
    # The gate and the plots see the same difference.
    with pytest.raises(AssertionError, match="size_ratio fell from"):
        repository.run("compressor", "check", "--against", "HEAD")
    repository.run("compressor", "check", "--against", "HEAD", "--tol", "accuracy=0")
    shown = json.loads(repository.run("dvc", "plots", "diff", "HEAD", "workspace", "--json"))
    assert not shown.get("errors")
    assert sorted(shown["data"]) == [
        f"compression/{name}.csv" for name in ("accuracy_size", "bytes", "confusion", "sparsity")
    ]
    for plots in shown["data"].values():
        for plot in plots:
            assert sorted(plot["revisions"]) == ["HEAD", "workspace"]


def test_results_come_back_from_the_cache(repository):
    """Going back to earlier settings runs nothing: what a stage reads is what it declares."""
    repository.edit(lambda content: content.update(target="onnx-opset21"))
    assert repository.ran("repro") == ["compress", "evaluate"]
    repository.run("git", "checkout", "params.yaml")
    assert repository.ran("repro") == []
    assert repository.run("git", "status", "--porcelain") == ""


def test_an_upgrade_reruns_the_stages_that_use_the_package(repository):
    """Another version is what the metadata of an installed package say."""
    fake = repository.path.parent / "packages" / "scikit_learn-99.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 99.0\n")
    upgraded = Repository(repository.path, fake.parent)
    constraints = repository.path / "constraints.txt"
    constraints.write_text(constraints.read_text().replace("scikit-learn==", "scikit-learn==99.0  # "))
    assert upgraded.ran("repro") == ["toolchain", "evaluate"]
    assert upgraded.read("toolchain")["scikit-learn"] == "99.0"
    params = json.loads(repository.run("dvc", "params", "diff", "--json"))
    assert params["compression/toolchain.json"]["scikit-learn"]["new"] == "99.0"


def test_an_upgrade_of_something_else_ends_at_the_toolchain(repository):
    constraints = repository.path / "constraints.txt"
    constraints.write_text(constraints.read_text() + "another-package==1.0\n")
    assert repository.ran("repro") == ["toolchain"]


LINKS = ["symlink", "hardlink", "reflink,copy", "copy"]


@pytest.mark.parametrize("links", LINKS if os.environ.get("COMPRESSOR_TESTS") == "all" else LINKS[:1])
def test_every_kind_of_cache(repository, tmp_path, links):
    """Shared, elsewhere, read-only where it is linked: stages read what is linked from it, and never write through."""
    cache, exported = tmp_path / "shared", repository.path / "models" / "exported"
    for key, value in {"cache.dir": str(cache), "cache.shared": "group", "cache.type": links}.items():
        repository.run("dvc", "config", key, value)
    trained = repository.path / "trained.onnx"
    onnx.save(onnx.load(trained), trained, save_as_external_data=True, location="trained.data", size_threshold=0)
    repository.edit(lambda content: content.update(target="iOS18"))
    assert repository.ran("repro", "--force") == STAGES
    assert repository.read("metrics")["agreement"] == 1.0
    repository.run("dvc", "checkout", "--relink")
    data = exported / "model.onnx.data"
    assert (data.is_symlink(), data.stat().st_nlink > 1) == (links == "symlink", links == "hardlink")
    before = {file: (file.read_bytes(), file.stat().st_mode) for file in cache.rglob("*") if file.is_file()}
    assert len(before) > 5
    # By hand, into what is linked.
    repository.run("compressor", "evaluate", "models/exported", "models/compressed", "--out", "again.json")
    repository.run("compressor", "compress", "models/compressed/model.mlpackage", "again", "--target", "iOS18")
    repository.run("compressor", "compress", "models/exported", "models/compressed", "--target", "onnxruntime")
    repository.run("compressor", "export", "trained.onnx", "models/exported")
    assert {file: (file.read_bytes(), file.stat().st_mode) for file in before} == before

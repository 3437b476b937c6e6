"""A repository with two targets as `compressor init` makes it: real git, real dvc, every stage run."""

import json

import pytest

from tests.test_dvc import Repository, trained

TARGETS = ["iOS17", "onnxruntime"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The repository after `dvc repro`, committed."""
    repository = Repository(tmp_path_factory.mktemp("several") / "repository")
    repository.path.mkdir()
    trained(repository.path)
    repository.run("git", "init")
    repository.run("dvc", "init")
    options = [word for target in TARGETS for word in ("--target", target)]
    repository.run("compressor", "init", "--model", "trained.onnx", "--data", "data.npz", *options)
    assert repository.ran("repro")[3:] == [
        "compress@iOS17", "compress@onnxruntime", "evaluate@iOS17", "evaluate@onnxruntime",
    ]  # fmt: skip
    repository.commit()
    return repository


@pytest.fixture
def repository(first_run, tmp_path):
    """A copy that a test may change."""
    return first_run.copied(tmp_path / "repository")


def test_each_target_has_its_artefact_and_its_metrics(first_run):
    for target in TARGETS:
        manifest = json.loads((first_run.path / "models" / "compressed" / target / "manifest.json").read_text())
        values = first_run.read(f"{target}/metrics")
        assert (manifest["target"], values["made_for"], values["accuracy"]) == (target, target, 1.0)
    sizes = [first_run.read(f"{target}/metrics")["baseline"]["size_mb"] for target in TARGETS]
    assert sizes[0] < 0.7 * sizes[1]  # float16 and float32


def test_dvc_shows_them_side_by_side(first_run):
    shown = json.loads(first_run.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert {path: file["data"].get("made_for") for path, file in shown.items()} == {
        "compression/detection.json": None,
        "compression/iOS17/metrics.json": "iOS17",
        "compression/onnxruntime/metrics.json": "onnxruntime",
    }
    plots = first_run.run("dvc", "plots", "show", "--json")
    assert all(f"compression/{target}/accuracy_size.csv" in plots for target in TARGETS)


def test_no_key_of_the_metrics_is_one_of_the_params(first_run):
    """Where one is, `dvc exp show` puts the names of files before columns that have none of their own."""
    commit = json.loads(first_run.run("dvc", "exp", "show", "--json"))[0]["data"]
    params = {key for file in commit["params"].values() for key in file["data"]}
    metrics = {key for file in commit["metrics"].values() for key in file["data"]}
    assert "made_for" in metrics
    assert not params & metrics


def test_an_experiment_differs_by_target(repository):
    repository.run("dvc", "exp", "run", "-S", "compress.pipeline=default_pruning")
    rows = json.loads(repository.run("dvc", "metrics", "diff", "--json"))
    assert set(rows) == {f"compression/{target}/metrics.json" for target in TARGETS}
    for changed in rows.values():
        assert changed["size_ratio"]["new"] < changed["size_ratio"]["old"]
        assert not changed.keys() & {"made_for", "accuracy", "baseline.size_mb"}


def test_a_new_target_runs_its_own_stages(repository):
    repository.edit(lambda content: content["targets"].append("onnx-opset18"))
    assert repository.ran("repro") == ["compress@onnx-opset18", "evaluate@onnx-opset18"]
    assert repository.ran("repro") == []

"""The commands on a real model, from files to files."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compressor.compilation.manifest import Manifest
from compressor.recognition.findings import Detection
from compressor.stages import app

SIZE = 64
EXPECTED = {"pruned.weight": "sparse", "palette.weight": "palettized4", "plain.weight": "dense", "plain.bias": "dense"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of matrix products: three quarters zeros, 16 values, and neither."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((3, SIZE, SIZE)).astype(np.float32)
    weights = {
        "pruned.weight": np.where(random.random((SIZE, SIZE)) < 0.75, 0, np.sign(normal[0]) + normal[0]).astype(
            np.float32
        ),
        "palette.weight": random.standard_normal(16).astype(np.float32)[random.integers(0, 16, (SIZE, SIZE))],
        "plain.weight": np.sign(normal[2]) + normal[2],
        "plain.bias": normal[2, 0],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "pruned.weight"], ["a"]),
        helper.make_node("MatMul", ["a", "palette.weight"], ["b"]),
        helper.make_node("Gemm", ["b", "plain.weight", "plain.bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(proto, tmp_path / "chain.onnx")
    monkeypatch.chdir(tmp_path)
    return Path("chain.onnx")


def run(*arguments: object, status: int = 0) -> Result:
    ended = CliRunner().invoke(app.app, [str(argument) for argument in arguments], env={"COMPRESSOR_DEBUG": "1"})
    assert ended.exit_code == status, ended.output
    return ended  # type: ignore[return-value]


def test_detect_prints_and_writes_what_it_found(model: Path) -> None:
    printed = run("detect", model, "--out", "c/detection.json", "--plots", "c/sparsity.csv").stdout
    assert "16 distinct values" in printed
    assert "plain.bias" in printed
    found = Detection.from_json(Path("c/detection.json").read_text())
    assert {finding.name for finding in found.findings} == set(EXPECTED)
    header, *rows = Path("c/sparsity.csv").read_text().splitlines()
    assert header == "weight,sparsity"
    assert {row.split(",")[0] for row in rows} == {"pruned", "palette", "plain"}
    assert run("detect", model, "--json").stdout == Path("c/detection.json").read_text()


def test_compress_writes_the_artefact_and_says_what_it_holds(model: Path) -> None:
    printed = run("compress", model, "out", "--plots", "bytes.json").stdout
    made = Manifest.from_json(Path("out/manifest.json").read_text())
    assert {weight.name: weight.encoding for weight in made.weights} == EXPECTED
    for part in ("sparse", "palettized4", "smaller than dense", "onnxruntime", "model.onnx"):
        assert part in printed
    rows = {row["weight"]: row["bytes"] for row in json.loads(Path("bytes.json").read_text())}
    assert rows["palette uncompressed"] == 4 * SIZE * SIZE
    assert rows["palette stored"] == SIZE * SIZE // 2 + 64
    assert run("compress", model, "again", "--json").stdout == Path("out/manifest.json").read_text()
    assert Path("out/model.onnx").read_bytes() == Path("again/model.onnx").read_bytes()


def test_detection_from_a_file_brings_its_settings(model: Path) -> None:
    run("detect", model, "--out", "detection.json", "-S", "detect.min_elements=5000")
    Path("params.yaml").write_text("detect: nonsense that a declared stage never sees")
    run("compress", model, "out", "--detection", "detection.json")
    made = Manifest.from_json(Path("out/manifest.json").read_text())
    assert {weight.encoding for weight in made.weights} == {"dense"}


def test_settings_decide(model: Path) -> None:
    Path("params.yaml").write_text("compress: {pipeline: default_pruning}")
    assert "palettized4" not in run("compress", model, "out").stdout
    assert "palettized4" in run("compress", model, "out", "-S", "compress.pipeline=default_palettization").stdout
    assert "palettized4" in run("compress", model, "out", "--pipeline", "auto").stdout


def test_a_dry_run_writes_nothing_and_names_every_refusal(model: Path) -> None:
    before = sorted(Path().iterdir())
    printed = run("compress", model, "out", "--dry-run").stdout
    assert "not " in printed
    plan = json.loads(run("compress", model, "out", "--dry-run", "--json").stdout)
    assert {weight["name"]: weight["encoding"] for weight in plan["weights"]} == EXPECTED
    assert any(weight["rejected"] for weight in plan["weights"])
    assert plan["weights_nbytes"] < plan["weights_dense_nbytes"]
    assert sorted(Path().iterdir()) == before


def test_inspect_reads_the_artefact_itself(model: Path) -> None:
    run("compress", model, "out")
    Path("out/manifest.json").unlink()
    assert "palettized4" in run("inspect", "out").stdout
    found = Manifest.from_json(run("inspect", "out", "--json").stdout)
    assert {weight.name: weight.encoding for weight in found.weights} == EXPECTED


def test_export_of_an_onnx_file_changes_nothing(model: Path) -> None:
    run("export", model, "exported")
    assert sorted(path.name for path in Path("exported").iterdir()) == ["model.onnx", "model.onnx.data"]
    source, copy = onnx.load(model), onnx.load("exported/model.onnx")
    assert [node.op_type for node in copy.graph.node] == [node.op_type for node in source.graph.node]
    for one, other in zip(source.graph.initializer, copy.graph.initializer, strict=True):
        assert one.name == other.name
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    run("compress", model, "from_file")
    run("compress", "exported", "from_directory")
    assert Path("from_file/model.onnx").read_bytes() == Path("from_directory/model.onnx").read_bytes()


def test_targets(model: Path) -> None:
    listed = {entry.pop("name"): entry for entry in json.loads(run("targets", "--json").stdout)}
    assert listed["onnx-opset21"]["summary"] == "ONNX Runtime 1.18 and later, opset 21"
    assert listed["macOS15"]["summary"] == "Core ML, iOS18 and its like, specification 9"
    text = run("targets").stdout
    for name, entry in listed.items():
        assert re.search(rf"^{name} +{entry['summary']}$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("detect", "absent.onnx"), "absent.onnx"),
        (("compress", "absent.onnx", "out"), "absent.onnx"),
        (("inspect", "absent"), "absent"),
        (("export", "absent.onnx", "out"), "absent.onnx"),
        (("export", "absent.pt", "out", "-S", "export.inputs.x.shape=[1]"), "absent.pt"),
        (
            ("export", "other.json", "out"),
            "unknown kind of model file '.json'. Did you mean '.onnx'? Choices: .bin, .ckpt, .gguf, .mlpackage",
        ),
        (("compress", "chain.onnx", "out", "--detection", "absent.json"), "absent.json: cannot be read"),
        (("compress", "chain.onnx", "out", "--detection", "chain.onnx"), "chain.onnx: "),
        (("compress", "chain.onnx", "out", "--detection", "other.json"), "other.json: "),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(model: Path, arguments: tuple[str, ...], message: str) -> None:
    Path("other.json").write_text("{}")
    before = sorted(Path().iterdir())
    ended = CliRunner().invoke(app.app, arguments)
    assert ended.exit_code in (1, 2)
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.stdout == ""
    assert sorted(Path().iterdir()) == before


def test_an_output_directory_with_other_files_is_left_alone(model: Path) -> None:
    ended = CliRunner().invoke(app.app, ["compress", "chain.onnx", "."])
    assert ended.exit_code == 2
    assert "holds chain.onnx" in ended.stderr
    assert model.is_file()


def test_a_recorded_version_is_compared(model: Path) -> None:
    Path("compression").mkdir()
    Path("compression/toolchain.json").write_text('{"compressor": "0.0.1"}')
    assert "warning: " in run("detect", model).stderr
    ended = CliRunner().invoke(app.app, ["detect", str(model), "--strict"])
    assert ended.exit_code == 1
    assert "compressor 0.0.1 is recorded" in ended.stderr


def test_a_torch_file_needs_no_export_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything between the file and the artefact happens in this run, with the settings of `export`."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("small_factory.py").write_text("import torch\n\ndef create(size):\n    return torch.nn.Linear(size, size)\n")
    Path("params.yaml").write_text(
        "export: {factory: 'small_factory:create', args: {size: 64}, inputs: {input: {shape: [1, 64]}}}"
    )
    layer = torch.nn.Linear(64, 64)
    values = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    layer.weight.data = values[torch.randint(0, 4, (64, 64), generator=torch.Generator().manual_seed(0))]
    torch.save(layer.state_dict(), "small.pt")
    run("compress", "small.pt", "alone")
    run("export", "small.pt", "exported")
    run("compress", "exported", "staged")
    made = Manifest.from_json(Path("alone/manifest.json").read_text())
    assert {weight.name: weight.encoding for weight in made.weights}["weight"] == "palettized2"
    assert Path("alone/model.onnx").read_bytes() == Path("staged/model.onnx").read_bytes()

"""A torch model becomes a graph that keeps every weight and that ONNX Runtime optimizes as it would the plain one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from compressor.errors import CompressorError, UsageError
from compressor.sources import onnx as onnx_source
from compressor.sources.torch import InputSpec, export

HERE = Path(__file__).parent
BATCH = {0: "batch"}
IDS = {"ids": InputSpec((2, 7), "int64", BATCH)}
SEQUENCE = {"x": InputSpec((2, 5, 16), dynamic=BATCH)}
FEATURES = {"input": InputSpec((2, 64), dynamic=BATCH)}
INPUTS = {
    "resnet": {"x": InputSpec((2, 3, 16, 16), dynamic=BATCH)},
    "transformer": {"ids": InputSpec((2, 7), "int64", {0: "batch", 1: "length"})},
    "lstm": SEQUENCE,
    "gru": SEQUENCE,
    "tied": IDS,
    "two_by_two": {"left": InputSpec((1, 8), dynamic=BATCH), "right": InputSpec((1, 8), dynamic=BATCH)},
}


NETWORKS = "torch_networks"


@dataclass(frozen=True)
class Exported:
    name: str
    model: torch.nn.Module
    directory: Path
    weights: dict[str, np.ndarray]
    graph: onnx.GraphProto
    plain: Path


def read(directory: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = onnx.load(directory / "model.onnx")
    return model, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture(scope="module", params=INPUTS)
def exported(request, networks, tmp_path_factory) -> Exported:
    """The network with the weights of a file, which are not those that its factory sets."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    trained = getattr(networks, name)(seed=2)
    torch.save(trained.state_dict(), root / "trained.pt")
    before = Path.cwd()
    os.chdir(HERE)
    try:
        export(root / "trained.pt", root, factory=f"torch_networks:{name}", inputs=INPUTS[name])
    finally:
        os.chdir(before)
    plain = root / "plain.onnx"
    examples = {key: sample(spec) for key, spec in INPUTS[name].items()}
    shapes = {key: dict(spec.dynamic) for key, spec in INPUTS[name].items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        torch.onnx.export(
            trained, (), plain, kwargs=examples, dynamic_shapes=shapes, dynamo=True, opset_version=18, verbose=False
        )
        logging.disable(logging.NOTSET)
    model, weights = read(root)
    return Exported(name, trained, root, weights, model.graph, plain)


def sample(spec: InputSpec, batch: int = 2) -> torch.Tensor:
    shape = [batch, *spec.shape[1:]]
    return torch.randint(0, 40, shape) if spec.dtype == "int64" else torch.randn(shape)


def optimized(path: Path) -> Counter[str]:
    """The operators that ONNX Runtime has after its own optimization."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.parent / "optimized.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def run(directory: Path, feeds: dict[str, torch.Tensor]) -> list[np.ndarray]:
    session = ort.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in feeds.items()})


def test_weights_keep_names_layouts_and_bits(exported: Exported):
    state = exported.model.state_dict()
    unused = {name for name in state if name.endswith("num_batches_tracked")}
    tied = {name for name in state if name == "out.weight" and "embedding.weight" in state}
    assert state.keys() - unused - tied <= exported.weights.keys()
    assert not tied & exported.weights.keys()
    for name in state.keys() - unused - tied:
        np.testing.assert_array_equal(exported.weights[name], state[name].numpy(), strict=True)


def test_nothing_else_is_large(exported: Exported):
    constants = exported.weights.keys() - exported.model.state_dict().keys()
    assert sum(exported.weights[name].nbytes for name in constants) < 1024


@pytest.mark.parametrize("batch", [1, 3])
def test_results_equal_torch(exported: Exported, batch: int):
    feeds = {name: sample(spec, batch) for name, spec in INPUTS[exported.name].items()}
    with torch.no_grad():
        expected = exported.model(**feeds)
    expected = list(expected.values()) if isinstance(expected, dict) else [expected]
    actual = run(exported.directory, feeds)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_onnx_runtime_ends_up_with_the_operators_of_the_plain_export(exported: Exported):
    assert optimized(exported.directory / "model.onnx") == optimized(exported.plain)


def test_graph_is_tidy(exported: Exported):
    onnx.checker.check_model(exported.directory / "model.onnx", full_check=True)
    operators = {node.op_type for node in exported.graph.node}
    assert not operators & {"CastLike", "Constant", "Identity"}
    convolutions = [node for node in exported.graph.node if node.op_type == "Conv"]
    assert all(len(node.input) == 2 for node in convolutions)
    # ONNX Runtime splits and fuses by the shapes in between; those of weights were stale after the optimizer.
    shapes = {value.name for value in exported.graph.value_info}
    assert shapes == {name for node in exported.graph.node for name in node.output} - {
        o.name for o in exported.graph.output
    }
    content = (exported.directory / "model.onnx").read_bytes()
    for trace in (b".py", b"pkg.torch", b"stack", str(Path.home()).encode()):
        assert trace not in content


def test_onnx_runtime_can_quantize_it(exported: Exported):
    """Its quantizer runs a strict shape inference, which refuses stale shapes."""
    quantize_dynamic(exported.directory / "model.onnx", exported.directory / "quantized.onnx")
    ort.InferenceSession(exported.directory / "quantized.onnx", providers=["CPUExecutionProvider"])


def test_names(exported: Exported):
    assert [value.name for value in exported.graph.input] == list(INPUTS[exported.name])
    outputs = {"two_by_two": ["hidden", "logits"]}.get(exported.name, ["output"])
    assert [value.name for value in exported.graph.output] == outputs
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_external_data_is_aligned_and_for_large_tensors_alone(networks, tmp_path: Path):
    model = networks.mlp(width=65)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    export(tmp_path / "trained.pt", tmp_path, factory="torch_networks:mlp", args={"width": 65}, inputs=FEATURES)
    assert {path.name for path in tmp_path.iterdir()} == {
        "trained.pt", "model.onnx", "model.onnx.data", "model.traced.pt",
    }  # fmt: skip
    tensors = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    stored = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}
    assert {name for name, entries in stored.items() if entries} == {"0.weight", "2.weight"}
    for name in ("0.weight", "2.weight"):
        assert stored[name]["location"] == "model.onnx.data"
        assert int(stored[name]["offset"]) % 4096 == 0


def test_another_process_writes_the_same_bytes(networks, tmp_path: Path):
    torch.save(networks.tied(seed=2).state_dict(), tmp_path / "trained.pt")
    (tmp_path / "other").mkdir()
    export(tmp_path / "trained.pt", tmp_path, factory="torch_networks:tied", inputs=IDS)
    code = (
        "import sys; from pathlib import Path; from compressor.sources.torch import InputSpec, export;"
        "spec = InputSpec((2, 7), 'int64', {0: 'batch'});"
        "export(Path(sys.argv[1]), Path(sys.argv[2]), factory='torch_networks:tied', inputs={'ids': spec})"
    )
    path = os.pathsep.join(filter(None, [str(HERE.parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "trained.pt", tmp_path / "other"],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(networks, tmp_path: Path, dtype: str):
    model = networks.mlp(dtype)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    inputs = {"input": InputSpec((2, 64), dtype, BATCH)}
    export(tmp_path / "trained.pt", tmp_path, factory="torch_networks:mlp", args={"dtype": dtype}, inputs=inputs)
    _, weights = read(tmp_path)
    for name, value in model.state_dict().items():
        assert str(weights[name].dtype) == dtype
        np.testing.assert_array_equal(weights[name].view(np.uint16), value.view(torch.uint16).numpy())
    if dtype == "float16":  # ONNX Runtime has no bfloat16 kernels for CPUs
        x = torch.randn(3, 64, dtype=torch.float16)
        np.testing.assert_allclose(run(tmp_path, {"input": x})[0], model(x).detach().numpy(), atol=5e-3)


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_opset_and_names_are_those_declared(networks, tmp_path: Path, opset: int):
    model = networks.mlp()
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    settings = {"factory": "torch_networks:mlp", "inputs": FEATURES, "outputs": ["logits"], "opset": opset}
    export(tmp_path / "trained.pt", tmp_path, **settings)
    written, weights = read(tmp_path)
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    assert [value.name for value in written.graph.output] == ["logits"]
    np.testing.assert_array_equal(weights["0.weight"], model[0].weight.detach().numpy())


def masked(state):
    mask = (torch.rand(64, 64) > 0.5).float()
    pruned = {"0.weight_orig": state["0.weight"], "0.weight_mask": mask} | state
    state["0.weight"] = pruned.pop("0.weight") * mask
    return pruned


SOURCES = {
    "bare.pth": lambda path, model: torch.save(model.state_dict(), path),
    "legacy.pt": lambda path, model: torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False),
    "lightning.pt": lambda path, model: torch.save({"epoch": 3, "state_dict": model.state_dict()}, path),
    "wrapped.pt": lambda path, model: torch.save({"model_state_dict": model.state_dict(), "loss": 0.5}, path),
    "weights.safetensors": lambda path, model: safetensors.torch.save_file(model.state_dict(), path),
}


@pytest.mark.parametrize("file", SOURCES)
def test_sources_of_a_state_dict(networks, tmp_path: Path, file: str):
    model = networks.mlp()
    torch.nn.init.normal_(model[0].weight)
    SOURCES[file](tmp_path / file, model)
    export(tmp_path / file, tmp_path, factory="torch_networks:mlp", inputs=FEATURES)
    np.testing.assert_array_equal(read(tmp_path)[1]["0.weight"], model[0].weight.detach().numpy())


def test_masks_of_pruning_become_part_of_the_weight(networks, tmp_path: Path):
    state = networks.mlp().state_dict()
    torch.save(masked(state), tmp_path / "pruned.pt")
    export(tmp_path / "pruned.pt", tmp_path, factory="torch_networks:mlp", inputs=FEATURES)
    np.testing.assert_array_equal(read(tmp_path)[1]["0.weight"], state["0.weight"].numpy())
    assert 1000 < np.count_nonzero(state["0.weight"].numpy() == 0) < 3000


def test_a_module_with_masks_exports_its_pruned_weight(networks, tmp_path: Path):
    model = networks.mlp()
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    torch.save(model, tmp_path / "whole.pt")
    export(tmp_path / "whole.pt", tmp_path, inputs=FEATURES, allow_pickle=True)
    weights = read(tmp_path)[1]
    assert weights.keys() == networks.mlp().state_dict().keys()
    np.testing.assert_array_equal(weights["0.weight"], model[0].weight.detach().numpy())


def test_safetensors_may_hold_a_tied_weight_once(networks, tmp_path: Path):
    model = networks.tied(seed=2)
    safetensors.torch.save_model(model, str(tmp_path / "tied.safetensors"))
    assert len(safetensors.torch.load_file(tmp_path / "tied.safetensors")) == len(model.state_dict()) - 1
    export(tmp_path / "tied.safetensors", tmp_path, factory="torch_networks:tied", inputs=IDS)
    weight = model.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(read(tmp_path)[1]["embedding.weight"], weight)
    assert onnx_source.read(tmp_path / "model.onnx").aliases == {"out.weight": "embedding.weight"}


@pytest.fixture(scope="module")
def program(networks, tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    model, path = networks.resnet(seed=3), tmp_path_factory.mktemp("program") / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.export.export(
            model, (torch.randn(2, 3, 16, 16),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
        )
        torch.export.save(traced, path)
    return model, path


def test_exported_program(program, tmp_path: Path):
    model, path = program
    export(path, tmp_path, inputs=INPUTS["resnet"], outputs=["logits"])
    written, weights = read(tmp_path)
    assert Counter(node.op_type for node in written.graph.node)["BatchNormalization"] == 3
    np.testing.assert_array_equal(weights["stem.0.weight"], model.stem[0].weight.detach().numpy())
    x = torch.randn(5, 3, 16, 16)
    np.testing.assert_allclose(run(tmp_path, {"x": x})[0], model(x).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": InputSpec((2, 3, 16, 16))}, r"takes \(x\): export.inputs.y is no input of it; export.inputs.x is not"),
        (
            {"x": InputSpec((2, 3, 16, 17), dynamic=BATCH)},
            r"declared float32 \[2, 3, 16, 17\].*float32 \[\?, 3, 16, 16\]",
        ),
        ({"x": InputSpec((2, 3, 16, 16), "float16", BATCH)}, "declared float16"),
        ({"x": InputSpec((2, 3, 16, 16), dynamic={0: "batch", 2: "height"})}, r"2: 'height'.*traced with"),
    ],
)
def test_an_exported_program_must_be_declared_as_it_is(program, tmp_path: Path, inputs, message: str):
    with pytest.raises(UsageError, match=message):
        export(program[1], tmp_path, inputs=inputs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("factory", "spec", "message"),
    [
        ("eigenvalues", InputSpec((4, 4)), r"no ONNX form for the operator aten\.linalg_eig"),
        (
            "branching",
            InputSpec((2, 4)),
            r"torch cannot export the model \(torch_networks\.py:\d+, in forward\): .*Make",
        ),
        ("fixed", InputSpec((2, 4), dynamic=BATCH), r"declared dynamic.*export\.inputs\.NAME\.dynamic"),
    ],
)
def test_what_torch_cannot_export(tmp_path: Path, capfd, factory: str, spec: InputSpec, message: str):
    torch.save({}, tmp_path / "empty.pt")
    with pytest.raises(CompressorError, match=message) as raised:
        export(tmp_path / "empty.pt", tmp_path, factory=f"torch_networks:{factory}", inputs={"x": spec})
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.pt"]
    assert capfd.readouterr() == ("", "")

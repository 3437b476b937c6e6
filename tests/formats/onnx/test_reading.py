"""ONNX files read without their tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.arrays import STORED_DTYPES, DType, MappedArray, spec_of
from compressor.errors import CompressorError
from compressor.formats.onnx import reading, wire
from compressor.formats.onnx.dtypes import DTYPES

RNG = np.random.default_rng(0)


def save(path: Path, *tensors: onnx.TensorProto, nodes: list[onnx.NodeProto] | None = None) -> Path:
    graph = helper.make_graph(nodes or [], "graph", [], [], tensors)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    return path


def external(location: str, dims: tuple[int, ...] = (4,), /, **entries: object) -> onnx.TensorProto:
    made = onnx.TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def only(path: Path) -> onnx.TensorProto:
    found: onnx.TensorProto = reading.load(path).graph.initializer[0]
    return found


def within(dtype: DType) -> tuple[int, int]:
    """Whole numbers that are values of any type; one has powers of two alone."""
    if dtype == STORED_DTYPES["float8_e8m0fnu"]:
        return 1, 3
    return (0, 2) if dtype.name.startswith(("uint", "bool")) else (-1, 2)


@pytest.mark.parametrize("kind", sorted(DTYPES))
@pytest.mark.parametrize("count", [5, 3001])
def test_raw_data_of_every_type(tmp_path: Path, kind: int, count: int) -> None:
    dtype = DTYPES[kind]
    values = RNG.integers(*within(dtype), count).astype(np.int8).astype(dtype)
    path = save(tmp_path / "m.onnx", numpy_helper.from_array(values, "w"))
    found = reading.array(only(path), tmp_path)
    assert isinstance(found, MappedArray) == (spec_of(found).nbytes >= 1024)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found), values)
    np.testing.assert_array_equal(np.asarray(found), numpy_helper.to_array(onnx.load(path).graph.initializer[0]))


@pytest.mark.parametrize("kind", sorted(DTYPES))
@pytest.mark.parametrize("count", [0, 7, 800])
def test_typed_fields_of_every_type(tmp_path: Path, kind: int, count: int) -> None:
    dtype = DTYPES[kind]
    values = RNG.integers(*within(dtype), count).astype(np.int8).astype(dtype)
    made = helper.make_tensor("w", kind, [count], values.astype(np.float64) if dtype.kind == "V" else values)
    found = reading.array(only(save(tmp_path / "m.onnx", made)), tmp_path)
    assert isinstance(found, MappedArray) == (kind in {TensorProto.FLOAT, TensorProto.DOUBLE} and count == 800)
    np.testing.assert_array_equal(np.asarray(found), values)
    assert np.asarray(found).dtype == dtype


def test_tensors_wherever_they_are_stay_on_disk(tmp_path: Path) -> None:
    large = numpy_helper.from_array(RNG.standard_normal((64, 64)).astype(np.float32), "large")
    small = numpy_helper.from_array(np.ones(3, np.float32), "small")
    sparse = helper.make_sparse_tensor(large, numpy_helper.from_array(np.arange(4096), "places"), [1 << 20])
    constant = helper.make_node("Constant", [], ["c"], value=large)
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("c", 1, [64, 64])], [large, small])
    nodes = [constant, helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body)]
    graph = helper.make_graph(nodes, "graph", [], [], [small, large, small], sparse_initializer=[sparse])
    function = helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 21)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], functions=[function])
    path = tmp_path / "m.onnx"
    onnx.save(model, path)

    found = reading.load(path)
    assert found.ByteSize() < 3000
    branches = [attribute.g for attribute in found.graph.node[1].attribute]
    tensors = [
        found.graph.node[0].attribute[0].t,
        found.graph.initializer[1],
        found.graph.sparse_initializer[0].values,
        found.functions[0].node[0].attribute[0].t,
        *(branch.initializer[0] for branch in branches),
        *(branch.node[0].attribute[0].t for branch in branches),
    ]
    for tensor in tensors:
        assert tensor.data_location == TensorProto.EXTERNAL
        np.testing.assert_array_equal(np.asarray(reading.array(tensor, tmp_path)), numpy_helper.to_array(large))
        tensor.CopyFrom(large)
    places = found.graph.sparse_initializer[0].indices
    np.testing.assert_array_equal(np.asarray(reading.array(places, tmp_path)), np.arange(4096))
    places.CopyFrom(sparse.indices)
    assert found == model


def test_memory_and_time_do_not_depend_on_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(path, numpy_helper.from_array(np.ones((1 << 20, 64), np.float32), "w"))
    code = (
        "import sys, resource, pathlib; from compressor.formats.onnx import reading; import onnx\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "reading.load(pathlib.Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 << 10  # KiB, of a file of 256 MiB


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("gone.data", {}, r"tensor 'w': its data file .*gone\.data cannot be read \(No such file"),
        ("w.data", {"offset": 8}, r"tensor 'w': expected bytes 8 to 24 of .*w\.data, which has 16"),
        ("w.data", {"length": 12}, r"tensor 'w' float32\[4\]: expected 16 bytes of data, got 12 bytes in .*w\.data"),
        ("w.data", {"offset": -4}, "expected bytes -4 to 12"),
        ("w.data", {"offset": "four"}, "invalid literal"),
        ("w.data", {"length": 10**30}, "which has 16"),
        ("", {}, "is not a file name"),
        (".", {}, "is not a file name"),
        ("../w.data", {}, "leads out of the model's folder"),
        ("/etc/passwd", {}, "is an absolute path"),
        ("outside.data", {}, "is a link that leads out of the model's folder, to .*secret"),
        ("linked/secret", {}, "is a link that leads out of the model's folder, to .*secret"),
        ("linked/" + "ab" * 32, {}, "is a link that leads out of the model's folder, to .*abab"),
    ],
)
def test_external_data_that_is_not_there(
    tmp_path: Path, location: str, entries: dict[str, object], message: str
) -> None:
    folder, outside = tmp_path / "model", tmp_path / "other"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(16))
    (outside / ("ab" * 32)).write_bytes(bytes(16))
    (folder / "w.data").write_bytes(bytes(16))
    (folder / "outside.data").symlink_to(outside / "secret")
    (folder / "linked").symlink_to(outside)
    tensor = only(save(folder / "m.onnx", external(location, **entries)))
    with pytest.raises(CompressorError, match=message) as caught:
        reading.array(tensor, folder)
    assert "\n" not in str(caught.value)


def test_external_data_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (tmp_path / "link").symlink_to("data/w")
    for location in ("data/w", "link"):
        tensor = only(save(tmp_path / "m.onnx", external(location, offset=8)))
        assert np.asarray(reading.array(tensor, tmp_path)).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("dims", [(-1,), (2, -2), (1 << 62, 4), (1 << 40, 1 << 40), (5,), (1 << 50,), (1,) * 70])
@pytest.mark.parametrize("form", ["raw", "typed", "external"])
def test_dimensions_that_do_not_fit_the_data(tmp_path: Path, dims: tuple[int, ...], form: str) -> None:
    tensor = onnx.TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT)
    if form == "raw":
        tensor.raw_data = bytes(16)
    elif form == "typed":
        tensor.float_data[:] = [1, 2, 3, 4]
    else:
        (tmp_path / "w.data").write_bytes(bytes(16))
        tensor = external("w.data", dims)
    with pytest.raises(CompressorError, match="tensor 'w'"):
        reading.array(only(save(tmp_path / "m.onnx", tensor)), tmp_path)


def test_types_without_elements(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=TensorProto.STRING, string_data=[b"text"])
    with pytest.raises(CompressorError, match="tensor 'w': data type 8, expected one of float32, uint8"):
        reading.array(tensor, tmp_path)


@pytest.mark.parametrize("kept", [1, 10, 300, 4000])
def test_truncated_files_are_refused(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "m.onnx", numpy_helper.from_array(np.ones(2000, np.float32), "w"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CompressorError, match=r"m\.onnx: not an ONNX model, or truncated"):
        reading.load(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(CompressorError, match="cannot be read: No such file"):
        reading.load(path)
    with pytest.raises(CompressorError, match="cannot be read: Is a directory"):
        reading.load(tmp_path)
    path.touch()
    with pytest.raises(CompressorError, match="the file is empty"):
        reading.load(path)
    path.write_text("<html>no such page</html>")
    with pytest.raises(CompressorError, match="not an ONNX model"):
        reading.load(path)
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(CompressorError, match="it has no graph"):
        reading.load(path)
    path.write_bytes(onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString())
    with pytest.raises(CompressorError, match="it has no opset_import"):
        reading.load(path)


def test_graphs_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    content = bytes(2000)
    for _ in range(1500):
        attribute = b"\x32" + varint(len(content)) + content
        node = b"\x2a" + varint(len(attribute)) + attribute
        content = b"\x0a" + varint(len(node)) + node
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + varint(len(content)) + content)
    with pytest.raises(CompressorError, match="not an ONNX model"):
        reading.load(tmp_path / "m.onnx")


def varint(number: int) -> bytes:
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


@pytest.mark.parametrize(
    "address",
    [
        "files/md5/5d/41402abc4b2a76b9719d911017c592",
        "blobs/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "annex/objects/MD5E-s16--5d41402abc4b2a76b9719d911017c592.onnx.data",
    ],
)
def test_data_behind_a_link_into_a_cache(tmp_path: Path, address: str) -> None:
    """As DVC, the Hugging Face Hub and git-annex have them: each file beside the other under its own name."""
    cached, folder = tmp_path / "cache" / address, tmp_path / "model"
    folder.mkdir()
    cached.parent.mkdir(parents=True)
    cached.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "w.data").symlink_to(cached)
    found = reading.array(only(save(folder / "m.onnx", external("w.data"))), folder)
    assert np.asarray(found).tolist() == [0, 1, 2, 3]


def test_strings_are_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a field: a walk over all of them would take longer than reading the file does."""
    looked, field = 0, wire.field

    def counted(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return field(*arguments)

    monkeypatch.setattr(wire, "field", counted)
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[50_000], string_data=[b"word"] * 50_000)
    graph = helper.make_graph([], "graph", [], [], [words])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    assert len(reading.load(tmp_path / "m.onnx").graph.initializer[0].string_data) == 50_000
    assert looked < 50

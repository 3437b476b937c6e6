"""Weights of any program: in nested blocks, in several functions, shared, and put in the place of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, decode, name
from compressor.formats.coreml import blob, lowering, programs, values
from compressor.formats.coreml.constants import lift
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.opsets import OPSETS
from tests.formats.coreml.models import in_package, model, read, save, write

RNG = np.random.default_rng(0)
F16 = np.float16


def reader(kind: str, weight: str, output: str) -> Any:
    """An operation that reads a weight."""
    made = messages("MIL").Operation(type=kind)
    made.inputs["weight"].arguments.add(name=weight)
    made.outputs.add(name=output)
    return made


def nested(kind: str, *blocks: list[Any]) -> Any:
    made = messages("MIL").Operation(type=kind)
    for operations in blocks:
        block = made.blocks.add()
        block.operations.extend(operations)
        block.outputs.append(operations[-1].outputs[0].name)
    made.outputs.add(name=f"{kind} out")
    return made


SPARSE = Sparse(np.arange(60).reshape(6, 10) % 3 == 0, Dense(RNG.standard_normal(20).astype(F16)), (6, 10))
JOINT = Sparse(
    SPARSE.mask,
    Quantized(
        Palettized(np.arange(20, dtype=np.uint8) % 4, np.arange(4, dtype=np.int8).reshape(1, 1, 4, 1)),
        np.ones((1, 1), F16),
    ),
    (6, 10),
)


def lowered(store: blob.Store, name: str, encoding: Encoding = SPARSE) -> list[Any]:
    return lowering.lower(name, encoding, 9, store)


def test_weights_of_nested_blocks(tmp_path: Path) -> None:
    def build(store: blob.Store) -> Any:
        inner = [*lowered(store, "c"), reader("linear", "a", "c2")]
        loop = nested(
            "while_loop",
            [reader("less", "x", "l")],
            [*lowered(store, "b"), reader("conv", "b", "b2"), nested("cond", inner)],
        )
        return model(9, [*lowered(store, "a"), reader("linear", "a", "y"), loop], ["y"])

    found = in_package(tmp_path, build)
    lifted = lift(found.model.mlProgram, found)
    assert [weight.name for weight in lifted.weights] == ["a", "b"]  # nothing reads c
    assert {weight.name: weight.uses for weight in lifted.weights} == {"a": ("linear",), "b": ("conv",)}
    assert [site.path for site in lifted.sites["b"]] == [((2, 1),)]
    for weight in lifted.weights:
        np.testing.assert_array_equal(decode(weight.encoding), decode(SPARSE))


def several(store: blob.Store) -> Any:
    """Two functions that share `w` under two names, and each have an `own`."""
    shared = lowered(store, "w", JOINT)
    made = model(9, [], [])
    for function, weight in (("decode", "w"), ("prefill", "v")):
        block = made.mlProgram.functions[function].block_specializations[OPSETS[9]]
        own = lowered(store, "own", Dense(RNG.standard_normal((3, 5)).astype(F16)))
        block.operations.extend([*lowering.renamed(shared, "w", weight), *own])
        block.operations.extend(
            [reader("linear" if weight == "w" else "conv", weight, "y"), reader("matmul", "own", "z")]
        )
    del made.mlProgram.functions["main"]
    return made


def test_functions_that_share_what_is_stored(tmp_path: Path) -> None:
    found = in_package(tmp_path, several)
    lifted = lift(found.model.mlProgram, found)
    assert [weight.name for weight in lifted.weights] == ["w", "own", "prefill/own"]
    assert [(site.function, site.output) for site in lifted.sites["w"]] == [("decode", "w"), ("prefill", "v")]
    assert lifted.weights[0].uses == ("conv", "linear")


def test_substitution(tmp_path: Path) -> None:
    """Weights become something else wherever they are, and nothing of their storage is left."""
    found = in_package(tmp_path / "a", several)
    program = found.model.mlProgram
    lifted = lift(program, found)
    sizes = {key: len(list(values.in_files(program.functions[key]))) for key in ("decode", "prefill")}
    assert sizes == {"decode": 3, "prefill": 3}
    replaced, blobs = {}, blob.Blobs()
    for weight in lifted.weights:
        first, *others = lifted.sites[weight.name]
        made = lowering.lower(first.output, Dense(decode(weight.encoding)), 9, blobs)
        replaced[first] = made
        replaced.update({site: lowering.renamed(made, first.output, site.output) for site in others})
    programs.substitute(program, replaced)
    write(tmp_path / "b", found.model, blobs)
    kinds = [[op.type for op in scope.block.operations] for scope in programs.scopes(program)]
    assert kinds == [["const", "const", "linear", "matmul"], ["const", "const", "conv", "matmul"]]
    again = read(tmp_path / "b")
    assert [weight.name for weight in again.weights] == ["w", "own", "prefill/own"]
    assert again.sites["w"] == lifted.sites["w"]
    for before, after in zip(lifted.weights, again.weights, strict=True):
        assert isinstance(after.encoding, Dense)
        np.testing.assert_array_equal(decode(after.encoding), decode(before.encoding))


def test_parts_that_are_operations_of_their_own(tmp_path: Path) -> None:
    """Constants may stand beside what decodes them."""

    def build(store: blob.Store) -> Any:
        (made,) = lowered(store, "w", Palettized(np.zeros((6, 10), np.uint8), np.ones((1, 1, 2, 1), F16)))
        const = messages("MIL").Operation(type="const")
        const.outputs.add(name="t", type=made.inputs["lut"].arguments[0].value.type)
        const.attributes["val"].CopyFrom(made.inputs["lut"].arguments[0].value)
        del made.inputs["lut"].arguments[:]
        made.inputs["lut"].arguments.add(name="t")
        return model(9, [const, made], ["w"])

    found = in_package(tmp_path, build)
    (weight,) = lift(found.model.mlProgram, found).weights
    assert (weight.name, name(weight.encoding)) == ("w", "palettized1")
    (site,) = lift(found.model.mlProgram, found).sites["w"]
    programs.substitute(
        found.model.mlProgram, {site: lowering.lower("w", Dense(np.ones((2, 2), F16)), 9, blob.Blobs())}
    )
    (scope,) = programs.scopes(found.model.mlProgram)
    assert [op.type for op in scope.block.operations] == ["const"]


def test_constants_that_are_no_weights(tmp_path: Path) -> None:
    encodings = {
        "scalar": Dense(np.array(1, F16)),
        "integers": Dense(np.arange(20, dtype=np.int32)),
        "weight": Dense(np.arange(3, dtype=F16)),
    }
    assert [weight.name for weight in read(save(tmp_path, 9, encodings)).weights] == ["weight"]


def test_equal_constants_inside_the_program_are_two_weights(tmp_path: Path) -> None:
    encodings = {"a": Dense(np.zeros(9, F16)), "b": Dense(np.zeros(9, F16)), "c": Dense(np.zeros(10, F16))}
    assert [weight.name for weight in read(save(tmp_path, 9, encodings)).weights] == ["a", "b", "c"]

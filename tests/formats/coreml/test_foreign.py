"""Packages that Core ML Tools compressed, read as what its own decompression makes of them."""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor.accounting.account import What
from compressor.accounting.explain import explain
from compressor.encodings import decode, name, nbytes
from compressor.formats.coreml import package
from compressor.formats.coreml.importing import coremltools
from tests.conformance import same
from tests.formats.coreml.models import read, value

"""Models of Core ML Tools leave their folders to the garbage collector."""


@pytest.fixture(scope="module")
def dense() -> Iterator[dict[str, Any]]:
    """A linear layer of 128 x 64, converted for each target."""
    ct = coremltools()
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    made = {}
    weight = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    for target in ("iOS16", "iOS18", "iOS26"):

        @mb.program(input_specs=[mb.TensorSpec((1, 64), dtype=types.fp32)], opset_version=ct.target[target])  # type: ignore[untyped-decorator]
        def program(x: Any) -> Any:
            return mb.linear(x=x, weight=weight, name="y")

        with redirect_stderr(io.StringIO()):
            made[target] = ct.convert(
                program, source="milinternal", convert_to="mlprogram", minimum_deployment_target=ct.target[target]
            )
    yield made
    made.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def compressed(model_: Any, *steps: tuple[str, dict[str, Any]]) -> Any:
    """The model behind Core ML Tools' own compression, step by step."""
    coremltools()
    import coremltools.optimize.coreml as cto

    passes = {
        "palettize": (cto.palettize_weights, cto.OpPalettizerConfig),
        "prune": (cto.prune_weights, cto.OpMagnitudePrunerConfig),
        "quantize": (cto.linear_quantize_weights, cto.OpLinearQuantizerConfig),
    }
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for number, (step, settings) in enumerate(steps):
            run, config = passes[step]
            joint = {"joint_compression": True} if number else {}
            model_ = run(model_, cto.OptimizationConfig(config(weight_threshold=10, **settings)), **joint)
    return model_


PALETTE: tuple[str, dict[str, Any]] = ("palettize", {"nbits": 4})
PRUNE: tuple[str, dict[str, Any]] = ("prune", {"target_sparsity": 0.6})
QUANTIZE: tuple[str, dict[str, Any]] = ("quantize", {})


@pytest.mark.parametrize(
    ("target", "steps", "expected", "size"),
    [
        ("iOS16", [], "dense", 16384),
        ("iOS16", [PALETTE], "palettized4", 4128),
        ("iOS16", [PRUNE], "sparse", 7566),
        ("iOS16", [QUANTIZE], "int8", 8576),
        ("iOS16", [("quantize", {"mode": "linear", "dtype": "uint8", "granularity": "per_tensor"})], "uint8", 8195),
        ("iOS18", [PALETTE], "palettized4", 4128),
        (
            "iOS18",
            [("palettize", {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 16})],
            "palettized3",
            3200,
        ),
        ("iOS18", [("palettize", {"nbits": 4, "cluster_dim": 2})], "palettized4", 2112),
        ("iOS18", [PRUNE], "sparse", 7566),
        ("iOS18", [QUANTIZE], "int8", 8448),
        ("iOS18", [("quantize", {"mode": "linear", "dtype": "int4", "granularity": "per_block"})], "int4", 4736),
        ("iOS18", [PRUNE, PALETTE], "sparse(palettized4)", 2692),
        ("iOS18", [PRUNE, QUANTIZE], "sparse(int8)", 4551),
        ("iOS18", [PALETTE, ("quantize", {"granularity": "per_tensor"})], "int8(palettized4)", 4114),
        ("iOS26", [PALETTE, ("quantize", {"granularity": "per_tensor"})], "int8(palettized4)", 4114),
        ("iOS26", [PRUNE, PALETTE], "sparse(palettized4)", 2692),
    ],
)
def test_what_core_ml_tools_compressed(
    dense: dict[str, Any], target: str, steps: list[Any], expected: str, size: int, tmp_path: Path
) -> None:
    made = compressed(dense[target], *steps)
    made.save(str(tmp_path / "m.mlpackage"))
    lifted = read(tmp_path / "m.mlpackage")
    assert lifted.opaque == {}
    (weight,) = (weight for weight in lifted.weights if "weight" in weight.name)
    assert (name(weight.encoding), nbytes(weight.encoding), weight.uses) == (expected, size, ("linear",))
    assert same(decode(weight.encoding), theirs(tmp_path / "m.mlpackage")[weight.name])
    account = explain(tmp_path / "m.mlpackage")
    stored = sum(one.nbytes for one in account.portions if one.name == weight.name and one.what is What.WEIGHTS)
    assert 0 <= stored - size < 40  # small parts of it lie in the program, with keys and lengths
    assert account.nbytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())


def theirs(path: Path) -> dict[str, Any]:
    from coremltools.converters.mil.frontend.milproto.load import load

    found = package.read(path)
    program = load(found.model, found.model.specificationVersion, str((path / package.WEIGHTS).parent))
    operations = [op for op in program.functions["main"].operations if op.op_type.startswith("const")]
    return {var.name: value(var) for op in operations for var in op.outputs}


@pytest.mark.parametrize(
    ("target", "bits", "form"), [("iOS18", 6.125, "palettized4"), ("iOS26", 4.156, "scaled(palettized4)")]
)
def test_palettes_that_are_scaled_by_channel(
    dense: dict[str, Any], target: str, bits: float, form: str, tmp_path: Path
) -> None:
    """Core ML Tools scales a table for each channel at iOS 18, and what it looks up at iOS 26."""
    made = compressed(dense[target], ("palettize", {"nbits": 4, "enable_per_channel_scale": True}))
    made.save(str(tmp_path / "m.mlpackage"))
    lifted = read(tmp_path / "m.mlpackage")
    assert lifted.opaque == {}
    (weight,) = (weight for weight in lifted.weights if "weight" in weight.name)
    assert name(weight.encoding) == "scaled(palettized4)"
    assert nbytes(weight.encoding) * 8 / (128 * 64) == pytest.approx(bits, abs=0.01)
    assert same(decode(weight.encoding), theirs(tmp_path / "m.mlpackage")[weight.name])
    manifest = compressor.compress(tmp_path / "m.mlpackage", tmp_path / "out", target=target)
    (facts,) = (one for one in manifest.weights if one.name == weight.name)
    assert facts.encoding == form
    assert facts.nbytes <= nbytes(weight.encoding)

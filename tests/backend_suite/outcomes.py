"""What becomes of a model: for ONNX Runtime, and for a version of Core ML."""

from __future__ import annotations

import re
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

import compressor
from compressor.errors import CompressorError
from compressor.targets import get
from compressor.targets.coreml.conversion import quiet
from tests.backend_suite.cases import ATOL, Case, inputs
from tests.backend_suite.variants import AS_SHIPPED, CHANGES, CONSTANT, variant
from tests.targets.coreml import mil_evaluation

SAME, REFUSED, NOT_RUNNABLE, WRONG, CRASH = "same", "refused", "not runnable", "wrong", "crash"
"""An outcome is one of these words, and for all but the first a colon and the reason."""

LIMIT = 120
"""Seconds that a case may take."""

Outcome = str
Outcomes = dict[str, Outcome]
"""By variant."""


def of_case(case: Case, target: str) -> Outcomes:
    """The outcome of each variant that there is; of the ways to change weights one, another for each name."""
    changes = list(CHANGES)
    found = {}
    for name in (AS_SHIPPED, CONSTANT, changes[crc32(case.name.encode()) % len(changes)]):
        changed = variant(case, name)
        if changed is not None:
            found[name] = _of_variant(changed, target)
    return found


def _of_variant(case: Case, target: str) -> Outcome:
    run = on_onnx_runtime if target == "onnxruntime" else on_core_ml
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _limited():
        warnings.simplefilter("ignore")
        try:
            return run(case, target, Path(folder))
        except CompressorError as error:
            return f"{REFUSED}: {str(error).replace(folder, '')}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what became of the model
            return f"{CRASH}: {type(error).__name__}: {' '.join(str(error).split())}".replace(folder, "")


def on_onnx_runtime(case: Case, target: str, folder: Path) -> Outcome:
    """That the artefact gives the bits of the source."""
    source = folder / "model.onnx"
    onnx.save(case.model, source)
    try:
        expected, again = _run(source, case), _run(source, case)
    except Exception as error:  # noqa: BLE001 - the runtime's own
        return f"{NOT_RUNNABLE}: {_reason(error)}"
    if not _same_bits(expected, again):
        return f"{NOT_RUNNABLE}: every run gives another result"
    compressor.compress(source, folder / "out", target=target, settings=compressor.Settings(min_elements=1))
    actual = _run(folder / "out" / "model.onnx", case)
    return SAME if _same_bits(expected, actual) else f"{WRONG}: {_difference(expected, actual)}"


def _run(path: Path, case: Case) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {value.name: _given(feed, value.type) for value, feed in zip(case.inputs, case.feeds, strict=True)}
    found: list[Any] = session.run(None, feeds)
    return found


def _given(value: Any, type_: onnx.TypeProto) -> Any:
    """A feed as the runtime takes it: types that numpy lacks go in as their bits."""
    if value is None or isinstance(value, (list, tuple)):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "biufcOSU" and array.dtype.type.__module__ == "numpy":
        return array
    bits = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, type_.tensor_type.elem_type)


def _expected(case: Case) -> Sequence[Any]:
    """What a model gives whose weights are not those of the suite: by ONNX's reference, else by ONNX Runtime."""
    feeds = {value.name: feed for value, feed in zip(case.inputs, case.feeds, strict=True)}
    try:
        with np.errstate(all="ignore"):
            found: Sequence[Any] = ReferenceEvaluator(case.model).run(None, feeds)
    except Exception:  # noqa: BLE001 - the reference's own
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(case.model, Path(folder) / "model.onnx")
            return _run(Path(folder) / "model.onnx", case)
    return found


def _same_bits(expected: Any, actual: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(map(_same_bits, expected, actual))
    if not isinstance(expected, np.ndarray) or expected.dtype == object:
        return bool(np.all(expected == actual))
    same = expected.dtype == actual.dtype and expected.shape == actual.shape
    return same and expected.tobytes() == actual.tobytes()


def on_core_ml(case: Case, target: str, folder: Path) -> Outcome:
    """That the package, read back and evaluated, gives what the suite expects (or ONNX Runtime gives)."""
    source = folder / "model.onnx"
    onnx.save(_sized(case), source)
    try:
        expected = case.expected or _expected(case)
    except Exception as error:  # noqa: BLE001 - the reference's own
        return f"{NOT_RUNNABLE}: {_reason(error)}"
    settings = compressor.Settings(min_elements=1)
    compressor.compress(source, folder / "out", target=get(target, {"precision": "float32"}), settings=settings)
    with quiet():
        actual = list(mil_evaluation.evaluate_package(folder / "out" / "model.mlpackage", case.feeds).values())
    return SAME if _close(expected, actual, case.rtol) else f"{WRONG}: {_difference(expected, actual)}"


def _sized(case: Case) -> onnx.ModelProto:
    """The model with the sizes of what it is fed, where it leaves them open."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value, feed in zip(inputs(model), case.feeds, strict=True):
        if value.type.HasField("tensor_type"):
            for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feed), strict=True):
                dim.dim_value = size
    return model


def _close(expected: Sequence[Any], actual: Sequence[Any], rtol: float) -> bool:
    if len(expected) != len(actual):
        return False
    return all(map(lambda want, have: _alike(want, have, rtol), expected, actual))


def _alike(want: Any, have: Any, rtol: float) -> bool:
    want = np.asarray(want)
    if want.shape != have.shape or want.dtype == object:
        return False
    half = want.dtype in {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}
    rtol, atol = (max(rtol, 1e-2), 5e-3) if half else (rtol, ATOL)
    with np.errstate(all="ignore"):  # what float32 cannot hold is infinite in it, or zero
        want = (want.astype(np.float32) if want.dtype.kind == "f" else want).astype(np.float64)
        have = have.astype(np.float64)
        return bool(np.allclose(have, want, rtol, atol, equal_nan=True))


def _difference(expected: Sequence[Any], actual: Sequence[Any]) -> str:
    for place, (want, have) in enumerate(zip(expected, actual, strict=False)):
        want, have = np.asarray(want), np.asarray(have)  # noqa: PLW2901 - the same values
        if want.shape != have.shape or not _same_bits(want, have):
            return (
                f"output {place}: {want.dtype}{list(want.shape)} {want.reshape(-1)[:6].tolist()}, got "
                f"{have.dtype}{list(have.shape)} {have.reshape(-1)[:6].tolist()}"
            )
    return f"{len(expected)} outputs, got {len(actual)}"


def _reason(error: Exception) -> str:
    """Why the runtime does not run a model, in few words."""
    text = " ".join(str(error).split())
    for pattern, reason in _REASONS.items():
        found = re.search(pattern, text)
        if found:
            return found.expand(reason)
    return f"{type(error).__name__}: {text[:100]}"


_REASONS = {
    r"Could not find an implementation for (\w+)\((\d+)\)": r"no kernel for \1 of opset \2 with these types",
    r"Failed to find kernel for (\w+)\((\d+)\)": r"no kernel for \1 of opset \2 with these types",
    r"No corresponding Numpy type for Tensor Type. (\w+)": r"an output of type \1",
    r"Opset (\d+) is under development": r"opset \1",
    r"Fatal error: (\S+)\(-?\d+\) is not a registered": r"no operator \1",
    r"Unrecognized attribute: (\w+) for operator (\w+)": r"no attribute \1 of \2",
    r"Type Error: (.{0,60})": r"\1",
    r"running (\w+) node": r"\1 fails",
    r"\[ONNXRuntimeError\] : \d+ : (\w+)": r"\1",
}


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    old: Callable[..., Any] | Any = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)

"""Labelled samples to measure a model on: of a user's function or an `.npz` file, as arrays by input and output."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compressor import references
from compressor.arrays import NDArray
from compressor.errors import CompressorError, UsageError, line
from compressor.targets.session import Port

SETTING = "evaluate.data"
_LABELS = ("labels", "y")
_PREFIX = "labels_"
MOST_CLAIMED, MOST_INFLATED = 1 << 30, 100
"""The bytes up to which a file's arrays may be of any size, and how many times the file's they may be from there on."""


@dataclass(frozen=True)
class Samples:
    """What `evaluate.data` gave, as it was given.

    where: for errors.
    inputs: an array for a model with one input, a tuple or list in the order of the inputs, or arrays by input name.
    labels: an array for the first output, a tuple or list in the order of the outputs (None: that one has none), arrays
        by output name, or None.
    """

    where: str
    inputs: Any
    labels: Any


def check(where: str) -> Callable[[], Samples]:
    """What reads the samples of `module:function`, which takes no arguments, or of an `.npz` file: nothing is read yet.

    Raises:
        UsageError: it is neither, or there is no such function or file.
        CompressorError: importing the module failed.
    """
    if where.endswith(".npz"):
        if not Path(where).is_file():
            raise UsageError(f"{SETTING}: {where}: no such file. Paths are relative to the current directory.")
        return partial(_file, Path(where))
    if ":" not in where:
        raise UsageError(f"{SETTING} is {where!r}: expected module:function or a path that ends with .npz.")
    function = references.load(where, SETTING)
    references.check_arguments(function, f"{SETTING} {where}", "", {})
    return partial(_returned, function, where)


def read(where: str) -> Samples:
    """The samples of `module:function`, which returns (inputs, labels), or of an `.npz` file.

    The arrays of a file are named as the inputs; `labels` or `y` belongs to the first output, `labels_NAME` to `NAME`.

    Raises:
        UsageError: it is neither, or there is no such function or file.
        CompressorError: the function failed, or returned something else; the file is damaged.
    """
    return check(where)()


def _returned(function: Callable[..., Any], where: str) -> Samples:
    returned = references.call(function, f"{SETTING} {where}")
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        got = f"{len(returned)} values" if isinstance(returned, tuple | list) else type(returned).__name__
        raise CompressorError(f"{SETTING} {where} returned {got}: expected (inputs, labels), labels may be None.")
    return Samples(f"{SETTING} {where}", *returned)


def feeds(samples: Samples, ports: Sequence[Port], model: str) -> dict[str, NDArray]:
    """The arrays for each input of a model, in its dtype; the first axis of all counts the samples.

    Raises:
        CompressorError: names, shapes, dtypes or lengths do not fit.
    """
    given = _by_input(samples, [port.name for port in ports], model)
    arrays = {
        port.name: _fitting(samples, port, _array(given[port.name], f"{samples.where}: input {port.name}"), model)
        for port in ports
    }
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise CompressorError(
            f"{samples.where}: the inputs have different numbers of samples: "
            + ", ".join(f"{name} {count}" for name, count in counts.items())
        )
    if not all(counts.values()):
        raise CompressorError(f"{samples.where}: there are no samples.")
    return arrays


def fixed_length(ports: Sequence[Port]) -> int | None:
    """How many samples a model takes at a time; None for any number."""
    return next((axis for port in ports for axis in port.shape[:1] if axis is not None), None)


def chosen(count: int, most: int) -> NDArray:
    """The places of `most` of `count` samples, ascending: always the same, and as good as evenly spread.

    By multiples of the golden ratio, so that neither sorted classes nor any that take turns are missed.

    >>> chosen(10, 4).tolist()
    [0, 2, 5, 7]
    """
    spread = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
    return np.sort(np.argsort(spread, kind="stable")[:most])


def labels_of(samples: Samples, outputs: Sequence[str], chosen: Sequence[str], count: int) -> dict[str, NDArray]:
    """The labels by output.

    outputs: of the model.
    chosen: those that hold predictions; if empty, all that have labels.

    Raises:
        CompressorError: they are for outputs that the model lacks, or are not as many as there are samples.
    """
    labelled = _by_output(samples, chosen or outputs)
    wrong = [str(name) for name in labelled if name not in outputs]
    if wrong:
        raise CompressorError(
            f"{samples.where}: labels for {', '.join(wrong)}; the model's outputs are {', '.join(outputs)}."
        )
    arrays = {
        name: _array(one, f"{samples.where}: labels for {name}")
        for name, one in labelled.items()
        if one is not None and (not chosen or name in chosen)
    }
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != count:
            got = len(array) if array.ndim else "a scalar"
            raise CompressorError(f"{samples.where}: {count} samples, but {got} labels for output {name}.")
    return arrays


def _array(given: Any, where: str) -> NDArray:
    """What stands for an array: numpy's own, a tensor, lists of one shape."""
    try:
        return np.asarray(given)
    except Exception as error:  # of lists that are ragged, or of a tensor that is part of a training
        raise CompressorError(
            f"{where} is a {type(given).__name__} that is no array: {line(error)}. Return numpy arrays."
        ) from error


def _by_output(samples: Samples, names: Sequence[str]) -> Mapping[str, Any]:
    """The labels by name: several are in the order of `names`, a single array belongs to the first."""
    given = samples.labels
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    # A list of numbers is one array; one of arrays has one for each output.
    if not (isinstance(given, tuple) or (isinstance(given, list) and any(np.ndim(one) for one in given))):
        return {names[0]: given}
    if len(given) > len(names):
        raise CompressorError(f"{samples.where}: labels for {len(given)} outputs, there are {', '.join(names)}.")
    return dict(zip(names, given, strict=False))


def _file(path: Path) -> Samples:
    try:
        with zipfile.ZipFile(path) as members:  # numpy also reads single arrays, and leaks files that are neither
            claimed = sum(member.file_size for member in members.infolist())
        if claimed > MOST_CLAIMED and claimed > MOST_INFLATED * path.stat().st_size:
            raise ValueError(f"its arrays claim {claimed:,} bytes, the file has {path.stat().st_size:,}")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises whatever the readers of archives and of Python's literals raise
        raise CompressorError(f"{path}: not a readable .npz file ({error}). Write it with numpy.savez.") from error
    by_output = {name.removeprefix(_PREFIX): arrays.pop(name) for name in list(arrays) if name.startswith(_PREFIX)}
    single = next((name for name in _LABELS if name in arrays), None)  # `y` beside `labels` is an input
    if single is not None and by_output:
        raise CompressorError(f"{path}: expected labels as {single}, or by output as {_PREFIX}NAME; both are there.")
    labels = by_output or (None if single is None else arrays.pop(single))
    return Samples(f"{SETTING} {path}", arrays, labels)


def _by_input(samples: Samples, names: Sequence[str], model: str) -> Mapping[str, Any]:
    """The arrays by name, just one for each input: several are in the order of `names`."""
    given = samples.inputs
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        extra = [str(name) for name in given if name not in names]
        if missing or extra:
            problems = [f"no array for input {', '.join(missing)}"] * bool(missing)
            problems += [f"unknown input {', '.join(extra)}"] * bool(extra)
            raise CompressorError(
                f"{samples.where}: {'; '.join(problems)}. The inputs of {model} are {', '.join(names)}."
            )
        return given
    several = given if isinstance(given, tuple | list) else (given,)
    if len(several) != len(names):
        raise CompressorError(
            f"{samples.where}: {len(several)} inputs, but {model} has {len(names)}: {', '.join(names)}."
        )
    return dict(zip(names, several, strict=True))


def _fitting(samples: Samples, port: Port, array: NDArray, model: str) -> NDArray:
    """An array that an input takes: of a dtype that converts without loss, and of its shape but for the samples."""
    where = f"{samples.where}: input {port.name}"
    if port.dtype == object and array.dtype.kind in "US":
        array = array.astype(object)
    if not np.can_cast(array.dtype, port.dtype, "safe"):
        raise CompressorError(
            f"{where} is {array.dtype}: {model} takes {port.dtype}, and the conversion could change values. "
            f"Convert it where it is made: .astype(numpy.{port.dtype})."
        )
    expected, got = port.shape[1:], array.shape[1:]
    same = len(array.shape) == len(port.shape) and all(a in (None, b) for a, b in zip(expected, got, strict=True))
    if array.ndim == 0 or not same:
        shape = ", ".join(map(str, array.shape))
        raise CompressorError(
            f"{where} is {array.dtype} [{shape}]: {model} takes {port}, samples along the first axis."
        )
    return array

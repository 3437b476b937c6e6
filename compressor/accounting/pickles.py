"""What a pickle of torch's holds, without running any of its code: classes are names, tensors are where their data lie.

Nothing that the pickle names is imported. What a class would make of its arguments is kept beside its name.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

_TENSORS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_DEEPEST = 64
"""So many keys lead to a tensor at most: a pickle of a few bytes can hold lists in lists without end."""

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "Short", "BFloat16"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4", "Untyped"), 1),
    "ComplexDouble": 16,
}
"""The bytes of an element, by the name of the storage's class before `Storage`."""

DTYPES: Mapping[str, str] = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
}
"""Types of elements, by the same name."""


@dataclass(frozen=True)
class Storage:
    """Elements in a row. key: of its data in the file. kind: the class before `Storage`. size: elements."""

    key: str
    kind: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: its first element there, and per axis how many elements it has and how far apart."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def run(self) -> tuple[int, int]:
        """From which to behind which element of the storage it lies."""
        if 0 in self.shape:
            return self.offset, self.offset
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=False))
        return self.offset, self.offset + reach + 1

    @property
    def is_rows(self) -> bool:
        """Whether its elements lie one behind the other, row by row."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return all(size > 0 for size in self.shape)


class Opaque:
    """What a class or a function would have made. name: its own. args: of the call. state: what it was given then."""

    name = ""
    args: tuple[Any, ...]
    state: list[Any]

    def __new__(cls, *args: Any, **_kwargs: Any) -> Any:
        made = super().__new__(cls)  # a pickle may make an object without a call of `__init__`
        made.args, made.state = args, []
        return made

    def __setstate__(self, state: Any) -> None:
        self.state.append(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state.append({str(key): value})

    def append(self, value: Any) -> None:
        self.state.append(value)

    def extend(self, values: Any) -> None:
        self.state.extend(values)


def _class(module: str, name: str) -> Any:
    """What stands for a class or a function of that name."""
    return type("Named", (Opaque,), {"name": f"{module}.{name}"})


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - the one in C takes memory at a file's word
    """Values of plain types, tensors, and names of everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _TENSORS:
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_qtensor"):
            return _quantized
        if (module, name) in {("torch._utils", "_rebuild_parameter"), ("torch._tensor", "_rebuild_from_type_v2")}:
            return _wrapped
        return _class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage":
            kind = getattr(pid[1], "name", str(pid[1])).rpartition(".")[2].removesuffix("Storage")
            return Storage(str(pid[2]), kind, int(pid[4]))
        return Opaque(pid)


def _tensor(storage: Any, offset: Any = 0, shape: Any = (), strides: Any = (), *_: Any, **__: Any) -> Any:
    plain = all(isinstance(one, tuple) and all(isinstance(n, int) for n in one) for one in (shape, strides))
    if isinstance(storage, Storage) and isinstance(offset, int) and plain and len(shape) == len(strides):
        return Tensor(storage, offset, shape, strides)
    return Opaque(storage, offset, shape, strides)


def _quantized(storage: Any, offset: Any, shape: Any, strides: Any, parameters: Any = (), *_: Any) -> Any:
    """A quantized tensor: its codes, and its scales and zero points where these are tensors."""
    inner = parameters if isinstance(parameters, tuple) else ()
    return Opaque(_tensor(storage, offset, shape, strides), *(one for one in inner if isinstance(one, Tensor)))


def _wrapped(*args: Any, **_: Any) -> Any:
    """What a parameter wraps, or the arguments of what a subclass of tensors is made of."""
    tensors = [one for one in args if isinstance(one, Tensor)]
    inner = args[2] if len(args) > 2 and isinstance(args[2], tuple) else ()
    if args and args[0] is _tensor:
        return _tensor(*inner)
    return tensors[0] if tensors else Opaque(*args)


def load(file: IO[bytes]) -> Any:
    """The next value in a pickle.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return _Unpickler(file, encoding="utf-8", errors="replace").load()
    except Exception as error:  # an unpickler raises any exception on damaged bytes
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from error


def tensors(value: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors in a value, each with the keys and attributes that lead to it."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), value)]
    seen: set[int] = set()
    while pending:
        path, one = pending.pop()
        if isinstance(one, Tensor):
            yield path, one
            continue
        if id(one) in seen or len(path) > _DEEPEST or isinstance(one, str | bytes | int | float | None):
            continue
        seen.add(id(one))
        pending.extend(reversed([((*path, *key), inner) for key, inner in _inner(one)]))


def _inner(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a value holds, with what leads there; nothing for what only wraps it."""
    if isinstance(value, Mapping):
        # Of the type: what a pickle says about an object may have replaced the method of its own.
        yield from (((str(key),), inner) for key, inner in type(value).items(value))
    elif isinstance(value, Opaque):
        yield from (((), inner) for inner in (*value.args, *value.state))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (((str(place),), inner) for place, inner in enumerate(value))

"""A MIL program, walked through and changed in place."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from coremltools.converters.mil.mil import Block, Operation, Program
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil.scope import ScopeInfo


def operations(program: Program) -> Iterator[Operation]:
    """All operations, what gives a value before what reads it."""
    for function in program.functions.values():
        yield from _inside(function)


def _inside(block: Any) -> Iterator[Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _inside(inner)


def in_blocks(operations: Iterable[Operation], change: Callable[[Operation], None]) -> None:
    """Call `change` with each operation: what it makes stands in that one's block and counts to its module.

    Leaving a block, Core ML Tools looks through all of it: once for all operations of a block.
    """
    by_block: dict[Block, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_block[operation.enclosing_block].append(operation)
    for block, found in by_block.items():
        with block:
            for operation in found:
                with _module_of(operation):
                    change(operation)


@contextmanager
def _module_of(operation: Operation) -> Iterator[None]:
    scopes: Mapping[object, object] = operation.scopes
    with mb.scope(*(ScopeInfo(source=source, data=data) for source, data in scopes.items())):
        yield

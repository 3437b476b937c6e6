"""ML Programs as graphs: their blocks, what their operations read, and operations put in the place of others."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

CONSTEXPR = "constexpr_"


@dataclass(frozen=True)
class Site:
    """An operation that gives a constant.

    function, opset: the function, and which of its specializations. path: the places of the operations and of their
    blocks that lead to a nested block. output: the name of the value.
    """

    function: str
    opset: str
    path: tuple[tuple[int, int], ...]
    output: str


@dataclass(frozen=True, eq=False)
class Producer:
    """Where a value comes from: an operation, and which of its outputs it is."""

    operation: Any
    output: int


@dataclass(frozen=True, eq=False)
class Scope:
    """A block and the values that it sees.

    producers: of each value that an operation of this function gives; None where an input of a block hides it.
    """

    function: str
    opset: str
    path: tuple[tuple[int, int], ...]
    block: Any
    producers: ChainMap[str, Producer | None]

    def site(self, output: str) -> Site:
        return Site(self.function, self.opset, self.path, output)


def scopes(program: Any) -> Iterator[Scope]:
    """All blocks, functions by name, a block before those nested in it."""
    for function in sorted(program.functions):
        specializations = program.functions[function].block_specializations
        for opset in sorted(specializations):
            yield from _scopes(Scope(function, opset, (), specializations[opset], ChainMap()))


def _scopes(outer: Scope) -> Iterator[Scope]:
    own: dict[str, Producer | None] = dict.fromkeys(value.name for value in outer.block.inputs)
    for operation in outer.block.operations:
        own.update({output.name: Producer(operation, place) for place, output in enumerate(operation.outputs)})
    producers = outer.producers.new_child(own)
    yield Scope(outer.function, outer.opset, outer.path, outer.block, producers)
    for place, operation in enumerate(outer.block.operations):
        for number, block in enumerate(operation.blocks):
            path = (*outer.path, (place, number))
            yield from _scopes(Scope(outer.function, outer.opset, path, block, producers))


def operands(operation: Any) -> Iterator[str]:
    """The names of the values that an operation reads itself, not in its blocks."""
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name


def readers(program: Any) -> dict[tuple[str, str, str], set[str]]:
    """The types of the operations that read each value, by function, specialization and name.

    What a block gives is read by the type "".
    """
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for scope in scopes(program):
        for operation in scope.block.operations:
            for name in operands(operation):
                found[scope.function, scope.opset, name].add(operation.type)
        for name in scope.block.outputs:
            found[scope.function, scope.opset, name].add("")
    return found


def substitute(program: Any, replacements: Mapping[Site, Sequence[Any]]) -> None:
    """Put operations in the place of those that give the sites' values, and drop what only these have read."""
    blocks = {replace(site, output="") for site in replacements}
    for scope in list(scopes(program))[::-1]:  # a nested block is changed before its operation is copied
        if scope.site("") in blocks:
            operations = []
            for operation in scope.block.operations:
                sites = (scope.site(output.name) for output in operation.outputs)
                made = [one for site in sites for one in replacements.get(site, ())]
                operations.extend(made or [operation])
            _set(scope.block, operations)
    _sweep(program)


def _sweep(program: Any) -> None:
    """Drop constants and their decoding where nothing reads them."""
    while True:
        read = readers(program)
        dropped = False
        for scope in list(scopes(program))[::-1]:
            kept = [operation for operation in scope.block.operations if not _unread(scope, operation, read)]
            if len(kept) < len(scope.block.operations):
                _set(scope.block, kept)
                dropped = True
        if not dropped:
            return


def _unread(scope: Scope, operation: Any, read: Mapping[tuple[str, str, str], set[str]]) -> bool:
    if operation.type != "const" and not operation.type.startswith(CONSTEXPR):
        return False
    return not any((scope.function, scope.opset, output.name) in read for output in operation.outputs)


def _set(block: Any, operations: Sequence[Any]) -> None:
    copies = []
    for operation in operations:
        copy = type(operation)()
        copy.CopyFrom(operation)
        copies.append(copy)
    del block.operations[:]
    block.operations.extend(copies)

"""A model without its weights: the protobuf in which each weight is a stub; `layout` puts the weights into it.

Whatever a model was made from, a conversion or another package, its skeleton is the same thing, so there is one way to
write it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.arrays import ArraySpec, Shape
from compressor.formats.coreml import values
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.names import spelling, take
from compressor.formats.coreml.negative_zeros import shown_zeros
from compressor.formats.coreml.package import Package
from compressor.formats.coreml.programs import Site, scopes, substitute
from compressor.formats.coreml.values import Files

STUB = "constexpr_stub"
"""An operation that stands for a weight: its attribute `index` says for which one, its output has dtype and shape."""

DATES = ("com.github.apple.coremltools.conversion_date",)
"""What a converter notes that differs from run to run."""


NAMES = "compressor.names"
"""The key under which a model says what its weights are called, where the program calls them otherwise."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model without its weights.

    model: the protobuf `Model`. names: of the weights, by the stubs' indices.
    files: where the other constants that lie in files are read from.
    """

    model: Any
    names: tuple[str, ...]
    files: Files

    def specs(self) -> dict[str, ArraySpec]:
        """The dtype and the shape of each weight that the program has, where it is first."""
        return {name: found[0] for name, found in self._every_spec().items()}

    def shapes(self) -> dict[str, tuple[Shape, ...]]:
        """The other shapes of a weight, where it has several."""
        every = {name: dict.fromkeys(spec.shape for spec in found) for name, found in self._every_spec().items()}
        return {name: tuple(found)[1:] for name, found in every.items() if len(found) > 1}

    def _every_spec(self) -> Mapping[str, Sequence[ArraySpec]]:
        made: dict[str, list[ArraySpec]] = defaultdict(list)
        for operation in _stubs(self.model):
            declared = values.declared(operation.outputs[0].type)
            assert declared is not None
            made[self.names[index_of(operation)]].append(ArraySpec(declared[1], declared[0].dtype))
        return made

    def signed(self) -> dict[str, str]:
        """What tells -0.0 from 0.0 in each weight, where something does."""
        shown, found = shown_zeros(self.model.mlProgram, self.files), {}
        for scope in scopes(self.model.mlProgram):
            for operation in scope.block.operations:
                if operation.type == STUB and (told := shown(scope.site(operation.outputs[0].name))):
                    found[self.names[index_of(operation)]] = told
        return found


def of_package(package: Package, names: Sequence[str], sites: Sequence[Sequence[Site]]) -> Skeleton:
    """The skeleton of a package that was read: stubs in place of the weights at `sites`, which are called `names`."""
    model = messages("Model").Model()
    model.CopyFrom(package.model)
    types = {
        scope.site(output.name): output.type
        for scope in scopes(model.mlProgram)
        for operation in scope.block.operations
        for output in operation.outputs
    }
    stubs = {site: [stub(index, site.output, types[site])] for index, places in enumerate(sites) for site in places}
    substitute(model.mlProgram, stubs)
    return Skeleton(model, tuple(names), package)


def stub(index: int, name: str, type_: Any) -> Any:
    """The operation that stands for weight `index`; `type_` is the `ValueType` of its output `name`."""
    made = messages("MIL").Operation(type=STUB)
    made.attributes["index"].CopyFrom(values.integer(index))
    made.outputs.add(name=name, type=type_)
    return made


def rename(model: Any, names: Sequence[str]) -> None:
    """Call the output of each stub like its weight, as far as the program can spell that, and say so in the model."""
    blocks = [scope.block for scope in scopes(model.mlProgram)]
    outputs = (output for block in blocks for operation in block.operations for output in operation.outputs)
    inputs = (each for function in model.mlProgram.functions.values() for each in function.inputs)
    taken = {each.name: 0 for each in (*outputs, *inputs)}
    spelled: dict[str, str] = {}
    for scope in scopes(model.mlProgram):
        new: dict[str, str] = {}
        for operation in scope.block.operations:
            if operation.type == STUB:
                weight, old = names[index_of(operation)], operation.outputs[0].name
                taken.pop(old, None)
                new[old] = take(spelling(weight), taken)
                spelled.setdefault(weight, new[old])
        if new:
            _rename_inside(scope.block, new)
    # Short where the program's name follows from the weight's: it is a part of every artefact.
    known = [weight if spelling(weight) == program else [program, weight] for weight, program in spelled.items()]
    known = [one for one in known if not isinstance(one, str) or spelling(one) != one]
    if known:
        model.description.metadata.userDefined[NAMES] = json.dumps(known, separators=(",", ":"))


def names_of(text: str) -> dict[str, str]:
    """The names of weights by what the program calls them, from what `rename` says.

    Raises:
        ValueError: the text is something else.
    """
    known: dict[str, str] = {}
    found = json.loads(text)
    if not isinstance(found, list):
        raise TypeError(f"a {type(found).__name__}")
    for one in found:
        program, weight = (spelling(one), one) if isinstance(one, str) else one
        known[program] = weight
    if not all(isinstance(name, str) for pair in known.items() for name in pair):
        raise TypeError("a name that is no text")
    if len(set(known.values())) != len(found):
        raise ValueError("two weights with one name")
    return known


def index_of(operation: Any) -> int:
    """Which weight a stub stands for."""
    return int(operation.attributes["index"].immediateValue.tensor.ints.values[0])


def _stubs(model: Any) -> Iterator[Any]:
    for scope in scopes(model.mlProgram):
        yield from (operation for operation in scope.block.operations if operation.type == STUB)


def _rename_inside(outer: Any, new: Mapping[str, str]) -> None:
    """Names in a block and in those inside of it, which see its values."""
    for operation in outer.operations:
        for output in operation.outputs:
            output.name = new.get(output.name, output.name)
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = new.get(binding.name, binding.name)
        for block in operation.blocks:
            _rename_inside(block, new)
    outer.outputs[:] = [new.get(name, name) for name in outer.outputs]

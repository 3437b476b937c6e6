"""The user's code, read and not run: where a function lies, what its file imports, and the paths that stand in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from compressor import references


def files_of(reference: str, folder: Path) -> tuple[Path, ...]:
    """The files of the project that a `module:function` is made of: its module, and what that imports of the project.

    Empty where the module lies elsewhere: in the environment, whose versions the toolchain records.
    """
    found: dict[Path, None] = {}
    pending = [reference.partition(":")[0]]
    while pending:
        for module, file in _files(pending.pop(), folder):
            if file not in found:
                found[file] = None
                pending.extend(_imports(file, module))
    return tuple(sorted(found))


def constants(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Every text that stands in the code, with its file."""
    for file in files:
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value, file


def calls(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The dotted name of everything that is called, with its file: `torch.save`, `model.save_pretrained`."""
    for file in files:
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                yield ast.unparse(node.func), file


def networks(files: Iterable[Path], folder: Path) -> Iterator[str]:
    """The classes of the project that are torch modules and need no arguments, as `module:name`."""
    for file in files:
        place = next((place for place in reversed(references.places(folder)) if file.is_relative_to(place)), None)
        if place is None:
            continue
        module = ".".join(file.relative_to(place).with_suffix("").parts)
        for node in _tree(file).body:
            if isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(base) for base in node.bases):
                made = next((one for one in node.body if getattr(one, "name", "") == "__init__"), None)
                if not isinstance(made, ast.FunctionDef) or _callable_alone(made.args):
                    yield f"{module}:{node.name}"


def _callable_alone(arguments: ast.arguments) -> bool:
    positional = [*arguments.posonlyargs, *arguments.args]
    return len(positional) - len(arguments.defaults) <= 1 and all(arguments.kw_defaults)


def modules(file: Path) -> tuple[str, ...]:
    """What a script imports, as absolute names."""
    return tuple(_imports(file, ""))


def _files(module: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The packages around a module, which run before it, and itself: the name and the file of each."""
    parts = module.split(".")
    for place in references.places(folder):
        path = place.joinpath(*parts)
        own = next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
        if own is not None:
            around = [
                (".".join(parts[:count]), place.joinpath(*parts[:count], "__init__.py"))
                for count in range(1, len(parts))
            ]
            yield from (one for one in (*around, (module, own)) if one[1].is_file() and _does_something(one[1]))
            return


def _does_something(file: Path) -> bool:
    """Whether it is a module, or a package's `__init__.py` with more than a text about it."""
    return file.name != "__init__.py" or not all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in _tree(file).body
    )


def _imports(file: Path, module: str) -> Iterator[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def _tree(file: Path) -> ast.Module:
    """The file as Python reads it; empty where it does not."""
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])

"""YAML 1.2, as params.yaml and `-S` have it."""

from __future__ import annotations

from typing import Any

from compressor.errors import UsageError

MOST_VALUES = 1_000_000


def read(text: str, where: str, *, tags: bool = False) -> Any:
    """The value that a text stands for.

    where: what errors call it. tags: whether it may have tags of others, `!reference [job, script]` say, each of which
    is a mapping from the tag to what it stands before.

    Raises:
        UsageError: it is no YAML, or its aliases make too much of it.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    reader = YAML(typ="safe", pure=True)
    if tags:
        reader.Constructor = _with_tags()
    try:
        value = reader.load(text)
    except RecursionError as error:
        raise UsageError(f"{where}: not valid YAML: nested too deep.") from error
    except (YAMLError, ValueError) as error:  # of a date that is none, for instance
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"{where}: not valid YAML{line}: {getattr(error, 'problem', None) or error}.") from error
    if _expands(value):
        raise UsageError(
            f"{where}: its aliases stand for more than {MOST_VALUES:,} values. Write the values themselves."
        )
    return value


def _with_tags() -> type:
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

    class Tagged(SafeConstructor):
        """Makes mappings of what has a tag."""

    def tagged(constructor: SafeConstructor, tag: str, node: Node) -> dict[str, Any]:
        if isinstance(node, MappingNode):
            return {f"!{tag}": constructor.construct_mapping(node, deep=True)}
        if isinstance(node, SequenceNode):
            return {f"!{tag}": constructor.construct_sequence(node, deep=True)}
        return {f"!{tag}": constructor.construct_scalar(node)}

    Tagged.add_multi_constructor("!", tagged)
    return Tagged


def line(text: str, *key: str) -> int | None:
    r"""The line in which a key of mappings in mappings stands, from 1; None if it is not written there.

    >>> line("evaluate:\n  limits: {size_mb: 2,\n    size_ratio: 3}\n", "evaluate", "limits", "size_ratio")
    3
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode

    try:
        node, number = YAML(pure=True).compose(text), None
    except YAMLError:
        return None
    for name in key:
        entries = node.value if isinstance(node, MappingNode) else ()
        found = next(((known, value) for known, value in entries if known.value == name), None)
        if found is None:
            return None
        number, node = found[0].start_mark.line + 1, found[1]
    return number


def _expands(content: object) -> bool:
    """Whether aliases make much of little, or lead in a circle: whatever shows such a value would never end."""
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > MOST_VALUES:
            return True
        if isinstance(value, dict | list):
            pending.extend(value.values() if isinstance(value, dict) else value)
    return False

"""Damage to files: at random anywhere, and where each format keeps its lengths, offsets, names and types.

A mutation takes the bytes and a random number generator and gives other bytes; the same generator, the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
NUMBERS += (1 << 32, 1 << 40, 1 << 56, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS: tuple[str, ...] = (
    "",
    "../x",
    "/etc/passwd",
    "a\0b",
    "..\\x",
    "ü" * 9,
    "x" * 5000,
    "weight",
    "float32",
    "int4",
    "nan",
    "-1",
    "1e999",
)
TEXTS += ("@model_path/../../x", "__import__('os')", "%s%n{0}", "\ud800", "True", "0x10", "_COREML_/x", "a:b")
DEEP = 3000


def values(random: Random) -> Any:
    """Something that JSON can hold and nobody expects."""
    number = random.choice(NUMBERS)
    choices: list[Any] = [None, True, False, number, -number, number + 0.5, 1e308, float("nan"), float("inf"), -0.0]
    choices += [random.choice(TEXTS), [], {}, [number], [-1, number], [[[]]], {"a": 1}, {"": None}]
    choices += [[0] * 70, list(range(9)), [number, number], ["x"], {"node": "Dense"}, 1 << random.choice((70, 5000))]
    return random.choice(choices)


# Anywhere


def flipped(content: bytes, random: Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def overwritten(content: bytes, random: Random) -> bytes:
    """A number where the file may have one."""
    width = random.choice((1, 2, 4, 8))
    at = random.randrange(len(content))
    number = (random.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, random.choice(("little", "big")))
    return content[:at] + number + content[at + width :]


def cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def without_chunk(content: bytes, random: Random) -> bytes:
    start, end = _chunk(content, random)
    return content[:start] + content[end:]


def doubled_chunk(content: bytes, random: Random) -> bytes:
    start, end = _chunk(content, random)
    return content[:end] + content[start:]


def moved_chunk(content: bytes, random: Random) -> bytes:
    start, end = _chunk(content, random)
    rest, at = content[:start] + content[end:], random.randrange(len(content) - end + start + 1)
    return rest[:at] + content[start:end] + rest[at:]


def filled_chunk(content: bytes, random: Random) -> bytes:
    start, end = _chunk(content, random)
    return content[:start] + random.choice((b"\0", b"\xff", b"[", b"A")) * (end - start) + content[end:]


def inserted(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + random.randbytes(random.choice((1, 4, 64, 2000))) + content[at:]


def _chunk(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content))
    return start, min(len(content), start + random.choice((1, 2, 4, 8, 64, 1000, len(content) // 3 + 1)))


ANYWHERE: tuple[Mutation, ...] = (flipped, flipped, overwritten, overwritten, cut, without_chunk)
ANYWHERE += (doubled_chunk, moved_chunk, filled_chunk, inserted)


# Trees of names and values


def in_json(content: bytes, random: Random) -> bytes:
    """A value replaced, taken away, doubled or renamed; rarely the same key twice, or far too deep."""
    document = json.loads(content)
    if random.random() < 0.04:
        return random.choice(
            (b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, content.strip()[:-1] + b',"a":1,"a":2}')
        )
    for _ in range(random.choice((1, 1, 2))):
        document = _changed(document, random)
    text = json.dumps(document, indent=random.choice((None, 1)))
    return text.encode()


def _changed(document: Any, random: Random) -> Any:
    places = [place for place in _places(document) if place[0] is not None]
    if not places or random.random() < 0.02:
        return values(random)
    holder, key = random.choice(places)
    action = random.random()
    if action < 0.6:
        holder[key] = values(random)
    elif action < 0.7:
        del holder[key]
    elif action < 0.8:
        holder[key] = [holder[key], holder[key]]
    elif action < 0.9:
        other, place = random.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    elif isinstance(holder, dict):
        holder[random.choice((*TEXTS, *(key for key in holder)))] = holder.pop(key)
    else:
        holder.insert(key, values(random))
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        holder = pending.pop()
        keys: Sequence[Any] = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(min(len(holder), 50))
        found.extend((holder, key) for key in keys)
        pending.extend(holder[key] for key in keys)
    return found


def in_yaml(content: bytes, random: Random) -> bytes:
    """What only YAML can say, beside what JSON can."""
    if random.random() < 0.6:
        return in_json(content, random)
    odd: tuple[str, ...] = (
        "!!python/object/apply:os.system ['touch pwned']",
        "&a [*a]",
        "*unknown",
        "!x y",
        "{? [a] : b}",
        "1_000:60",
    )
    odd += (
        "2026-01-01",
        "<<: [1]",
        "|\n  text",
        "- a\n- b",
        "%TAG ! x",
        "---\n---",
        "\t",
        "0o17",
        "@",
        "`",
        "{<<: 3}",
        "!!binary x",
    )
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    key, mark, _ = lines[at].partition(b":")
    lines[at] = key + mark + b" " + random.choice(odd).encode()
    return b"\n".join(lines)


# Formats


def in_safetensors(content: bytes, random: Random) -> bytes:
    """The header's length, or the header, its own length kept right or not."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if random.random() < 0.15:
        return struct.pack("<Q", random.choice((*NUMBERS, length + 1, length - 1, len(content)))) + header + data
    header = in_json(header, random)
    return struct.pack("<Q", len(header)) + header + data


def in_gguf(content: bytes, random: Random) -> bytes:
    """A count, a length, a type, a dimension or an offset of the header."""
    offset, width = random.choice(_gguf_numbers(content))
    now = int.from_bytes(content[offset : offset + width], "little")
    number: int = random.choice((*NUMBERS, *range(45), now + 1, now - 1, now * 2, now + 32)) % (1 << 8 * width)
    return content[:offset] + number.to_bytes(width, "little") + content[offset + width :]


def _gguf_numbers(content: bytes) -> list[tuple[int, int]]:
    """Where the numbers of a header lie, and their bytes, as far as it can be followed."""
    found = [(4, 4), (8, 8), (16, 8)]
    at = 24

    def number(width: int) -> int:
        nonlocal at
        found.append((at, width))
        at += width
        return int.from_bytes(content[at - width : at], "little")

    def text() -> None:
        nonlocal at
        at += number(8)

    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    for _ in range(int.from_bytes(content[16:24], "little") % 64):
        text()
        kind = number(4)
        kind, count = (number(4), number(8)) if kind == 9 else (kind, 1)
        for _ in range(count % 64):
            text() if kind == 8 else number(sizes.get(kind, 4))
    for _ in range(int.from_bytes(content[8:16], "little") % 64):
        text()
        for _ in range(number(4) % 8):
            number(8)
        number(4), number(8)
    return [place for place in found if place[0] + place[1] <= len(content)]


def in_blobs(content: bytes, random: Random) -> bytes:
    """The metadata of a blob of Core ML: type, bytes, offset, unused bits."""
    at = random.randrange(0, len(content), 64)
    starts = [place for place in range(64, len(content), 64) if content[place : place + 4] == b"\xef\xbe\xad\xde"]
    at = random.choice([0, *starts]) if random.random() < 0.9 else at
    offset, width = random.choice(((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8)))
    number = (random.choice(NUMBERS) + random.choice((0, 0, -1, 1, 64))) % (1 << 8 * width)
    return content[: at + offset] + number.to_bytes(width, "little") + content[at + offset + width :]


def in_protobuf(content: bytes, random: Random) -> bytes:
    """A field of the message or of one inside it changed, all lengths around it kept right."""
    fields = _fields(content)
    if not fields:
        return random.randbytes(random.choice((1, 3, 40)))
    place = random.randrange(len(fields))
    key, value = fields[place]
    number, kind = key >> 3, key & 7
    if kind == 2 and random.random() < 0.8 and len(value) < 1 << 20 and _fields(value):
        fields[place] = (key, in_protobuf(value, random))
        return _message(fields)
    action = random.random()
    if action < 0.5:
        fields[place] = (key, _other(kind, value, random))
    elif action < 0.65:
        del fields[place]
    elif action < 0.75:
        fields.insert(random.randrange(len(fields) + 1), fields[place])
    elif action < 0.85:
        fields[place] = (random.choice((number, number + 1, 1, 2, 200)) << 3 | random.choice((0, 2, kind)), value)
    elif action < 0.9:
        other = random.choice(fields)
        fields[place] = (key, other[1]) if other[0] & 7 == kind else other
    else:
        before, after = _message(fields[:place]), _message(fields[place + 1 :])
        return before + varint(number << 3 | 2) + varint(random.choice(NUMBERS)) + after
    return _message(fields)


def _other(kind: int, value: Any, random: Random) -> Any:
    if kind == 0:
        return (random.choice(NUMBERS) * random.choice((1, -1))) % (1 << 64)
    if kind in {1, 5}:
        return random.randbytes(len(value))
    nested = b""
    for _ in range(random.choice((5, 120))):
        nested = varint(58) + varint(len(nested)) + nested
    return random.choice(
        (random.choice(TEXTS).encode("utf-8", "surrogatepass"), b"\xff\xfe", value * 2, value[:-1], nested, b"")
    )


def _fields(content: bytes) -> list[tuple[int, Any]]:
    """The fields of a message by key, none where the bytes are no message."""
    fields: list[tuple[int, Any]] = []
    at = 0
    try:
        while at < len(content):
            key, at = _varint(content, at)
            kind = key & 7
            value: Any
            if kind == 0:
                value, at = _varint(content, at)
            else:
                length, at = _varint(content, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
                value, at = content[at : at + length], at + length
            if at > len(content) or not key >> 3:
                return []
            fields.append((key, value))
    except (IndexError, KeyError):
        return []
    return fields


def _message(fields: Sequence[tuple[int, Any]]) -> bytes:
    parts = []
    for key, value in fields:
        kind = key & 7
        if kind == 0:
            body = varint(value if isinstance(value, int) else len(value))
        else:
            body = value if isinstance(value, bytes) else varint(value)
            body = varint(len(body)) + body if kind == 2 else body
        parts.append(varint(key) + body)
    return b"".join(parts)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            return number, at


def varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))

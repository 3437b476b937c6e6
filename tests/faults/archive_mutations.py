"""Damage to archives and pickles: what a zip's directory says, and what its entries hold."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from random import Random

from tests.faults.mutations import (
    ANYWHERE,
    NUMBERS,
    Mutation,
    flipped,
    in_blobs,
    in_gguf,
    in_json,
    in_protobuf,
    in_safetensors,
    in_yaml,
    overwritten,
)

DIRECTORY = ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4))
"""Of an entry in a zip's directory: flags, method, checksum, both sizes, lengths of name, extra and comment, offset."""
END = ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
"""Of the end of the directory: disk, entries on it and in all, size, offset, length of the comment."""


def in_directory(content: bytes, random: Random) -> bytes:
    """A field of a zip's central directory, of its end, or of a local header."""
    mark, fields = random.choice(
        ((b"PK\1\2", DIRECTORY), (b"PK\1\2", DIRECTORY), (b"PK\5\6", END), (b"PK\6\6", ((40, 8), (48, 8))))
    )
    starts = [at for at in range(len(content)) if content.startswith(mark, at)]
    if not starts:
        return overwritten(content, random)
    offset, width = random.choice(fields)
    at = random.choice(starts) + offset
    now = int.from_bytes(content[at : at + width], "little")
    number = random.choice((*NUMBERS, now + 1, now - 1, now * 2)) % (1 << 8 * width)
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def in_members(content: bytes, random: Random) -> bytes:
    """The content of an entry, checksums and lengths kept right; or its name; or an entry more or less."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = random.randrange(len(members))
    name, inner = members[place]
    action = random.random()
    if action < 0.8:
        members[place] = (name, _member(name, inner, random))
    elif action < 0.87:
        del members[place]
    elif action < 0.94:
        root = name.partition("/")[0]
        members[place] = (random.choice((f"{root}/x", "../x", "/x", f"{root}/../x", random.choice(members)[0])), inner)
    else:
        members.append((random.choice((name, f"{name}x", "x/.data/serialization_id", "a/version")), inner))
    made = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,))
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, inner in members:
            archive.writestr(name, inner)
    return made.getvalue()


def _member(name: str, content: bytes, random: Random) -> bytes:
    if not content:
        return random.randbytes(9)
    if name.endswith(".json") and random.random() < 0.8:
        return in_json(content, random)
    if name.endswith(".pkl") and random.random() < 0.8:
        return in_pickle(content, random)
    if name.endswith(".npy") and random.random() < 0.7:
        return in_npy(content, random)
    if name.endswith(".pt") and zipfile.is_zipfile(io.BytesIO(content)) and random.random() < 0.7:
        return in_members(content, random)
    return random.choice(ANYWHERE)(content, random)


def in_npy(content: bytes, random: Random) -> bytes:
    """The header of an array: the type, the order and the shape as text."""
    begin, end = content.index(b"{"), content.index(b"\n")
    text = content[begin:end].decode()
    kinds = ("'|O'", "'<f8'", "'<U900000000'", "'|V0'", "[('a', '<f4')]", "'<M8[s]'", "'x'", "3")
    shapes = ("(100000000000,)", "(-1,)", "()", "(0, 4)", "(1 << 62,)", "'x'", "(1,) * 99", "(4611686018427387904, 4)")
    which = random.choice(("descr", "fortran_order", "shape", "x"))
    fields = {
        "descr": "'<f4'",
        "fortran_order": "False",
        "shape": text.partition("'shape': ")[2].partition(")")[0] + ")",
    }
    fields[which] = random.choice({"descr": kinds, "shape": shapes}.get(which, ("True", "3", "None", "[" * 200)))
    text = "{" + ", ".join(f"'{key}': {value}" for key, value in fields.items()) + "}"
    return content[:begin] + text.encode().ljust(end - begin)[: 1 << 15] + content[end:]


EVIL: tuple[bytes, ...] = (
    b"cos\nsystem\n(S'touch pwned'\ntR.",
    b"cbuiltins\neval\n(S'1'\ntR.",
    b"ctorch\n_utils\n.",
    b"(lp0\n" * 50,
    b"\x80\x63.",
    b"I9\nQ.",
)
EVIL += (
    b"c__builtin__\nexec\n(X\x01\x00\x00\x001tR.",
    b"\x8a\xff" + b"\xff" * 255 + b".",
    b"X\xff\xff\xff\x7f.",
    b"T\xff\xff\xff\xff.",
)


def in_pickle(content: bytes, random: Random) -> bytes:
    """An instruction replaced, taken away, doubled, or followed by what runs code; or its argument changed."""
    try:
        places = [at for _, _, at in pickletools.genops(content) if at is not None]
    except Exception:  # noqa: BLE001 - it raises whatever damaged bytes lead to
        places = []
    if len(places) < 3:
        return random.choice(ANYWHERE)(content, random)
    index = random.randrange(len(places) - 1)
    at, behind = places[index], places[index + 1]
    action = random.random()
    if action < 0.25:
        return content[:at] + random.choice(pickletools.opcodes).code.encode("latin-1") + content[at + 1 :]
    if action < 0.4:
        return content[:at] + content[behind:]
    if action < 0.55:
        return content[:behind] + content[at:]
    if action < 0.7:
        return content[:at] + random.choice(EVIL) + content[at:]
    if behind == at + 1:
        return (
            content[:at] + random.choice((b"K\xff", b"J\xff\xff\xff\xff", b"N", b")", b"]", b"\x88")) + content[behind:]
        )
    argument = random.choice((flipped, overwritten))(content[at + 1 : behind], random)
    return content[: at + 1] + argument + content[behind:]


def in_zip(content: bytes, random: Random) -> bytes:
    return random.choice((in_directory, in_members, in_members))(content, random)


STRUCTURED: dict[str, Mutation] = {
    ".json": in_json,
    ".yaml": in_yaml,
    ".gguf": in_gguf,
    ".safetensors": in_safetensors,
    ".onnx": in_protobuf,
    ".mlmodel": in_protobuf,
    "weight.bin": in_blobs,
    ".npz": in_zip,
    ".pt": in_zip,
    ".ckpt": in_zip,
    ".pt2": in_zip,
    ".ts": in_zip,
    ".pth": in_pickle,
    "pytorch.bin": in_pickle,
}
"""By how the name of a file ends."""


def mutate(name: str, content: bytes, random: Random) -> bytes:
    """Other bytes than `content` for the file `name`."""
    structured = next((mutation for end, mutation in STRUCTURED.items() if name.endswith(end)), None)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not content:
            return random.randbytes(40)
        mutation = structured if structured is not None and random.random() < 0.65 else random.choice(ANYWHERE)
        try:
            content = mutation(content, random)
        except Exception:  # noqa: BLE001 - an earlier one left nothing that can be taken apart
            content = random.choice(ANYWHERE)(content, random)
    return content

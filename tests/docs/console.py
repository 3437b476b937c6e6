"""Pages as they are followed: their files are written, their commands run, and what they print is what the page shows.

A code block whose first line is a comment with a path is a file. A block of the language `console` has commands, after
`$ `, and under each what it prints on stdout; a line of three dots stands for any lines. Numbers may be a tenth off
(training is not the same on every processor), times and digests anything.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
LINE, DIGEST = re.compile(r"[─━-]{3,}"), re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b")


@dataclass(frozen=True)
class Command:
    """What is typed, and what the page shows under it."""

    typed: str
    shown: str


def files(text: str) -> Mapping[str, str]:
    """The files of a page by path, without the comment that names them."""
    found = {}
    for _, block in BLOCK.findall(text):
        first, _, rest = block.partition("\n")
        named = re.fullmatch(r"# ([\w./-]+\.\w+)", first)
        if named:
            found[named[1]] = rest
    return found


def commands(text: str) -> Iterator[Command]:
    """The commands of a page in order; one that ends with a backslash goes on in the next line."""
    for language, block in BLOCK.findall(text):
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                typed, _, shown = part.replace("\\\n", " ").partition("\n")
                yield Command(typed.partition("  #")[0].strip(), shown.strip())


def differences(shown: str, printed: str) -> list[str]:
    r"""What a command printed otherwise than its page shows.

    >>> differences("size 0.052 in 3 s\n...\nend", "size  0.053 in 9 s\nmore\nend")
    []
    >>> differences("passed", "not passed")
    ["'passed' is shown, 'not passed' printed"]
    """
    wanted, got = (text.strip().splitlines() for text in (shown, printed))
    place, found, anywhere = 0, list[str](), False
    for line in wanted:
        if line.strip() == "...":
            anywhere = True
            continue
        if anywhere:
            place = next((at for at in range(place, len(got)) if same(line, got[at])), len(got))
        printed_line = got[place] if place < len(got) else ""
        if not same(line, printed_line):
            found.append(f"{line!r} is shown, {printed_line!r} printed")
        place, anywhere = place + 1, False
    left = [] if anywhere else got[place:]
    return found + [f"{line!r} is printed, and not shown" for line in left if line.strip()]


def same(one: str, other: str) -> bool:
    """Whether two lines say the same, but for numbers that are close, digests, and how wide a table is."""
    left, right = (DIGEST.sub("…", LINE.sub("─", text)) for text in (one, other))
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (left, right)]
    words = [NUMBER.sub("0", text).split() for text in (left, right)]
    in_seconds = re.search(r"\d s\b|\ds\b", left) is not None
    return words[0] == words[1] and (in_seconds or all(map(_close, *numbers)))


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= max(0.02, abs(one) / 10)


def follow(text: str, place: Path, environment: Mapping[str, str]) -> list[str]:
    """Do in the folder `place` what a page says; what came out otherwise than it shows, command by command."""
    for name, content in files(text).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content, encoding="utf-8")
    wrong = []
    for command in commands(text):
        done = subprocess.run(
            ["bash", "-c", command.typed], cwd=place, env=environment, capture_output=True, text=True,
            encoding="utf-8", stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            return [*wrong, f"$ {command.typed}: status {done.returncode}\n{done.stdout}\n{done.stderr}"]
        found = differences(command.shown, done.stdout)
        if found:
            wrong.append("\n".join([f"$ {command.typed}", *found, "all of it:", done.stdout, done.stderr]))
    return wrong

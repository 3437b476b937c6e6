"""Damages whole files of every kind at random and reads them: `python -m tests.faults.fuzz --count 10000 --seed 0`.

A damaged file is read or refused, and refused means: exit status 1 or 2, a line that begins with `error:`, nothing
printed, nothing written, within bounds of time and memory. Anything else is a failure, whose files are kept. Every
case follows from the seed, the reader and its number. Batches run in processes of their own, which a reader in native
code may end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from compressor.errors import CompressorError
from tests.faults.archive_mutations import mutate
from tests.faults.commands import snapshot, working_directory
from tests.faults.readers import EXPORT, LOAD, PARSE, READERS, Arguments, Reader

MEMORY = 2 << 30
"""The address space that a process may take beside what it has when all is imported."""
SILENCE = 60
"""The seconds that a process may say nothing, in native code for instance or while it imports, until it is ended."""
READ, REFUSED = "read", "refused"


class TimeLimit(BaseException):
    """A file took too long; no reader catches it."""


@dataclass
class Report:
    """What became of the files of a reader: their outcomes, what failed and how, the seconds, the peak of memory."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    grown: int = 0


def prepare(reader: str, folder: Path, *, slow: bool = True) -> Path:
    """The whole files of a reader below `folder`. slow: also those that take long to make."""
    for name, make in READERS[reader].make.items():
        if name in READERS[reader].slow and not slow:
            continue
        place = folder / reader / name
        place.mkdir(parents=True)
        with working_directory(place):
            make()
    return folder / reader


def damaged(whole: Path, reader: str, number: int, seed: int, folder: Path, without: str = "") -> tuple[Arguments, str]:
    """Write the files of a case to `folder`; the command that reads them, not `without`, and what was damaged."""
    random = Random(f"{seed} {reader} {number}")  # noqa: S311 - no secret
    kind: Reader = READERS[reader]
    variant = random.choice(sorted(place.name for place in whole.iterdir()))
    shutil.copytree(whole / variant, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and str(file).endswith(kind.damaged))
    file = random.choice(files)
    if kind.damage is not None:
        kind.damage(file, random)
    else:
        file.write_bytes(mutate(file.name, file.read_bytes(), random))
    commands = [command for command in kind.commands if command[0] != without]
    return random.choice(commands), f"{variant}: {file.relative_to(folder)}"


def outcome(arguments: Arguments, seconds: int) -> tuple[str, str]:
    """What becomes of the command in the current directory, `READ`, `REFUSED` or else a failure, and what it said."""
    before = snapshot(Path())
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    try:
        found = _direct(arguments) if arguments[0] in {LOAD, PARSE} else _command(arguments)
    except TimeLimit:
        return "a hang", "".join(traceback.format_exc()[-2000:])
    except BaseException:  # noqa: BLE001 - panics of native code are no exceptions
        return "an exception", traceback.format_exc()[-2000:]
    finally:
        signal.alarm(0)
    after = snapshot(Path())
    if found[0] == REFUSED and after != before:
        return "partial output", f"{sorted(set(after) ^ set(before))} after {found[1]}"
    if found[0] == READ and "out" in arguments and "--dry-run" not in arguments and "out" not in after:
        return "no output", found[1]
    left = [name for name in after if name not in before and name.split("/")[0].split(".")[0] != "out"]
    return ("files left over", str(left)) if left else found


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeLimit


def _command(arguments: Arguments) -> tuple[str, str]:
    from typer.testing import CliRunner

    from compressor.stages import app

    ended = CliRunner().invoke(app.app, arguments)
    said = ended.stderr.strip()
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        return "an exception", "".join(traceback.format_exception(ended.exception))[-1500:]
    if ended.exit_code == 0:
        return READ, ""
    if ended.exit_code not in {1, 2}:
        return f"exit status {ended.exit_code}", said[-1500:]
    last = said.splitlines()[-1] if said else ""
    if not last.startswith("error: ") or "Traceback" in said or ended.stdout:
        return "no line that says why", said[-1500:]
    if last == "error: out of memory":
        return "out of memory", said[-1500:]
    return REFUSED, last


def _direct(arguments: Arguments) -> tuple[str, str]:
    from compressor import references

    try:
        with references.importable_here():
            _parse(Path(arguments[1])) if arguments[0] == PARSE else _load(Path(arguments[1]))
    except CompressorError as error:
        return REFUSED, str(error)
    return READ, ""


def _parse(path: Path) -> None:
    from compressor.compilation.manifest import Manifest
    from compressor.stages import files

    Manifest.from_json(files.read_text(path))


def _load(path: Path) -> None:
    import torch

    from compressor.sources.torch import plain
    from compressor.sources.torch.declared import declare
    from compressor.sources.torch.load import load
    from compressor.sources.torch.trace import quiet
    from compressor.stages.given import Given
    from compressor.stages.params import DetectAlone
    from compressor.stages.params import load as settings

    factory = settings(DetectAlone, Given(None, ())).export.factory
    with quiet(), torch.no_grad():
        model = load(path, factory=factory, args={}, allow_pickle=False)
        declare(model)
        if isinstance(model, torch.nn.Module):
            plain(model)


def work(
    reader: str, whole: Path, numbers: Sequence[int], seed: int, kept: Path, without: str = ""
) -> Iterator[dict[str, Any]]:
    """Read damaged files one after the other: before each its number, then what became of it."""
    warnings.simplefilter("ignore")
    peak = _peak()
    for number in numbers:
        yield {"number": number}
        with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
            place, scratch = Path(folder) / "case", Path(folder) / "scratch"
            scratch.mkdir()
            tempfile.tempdir = str(scratch)
            arguments, what = damaged(whole, reader, number, seed, place, without)
            with working_directory(place):
                found, said = outcome(arguments, READERS[reader].seconds)
            if found in {READ, REFUSED} and any(scratch.iterdir()):
                found, said = "temporary files left over", str([file.name for file in scratch.iterdir()])
            tempfile.tempdir = None
            if found not in {READ, REFUSED}:
                keep(place, kept, f"{reader} {number}")
        yield {
            "number": number,
            "found": found,
            "said": said,
            "what": f"{what}: {' '.join(arguments)}",
            "grown": _peak() - peak,
        }


def keep(place: Path, kept: Path, name: str) -> None:
    shutil.rmtree(kept / name, ignore_errors=True)
    shutil.copytree(place, kept / name, dirs_exist_ok=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def batches(reader: str, whole: Path, count: int, seed: int, kept: Path) -> Report:
    """Read `count` damaged files in other processes, a new one after each that ends before it is done."""
    report, started, first = Report(), time.monotonic(), 0
    kept.mkdir(parents=True, exist_ok=True)
    while first < count:
        command = [sys.executable, "-m", "tests.faults.fuzz", "--worker", reader, str(whole), str(first)]
        command += ["--count", str(count), "--seed", str(seed), "--kept", str(kept)]
        with (kept / f"{reader}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, bufsize=0)
        first = _followed(process, reader, report, first)
    report.seconds = time.monotonic() - started
    return report


def _followed(process: subprocess.Popen[bytes], reader: str, report: Report, first: int) -> int:
    """Count what a process says until it ends; the number of the file that the next one begins with."""
    assert process.stdout is not None
    running, silent = first, False
    with process.stdout:
        while not silent:
            ready, _, _ = select.select([process.stdout], [], [], SILENCE)
            line = process.stdout.readline() if ready else b""
            if not line:
                silent = not ready
                break
            said = json.loads(line)
            running = said["number"]
            if "found" in said:
                count_in(report, reader, said)
                first = running + 1
    if silent:
        process.kill()
    status = process.wait()
    if silent or status:
        ending = "a hang in native code" if silent else f"ended with status {status}"
        count_in(report, reader, {"number": running, "found": ending, "said": "", "what": "", "grown": 0})
        first = running + 1
    return first


def count_in(report: Report, reader: str, said: Mapping[str, Any]) -> None:
    report.outcomes[said["found"]] += 1
    report.grown = max(report.grown, said["grown"])
    if said["found"] == REFUSED:
        report.messages[said["said"]] += 1
    elif said["found"] != READ:
        report.failures.append(f"{reader} {said['number']} ({said['what']}): {said['found']}: {said['said']}")


def _worker(reader: str, whole: Path, numbers: range, seed: int, kept: Path) -> None:
    # What native code prints goes elsewhere, and the allowance of memory begins when everything is imported.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        os.environ["COMPRESSOR_DEBUG"] = "1"
        with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
            _warm(reader, whole, Path(folder))
        _limit()
        for said in work(reader, whole, numbers, seed, kept):
            print(json.dumps(said), file=out, flush=True)


def _warm(reader: str, whole: Path, folder: Path) -> None:
    """Read whole files with every command: they must be readable, and everything is imported then."""
    for index, variant in enumerate(READERS[reader].make):
        for arguments in sorted(set(READERS[reader].commands)):
            if index and arguments[0] == EXPORT:
                continue  # which takes seconds where torch does it
            place = folder / variant / " ".join(arguments).replace("/", "_")
            shutil.copytree(whole / variant, place)
            with working_directory(place):
                found, said = outcome(arguments, seconds=0)
            if found != READ:
                raise CompressorError(f"{reader}, {variant}, whole: {' '.join(arguments)}: {found}: {said}")


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """The status: 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=READERS, help="only this one; repeatable")
    parser.add_argument("--kept", type=Path, default=Path("fuzzed"), help="where the files of failures go")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        reader, whole, first = asked.worker
        _worker(reader, Path(whole), range(int(first), asked.count), asked.seed, asked.kept)
        return 0
    readers = asked.reader or list(READERS)
    total = sum(READERS[reader].share for reader in readers)
    shares = {reader: -(-asked.count * READERS[reader].share // total) for reader in readers}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for reader in readers:
            report = batches(reader, prepare(reader, Path(folder)), shares[reader], asked.seed, asked.kept.absolute())
            outcomes = ", ".join(f"{count} {found}" for found, count in sorted(report.outcomes.items()))
            messages = f"{len(report.messages)} messages"
            print(f"{reader}: {outcomes}; {messages}, {report.grown >> 20} MiB, {report.seconds:.0f} s", flush=True)
            failed += len(report.failures)
            for failure in report.failures:
                print(f"  {failure}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

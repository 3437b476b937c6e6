"""What trainings put beside the weights of a checkpoint: its classes are names, nothing of them is imported or run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Self

_MOST = 200
"""Of classes in a file: it is read again for each."""

_KNOWN = re.compile(
    r"(argparse|types|pathlib)\.(Namespace|SimpleNamespace|(Pure)?(Posix|Windows)?Path)"
    r"|builtins\.(bool|bytes|dict|float|int|list|object|str|tuple)|collections\.defaultdict|typing\.\w+"
    r"|datetime\.(date|datetime|time|timedelta|timezone)"
    r"|numpy(\._?core)?\.(multiarray\.(scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+)"
    r"|(omegaconf|lightning|lightning_fabric|pytorch_lightning|mmengine|mmcv|yacs|easydict|addict|ml_collections)\..+"
)
"""Configurations, histories, numbers and dates: of the standard library, of numpy, and of what many trainings use."""

_MAPPINGS = re.compile(r".*\.(defaultdict|AttributeDict|EasyDict|CfgNode|ConfigDict|Dict)")
"""Those of them that the pickle fills as mappings."""


class Beside:
    """What was there; nothing is kept of it but what it was called."""

    called = ""

    def __new__(cls, *_given: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_given: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read(file: Callable[[], object]) -> object:
    """What torch's reader that runs no code makes of a file, a `Beside` or an empty mapping for what is known here.

    file: calls that reader. Raises whatever it raises.
    """
    import torch

    stubs: dict[str, Callable[..., object]] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(stub, name) for name, stub in stubs.items()]):
                return file()
        except UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
            name = "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"
            if name in stubs or len(stubs) == _MOST or not _KNOWN.fullmatch(name):
                raise
            stubs[name] = _empty if _MAPPINGS.fullmatch(name) else type("Beside", (Beside,), {"called": name})


def _empty(*_given: object) -> dict[object, object]:
    return {}

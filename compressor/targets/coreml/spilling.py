"""Arrays in no memory of this process: a program has all of its constants at once."""

from __future__ import annotations

import mmap
from tempfile import TemporaryFile, gettempdir

import numpy as np

from compressor.arrays import NDArray
from compressor.errors import CompressorError

SPILLED = 1 << 20
"""Arrays of so many bytes lie in a file."""


def spilled(values: NDArray) -> NDArray:
    """The values in a file without a name, mapped; as they are where they are small or lie in such a file already.

    Raises:
        CompressorError: the file cannot be written.
    """
    if values.nbytes < SPILLED or _is_mapped(values):
        return values
    try:
        with TemporaryFile(prefix="compressor-") as file:
            file.write(np.ascontiguousarray(values).data)
            file.flush()
            # Whoever writes to it all the same, as torch may, has a copy of that page.
            made = np.asarray(np.memmap(file, values.dtype, "c", shape=values.shape))
    except OSError as error:
        raise CompressorError(f"{gettempdir()}: cannot be written: {error.strerror}.") from error
    made.flags.writeable = False
    return made


def _is_mapped(values: NDArray) -> bool:
    owner: object = values
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap | mmap.mmap)

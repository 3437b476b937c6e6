"""A weight goes to its place in the artefact: the whole way there is one task, and nothing comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compressor.compilation.encode import stored
from compressor.compilation.plan import Choice
from compressor.encodings import Encoding
from compressor.formats.layout import Place
from compressor.weight import Weight


def write(
    legalize: Callable[[Encoding], Encoding], directory: Path, weight: Weight, choice: Choice, place: Place
) -> None:
    """Read a weight, encode it as was chosen, and write it at its place in `directory`.

    legalize: the target's.

    Raises:
        InexactError: the weight is not what its form says, or the target refuses the data whose spec it took.
        OSError: the files cannot be written.
    """
    encoding = stored(legalize, weight, choice).encoding
    try:
        place.write(directory, encoding)
    except OSError as error:  # of what is open already, the system does not say what it is
        error.filename = error.filename or str(directory)
        raise

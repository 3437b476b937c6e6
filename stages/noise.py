"""What other packages say while they work for a command: silenced, since it names nothing that a user could change.

What matters of it is in this package's errors, notes and warnings. What a user's own code logs and warns of is shown.
"""

from __future__ import annotations

import os

PACKAGES = ("coremltools", "onnx_ir", "onnxscript", "torch", "torchao", "transformers")


def silence() -> None:
    """Keep warnings and log lines of other packages from stderr; a line of the log that stays is a warning of ours."""
    import logging
    import warnings

    from .text import visible

    class Line(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{record.levelname.lower()}: {visible(record.getMessage())}"

    # Read while they are imported: what transformers sets its own level to, and torch's code in C++.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{package}\b")
    if logging.lastResort is not None:  # what prints lines that nobody handles, from warnings on
        logging.lastResort.setFormatter(Line())

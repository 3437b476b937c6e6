"""What pyproject.toml cannot say: loops in C, which are built where a compiler is, and the wheel that has them.

`COMPRESSOR_PURE=1` builds the wheel without them.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("compressor/native")
LOOPS = Extension(
    "compressor.native.loops",
    sources=[path.as_posix() for path in sorted(FOLDER.glob("*.c"))],
    depends=[path.as_posix() for path in sorted(FOLDER.glob("*.h"))],
    # Contracted products are rounded once where numpy rounds twice.
    extra_compile_args=[] if os.name == "nt" else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    py_limited_api=True,
    optional=True,
)

if os.environ.get("COMPRESSOR_PURE"):
    setup()
else:
    setup(ext_modules=[LOOPS], options={"bdist_wheel": {"py_limited_api": "cp311"}})

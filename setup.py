"""What pyproject.toml cannot say: loops in C, which are built where a compiler is, and the wheel that has them.

`COMPRESSOR_PURE=1` builds the wheel without them.
"""

import os
import zlib
from pathlib import Path

from setuptools import Extension, setup

FILES = sorted(Path("compressor/native").glob("*.[ch]"))
LOOPS = Extension(
    "compressor.native.loops",
    sources=[path.as_posix() for path in FILES if path.suffix == ".c"],
    depends=[path.as_posix() for path in FILES],
    # By this a checkout tells whether what was built is of its files: see compressor/native/__init__.py.
    define_macros=[("SOURCES", str(zlib.crc32(b"".join(path.read_bytes() for path in FILES))))],
    # A product that is added to is rounded before, as numpy rounds it; no loop asks what the processor noted meanwhile.
    extra_compile_args=[] if os.name == "nt" else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    py_limited_api=True,
    optional=True,
)

if os.environ.get("COMPRESSOR_PURE"):
    setup()
else:
    setup(ext_modules=[LOOPS], options={"bdist_wheel": {"py_limited_api": "cp311"}})

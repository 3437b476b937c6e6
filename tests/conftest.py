"""What every test runs under."""

import os

from hypothesis import settings

# pytest-xdist tells its workers the width of its own terminal, which commands would take for theirs.
os.environ.pop("COLUMNS", None)

# The same examples on every machine and in every run: a failure is a defect of the change at hand.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

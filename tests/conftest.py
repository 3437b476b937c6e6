"""What every test runs under."""

from hypothesis import settings

# The same examples on every machine and in every run: a failure is a defect of the change at hand.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

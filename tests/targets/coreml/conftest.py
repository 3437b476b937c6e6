"""Networks that several modules convert, exported once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.targets.coreml.networks import Exported


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A network of `networks.NETWORKS` by name, exported when it is asked for first."""
    from tests.targets.coreml import networks

    @functools.cache
    def named(name: str) -> Exported:
        build, inputs = networks.NETWORKS[name]
        return networks.exported(build(), inputs, tmp_path_factory.mktemp(name))

    return named

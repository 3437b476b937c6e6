"""Files as a revision of the repository has them: those that Git holds, and those that DVC holds for it.

A revision is whatever `git rev-parse` takes, or the name of an experiment of DVC. What DVC tracks is read through the
`dvc.lock` and `*.dvc` files of that revision from DVC's cache: DVC need not be installed, and nothing is fetched.

    revision = find("main", beside=Path("compression"))
    revision.text(Path("compression/metrics.json"))
    with revision.checked_out(Path("models/compressed")) as place: ...
"""

from __future__ import annotations

from .git import Experiment, experiments, names
from .revision import Revision, find

__all__ = ["Experiment", "Revision", "experiments", "find", "names"]

"""What to train next: for each weight the smallest form that costs no more than it may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from compressor.sensitivity.trials import Trial

Allowed = Callable[[Trial], bool]

_WORTH = 15 / 16
"""A form that saves less than a sixteenth is not worth a training."""


def by_weight(trials: Iterable[Trial]) -> dict[str, dict[str, Trial]]:
    """The trials by weight and variant; of two for the same the last one counts."""
    found: dict[str, dict[str, Trial]] = {}
    for trial in trials:
        found.setdefault(trial.weight, {})[trial.variant] = trial
    return found


def strongest(
    trials: Iterable[Trial], dense: Mapping[str, int], most: float, allowed: Allowed = lambda _: True
) -> dict[str, Trial]:
    """Of each weight the trial of the fewest bytes whose loss is at most `most`, if one saves what is worth it.

    Of equally small ones that of the least loss. dense: the bytes of each weight as it is.

    >>> some = [Trial("w", "int8", 10, 4, drop=0.0), Trial("w", "int4", 5, 4, drop=0.2)]
    >>> {name: trial.variant for name, trial in strongest(some, {"w": 40}, 0.1).items()}
    {'w': 'int8'}
    """
    found: dict[str, Trial] = {}
    for weight, own in by_weight(trials).items():
        fitting = [
            one for one in own.values() if _loss(one) <= most and one.nbytes <= _WORTH * dense[weight] and allowed(one)
        ]
        if fitting:
            found[weight] = min(fitting, key=lambda one: (one.nbytes, _loss(one)))
    return found


def ranked(trials: Iterable[Trial]) -> list[str]:
    """The weights, the most robust first: by the worst that any variant does, then by how far outputs are moved."""

    def key(own: Iterable[Trial]) -> tuple[float, float]:
        losses, errors = [_loss(one) for one in own], [one.error or 0.0 for one in own]
        return max(losses), max(errors)

    found = by_weight(trials)
    return sorted(found, key=lambda weight: key(tuple(found[weight].values())))


def _loss(trial: Trial) -> float:
    return float("inf") if trial.loss is None else trial.loss

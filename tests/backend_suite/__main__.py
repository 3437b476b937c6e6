"""Runs all models, or those whose name has a part: `python -m tests.backend_suite [PART] [--write] [--jobs 2]`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import warnings
from collections import Counter

from tests.backend_suite import cases, outcomes, table

_ALL: list[cases.Case] = []


def _run(place: int) -> tuple[str, dict[str, outcomes.Outcomes]]:
    case = _ALL[place]
    return case.name, {target: outcomes.of_case(case, target) for target in table.TARGETS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.backend_suite", description=__doc__)
    parser.add_argument("part", nargs="?", default="", help="of the names of the models that are run")
    parser.add_argument("--write", action="store_true", help="write outcomes.json and the table in docs/operators.md")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    everything = list(cases.cases())
    _ALL.extend(case for case in everything if given.part in case.name)
    gc.freeze()  # Core ML Tools collects garbage at each conversion: not what all of them share
    found: table.Found = {}
    with multiprocessing.get_context("fork").Pool(given.jobs, maxtasksperchild=200) as pool:
        for name, one in pool.imap_unordered(_run, range(len(_ALL))):
            found[name] = one
            for target, variants in one.items():
                for variant, outcome in variants.items():
                    if outcome.startswith((outcomes.WRONG, outcomes.CRASH)):
                        print(f"{name}, {variant}, {target}: {outcome}", flush=True)
    counts = Counter(
        (target, outcome.partition(":")[0])
        for one in found.values()
        for target in one
        for outcome in one[target].values()
    )
    for (target, word), count in sorted(counts.items()):
        print(f"{target}: {count:,} {word}")
    if given.write:
        kept = table.load() if given.part and table.FILE.exists() else {}
        kept |= {name: _shortened(one) for name, one in found.items()}
        table.save(kept)
        table.written(everything, kept)


def _shortened(one: dict[str, outcomes.Outcomes]) -> dict[str, outcomes.Outcomes]:
    return {
        target: {variant: table.shortened(outcome) for variant, outcome in variants.items()}
        for target, variants in one.items()
    }


if __name__ == "__main__":
    main()

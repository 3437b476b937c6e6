"""The outcomes as a file and as a table by operator."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.backend_suite.cases import Case
from tests.backend_suite.outcomes import NOT_RUNNABLE, REFUSED, SAME, Outcome, Outcomes

FILE = Path(__file__).with_name("outcomes.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "operators.md"
BEGIN, END = "<!-- outcomes -->\n", "<!-- end -->\n"

TARGETS = ("onnxruntime", "iOS18")

Found = dict[str, dict[str, Outcomes]]
"""By case, then by target."""


def load() -> Found:
    found: Found = json.loads(FILE.read_text())
    return found


def save(found: Found) -> None:
    """A case a line, so that a change shows what it changed."""
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def shortened(outcome: Outcome) -> Outcome:
    """What is kept of an outcome: the word, and what it is about; no numbers, which other versions may change."""
    word, _, reason = outcome.partition(": ")
    if word != REFUSED:
        return outcome
    nodes = re.search(r"Core ML has no form for \d+ nodes?: (.*?)\. (?:Export|Axes)", reason)
    if nodes is None:
        return f"{REFUSED}: {_general(reason)}"
    return f"{REFUSED}: {re.sub(r'number [0-9]+', 'node', nodes[1])}"


def _general(reason: str) -> str:
    text = re.sub(r"^\S*?: ", "", reason)
    return re.split(r"(?<=[^.])[:.] ", text)[0]


def alike(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are the same word about the same operators."""
    return _about(one) == _about(other)


def _about(outcome: Outcome) -> tuple[str, frozenset[str]]:
    word, _, reason = outcome.partition(": ")
    named = re.findall(r"(?:^|; )([A-Za-z][\w.]*): ", reason) if word == REFUSED else []
    return word, frozenset(named)


def subject(case: Case) -> str:
    """What a case is counted as: its operator, or the kind of a model of many."""
    operators = {node.op_type for node in case.model.graph.node} - {"Constant"}
    if len(operators) == 1:
        return operators.pop()
    return "(expanded functions)" if case.name.endswith("_expanded") else f"({case.kind} models)"


def written(cases: Iterable[Case], found: Found) -> None:
    """Puts the table into the document."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    lines = "\n".join(table({case.name: subject(case) for case in cases}, found))
    DOCUMENT.write_text(f"{before}{BEGIN}\n{lines}\n\n{END}{after}")


def table(subjects: Mapping[str, str], found: Found) -> Iterator[str]:
    """A row for each operator: what counts of a model is the best that becomes of it, over its variants."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: {target: Counter() for target in TARGETS})
    reasons: dict[str, set[str]] = defaultdict(set)
    for name, subject_ in subjects.items():
        for target in TARGETS:
            best = _best(found[name][target])
            counts[subject_][target][best.partition(": ")[0]] += 1
            if target != "onnxruntime" and best.startswith(REFUSED):
                reasons[subject_].add(_why(best, subject_))
    yield "| operator | models | ONNX Runtime: same | cannot run | refused | Core ML: same | refused | why |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for subject_ in sorted(counts):
        runtime, core_ml = (counts[subject_][target] for target in TARGETS)
        numbers = [runtime[SAME], runtime[NOT_RUNNABLE], runtime[REFUSED], core_ml[SAME], core_ml[REFUSED]]
        why = "; ".join(sorted(filter(None, reasons[subject_])))
        cells = [f"{number:,}" if number else "" for number in (sum(runtime.values()), *numbers)]
        yield f"| {' | '.join([subject_, *cells, why])} |".replace("  ", " ")


def _best(outcomes: Outcomes) -> Outcome:
    order = (SAME, REFUSED, NOT_RUNNABLE)
    return min(outcomes.values(), key=lambda one: order.index(one.partition(": ")[0]))


def _why(outcome: Outcome, subject_: str) -> str:
    reason = outcome.partition(": ")[2]
    if subject_.startswith("("):
        return ""
    found = re.search(r"\((.*)\)", reason)
    return (found[1] if found else "" if reason.startswith(subject_) else reason).replace("|", "/")[:90]

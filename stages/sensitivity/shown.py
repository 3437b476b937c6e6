"""What a study found: a table for people, a document for machines, rows for plots, configs for the next training."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from compressor.errors import plural
from compressor.sensitivity import choice, configs
from compressor.sensitivity.study import Bench, Outcome, Subject
from compressor.sensitivity.trials import Trial
from compressor.sensitivity.variants import VARIANTS

from ..display import labels
from ..report.labels import distinct
from ..sheet import Row, Sheet
from ..text import size, visible

COLUMNS = ("weight", "variant", "drop", "error", "saved")
"""Of the rows for `dvc plots`; saved in bytes."""

OTHERS = 88
"""The columns of a terminal that a table takes beside the names where each variant has one of its own."""

_THREES = ([*VARIANTS][:3], [*VARIANTS][3:])

NAME = 32
"""The most columns of a name in the table, unless it needs more to be told from others."""

_MODULES = {
    "MagnitudePrunerConfig": "pruning",
    "DKMPalettizerConfig": "palettization",
    "LinearQuantizerConfig": "quantization",
}
"""Where in `coremltools.optimize.torch` each class is."""

_HEAD = """\
# What to train next, by module: each part is what `from_dict` of a class of Core ML Tools takes.
#
"""
_HOW = """\
#   from coremltools.optimize.torch.{module} import {name}, {name}Config
#   config = {name}Config.from_dict(yaml.safe_load(open("{path}"))["{name}Config"])
#   model = {name}(model, config).prepare()
#
"""


@dataclass(frozen=True, eq=False)
class Studied:
    """What there is to show.

    model: as it was named. bench: what it was measured on.
    tried, skipped: its weights, and why not the others. trials: of the former, in their order.
    max_drop: what a weight may cost. chosen: by weight, the smallest form within that; by_library: that one takes.
    together: the model with all that was chosen.
    layers: the weights of two axes and more, tried or not.
    """

    model: str
    bench: Bench
    tried: Sequence[Subject]
    skipped: Mapping[str, str]
    trials: Sequence[Trial]
    max_drop: float
    chosen: Mapping[str, Trial]
    by_library: Mapping[str, Mapping[str, Trial]]
    together: Outcome | None
    layers: Sequence[str]

    @property
    def judged(self) -> str:
        """What the losses are of: the metric, or the outputs where there are no labels."""
        if self.bench.labels:
            return f"drop of {self.bench.metric.name}"
        numbers = any(trial.error is not None for trial in self.trials)
        return "relative error of the outputs" if numbers else "share of predictions that change"


def table(found: Studied) -> RenderableType:
    """The weights, the most robust first, with what each variant costs and what the best allowed one saves."""
    measured = f"{found.judged}, the weight alone changed and not trained; {plural(found.bench.before.count, 'sample')}"
    reasons = [f"{plural(len(names), 'weight')} not tried: {reason}" for reason, names in _reasons(found).items()]
    failures = [one.failure for one in found.trials if one.failure]
    return Group(
        _Weights(found),
        Text(),
        Text(_together(found), "bold"),
        Text(measured, "dim"),
        *(Text(visible(reason), "dim") for reason in reasons),
        *(Text(visible(failure), "yellow") for failure in failures),
    )


@dataclass(frozen=True, eq=False)
class _Weights:
    """A weight a row: what the variants cost in columns, or below it where there is no room for them."""

    found: Studied

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        found, names = self.found, choice.ranked(self.found.trials)
        sizes, by_weight = {one.name: one for one in found.tried}, choice.by_weight(found.trials)
        short = distinct(labels(names), NAME)
        wide = max(map(len, short)) + OTHERS <= options.max_width
        rows = [
            _row(label, sizes[name], by_weight[name], found.chosen.get(name), wide=wide)
            for label, name in zip(short, names, strict=True)
        ]
        saved = sum(sizes[name].nbytes - one.nbytes for name, one in found.chosen.items())
        whole = size(sum(subject.nbytes for subject in found.tried))
        variants = [*VARIANTS] if wide else []
        rows.append(Row(("total", whole, *[""] * len(variants), "", size(saved)), style="bold", ruled=True))
        yield Sheet(("weight", "now", *variants, f"within {found.max_drop:g}", "saves"), tuple(rows), numbers=1)


def _row(label: str, subject: Subject, own: Mapping[str, Trial], chosen: Trial | None, *, wide: bool) -> Row:
    amounts = {name: _amount(own[name]) for name in VARIANTS if name in own}
    form, saved = (chosen.variant, size(subject.nbytes - chosen.nbytes)) if chosen else ("", "")
    columns = [amounts.get(name, "") for name in VARIANTS] if wide else []
    # In the place of columns: what is alike stands in a line.
    below = (
        () if wide else tuple("  ".join(f"{name:8} {amounts.get(name, ''):>7}" for name in three) for three in _THREES)
    )
    return Row((label, size(subject.nbytes), *columns, form, saved), details=below, style="" if chosen else "dim")


def _amount(trial: Trial) -> str:
    """A loss; a dash where the variant changes nothing, since the weight is so already."""
    if trial.failure or trial.loss is None:
        return "NaN"
    return "-" if not trial.changed else f"{trial.loss:.4f}"


def _together(found: Studied) -> str:
    if not found.chosen:
        return f"no weight can be compressed further within {found.max_drop:g}"
    what = f"{plural(len(found.chosen), 'weight')} at once"
    if found.together is None:
        return f"{what}: the outputs are NaN"
    if found.together.drop is not None:
        return f"{what}: {found.bench.metric.name} {found.together.score:.4f}, {found.bench.score:.4f} as it is"
    if found.together.error is not None:
        return f"{what}: outputs {found.together.error:.4f} from the model's own"
    return f"{what}: {found.together.agreement:.1%} of the predictions are the model's own"


def _reasons(found: Studied) -> Mapping[str, Sequence[str]]:
    """The weights that are not tried by reason; how many elements each has says nothing new."""
    reasons: dict[str, list[str]] = {}
    for name, reason in found.skipped.items():
        reasons.setdefault(re.sub(r"^[\d,]+ elements: ", "", reason), []).append(name)
    return reasons


def document(found: Studied) -> dict[str, object]:
    """Everything, as JSON."""
    by_weight = choice.by_weight(found.trials)
    return {
        "model": found.model,
        "metric": found.bench.metric.name,
        "samples": found.bench.before.count,
        "score": found.bench.score,
        "max_drop": found.max_drop,
        "weights": [
            {
                "weight": one.name,
                "shape": list(one.shape),
                "nbytes": one.nbytes,
                "chosen": found.chosen[one.name].variant if one.name in found.chosen else None,
                "trials": [dataclasses.asdict(trial) for trial in by_weight[one.name].values()],
            }
            for one in found.tried
        ],
        "skipped": dict(found.skipped),
        "together": dataclasses.asdict(found.together) if found.together else None,
    }


def rows(found: Studied) -> list[Mapping[str, object]]:
    """Rows for `dvc plots`: what each trial costs and saves. A bar has one label, so the variant is part of it."""
    short = dict(zip((one.name for one in found.tried), labels([one.name for one in found.tried]), strict=True))
    dense = {one.name: one.nbytes for one in found.tried}
    return [
        {
            "weight": f"{short[one.weight]} {one.variant}",
            "variant": one.variant,
            "drop": _rounded(one.drop),
            "error": _rounded(one.error),
            "saved": dense[one.weight] - one.nbytes,
        }
        for one in found.trials
        if one.loss is not None
    ]


def _rounded(value: float | None) -> object:
    return "" if value is None else round(value, 4)


def for_core_ml_tools(found: Studied, path: str) -> str:
    """The text of the YAML file: what `from_dict` of each class takes, by the name of the class."""
    from ruamel.yaml import YAML

    chosen = found.by_library["coremltools"]
    sections = configs.core_ml_tools(chosen, found.layers)
    if not sections:
        return f"# No weight can be trained smaller within {found.max_drop:g}.\n"
    made, text = YAML(), io.StringIO()
    made.default_flow_style = False
    made.dump(sections, text)
    how = [
        _HOW.format(path=visible(path), name=name.removesuffix("Config"), module=_MODULES[name]) for name in sections
    ]
    others = [
        f"# {visible(name)} stays as it is: nothing that they train it to keeps within {found.max_drop:g}\n"
        for name in found.chosen
        if name not in chosen
    ]
    return "".join([_HEAD, *how, *others, text.getvalue()])


def for_torchao(found: Studied) -> str:
    """The text of the JSON file: what `torchao.core.config.config_from_dict` takes."""
    return json.dumps(configs.torchao(found.by_library["torchao"]), indent=2) + "\n"

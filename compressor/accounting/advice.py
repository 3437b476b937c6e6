"""What would make a model smaller, by what it would save, each with what to do."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from compressor import targets
from compressor.accounting.account import Account, Portion, What
from compressor.accounting.copies import CHECKPOINTS, ELSEWHERE
from compressor.accounting.look import Look
from compressor.accounting.onnx_roles import LATE
from compressor.compilation import pipelines
from compressor.compilation.plan import Choice, Plan, choose, plan
from compressor.encodings import name, nbytes
from compressor.errors import plural
from compressor.recognition import near_misses
from compressor.recognition.find import find
from compressor.targets import Target
from compressor.targets.onnxruntime import TARGETS, OnnxRuntime

LEAST = 0.005
"""The share of a model that advice on what is no weight must save, to be worth a line."""


@dataclass(frozen=True)
class Advice:
    """One thing that would make the model smaller; of several, some exclude each other.

    saves: bytes, at most: decoding may take some of them back. what: there is. do: about it.
    weights: the names of those that it is about, the one that saves most first.
    """

    saves: int
    what: str
    do: str
    weights: tuple[str, ...] = ()


def advice(account: Account, look: Look | None) -> tuple[Advice, ...]:
    """What would make the files smaller, what saves most first. look: at the weights, where they can be looked at."""
    found = [*_of_bytes(account)]
    if look is not None:
        found += [
            *_of_compression(look),
            *_of_turned(account, look),
            *_of_rounding(account, look),
            *_of_near_misses(look),
        ]
        found += [*_of_targets(look), *_of_opsets(look), *_of_pipelines(look), *_of_rules(look)]
    return tuple(sorted((one for one in found if one.saves > 0), key=lambda one: -one.saves))


def _of_compression(look: Look) -> Iterator[Advice]:
    """What this package makes of the weights as they are."""
    saved: dict[str, int] = {}
    forms = Counter[str]()
    for choice in look.plan.choices:
        saves = choice.finding.source_nbytes - nbytes(choice.legal)
        if saves > 0:
            saved[choice.name] = saves
            forms[name(choice.legal)] += 1
    told = f"smaller: {', '.join(f'{count} as {form}' for form, count in forms.most_common())}"
    if len(forms) == 1:
        told = f"as {next(iter(forms))}"
    yield _about(saved, f"{plural(len(saved), 'weight')} can be stored {told}", _compress(look))


def _of_turned(account: Account, look: Look) -> Iterator[Advice]:
    """Copies that no comparison of bytes shows."""
    shown = {one.name for one in account.portions if one.what is What.COPIES}
    turned = {name: nbytes for name, nbytes in look.turned.items() if name not in shown}
    yield _about(turned, "constants are stored twice, once with their axes in another order", _compress(look))


def _of_rounding(account: Account, look: Look) -> Iterator[Advice]:
    """What a target saves that has other values than the source, as Core ML has in float16."""
    saves = look.nbytes - sum(finding.source_nbytes for finding in look.findings.values())
    if saves > LEAST * account.nbytes:
        yield Advice(saves, f"{look.target.name} has its weights in float16", _compress(look))


def _compress(look: Look) -> str:
    if look.alone:
        return f"export the model whose weights these are, and compress that with --target {look.target.name}"
    return f"compressor compress {shlex.quote(str(look.path))} OUT_DIR --target {look.target.name}"


_KINDS: Mapping[str, str] = {
    near_misses.VALUES: "train with that many values, or -S detect.tolerance for the difference",
    near_misses.FOLDED: "export without folding batch norm, or palettize what was folded",
    near_misses.TOLERANCE: "-S detect.tolerance, as it says: values move that far",
    near_misses.THRESHOLD: "-S detect.threshold, as it says: values up to it become zero; default_pruning does so too",
    near_misses.MASK: "prune more, or in the structure that it almost has",
}


def _of_near_misses(look: Look) -> Iterator[Advice]:
    """What weights almost are; those of one kind and one text together."""
    saved: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for finding in look.findings.values():
        for miss in finding.missed:
            saved[miss.kind, miss.text][finding.name] = miss.saves
    for (kind, text), weights in saved.items():
        yield _about(weights, text, _KINDS[kind])


def _of_targets(look: Look) -> Iterator[Advice]:
    """What other targets of the same family hold smaller, each amount once, by the target that comes first."""
    family, unfitted = targets.family(look.target.name), targets.get(look.target.name)
    pipeline = pipelines.get(look.pipeline, look.settings.threshold)
    now = _total(plan(look.findings.values(), unfitted, pipeline), unfitted)
    seen = set[int]()
    for other in targets.names():
        if targets.family(other) != family or other == look.target.name:
            continue
        made = plan(look.findings.values(), targets.get(other), pipeline)
        saves = now - _total(made, targets.get(other))
        forms = sorted({name(choice.legal) for choice in _changed(look.plan, made)})
        if forms and saves > 0 and saves not in seen:
            seen.add(saves)
            what = f"{look.target.name} does not hold {', '.join(forms)}; {other} does"
            do = f"--target {other}, where what runs the model has it"
            yield replace(_about(_saved(look.plan, made), what, do), saves=saves)


def _of_opsets(look: Look) -> Iterator[Advice]:
    """What a graph of a later opset decodes with fewer operators, or stores smaller, for the same target."""
    if not isinstance(look.target, OnnxRuntime) or look.alone:
        return
    target, now = look.target, _total(look.plan, look.target)
    pipeline = pipelines.get(look.pipeline, look.settings.threshold)
    for opset in sorted({found[0] for found in TARGETS.values() if found is not None}):
        if target.facts.opset < opset <= (target.opset or opset):
            later = replace(target, facts=replace(target.facts, opset=opset))
            saves = now - _total(plan(look.findings.values(), later, pipeline), later)
            if saves > 0:
                what = f"a graph of opset {opset} needs less to decode what it stores than one of {target.facts.opset}"
                yield Advice(saves, what, f"export.opset: {opset}, or onnx.version_converter")
                return


def _total(made: Plan, target: Target) -> int:
    """The bytes of a plan's weights, and of what decodes them."""
    total, shared = made.nbytes, dict[str, int]()
    for choice in made.choices:
        overhead = dict(target.overhead(choice.name, choice.legal))
        total += overhead.pop(choice.name, 0)
        shared |= overhead
    return total + sum(shared.values())


def _of_pipelines(look: Look) -> Iterator[Advice]:
    """What other pipelines make smaller, with what decodes it; none that adds nothing to another and a threshold."""
    now, own = _total(look.plan, look.target), look.asked.pipeline
    misses = ((one.name, miss) for one in look.findings.values() for miss in one.missed)
    zeroed = {name: miss.saves for name, miss in misses if miss.kind == near_misses.THRESHOLD}
    told: list[dict[str, int]] = [{}]
    made = {other: look.by(other) for other in pipelines.PIPELINES if other != look.pipeline}
    saved = {other: _saved(look.plan, plan) for other, plan in made.items() if _total(plan, look.target) < now}
    asked = {other: pipelines.get(other, look.settings.threshold) for other in saved}
    for other, weights in sorted(saved.items(), key=lambda one: (asked[one[0]].threshold, -sum(one[1].values()))):
        if any(all(saves <= one.get(name, 0) + zeroed.get(name, 0) for name, saves in weights.items()) for one in told):
            continue
        told.append(weights)
        pipeline = asked[other]
        changes = f": values up to {pipeline.threshold:g} become zero" if pipeline.threshold else ""
        part = not pipeline.schemes <= own.schemes
        what = f"{own.name} takes part of the schemes" if part else f"{own.name} makes no value zero"
        yield _about(weights, what, f"--pipeline {other}{changes}")


def _of_rules(look: Look) -> Iterator[Advice]:
    """What weights would be that have too few elements to be looked at."""
    every = replace(look.settings, min_elements=0)
    pipeline = pipelines.get(look.pipeline, look.settings.threshold)
    saved: dict[str, int] = {}
    for finding in look.findings.values():
        if "fewer than min_elements" not in finding.skipped:
            continue
        choice = choose(find(look.weights[finding.name], every), look.target, pipeline)
        overhead = sum(look.target.overhead(finding.name, choice.legal).values())
        saves = finding.source_nbytes - nbytes(choice.legal) - overhead
        if saves > 0:
            saved[finding.name] = saves
    yield _about(saved, "too few elements to be looked at", "-S detect.min_elements=0")


def _changed(before: Plan, after: Plan) -> Iterator[Choice]:
    """The choices that are smaller than before."""
    for one, other in zip(before.choices, after.choices, strict=True):
        if nbytes(other.legal) < nbytes(one.legal):
            yield other


def _saved(before: Plan, after: Plan) -> dict[str, int]:
    """By name, how much smaller each weight is; a few may have become larger."""
    pairs = zip(before.choices, after.choices, strict=True)
    return {one.name: saves for one, other in pairs if (saves := nbytes(one.legal) - nbytes(other.legal))}


def _about(weights: Mapping[str, int], what: str, do: str) -> Advice:
    most = sorted(weights, key=lambda one: -weights[one])
    return Advice(sum(weights.values()), what, do, tuple(most))


def _of_bytes(account: Account) -> Iterator[Advice]:
    """What is no weight and need not be there."""
    yield from _of(account, What.COPIES, "constants are stored twice", _share)
    yield from _of(account, What.TRAINING, "what only the training needs", lambda _: "save model.state_dict() alone")
    yield from _of(account, What.UNREFERENCED, "bytes that nothing refers to", _drop)
    late = {one.name: one.nbytes * 3 // 4 for one in account.portions if one.detail == LATE}
    what = f"{plural(len(late), 'weight')} quantized only when a session loads: QuantizeLinear of constants"
    yield _about(late, what, "quantize initializers in place of Constant nodes, or fold constants before it is saved")
    for kind, do in _METADATA.items():
        parts = [one for one in account.portions if one.what is What.NAMES and one.name == kind and _plain(one)]
        saves = sum(part.nbytes for part in parts)
        if saves > LEAST * account.nbytes:
            yield Advice(saves, f"{kind}, which no runtime needs", do)


_METADATA: Mapping[str, str] = {
    "documentation": "clear doc_string, in the model, its graph and its nodes, before it is saved",
    "properties": "clear metadata_props of the nodes, in subgraphs too: exporters keep there where each came from",
    "types of values": "clear graph.value_info: a runtime infers the types of standard operators again",
    "where code came from": "export the model: code of TorchScript has its history beside it",
}
"""By kind of metadata, how to get rid of it: `compress` keeps what a source says."""


def _of(account: Account, what: What, told: str, do: Callable[[Portion], str]) -> Iterator[Advice]:
    by_do: dict[str, dict[str, int]] = defaultdict(dict)
    for one in account.portions:
        if one.what is what:
            weights = by_do[do(one)]
            weights[one.name] = weights.get(one.name, 0) + one.nbytes
    for remedy, weights in by_do.items():
        yield _about(weights, told, remedy)


def _plain(portion: Portion) -> bool:
    """Whether a file is no part of a Core ML package, which is written by a converter alone."""
    return ".coreml/" not in portion.file.lower()


def _share(portion: Portion) -> str:
    if portion.detail.startswith(ELSEWHERE):
        other = portion.detail.removeprefix(ELSEWHERE).partition(": ")[0]
        return f"delete {portion.model}, if nothing reads it: {other} has what it holds"
    if not _plain(portion):
        return "convert the model again from what shares them"
    if portion.file.endswith(CHECKPOINTS):
        return "save one of them, and tie the others to it when the model is built"
    return "compressor compress stores weights of more than 2,048 elements once; share smaller ones in the exporter"


def _drop(portion: Portion) -> str:
    if portion.name == portion.file:
        return f"delete {portion.file}, if no other model reads it"
    if "storages" in portion.name:
        return "clone() the tensors before torch.save: a view is saved with all of its storage"
    return "compressor compress, or an export, writes only what is referred to"

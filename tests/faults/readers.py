"""Every reader with whole files for it, written by the real tools, and the commands that read them.

A file set is a folder; damage is done to one of its files at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from compressor.encodings import Dense, Encoding, Palettized, Sparse
from tests.faults import graphs
from tests.faults.commands import SIZE, chain, done, weights
from tests.formats.coreml import models as coreml_models
from tests.sources.gguf import gguf_files
from tests.sources.huggingface import folders
from tests.sources.huggingface.folders import awq, gptq, masked, quantized, saved, scaled, scheme, words

Arguments = tuple[str, ...]
LOAD = "load"
"""In place of a command: the first step of an export alone, which is faster."""
PARSE = "parse"
"""In place of a command: the typed form of manifest.json."""
EXPORT = "export"
SETTINGS = "{export: {factory: '%s', inputs: {input: {shape: [1, 16]}}}}"
PARAMS = SETTINGS % "tests.faults.readers:small"


@dataclass(frozen=True)
class Reader:
    """make: writes file sets by name into folders that exist. damaged: the files that damage is done to, by how their
    names end; all others stay whole. commands: one of them reads the set. share: of the files of a run.
    slow: the sets that take seconds to make. damage: writes the file anew, in place of changes to its bytes.
    seconds: what a file may take.
    """

    make: Mapping[str, Callable[[], object]]
    damaged: tuple[str, ...]
    commands: tuple[Arguments, ...]
    share: int = 3
    slow: tuple[str, ...] = ()
    damage: Callable[[Path, Random], None] | None = None
    seconds: int = 20


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def _models() -> dict[str, Callable[[], object]]:
    return {
        "dense and compressible": lambda: chain(Path("m.onnx")),
        "opset 18": lambda: _artefact("onnx-opset18"),
        "opset 21": lambda: _artefact("onnx-opset21"),
        "opset 25": lambda: _artefact("onnx-opset25"),
        "quantized": _quantized_model,
    }


def _artefact(target: str) -> None:
    done(
        "compress",
        chain(Path("whole.onnx"), {name: values for name, values in weights().items() if name != "plain"}),
        "made",
        "--target",
        target,
    )
    Path("made/model.onnx").rename("m.onnx")
    _tidied()


def _tidied() -> None:
    for name in ("whole.onnx", "made"):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def _quantized_model() -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(chain(Path("whole.onnx")), "m.onnx")
    Path("whole.onnx").unlink()


def _external() -> None:
    chain(Path("m.onnx"), external=True)


def _package(target: str) -> None:
    done("compress", chain(Path("whole.onnx")), "made", "--target", target)
    shutil.move("made/model.mlpackage", "m.mlpackage")
    _tidied()


def _constants(version: int) -> None:
    encodings: dict[str, Encoding] = {"dense": Dense(weights()["plain"])}
    if version > 7:
        pruned = weights()["pruned"]
        encodings["sparse"] = Sparse(pruned != 0, Dense(pruned[pruned != 0].astype(np.float16)), pruned.shape)
        table = np.arange(16, dtype=np.float16).reshape(1, 1, 16, 1)
        encodings["palette"] = Palettized((np.arange(4096) % 16).astype(np.uint8).reshape(64, 64), table)
    coreml_models.save(Path("m.mlpackage"), version, encodings)


def _shards() -> None:
    Path("folder").mkdir()
    named = {f"layers.{place}.weight": values for place, values in enumerate(weights().values())}
    placed = {}
    for place, (name, values) in enumerate(named.items()):
        placed[name] = f"model-{place}.safetensors"
        saved(Path("folder") / placed[name], {name: values})
    (Path("folder") / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (Path("folder") / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": SIZE}))


def _packed() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    codes = np.arange(6 * 32).reshape(6, 32) % 16
    tensors = {"l.weight_packed": words(codes, 4), "l.weight_scale": scaled(1), "l.weight_shape": np.array([6, 32])}
    return tensors, scheme(num_bits=4, strategy="tensor")


def _sparse() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    return masked(weights()["pruned"]), {"quant_method": "compressed-tensors", "config_groups": {}}


def _state(save: Callable[[object], object]) -> None:
    save(small().state_dict())
    Path("params.yaml").write_text(PARAMS)


def _pruned(name: str) -> None:
    from torch.nn.utils import prune

    model = small()
    prune.l1_unstructured(model.get_submodule("0"), "weight", amount=0.5)
    _state(lambda _: torch.save({"epoch": 3, "state_dict": model.state_dict()}, name))


def _palettized(name: str) -> None:
    """What Core ML Tools' buffers look like: a table of four values for all of a weight."""
    state = small().state_dict()
    table = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    state["0.weight"] = table[torch.arange(state["0.weight"].numel()) * 7 % 11 % 4].reshape(state["0.weight"].shape)
    declared = {"metadata_version": torch.tensor(1), "0._COREML_/metadata_version": torch.tensor(1)}
    declared |= {
        "0._COREML_/weight/lut": table.reshape(1, 1, 4, 1),
        "0._COREML_/weight/compression_type": torch.tensor([2]),
    }
    state.update({("_COREML_/" + key if "/" not in key else key): value for key, value in declared.items()})
    _state(lambda _: torch.save(state, name))


def _dynamic(name: str) -> None:
    from torch.ao.quantization import quantize_dynamic

    model = quantize_dynamic(small(), {nn.Linear}, dtype=torch.qint8)
    torch.save(model.state_dict(), name)
    Path("params.yaml").write_text(SETTINGS % "tests.faults.readers:quantized_small")


def quantized_small() -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    module: nn.Module = quantize_dynamic(small(), {nn.Linear}, dtype=torch.qint8)
    return module


def _program() -> None:
    rows = torch.export.Dim("rows", min=1, max=64)
    exported = torch.export.export(small().eval(), (torch.ones(4, 16),), dynamic_shapes=({0: rows},))
    torch.export.save(exported, "m.pt2")
    Path("params.yaml").write_text("export: {inputs: {input: {shape: [4, 16]}}}")


def _script(model: Callable[[], nn.Module]) -> None:
    torch.jit.save(torch.jit.script(model().eval()), "m.ts")
    Path("params.yaml").write_text("export: {inputs: {input: {shape: [1, 16]}}}")


def _findings() -> None:
    done("detect", chain(Path("m.onnx")), "--out", "detection.json")


def _made() -> None:
    done("compress", chain(Path("m.onnx")), "made")


def _settings() -> None:
    chain(Path("m.onnx"))
    groups = {
        "target": "onnxruntime",
        "export": {
            "factory": "tests.faults.readers:small",
            "args": {},
            "inputs": {"image": {"shape": [1, 16], "dynamic": {"0": "n"}}},
        },
        "detect": {"min_elements": 2048, "threshold": 0.001, "max_thresholded": 0.01, "tolerance": 0.0},
        "compress": {"pipeline": "auto"},
        "coreml": {"precision": "float16", "axes": {"batch": 1}, "images": {}, "classes": ""},
        "evaluate": {"metric": "accuracy_score", "batch_size": 8, "limits": {"size_ratio": 1.5}},
    }
    Path("params.yaml").write_text(json.dumps(groups, indent=1))


def _versions() -> None:
    chain(Path("m.onnx"))
    done("toolchain", "--out", "compression/toolchain.json")


def _metrics() -> None:
    done("compress", chain(Path("m.onnx")), "made")
    done("evaluate", "m.onnx", "made", "--out", "metrics.json", "-S", "evaluate.limits={size_ratio: 1.1}")


def _samples() -> None:
    _made()
    np.savez("data.npz", x=np.ones((8, SIZE), np.float32), labels=np.arange(8))


def _bare() -> None:
    saved(Path("m.safetensors"), weights(), source="training")


def _loadable() -> None:
    saved(Path("m.safetensors"), {name: value.numpy() for name, value in small().state_dict().items()})
    Path("params.yaml").write_text(PARAMS)


def _quantizer(made: Callable[[], tuple[dict[str, np.ndarray], dict[str, object]]]) -> Callable[[], object]:
    return lambda: quantized(Path("folder"), *made())


def _checkpoint(name: str) -> Reader:
    def save(state: object) -> None:
        torch.save(state, name, _use_new_zipfile_serialization=name != "m.pth")

    make: dict[str, Callable[[], object]] = {
        "state": lambda: _state(save),
        "pruned": lambda: _pruned(name),
        "palettized": lambda: _palettized(name),
        "quantized": lambda: _dynamic(name),
    }
    if name == "m.pth":
        make = {"state": make["state"], "quantized": _legacy_quantized}
    return Reader(make, (name,), ((LOAD, name),) * 15 + (("export", name, "out"),), share=2)


def _legacy_quantized() -> None:
    torch.save(quantized_small().state_dict(), "m.pth", _use_new_zipfile_serialization=False)
    Path("params.yaml").write_text(SETTINGS % "tests.faults.readers:quantized_small")


def _looks(name: str) -> tuple[Arguments, ...]:
    return (("inspect", name),) * 3 + (("detect", name),) * 2


READERS: dict[str, Reader] = {
    "onnx": Reader(
        _models(), ("m.onnx",), (*_looks("m.onnx"), ("compress", "m.onnx", "out"), ("export", "m.onnx", "out"))
    ),
    "onnx graphs": Reader(
        {"m": lambda: chain(Path("m.onnx"))},
        ("m.onnx",),
        (
            *_looks("m.onnx"),
            ("compress", "m.onnx", "out"),
            ("compress", "m.onnx", "out", "--dry-run"),
            ("compress", "m.onnx", "out", "--target", "iOS17"),
            ("compress", "m.onnx", "out", "--target", "iOS18", "--dry-run"),
        ),
        damage=graphs.write,
        seconds=5,
    ),
    "onnx with external data": Reader(
        {"m": _external},
        ("m.onnx", ".data"),
        (*_looks("m.onnx"), ("compress", "m.onnx", "out"), ("export", "m.onnx", "out")),
    ),
    "mlpackage": Reader(
        {
            **{f"constants of version {version}": partial(_constants, version) for version in (7, 9)},
            **{target: partial(_package, target) for target in ("iOS16", "iOS18")},
        },
        ("Manifest.json", ".mlmodel", "weight.bin"),
        (*_looks("m.mlpackage"), ("compress", "m.mlpackage", "out", "--target", "iOS18")),
        slow=("iOS16", "iOS18"),
    ),
    "hugging face folder": Reader(
        {
            "shards": _shards,
            "gptq": _quantizer(lambda: gptq(4, 32)[:2]),
            "awq": _quantizer(lambda: awq()[:2]),
            "packed": _quantizer(_packed),
            "sparse": _quantizer(_sparse),
            "floats of 4 bits": _quantizer(folders.floats_of_4_bits),
            "floats of 8 bits": _quantizer(folders.floats_of_8_bits),
            "experts": _quantizer(folders.experts),
            "bitsandbytes": _quantizer(folders.bitsandbytes),
        },
        (".json", ".safetensors"),
        _looks("folder"),
    ),
    "gguf": Reader(
        {"model": lambda: gguf_files.saved(Path("m.gguf"))},
        (".gguf",),
        (*_looks("m.gguf"), ("compress", "m.gguf", "out", "--dry-run"), ("explain", "m.gguf")),
    ),
    "safetensors": Reader({"weights": _bare}, (".safetensors",), _looks("m.safetensors")),
    "safetensors by torch": Reader(
        {"state": _loadable},
        (".safetensors",),
        ((LOAD, "m.safetensors"),) * 15 + (("export", "m.safetensors", "out"),),
        share=2,
    ),
    "torch zip": _checkpoint("m.pt"),
    "torch checkpoint": _checkpoint("m.ckpt"),
    "torch bin": _checkpoint("pytorch.bin"),
    "torch legacy": _checkpoint("m.pth"),
    "pt2": Reader({"program": _program}, (".pt2",), ((LOAD, "m.pt2"),) * 15 + (("export", "m.pt2", "out"),), share=2),
    "torchscript": Reader(
        {"float": lambda: _script(small), "quantized": lambda: _script(quantized_small)},
        (".ts",),
        ((LOAD, "m.ts"),) * 15 + (("export", "m.ts", "out"),),
        share=2,
    ),
    "detection.json": Reader(
        {"found": _findings},
        ("detection.json",),
        (
            ("compress", "m.onnx", "out", "--detection", "detection.json", "--dry-run"),
            ("compress", "m.onnx", "out", "--detection", "detection.json"),
        ),
    ),
    "manifest.json": Reader(
        {"made": _made}, ("manifest.json",), ((PARSE, "made/manifest.json"),) * 4 + (("inspect", "made"),)
    ),
    "params.yaml": Reader(
        {"all groups": _settings},
        ("params.yaml",),
        (("detect", "m.onnx"), ("compress", "m.onnx", "out", "--dry-run"), ("compress", "m.onnx", "out")),
    ),
    "toolchain.json": Reader(
        {"versions": _versions}, ("toolchain.json",), (("detect", "m.onnx"), ("detect", "m.onnx", "--strict"))
    ),
    "metrics.json": Reader({"measured": _metrics}, ("metrics.json",), (("check", "metrics.json"),)),
    "npz": Reader(
        {"samples": _samples},
        ("data.npz",),
        (("evaluate", "m.onnx", "made", "--out", "out.json", "-S", "evaluate.data=data.npz"),),
    ),
}

"""What a Hugging Face folder consists of: its settings, and the tensors of all its shards by name.

    config.json                       the architecture and how its weights are quantized
    model.safetensors                 the weights, or
    model.safetensors.index.json      {"weight_map": {name: shard}}, with the shards beside it

Source: the documentation of transformers (big models, quantization).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.arrays import MappedArray
from compressor.errors import CompressorError
from compressor.formats import safetensors
from compressor.model import TIED

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
QUANTIZATION = ("quantization_config", "compression_config")
"""Where config.json says how weights are stored; the second is what compressed-tensors wrote at first."""
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files that say it where config.json does not, as AutoGPTQ and AutoAWQ wrote at first."""
MAX_JSON = 64 << 20
SHOWN = 5
MAX_SHARDS = 10_000
_HEAD = "lm_head.weight"
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|word_embeddings|wte)\.weight$")
"""The head of a language model, which a folder leaves out where it is tied to the embedding; and that one's names."""
_NUMBERED = re.compile(r"(?P<name>.*-)\d{5}-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """path: of the folder or the bare file. config: what config.json says. quantization: how weights are stored, empty
    for plain floats. tensors: by name, in the order of the files. files: all that were read.
    """

    path: Path
    config: Mapping[str, Any]
    quantization: Mapping[str, Any]
    tensors: Mapping[str, MappedArray]
    files: tuple[Path, ...] = field(default=())


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder with weights in `.safetensors` files, or one that says it should have them.

    One that holds an ONNX graph is an exported one.
    """
    if not path.is_dir() or (path / "model.onnx").exists():
        return False
    return any((path / name).exists() for name in (INDEX, CONFIG)) or any(path.glob("*.safetensors"))


def settings(folder: Path) -> tuple[Path, ...]:
    """The files of `folder` that say what its tensors are."""
    names = (CONFIG, "generation_config.json", *BESIDE, INDEX)
    return tuple(folder / name for name in names if (folder / name).is_file())


def is_adapter(file: Path) -> bool:
    """Whether a file has the weights of an adapter (LoRA), which are none of the model's."""
    return file.name.startswith("adapter_model.")


def _shards(path: Path) -> list[Path]:
    """The files with weights of a folder without an index: numbered ones before others, none of an adapter.

    Some folders have the weights once more, as who trained them calls the tensors (`consolidated.safetensors`).
    """
    found = [file for file in sorted(path.glob("*.safetensors")) if not is_adapter(file)]
    own = [file for file in found if not file.name.startswith("consolidated")]
    return [file for file in own if _NUMBERED.fullmatch(file.name)] or own or found


def open_folder(path: Path) -> Checkpoint:
    """The weights of a folder.

    Raises:
        CompressorError: a file is missing, damaged or contradicts another one.
    """
    index = path / INDEX
    if (path / WEIGHTS).exists() or not index.exists():
        shards = [path / WEIGHTS] if (path / WEIGHTS).exists() else _shards(path)
        if not shards:
            raise CompressorError(f"{path}: no *.safetensors file{_instead(path)}.")
        _check_whole(path, shards)
        return _opened(path, path, shards, {})
    placed = _weight_map(index)
    shards = [path / name for name in sorted(set(placed.values()))]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise CompressorError(f"{index}: names {_some(missing)}, not in the folder. Download the whole folder.")
    opened = _opened(path, path, shards, placed, index)
    if unnamed := _unnamed(path, {shard.name for shard in shards}):
        raise CompressorError(
            f"{index}: does not name {_some(unnamed)}, which lies beside it: no loader would find its weights. "
            "Save the model again."
        )
    return opened


def open_file(path: Path) -> Checkpoint:
    """The weights of one file; config.json beside it says how they are stored.

    Raises:
        CompressorError: the file is missing or damaged.
    """
    return _opened(path, path.parent, [path], {})


def metadata(opened: Checkpoint) -> dict[str, str]:
    """What this package wrote about itself into the first file with weights, and what config.json says is tied."""
    shard = next(file for file in opened.files if file.suffix == ".safetensors")
    said = safetensors.header(shard)[0].get(safetensors.METADATA)
    found = said.items() if isinstance(said, Mapping) else ()
    own = {key: text for key, text in found if key.startswith("compressor.") and isinstance(text, str)}
    embedding = next((name for name in opened.tensors if _EMBEDDING.search(name)), None)
    tied = embedding is not None and opened.config.get("tie_word_embeddings") is True and _HEAD not in opened.tensors
    return own | ({f"{TIED}{_HEAD}": embedding} if embedding is not None and tied else {})


def _opened(path: Path, folder: Path, shards: list[Path], placed: Mapping[str, str], *index: Path) -> Checkpoint:
    tensors: dict[str, MappedArray] = {}
    for shard in shards:
        for name, tensor in safetensors.read(shard).items():
            if name in tensors:
                raise CompressorError(f"{shard}: holds {name}, which {tensors[name].path.name} holds too. Remove one.")
            tensors[name] = tensor
    wrong = [name for name, shard in placed.items() if name not in tensors or tensors[name].path.name != shard]
    if wrong:
        raise CompressorError(
            f"{folder / INDEX}: {_some(wrong)} is not in the file that it names ({placed[wrong[0]]}). "
            "Download the whole folder again."
        )
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    quantization, said = _quantization(folder, config)
    own = [folder / CONFIG] if config else []
    return Checkpoint(path, config, quantization, tensors, (*own, *said, *index, *shards))


def _quantization(folder: Path, config: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Path]]:
    """How the weights are stored, and the files beside config.json that say it."""
    for holder in (config, config.get("text_config")):
        for key in QUANTIZATION:
            found = holder.get(key) if isinstance(holder, Mapping) else None
            if found is not None and not isinstance(found, Mapping):
                raise CompressorError(f"{folder / CONFIG}: {key} is a {type(found).__name__}, expected an object.")
            if found:
                return found, []
    for name, method in BESIDE.items():
        if (folder / name).exists():
            return {"quant_method": method, **read_json(folder / name)}, [folder / name]
    return {}, []


def _unnamed(path: Path, named: Collection[str]) -> list[str]:
    """Shards that are numbered as the named ones are, and are none of them."""
    numbered = {(found["name"], found["count"]) for name in named if (found := _NUMBERED.fullmatch(name))}
    others = sorted(file.name for file in path.glob("*.safetensors") if file.name not in named)
    matches = ((name, _NUMBERED.fullmatch(name)) for name in others)
    return [name for name, found in matches if found and (found["name"], found["count"]) in numbered]


def _check_whole(path: Path, shards: Iterable[Path]) -> None:
    """Refuse shards that are numbered, and of which one is missing."""
    names = {shard.name for shard in shards}
    for name in sorted(names):
        if not (numbered := _NUMBERED.fullmatch(name)):
            continue
        for number in range(1, min(int(numbered["count"]), MAX_SHARDS) + 1):
            other = f"{numbered['name']}{number:05}-of-{numbered['count']}.safetensors"
            if other not in names:
                raise CompressorError(
                    f"{path}: {name} is one of {int(numbered['count'])} shards, and {other} is not in the folder. "
                    "Download the whole folder."
                )


def _weight_map(index: Path) -> Mapping[str, str]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(shard, str) for shard in placed.values()):
        raise CompressorError(f"{index}: expected a weight_map of file names by tensor. Save the model again.")
    for shard in set(placed.values()):
        if Path(shard).name != shard or "\\" in shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise CompressorError(f"{index}: names the shard {shard!r}; expected a *.safetensors file beside it.")
    return placed


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a file.

    Raises:
        CompressorError: it cannot be read, or is something else.
    """
    try:
        if not path.is_file():
            raise CompressorError(f"{path}: not a regular file, expected JSON.")
        if path.stat().st_size > MAX_JSON:
            raise CompressorError(f"{path}: {path.stat().st_size:,} bytes, expected at most {MAX_JSON:,}.")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CompressorError(f"{path}: not valid JSON: {error}. Save or download it again.") from error
    if not isinstance(content, dict):
        raise CompressorError(f"{path}: expected a JSON object, got a {type(content).__name__}.")
    return content


def _instead(path: Path) -> str:
    found = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if not found:
        return ""
    return f", but {_some(found)}: load the model and save it again with save_pretrained(..., safe_serialization=True)"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

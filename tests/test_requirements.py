"""What to install, by the package's own metadata."""

import re
from importlib import metadata

import pytest

from compressor import requirements

HERE = {"numpy": "2.3.5", "onnx-ir": "1.1", "onnxscript": "0.6", "safetensors": "0.4.9"}


@pytest.mark.parametrize(
    ("extra", "here", "expected"),
    [
        ("torch", {}, '"torch>=2.9" "onnxscript>=0.5.4" "onnx-ir>=1.1" "safetensors>=0.5" (CPU)'),
        ("torch", HERE, '"torch>=2.9" "safetensors>=0.5" (CPU)'),
        ("torch", HERE | {"torch": "2.8.1+cpu", "safetensors": "0.5.0"}, '"torch>=2.9" (CPU)'),
        ("torch", HERE | {"torch": "2.13.0+cpu"}, '"safetensors>=0.5"'),
        ("coreml", HERE | {"torch": "2.9.0", "safetensors": "1", "numpy": "2.4.0"}, '"coremltools>=9.0" "numpy<2.4"'),
        ("huggingface", HERE | {"torch": "2.9.0", "safetensors": "1"}, '"transformers>=5"'),
        ("dvc", {"dvc": "3.67.1"}, '"dvc>=3.60"'),
    ],
)
def test_what_is_missing_or_too_old_is_named(extra, here, expected, monkeypatch):
    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(metadata, "version", version)
    hint = requirements.hint(extra).replace(f"(without a GPU, add {requirements.CPU_TORCH})", "(CPU)")
    assert hint == f"pip install {expected}"


def test_all_of_the_metadata_is_understood():
    for line in metadata.requires(requirements.OWN) or ():
        assert requirements._REQUIREMENT.fullmatch(line), line
    extras = {found[1] for line in metadata.requires("compressor") or () if (found := re.search(r"== .(\w+).$", line))}
    assert {"torch", "coreml", "huggingface", "dvc"} <= extras

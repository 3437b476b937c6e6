"""Which model `compressor init` takes, and what its stages depend on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.stages.init.folders import SIZES_ONLY, TRAINING, values

HEAVY = {"coremltools", "onnxruntime", "onnxscript", "rich", "sklearn", "torch", "transformers"}


@pytest.mark.parametrize(
    ("files", "options", "model", "because"),
    [
        ({}, (), "net.onnx", "stage train writes it"),
        (
            {"dvc.yaml": "vars:\n  - out: {dir: made}\n" + TRAINING.replace("net.onnx", "${out.dir}/net.onnx")},
            (),
            "${out.dir}/net.onnx",
            "stage train writes it",
        ),
        (
            {
                "dvc.yaml": TRAINING.replace("    outs", "    wdir: sub\n    outs").replace(
                    "net.onnx", "../other/net.onnx"
                )
            },
            (),
            "other/net.onnx",
            "stage train writes it",
        ),
        (
            {
                "dvc.yaml": "stages:\n  train:\n    foreach: [a, b]\n    do:\n      cmd: t ${item}\n"
                "      outs: ['${item}.onnx']\n",
                "dvc.lock": "stages:\n  train@a:\n    outs:\n    - path: a.onnx\n"
                "  train@b:\n    outs:\n    - path: b.onnx\n",
            },
            ("--model", "b.onnx"),
            "b.onnx",
            "stage train@b writes it",
        ),
        (
            {
                "dvc.yaml": "stages:\n  train:\n    foreach: ${folds}\n    do:\n      cmd: t ${item}\n"
                "      outs: ['${dir}/fold${item}/net.onnx']\n",
                "params.yaml": "folds: [0, 1]\ndir: made\n",
            },
            ("--model", "made/fold1/net.onnx"),
            "made/fold1/net.onnx",
            "stage train@1 writes it",
        ),
        (
            {
                "dvc.yaml": "vars:\n  - size: m\nstages:\n  train:\n    foreach:\n      a: {out: x}\n    do:\n"
                "      cmd: t ${key}\n      outs: ['${item.out}/${key}.onnx']\n"
                "  tune:\n    matrix: {size: [s, '${size}'], from: [{it: x/a.onnx}]}\n    cmd: tune\n"
                "    deps: ['${item.from.it}']\n    outs: ['${item.size}.onnx']\n",
            },
            ("--model", "m.onnx"),
            "m.onnx",
            "stage tune@m-from0 writes it",
        ),
        (
            {"dvc.yaml": TRAINING + "  tune:\n    cmd: python tune.py\n    deps: [net.onnx]\n    outs: [tuned.onnx]\n"},
            (),
            "tuned.onnx",
            "stage tune writes it",
        ),
        ({"dvc.yaml": "", "sub/dvc.yaml": TRAINING}, (), "sub/net.onnx", "stage train of sub/dvc.yaml writes it"),
        ({"dvc.yaml": "", "net.onnx.dvc": ""}, (), "net.onnx", "DVC tracks it by net.onnx.dvc"),
        (
            {
                "dvc.yaml": TRAINING.replace("net.onnx", "made"),
                "train.py": "import lib.saving\n",
                "lib/saving.py": "import torch\ndef save(net):\n    torch.onnx.export(net, (), 'made/net.onnx')\n",
            },
            (),
            "made/net.onnx",
            "lib/saving.py names it",
        ),
        (
            {
                "dvc.yaml": "stages:\n  train:\n    cmd: python train.py\n    outs: [models]\n",
                "train.py": "net.save_pretrained('models/tuned')\nopen('models/log.txt', 'w')\n",
            },
            ("--input", "input_ids=int64[1,8]"),
            "models/tuned",
            "train.py calls net.save_pretrained",
        ),
    ],
)
def test_the_model_is_the_one_that_a_stage_writes(folder, run, files, options, model, because):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    said = " ".join(run(*SIZES_ONLY, *options).split())
    assert f"model {model}: " in said
    assert because in said
    export = values()["stages"]["export"]
    assert export["cmd"].startswith(f"compressor export {model} ")
    assert export["deps"][0] == model


def test_a_checkpoint_is_looked_at_without_torch(folder):
    """Its first bytes tell what it is: a dry run costs little more than Python's start."""
    (folder / "dvc.yaml").write_text(TRAINING.replace("net.onnx", "net.pt"))
    torch.save({"w": torch.zeros(2)}, folder / "net.pt")
    code = "import atexit, sys\natexit.register(lambda: print('MODULES', *sys.modules))\n"
    code += "from compressor.stages.app import main\nmain()"
    options = ("--dry-run", *SIZES_ONLY, "--factory", "nets:Net", "--input", "x=float32[batch,2]")
    done = subprocess.run([sys.executable, "-c", code, "init", *options], capture_output=True, text=True)
    assert "net.pt: stage train writes it: a state dict, its first bytes say so" in done.stdout
    modules = next(line for line in done.stdout.splitlines() if line.startswith("MODULES "))
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in modules.split())


def test_evaluate_depends_on_what_the_data_function_reads(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING + "  prepare:\n    cmd: python prepare.py\n    outs: [made/set]\n")
    (folder / "raw.csv.dvc").touch()
    (folder / "parts").mkdir()
    (folder / "parts" / "reading.py").write_text("import numpy as np\nPATH = 'made/set/test.npz'\nRAW = './raw.csv'\n")
    (folder / "parts" / "scores.py").write_text("def share(labels, outputs): ...\n")
    (folder / "parts" / "data.py").write_text(
        "import numpy as np\nfrom . import reading\n\ndef held_out():\n    raise FileNotFoundError(reading.PATH)\n"
    )
    run("--data", "parts.data:held_out", "--metric", "parts.scores:share")
    assert values()["stages"]["evaluate"]["deps"] == [
        "models/exported",
        "models/compressed",
        "parts/data.py",
        "parts/reading.py",
        "made/set",
        "raw.csv",
        "parts/scores.py",
    ]
    assert values("params.yaml")["evaluate"]["limits"] == {"share_drop": 0.01, "size_ratio": 1}

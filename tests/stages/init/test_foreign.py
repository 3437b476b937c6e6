"""Training repositories of others, made as their users make them: from a clean clone to metrics.json, by no hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ENVIRONMENT = {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}

FLOWERS = {  # plain PyTorch in a src layout, dvc.yaml as `dvc stage add` writes it
    ".gitignore": "__pycache__/\n*.csv\n*.json",
    "requirements.txt": "torch\nscikit-learn\n",
    "dvc.yaml": """\
# our pipeline
stages:
  train:
    cmd: python src/train.py
    deps:
    - src/flowers
    - src/train.py
    params:
    - train.epochs
    outs:
    - models/net.pt
""",
    "params.yaml": "train: {epochs: 40}  # tuned\n",
    "src/flowers/__init__.py": "",
    "src/flowers/blocks.py": """\
from torch import nn

def block(wide, narrow):
    return nn.Sequential(nn.Linear(wide, narrow), nn.ReLU())
""",
    "src/flowers/net.py": """\
from torch import nn
from .blocks import block

class Net(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.body = nn.Sequential(block(4, hidden), block(hidden, hidden))
        self.head = nn.Linear(hidden, 3)

    def forward(self, petals):
        return self.head(self.body(petals))

def create():
    return Net()
""",
    "src/flowers/data.py": """\
import numpy as np
from sklearn.datasets import load_iris

def held_out(rows=slice(None, None, 3)):
    features, species = load_iris(return_X_y=True)
    return features[rows].astype(np.float32), species[rows]
""",
    "src/train.py": """\
from pathlib import Path
import torch
from flowers.data import held_out
from flowers.net import create

torch.manual_seed(0)
x, y = map(torch.as_tensor, held_out(slice(1, None, 3)))
net = create()
steps = torch.optim.Adam(net.parameters(), 1e-2)
for _ in range(40):
    steps.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    steps.step()
weight = net.body[1][0].weight.data
weight[weight.abs() < weight.abs().quantile(0.75)] = 0
Path("models").mkdir(exist_ok=True)
torch.save(net.state_dict(), "models/net.pt")
""",
}

REVIEWS = {  # a transformers model in the subfolder of a monorepo whose other project has its own pipeline
    "uv.lock": "version = 1\n",
    "vision/dvc.yaml": "stages:\n  train:\n    cmd: python train.py\n    outs:\n      - model.pt\n",
    "text/reviews/dvc.yaml": """\
vars:
  - folder: artefacts

stages:
  train:
    cmd: python train.py ${folder}/reviews
    deps: [train.py, data.py]
    params: [train]
    outs:
      - ${folder}/reviews

  export:  # for the server
    cmd: python pack.py ${folder}/reviews served.bin.gz
    deps: [pack.py, "${folder}/reviews"]
    outs: [served.bin.gz]
""",
    "text/reviews/params.yaml": "train:\n  seed: 3\nevaluate:\n  batch: 16  # of the server's own evaluation\n",
    "text/reviews/pack.py": "import shutil, sys\nopen(sys.argv[2], 'w').write('packed')\n",
    "text/reviews/data.py": """\
import numpy as np

def held_out():
    words = np.random.default_rng(0).integers(1, 60, (24, 12))
    return {"input_ids": words, "attention_mask": np.ones_like(words)}, (words[:, 0] > 30).astype(np.int64)
""",
    "text/reviews/train.py": """\
import sys
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

torch.manual_seed(3)
config = DistilBertConfig(vocab_size=60, dim=32, hidden_dim=64, n_heads=2, n_layers=1, max_position_embeddings=32)
model = DistilBertForSequenceClassification(config)
weight = model.distilbert.transformer.layer[0].ffn.lin1.weight.data
weight[weight.abs() < weight.abs().quantile(0.75)] = 0
model.save_pretrained(sys.argv[1])
""",
}

SOUNDS = {  # audio, its settings composed by Hydra, params.yaml written by DVC
    ".dvc/config": "[hydra]\n    enabled = True\n",
    "environment.yml": "dependencies: [pytorch]\n",
    "conf/config.yaml": "defaults:\n  - model: small\n  - _self_\nname: tones\n",
    "conf/model/small.yaml": "filters: 8\n",
    "dvc.yaml": """\
stages:
  prepare:
    cmd: python -m tones.prepare
    outs:
      - data/tones.npz
  train:
    cmd: python -m tones.train
    deps:
      - data/tones.npz
    outs:
      - outputs
  evaluate:
    cmd: python -m tones.report
    deps:
      - outputs
    metrics:
      - report.json:
          cache: false
""",
    "tones/__init__.py": "",
    "tones/prepare.py": """\
from pathlib import Path
import numpy as np

Path("data").mkdir(exist_ok=True)
random = np.random.default_rng(0)
pitch = random.integers(0, 4, 40)
wave = np.sin(np.arange(256) * (pitch[:, None] + 1) / 8)[:, None] + random.normal(0, 0.1, (40, 1, 256))
np.savez("data/tones.npz", wave=wave.astype(np.float32), labels=pitch)
""",
    "tones/net.py": """\
import torch

class Tones(torch.nn.Module):
    def __init__(self, filters=16):
        super().__init__()
        self.hear = torch.nn.Conv1d(1, filters, 64, stride=8)
        self.mix = torch.nn.Conv1d(filters, 64, 8)
        self.tell = torch.nn.Linear(64, 4)

    def forward(self, wave):
        return self.tell(self.mix(self.hear(wave).relu()).relu().mean(-1))
""",
    "tones/train.py": """\
from pathlib import Path
import torch
from tones.net import Tones

net = Tones()
net.mix.weight.data = (net.mix.weight.data * 40).round() / 40
Path("outputs").mkdir(exist_ok=True)
torch.save({"state_dict": net.state_dict(), "epoch": 1}, Path("outputs") / "best.ckpt")
""",
    "tones/report.py": "import json\njson.dump({'loss': 1}, open('report.json', 'w'))\n",
}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**ENVIRONMENT, "HOME": str(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def repository(folder: Path, files: Mapping[str, str]) -> Path:
    """A fresh clone: all that is committed, nothing of what a run makes."""
    origin = folder / "origin"
    origin.mkdir()
    run(origin, "git", "init", "-q")
    run(origin, "dvc", "init", "-q")
    for name, text in files.items():
        path = origin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(origin, "git", "add", "-f", ".")
    run(origin, "git", "commit", "-qm", "ours")
    run(folder, "git", "clone", "-q", "origin", "clone")
    return folder / "clone"


@pytest.mark.parametrize(
    ("files", "project", "options", "metrics", "evidence"),
    [
        pytest.param(
            FLOWERS,
            ".",
            ["--factory", "flowers.net:create", "--data", "flowers.data:held_out"],
            "compression/metrics.json",
            ["models/net.pt: stage train writes it", "petals=float32[batch,4]: the first of 50 samples"],
            id="a src layout",
        ),
        pytest.param(
            REVIEWS,
            "text/reviews",
            ["--data", "data:held_out", "--target", "onnxruntime", "--target", "onnx-opset21"],
            "compression/onnx-opset21/metrics.json",
            [
                "train.py calls model.save_pretrained",
                "dvc.yaml has a stage export of its own",
                "params.yaml has evaluate of its own",
            ],
            id="a monorepo with transformers",
        ),
        pytest.param(
            SOUNDS,
            ".",
            ["--factory", "tones.net:Tones", "--data", "data/tones.npz", "--input", "wave=float32[batch,1,256]"],
            "compression/metrics.json",
            ["tones/train.py names it", "DVC writes params.yaml anew from Hydra's configuration"],
            id="audio with Hydra",
        ),
    ],
)
def test_from_a_clean_clone_to_metrics(tmp_path, files, project, options, metrics, evidence):
    assert len([option for option in options if option.startswith("--")]) <= 4
    folder = repository(tmp_path, files) / project
    said = " ".join(run(folder, "compressor", "init", *options).split())
    for one in evidence:
        assert one in said
    for name, text in files.items():  # nothing foreign has changed: every file begins as it did
        path = folder / name if project == "." else tmp_path / "clone" / name
        assert path.read_text().startswith(text), name
    run(folder, "dvc", "repro")
    found = json.loads((folder / metrics).read_text())
    assert found["passed"]
    assert found["size_ratio"] > 1
    assert found["agreement"] == 1.0
    run(folder, "git", "add", ".")
    assert metrics in run(folder, "git", "ls-files", metrics)  # whatever .gitignore said of *.json
    run(folder, "git", "commit", "-qm", "compressed")
    assert "nothing to add" in run(folder, "compressor", "init")
    assert run(folder, "git", "status", "--porcelain") == ""
    assert "up to date" in run(folder, "dvc", "status", "dvc.yaml")

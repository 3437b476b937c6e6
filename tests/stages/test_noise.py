"""What a command lets others say on stderr."""

import subprocess
import sys
from pathlib import Path

import pytest

OTHERS = """
import logging, sys, types, warnings
from compressor.stages.app import app
try:
    app([{debug}'toolchain'])
except SystemExit:
    pass
logging.getLogger('torchao.kernel').warning('no kernels')
logging.getLogger('torch.onnx').info('step 1')
logging.getLogger('compressor.sources').warning('an unknown key \\x1b[2J')
logging.getLogger('users').warning('loaded')
warnings.warn_explicit('old', FutureWarning, 'torch/a.py', 1, module='torch.nn.modules')
warnings.warn_explicit('own', UserWarning, 'src/model.py', 1, module='src.model')
"""


@pytest.mark.parametrize(
    ("debug", "expected"),
    [
        ("", ["warning: an unknown key \\x1b[2J", "warning: loaded", "src/model.py:1: UserWarning: own"]),
        (
            "'--debug', ",
            [
                *("no kernels", "an unknown key \x1b[2J", "loaded"),
                *("torch/a.py:1: FutureWarning: old", "src/model.py:1: UserWarning: own"),
            ],
        ),
    ],
)
def test_only_this_package_and_the_users_code_are_heard(debug, expected):
    ended = subprocess.run([sys.executable, "-c", OTHERS.replace("{debug}", debug)], capture_output=True, text=True)
    assert [line.rstrip() for line in ended.stderr.splitlines() if line.strip()] == expected


def test_the_export_of_an_architecture_says_nothing(tmp_path: Path) -> None:
    """torchao, which transformers imports, and transformers' loss have something to say here."""
    program = """
import transformers as t
config = t.BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
    max_position_embeddings=16,
)
t.BertForSequenceClassification(config).save_pretrained('bert')
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "compressor", "export", "bert", "exported"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")

"""`compressor explain`, from files to what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import compressor
from compressor.errors import CompressorError
from compressor.stages import app
from compressor.stages.explain.tables import percentages
from tests.faults.commands import chain, weights


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["explain", *arguments])


def printed(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def document(*arguments: str) -> Any:
    return json.loads(printed(*arguments, "--json"))


def first_table(text: str) -> list[list[str]]:
    """Name, size and share of each row down to the total."""
    rows = re.findall(r"^(\S.*?) {2,}(\S+ \w?B) {2,}([\d.]+)%$", text, re.MULTILINE)
    names = [row[0] for row in rows]
    return [list(row) for row in rows[: names.index("total") + 1]]


def test_the_shares_add_up_to_a_hundred() -> None:
    chain(Path("m.onnx"), external=True)
    rows = first_table(printed("m.onnx", "--no-advice"))
    assert rows[-1][2] == "100.0"
    assert round(sum(float(share) for *_, share in rows[:-1]), 6) == 100
    assert {"weights", "operators", "names and metadata"} <= {name for name, *_ in rows}


@pytest.mark.parametrize("parts", [[1], [1, 1, 1], [0, 7], [10**12, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3]])
def test_shares_of_any_parts(parts: list[int]) -> None:
    assert round(sum(float(share.rstrip("%")) for share in percentages(parts)), 6) == 100


def test_the_document_adds_up_and_has_all() -> None:
    path = chain(Path("m.onnx"), external=True)
    told = document("m.onnx")
    size = sum(file.stat().st_size for file in Path().iterdir())
    assert told["nbytes"] == sum(file["nbytes"] for file in told["files"]) == size
    assert sum(portion["nbytes"] for portion in told["portions"]) == size
    assert sum(what["nbytes"] for what in told["what"]) == size
    assert [weight["name"] for weight in told["weights"]] == list(weights())
    assert {weight["name"]: weight["reason"] for weight in told["weights"]}["palette"] == "16 distinct values"
    assert told["path"] == str(path)
    assert {weight["model"] for weight in told["weights"]} == {"m.onnx"}
    assert told["target"] == "onnxruntime"
    assert [one["weights"] for one in told["advice"]] == [["palette", "pruned"], []]
    assert told["advice"][1]["do"] == "export.opset: 21, or onnx.version_converter"
    assert told["notes"] == []


def test_without_advice_no_value_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CompressorError("values were looked at")

    chain(Path("m.onnx"), external=True)
    monkeypatch.setattr("compressor.arrays.MappedArray.raw", refuse)
    assert document("m.onnx", "--no-advice")["weights"][0]["nbytes"] == 64 * 64 * 4
    assert "values were looked at" in printed("m.onnx")


def test_an_artefact_says_what_its_weights_were() -> None:
    chain(Path("m.onnx"))
    compressor.compress("m.onnx", "out")
    for options in (["--no-advice"], []):
        reasons = {weight["name"]: weight["reason"] for weight in document("out", *options)["weights"]}
        assert reasons["palette"] == "16 distinct values"
        assert reasons["pruned"].endswith("zeros, unstructured")
    assert [one["do"] for one in document("out")["advice"]] == ["export.opset: 21, or onnx.version_converter"]


def test_the_largest_weights_by_name_and_the_others_by_form() -> None:
    values = {f"w{number}": np.float32(number + 1) * weights()["plain"] for number in range(5)}
    chain(Path("m.onnx"), values)
    text = printed("m.onnx", "--top", "2")
    assert re.search(r"^w0 +dense +16\.4 kB +19\.\d%", text, re.MULTILINE)
    assert re.search(r"^3 more +dense +49\.2 kB +5\d\.\d%", text, re.MULTILINE)
    assert "w3" not in text
    assert "dense" not in printed("m.onnx", "--top", "0")


def test_weights_of_several_models_are_told_apart() -> None:
    chain(Path("encoder.onnx"))
    chain(Path("decoder.onnx"), weights(seed=1))
    text = printed(".")
    assert "encoder.onnx: palette" in text
    assert "decoder.onnx: palette" in text
    assert len(document(".")["weights"]) == 2 * len(weights())
    assert "advice on weights is for one model: name one of decoder.onnx, encoder.onnx" in text


def test_settings_come_from_params_and_options() -> None:
    chain(Path("m.onnx"))
    Path("params.yaml").write_text("compress: {pipeline: default_pruning}\nfinetune: {epochs: 3}\n")
    assert any("--pipeline auto" in one["do"] for one in document("m.onnx")["advice"])
    assert not any(
        "--pipeline auto" in one["do"] for one in document("m.onnx", "-S", "compress.pipeline=auto")["advice"]
    )
    assert document("m.onnx", "-S", "detect.min_elements=100000")["advice"][0]["do"].endswith("detect.min_elements=0")
    assert document("m.onnx", "--target", "onnx-opset18")["target"] == "onnx-opset18"


@pytest.mark.parametrize(
    ("name", "zipped"), [("m.pt", True), ("m.pt", False), ("m.jit", True)], ids=["archive", "as before 1.6", "jit"]
)
def test_the_weights_of_a_checkpoint_are_looked_at_without_a_graph(*, name: str, zipped: bool) -> None:
    import torch

    values = {name: torch.tensor(value) for name, value in weights().items()}
    state = {**values, "turned": values["plain"].T, "counter": torch.ones(64, 64, dtype=torch.int64)}
    content = {"model": state, "optimizer": {"state": torch.zeros(64, 64)}}
    torch.save(content, name, _use_new_zipfile_serialization=zipped)
    told = document(name)
    reasons = {weight["name"]: weight["reason"] for weight in told["weights"]}
    assert reasons["palette"] == "16 distinct values"
    assert told["target"] == "onnxruntime"
    advised = {one["do"]: (one["saves"], one["weights"]) for one in told["advice"]}
    assert advised["save model.state_dict() alone"] == (64 * 64 * 4, ["optimizer"])
    assert advised[f"compressor compress {name} OUT_DIR --target onnxruntime"][1] == ["palette", "pruned"]
    assert told["notes"] == []


def test_an_exported_program_waits_for_its_graph() -> None:
    import torch

    torch.export.save(torch.export.export(torch.nn.Linear(64, 64), (torch.ones(2, 64),)), "m.pt2")
    told = document("m.pt2")
    assert {weight["name"] for weight in told["weights"]} == {"weight", "bias"}
    assert told["notes"] == ["m.pt2: its weights are looked at in a graph: first run compressor export."]


def test_a_model_that_is_not_understood_is_accounted_for() -> None:
    """An opset of the future: its weights are guessed, and there is no advice on them."""
    import onnx

    path = chain(Path("m.onnx"))
    model = onnx.load(path)
    model.opset_import[0].version = 999
    onnx.save(model, path)
    told = document("m.onnx")
    assert {weight["name"]: weight["form"] for weight in told["weights"]} == dict.fromkeys(weights(), "dense")
    assert told["advice"] == []
    assert all("opset 999" in note for note in told["notes"])


def test_hostile_names_are_spelled_out() -> None:
    chain(Path("m.onnx"), {"w\x1b[2J\u202e": weights()["palette"]})
    text = printed("m.onnx")
    assert "w\\x1b[2J\\u202e" in text
    assert "\x1b[2J" not in text
    assert document("m.onnx")["weights"][0]["name"] == "w\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["gone.onnx"], 1, "gone.onnx: no such file or directory; expected a model file, or a directory of one."),
        (["empty"], 1, "empty: a directory without a model file; expected one that holds a model."),
        (["m.txt"], 2, "unknown kind of model file '.txt'"),
        (["m.mlmodel"], 1, "m.mlmodel: a Core ML model without a package"),
        (["bad.onnx"], 1, "bad.onnx: not an ONNX model, or truncated: "),
        (["bad.pt"], 1, "bad.pt: truncated or not a torch checkpoint"),
        (["m.onnx", "--target", "iOS"], 2, "unknown target 'iOS'"),
        (["m.onnx", "--target", "iOS17", "--no-advice"], 2, "structure alone: leave --target out."),
        (["m.onnx", "-S", "nonsense=1", "--no-advice"], 2, "--no-advice looks at the structure alone: leave -S out."),
        (["m.onnx", "--params", "gone.yaml", "--no-advice"], 2, "structure alone: leave --params out."),
        (["m.onnx", "-S", "target=iOS18"], 2, "target is not read here; this command reads detect, compress."),
        (["m.onnx", "-S", "detect.threshhold=1"], 2, "unknown key detect.threshhold. Did you mean 'threshold'?"),
        (["m.onnx", "--params", "gone.yaml"], 2, "gone.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(arguments: list[str], status: int, says: str) -> None:
    chain(Path("m.onnx"))
    Path("empty").mkdir()
    for name in ("m.txt", "m.mlmodel", "bad.onnx", "bad.pt"):
        Path(name).write_bytes(b"no model")
    done = run(*arguments)
    assert done.exit_code == status
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""

"""Whether ONNX Runtime opens a model: what it refuses must not be published.

Nothing is optimized, so that nothing is decoded, and tensors stay in the file, which is mapped: a model of
340 MB takes 0.1 s and 2 MB of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import line
from compressor.formats.onnx.graphs import tensors
from compressor.formats.onnx.reading import load
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx


def refusal(path: Path) -> str:
    """Why ONNX Runtime does not open the model in `path`, in its words; empty if it does.

    Where it is not installed, ONNX's checker is asked.
    """
    model = load(path)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return _checked(model)
    entries = {
        "session.disable_prepacking": "1",  # it copies weights
        "session.model_external_initializers_file_folder_path": str(path.parent),
    }
    try:
        session(model.SerializeToString(), entries, runs=False)
    except Exception as error:  # noqa: BLE001 - each kind of failure has a class of its own, without a common base
        return f"ONNX Runtime {onnxruntime.__version__}: {line(error)}"
    return ""


def session(model: bytes, entries: Mapping[str, str] = {}, *, runs: bool = True) -> Any:
    """A session of a serialized model as it is: nothing is optimized, on one thread of several that work on weights.

    entries: of its configuration. runs: whether it is more than opened.

    Raises whatever ONNX Runtime raises: each kind of failure has a class of its own.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would log is what it raises
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = options.enable_mem_reuse = runs  # planning that costs a quarter of an opening
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _checked(model: onnx.ModelProto) -> str:
    import onnx

    for tensor in (*model.graph.initializer, *tensors([model.graph], model.functions)):
        if tensor.data_location == EXTERNAL:  # the checker would look for the data beside the process
            del tensor.dims[:], tensor.external_data[:]
            tensor.dims.append(0)
            tensor.ClearField("data_location")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return f"onnx {onnx.__version__}: {line(error)}"
    return ""

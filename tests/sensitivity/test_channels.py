"""Where output channels lie, by operator."""

import onnx
import pytest

from compressor.sensitivity.channels import axes

HEADER = '<ir_version: 10, opset_import: ["": 18]> net'


@pytest.mark.parametrize(
    ("node", "rank", "expected"),
    [
        ("Conv(x, w)", 4, 0),
        ("ConvTranspose(x, w)", 4, 1),
        ("MatMul(x, w)", 2, 1),
        ("MatMul(x, w)", 3, 2),
        ("MatMul(w, x)", 2, 0),
        ("Gemm(x, w)", 2, 1),
        ("Gemm<transB = 1>(x, w)", 2, 0),
        ("Gemm(w, x)", 2, 0),
        ("Gemm<transA = 1>(w, x)", 2, 1),
        ("Gather(w, x)", 2, 0),
        ("LSTM<hidden_size = 4>(x, w, r)", 3, 1),
        ("Transpose(w)", 2, 0),  # of a torch layer, turned before it is multiplied with
        ("Relu(x)", 2, 0),  # nobody here reads it
    ],
)
def test_axes(node, rank, expected):
    graph = onnx.parser.parse_model(f"{HEADER} (float[N] x) => (float[N] y) {{ y = {node} }}").graph
    assert axes(graph, {"w": rank}) == {"w": expected}


def test_the_first_reader_tells():
    graph = onnx.parser.parse_model(
        f"{HEADER} (int64[N] i, float[N] x) => (float[N] y) {{ e = Gather(w, i) y = MatMul(e, w) }}"
    ).graph
    assert axes(graph, {"w": 2}) == {"w": 0}

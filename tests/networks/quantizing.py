"""What ONNX Runtime's own quantizers make of the networks: integer operators, Q/DQ pairs, blocks of 4 bits."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer


class _Once(CalibrationDataReader):
    def __init__(self, feeds):
        self._feeds = [feeds]

    def get_next(self):
        return self._feeds.pop() if self._feeds else None


# Codes of 7 bits: a processor without VNNI saturates the sums of products of 8-bit ones, each in its own way.


def dynamic(path: Path, made: Path, feeds) -> None:
    quantize_dynamic(path, made, reduce_range=True)


def pairs(path: Path, made: Path, feeds) -> None:
    quantize_static(path, made, _Once(feeds), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True)


def operators(path: Path, made: Path, feeds) -> None:
    quantize_static(path, made, _Once(feeds), quant_format=QuantFormat.QOperator, per_channel=True, reduce_range=True)


def blocks(path: Path, made: Path, feeds) -> None:
    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=True, bits=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(made))


QUANTIZED = {
    "int8 matrices (JAX)": ("file types (JAX)", dynamic),
    "int8 LSTM": ("seizures (LSTM)", dynamic),
    "int8 convolutions (Keras)": ("Thai words (Keras)", dynamic),
    "4-bit matrices (JAX)": ("file types (JAX)", blocks),
    "4-bit matrices (Keras)": ("Thai words (Keras)", blocks),
    "Q/DQ (Paddle)": ("text angle (Paddle)", pairs),
    "QLinearConv (Paddle)": ("text angle (Paddle)", operators),
    "Q/DQ (LSTM)": ("voice (LSTM)", pairs),
    "QLinearConv (LSTM)": ("voice (LSTM)", operators),
    "Q/DQ (torch)": ("Thai words (torch)", pairs),
    "QLinearMatMul (torch)": ("Thai words (torch)", operators),
}
"""The network and the quantizer of each."""


def quantized(path: Path, quantizer, made: Path, feeds) -> None:
    """Writes the quantized network; the quantizers' advice on the log is for whoever deploys it."""
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantizer(path, made, feeds)
    finally:
        logging.disable(muted)

"""ONNX files: reading, decoding inside the graph, writing."""

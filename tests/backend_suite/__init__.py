"""The backend tests of ONNX as a tier: what becomes of each model, for each family of targets.

`outcomes.json` says what became of each one; `python -m tests.backend_suite --write` runs them all and writes it, with
the table in docs/operators.md.
"""

"""The imperative shell: each module is one command of `compressor`, which is one stage of a DVC pipeline.

A command reads its groups of `params.yaml` and its files, calls the core, writes files whole, and prints a report.
Nothing heavy is imported before a command runs: `compressor --help` costs an interpreter and typer.
"""

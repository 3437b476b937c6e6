"""Compilation: from a model to a verified artefact on disk."""

"""Evaluation: how large an artefact is and how well it does, beside the uncompressed model."""

"""Training repositories in miniature: what the pipeline is run on, and no part of the package."""

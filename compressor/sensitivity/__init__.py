"""Sensitivity: what a model loses when one weight alone is compressed further, and what to train next."""

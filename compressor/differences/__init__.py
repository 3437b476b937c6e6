"""How two models differ, weight by weight, whatever files they lie in: names, forms, bytes and values."""

from __future__ import annotations

"""File formats that sources read and targets write: both directions of a layout stand side by side."""

"""Recognition: what each weight is, with the evidence, before any target is named."""

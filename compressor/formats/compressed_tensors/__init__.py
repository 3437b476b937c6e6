"""compressed-tensors, as it is written: tensors of a layer, and the settings that say what they are."""

"""What torch is about to drop: quantized modules of `torch.ao`, TorchScript, fake quantizers. Imported where it is."""

"""A convolutional network for handwritten digits, fine-tuned with compression in the loop."""

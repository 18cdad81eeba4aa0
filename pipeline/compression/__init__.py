"""Making a trained model smaller: k-bit quantization, magnitude pruning, and the packed files that measure both."""

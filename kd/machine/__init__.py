"""What a machine holds of a training: states, memory, kernels, a bar; no number depends on it."""

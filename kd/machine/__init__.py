"""Training and the machine: saved states, memory, compiled kernels, a progress bar. No number depends on them."""

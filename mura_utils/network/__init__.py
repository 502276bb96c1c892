"""The network: backbones and their weights, the heads, freezing, probing, kernels for CPUs."""

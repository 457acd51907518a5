"""Latency on phones' NPUs, learnt from public measurements: kernels, their costs, coefficients, intervals."""

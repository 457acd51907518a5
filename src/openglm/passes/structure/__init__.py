"""What pruning and factorising know of a PyTorch module: blocks, activations, what each part is worth.

Files here import torch; the passes, which must load without it, import them inside functions.
"""

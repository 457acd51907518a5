"""Training a module: batches, losses, and a loop that can be stopped and resumed.

Files here import torch; what must load without it imports them inside functions.
"""

"""From what users have, text and pictures, to a model's input arrays."""

"""Gates: a kind a file, and in `gate` what they have in common."""

"""Other engines for a bundle: converted, compared with its own at once, and measured beside it."""

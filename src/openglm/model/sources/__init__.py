"""Where models come from: one source a file, each with `matches(source)` and `load(source)`."""

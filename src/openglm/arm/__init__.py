"""A bundle on real ARM code, emulated: its answers proven and its instructions counted with no phone."""

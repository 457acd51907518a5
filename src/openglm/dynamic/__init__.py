"""Dynamic inference: programs of plain graphs, and gates on the host that decide what runs next."""

"""What a graph is made of: its shapes, its layers, and what they cost."""

"""Graphs of ONNX's operators in MLX: how they are kept, made of an ONNX file, and computed."""

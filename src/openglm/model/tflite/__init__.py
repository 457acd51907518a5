"""TensorFlow Lite's files: reading them, and their graphs in ONNX's terms."""

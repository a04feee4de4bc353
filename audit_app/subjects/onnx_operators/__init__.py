"""ONNX operators as differentiable PyTorch functions."""

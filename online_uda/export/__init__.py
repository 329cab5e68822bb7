"""ONNX: networks as files with weights that can be replaced, and ONNX Runtime behind the predictor interface."""

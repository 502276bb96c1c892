"""A trained run as one file for another runtime: LiteRT, ONNX Runtime, OpenVINO, Keras."""

"""What runs a model: CTranslate2, ONNX Runtime, transformers' generate and our own decoder, with one meaning."""

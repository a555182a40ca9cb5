"""That an exported model says what torch said: in ONNX Runtime, with Triton's own states, and on Triton."""

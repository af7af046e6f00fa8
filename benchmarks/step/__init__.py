"""Whole training steps on one device, ours against HF transformers: `python -m benchmarks.step`.

shapes      the models: a 1B-class Gemma 3 and a hybrid mixture with about 1B active parameters
ours        steps of our model in JAX
hf          steps of the same shape with transformers and torch.compile
report      tokens per second, MFU from the model definition, bars and the table
"""

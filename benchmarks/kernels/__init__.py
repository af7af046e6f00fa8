"""Our kernels against what a user would pick instead, on one device and the same data: `python -m benchmarks.kernels`.

cases       what is measured: shapes, data, counted work
peers/      the implementations, one file each; a function gives one operation
reference   float32 answers on an independent slice of a case
runners     one implementation's forward and backward as calls to time, in JAX or in PyTorch
timing      medians and quartiles
worker      one implementation on one case, in a process of its own
suite       all workers of a part, one after the other
bars        what the figures must reach, and the table that says whether they do
numerics    every kernel on the device against its reference, values and gradients
plot        the figures as a picture
"""

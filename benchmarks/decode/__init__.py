"""Generated tokens per second on a CPU, ours beside HF `generate`: `python -m benchmarks.decode --reference PYTHON`.

theirs      HF transformers in PyTorch
ours        prefill and the compiled decoding loop
"""

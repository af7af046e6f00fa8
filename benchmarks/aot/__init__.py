"""Every kernel compiled ahead of time for the machines it is written for, on a machine that has none of them.

    python -m benchmarks.aot --target cuda      # sm_90a machine code for an H200, from ptxas; needs the extra `cuda`
    python -m benchmarks.aot --target tpu       # programs for v5p, v6e and tpu7x, from libtpu; needs the extra `tpu`

`make aot` runs both in an environment that has both extras. Prints a table, writes benchmarks/results/aot-<target>-jax
<version>.json, and exits with 1 where a rule is broken. Expect about 5 minutes for each target on 2 cores.

    cases.py     what is compiled: every op at the shapes of production, forward and gradient
    compiled.py  one case in a process of its own, so that all that the compilers print belongs to it
    ptxas.py     what Mosaic and ptxas print, as figures
    rules.py     what must not happen, and the table
"""

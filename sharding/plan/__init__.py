"""What a train step will take of a machine that is not there: memory, time and traffic, from its compiled program.

    python -m sharding.plan --config configs/gemma3_long.py:4b_32k --topology v5p:4x4x4
    python -m sharding.plan --config configs/gemma3_long.py:4b_32k --topology v5p:4x4x4 --sweep

The real step is compiled ahead of time (`sharding.topology`), and the compiler's own text is read:

    machines.py     published figures of each device: memory, FLOP/s, networks
    hlo.py          the compiled program as computations and instructions
    schedule.py     the program without machine code, for a fraction of the time
    loops.py        how often each computation runs
    groups.py       which devices talk, and along which axes of the mesh
    collectives.py  every collective: bytes, times, network
    work.py         matmul FLOPs and bytes of memory traffic of the program
    roofline.py     lower bounds of the step's time
    plan.py         all of it, as one record
    report.py       a table; picture.py: a figure
    remedies.py     what to try where it does not fit
    sweep.py        mesh shapes, ranked

All but `__main__`, `schedule` and `sweep` are pure functions of a program's text and a mesh.
"""

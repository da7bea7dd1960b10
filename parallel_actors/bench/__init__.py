"""`parallel-actors bench`: what this machine gets, ours beside the BEAM's, measured in the same run.

    figures.py      rows, aims, figures; JSON
    catalog.py      every benchmark: its rows, its workload, its sizes, the BEAM's counterpart
    runner.py       warm-up and runs, in turn with the BEAM's
    counterparts.py what is measured beside us: a command that is asked for one run at a time
    beam.py         the BEAM: compiled once; beam/bench.erl
    cores.py        whether the cores were free
    report.py       the table
    server.py       the GenServer of the benchmarks
    messages.py, processes.py, machine.py     the workloads
    loops.py        the endless loops of `fairness`

A workload of `messages.py` and `processes.py` runs as a process on worker 0, one of `machine.py` in the command
itself. Each returns its figures in the order of its rows. Every run is followed by the BEAM's, so that a change of the
machine's mood hits both. Nothing here is imported by the library or its workers unless a benchmark runs.
"""

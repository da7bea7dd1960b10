"""Measurements beside others: the BEAM, and what else Python has. Run from a clone; install it editable.

    python -m benchmarks                                  all of `parallel-actors bench`, beside all that is installed
    python -m benchmarks call cast --peers ray pykka beam  some of it, beside some of them
    python -m benchmarks --quick --json figures.json       small sizes, one run of each
    python -m benchmarks.savina                            the Savina programs

`pip install -e .[peers]` installs the peers. The ones that aren't there are skipped by name.
"""

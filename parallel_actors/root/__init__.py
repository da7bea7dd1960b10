"""The root: the OS process that keeps a node's workers alive, writes their output and stops the node.

    node.py        `Root`: start, watch, replace and stop workers; its own endpoint and its process
    forkserver.py  the OS process that workers are forked from
    preload.py     what workers have imported before they are forked
    console.py     what workers print and log, written whole and in order
    program.py     `run_program`: the root inside `parallel-actors run`, with its signals and exit codes
    child.py       the root as a child of a program that uses `ActorSystem`

The root never shares an interpreter with user code and decodes no user objects.
"""

from parallel_actors.root.program import run_program

__all__ = ["run_program"]

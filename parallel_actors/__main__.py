"""`python -m parallel_actors` is the command `parallel-actors`."""

from parallel_actors.cli import main

if __name__ == "__main__":
    main()

"""`persistent_term`: values that all read at a dict's cost, and that hardly ever change (OTP's module of that name).

    persistent_term.put("config", Config(retries=3))    # a frozen dataclass
    persistent_term.get("config").retries

All processes of a worker get the same object, which has to be immutable all through. docs/shared-state.md has more.

The work is done by `parallel_actors.workers.terms`.
"""

from parallel_actors.workers.terms import erase, get, get_all, info, put, put_new

__all__ = ["erase", "get", "get_all", "info", "put", "put_new"]

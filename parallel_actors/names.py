"""Via names: names that somebody else than the node's own table keeps (OTP: `{via, Module, Name}`).

    send(via, message) -> `__pid__` -> module.whereis_name(name) -> a pid, and on as ever
    options(name=via).start(Server) -> in the new process, before its init: module.register_name(name, its own pid)

`Registry` is such a module (`registry.via` makes its names), and so is `PartitionSupervisor`. The engine knows none of
them: a via name is an object that stands for a process, by `__pid__`. Who uses pids and plain names pays nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from parallel_actors.workers import api
from parallel_actors.workers.errors import ActorError, NotRegistered
from parallel_actors.workers.ident import Pid

__all__ = ["Registrar", "Via"]


class Registrar(Protocol):
    """What keeps via names: a class or a module with these two functions (OTP: the callbacks of a `via` module)."""

    def register_name(self, name: Hashable, pid: Pid, /) -> None:
        """Give the caller, whose pid is `pid`, the name. Raises NameTaken, with the other as its `target`."""

    def whereis_name(self, name: Hashable, /) -> Pid | None:
        """Who has the name; None: nobody."""


@dataclass(frozen=True, slots=True)
class Via:
    """A name that `module` keeps (OTP: `{via, Module, Name}`). Accepted wherever a pid or a plain name is.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.PartitionSupervisor.start_link(pa.child(pa.GenServer, "state"), name="shards", partitions=2)
    ...     pa.sys_.get_state(pa.Via(pa.PartitionSupervisor, ("shards", "a key")))
    'state'

    Each use looks it up. Compared and hashed by its fields; travels in messages.

    Fields:
        module: a class or module with `register_name(name, pid)` and `whereis_name(name)`, importable on every worker.
        name: what it is known by there.
    """

    module: Registrar
    name: Hashable

    def __post_init__(self) -> None:
        for needed in ("register_name", "whereis_name"):
            if not callable(getattr(self.module, needed, None)):
                raise TypeError(f"expected the module of a via name to have {needed}(), got {self.module!r}")
        hash(self.name)

    @property
    def __pid__(self) -> Pid:
        """The process that has the name now.

        Raises:
            NotRegistered: nobody has, or there is no such registry.
        """
        try:
            pid = self.module.whereis_name(self.name)
        except NotRegistered:
            raise
        except ActorError as error:  # the registry isn't there, or ends just now: so does what it knew
            raise NotRegistered(f"expected a name that a process has, got {self!r}: {error}", target=self) from error
        if pid is None:
            raise NotRegistered(f"expected a name that a process has, got {self!r}: no process has it", target=self)
        return pid

    def register(self) -> None:
        """Give the calling process this name. Raises NameTaken."""
        self.module.register_name(self.name, api.self_())

    def __repr__(self) -> str:
        module = getattr(self.module, "__qualname__", None) or getattr(self.module, "__name__", None) or self.module
        return f"Via({module}, {self.name!r})"

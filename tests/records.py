"""Log records of the workers, as they come to the program that started the system with `forward_logs`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import parallel_actors as pa
from leaks import eventually
from puppets import puppet

__all__ = ["Account", "Records", "end_of_log", "recorded"]


class Account(pa.GenServer):
    """A server that any cast ends, and so reports."""

    def init(self, balance: int) -> Any:
        return pa.Ok(balance)

    def handle_cast(self, request: Any, state: Any) -> Any:
        raise ValueError(f"no such request: {request}")


class Records(logging.Handler):
    """In this program, where the system was started: keeps what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)

    def of(self, **fields: Any) -> list[Any]:
        """Those with these fields."""
        return [each for each in list(self.all) if all(getattr(each, name, None) == fields[name] for name in fields)]

    def one(self, **fields: Any) -> Any:
        """The one with these fields, when it has come."""
        eventually(lambda: self.of(**fields), f"a record with {fields}")
        (found,) = self.of(**fields)
        return found


@contextmanager
def recorded(name: str | None = None) -> Iterator[Records]:
    """What comes to the logger meanwhile, at any level."""
    found = Records()
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(found)
    logger.setLevel("DEBUG")
    try:
        yield found
    finally:
        logger.removeHandler(found)
        logger.setLevel(level)


def end_of_log(records: Records) -> None:
    """What the workers have logged until now is here."""
    for worker in (0, 1):
        ends = len(records.of(name="end", worker=worker))
        puppet(worker).do(logging.getLogger("end").warning, "until here")
        eventually(lambda: len(records.of(name="end", worker=worker)) == ends + 1, "all records are here")  # noqa: B023

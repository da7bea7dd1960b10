"""Log records on their way from the root to the program that started the system (`forward_logs`): lines of JSON.

worker: RootHandler -> ("log", ..., fields) -> root: Console -> line() -> pipe -> Reader, a thread -> logging
"""

from __future__ import annotations

import json
import logging
import os
import threading
import traceback
from typing import Any

__all__ = ["Reader", "line"]


def line(source: str, level: int, logger: str, created: float, text: str, fields: dict[str, Any]) -> str:
    """One record as a line. `fields`: what JSON can tell."""
    return json.dumps([source, level, logger, created, text, fields]) + "\n"


def _record(data: bytes) -> logging.LogRecord:
    source, level, logger, created, text, fields = json.loads(data)
    return logging.makeLogRecord(
        {
            **fields,
            "source": source,
            "name": logger,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": created,
            "msecs": int(created % 1 * 1000),
            "msg": text,
        }
    )


class Reader(threading.Thread):
    """Hands the records that come out of a pipe to this program's loggers, until the pipe's other end is closed."""

    def __init__(self, fd: int) -> None:
        super().__init__(name="parallel_actors log records", daemon=True)
        self._fd = fd

    def run(self) -> None:
        with os.fdopen(self._fd, "rb") as lines:
            for data in lines:
                if not data.endswith(b"\n"):
                    return  # the root was killed in the middle of it
                record = _record(data)
                logger = logging.getLogger(record.name)
                try:
                    if logger.isEnabledFor(record.levelno):
                        logger.handle(record)
                except Exception:  # a filter of the user's; handlers see to their own. The root's output hangs on us.
                    traceback.print_exc()

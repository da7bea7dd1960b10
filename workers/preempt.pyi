from collections.abc import Iterable
from typing import final

TICK_SIGNAL: int

@final
class Tick:
    @property
    def armed(self) -> bool: ...
    def __init__(self, stdlib: Iterable[str], trusted: Iterable[str], locks: Iterable[str]) -> None: ...

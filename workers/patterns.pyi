from typing import Any

from parallel_actors.workers.ident import Ref

# Any: it stands for whatever is expected in its place, in the fields of a dataclass too.
ANY: Any

def matches(pattern: object, message: object) -> bool: ...
def mentions(pattern: object, ref: Ref) -> bool: ...

"""pubsub: messages to whoever has subscribed to a topic (Phoenix's `PubSub`).

    subscribe(topic)          -> `pg.join`: the topic is a group in a scope of its own
    broadcast(topic, message) -> `pg.get_members`, then a `send` to each, by the caller

So a broadcast is as good as as many sends of the caller: what one process broadcasts and sends comes in that order,
each subscriber gets a copy of its own, and who has died is forgotten. A message comes at most once for each
subscription.
"""

from __future__ import annotations

from collections.abc import Hashable

from parallel_actors import pg
from parallel_actors.workers import api
from parallel_actors.workers.errors import MailboxFull
from parallel_actors.workers.ident import Pid

__all__ = [
    "broadcast",
    "broadcast_from",
    "local_broadcast",
    "local_broadcast_from",
    "subscribe",
    "unsubscribe",
]


def subscribe(topic: Hashable, *, name: str = "pubsub") -> None:
    """Have the caller get what is broadcast to `topic`, from when this returns (Phoenix: `PubSub.subscribe/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=2):
    ...     pa.pubsub.subscribe("scores")
    ...     pa.pubsub.broadcast("scores", ("goal", 2, 1))
    ...     pa.receive(timeout=10)
    ('goal', 2, 1)

    Who subscribes twice gets two copies. A process that ends is forgotten.

    Args:
        topic: anything that can be hashed and pickled, a str as a rule.
        name: topics of two names have nothing to do with each other. None needs a start.

    Raises:
        TypeError: for a topic that can't be hashed.
        NotPicklable: for one that can't leave its process.
    """
    pg.join(topic, scope=name)


def unsubscribe(topic: Hashable, *, name: str = "pubsub") -> None:
    """Take all subscriptions of the caller to `topic` back (Phoenix: `PubSub.unsubscribe/2`).

    What was under way may still come. Raises as `subscribe`.
    """
    pg.leave_entirely(topic, api.self_(), name)


def broadcast(topic: Hashable, message: object, *, name: str = "pubsub") -> None:
    """Send `message` to all subscribers of `topic`, the caller among them (Phoenix: `PubSub.broadcast/3`).

    A subscriber whose mailbox is full, with the policy "fail", doesn't get it; one whose policy is to suspend its
    senders suspends the caller. Nobody need have subscribed.

    Raises:
        NotPicklable: for a message that can't leave its process. Nobody has got it then, unless subscribers on the
            caller's worker can.
        TypeError: for a topic that can't be hashed.
    """
    _send(pg.get_members(topic, scope=name), message)


def broadcast_from(topic: Hashable, message: object, *, sender: Pid | None = None, name: str = "pubsub") -> None:
    """`broadcast`, but not to `sender`, by default the caller (Phoenix: `PubSub.broadcast_from/4`)."""
    _send(_others(pg.get_members(topic, scope=name), sender), message)


def local_broadcast(topic: Hashable, message: object, *, name: str = "pubsub") -> None:
    """`broadcast` to those that run on the caller's worker alone (Phoenix: `PubSub.local_broadcast/3`, of a node).

    From a guest, such as the main thread of a program: to itself.
    """
    _send(pg.get_local_members(topic, scope=name), message)


def local_broadcast_from(topic: Hashable, message: object, *, sender: Pid | None = None, name: str = "pubsub") -> None:
    """`local_broadcast`, but not to `sender`, by default the caller (Phoenix: `PubSub.local_broadcast_from/4`)."""
    _send(_others(pg.get_local_members(topic, scope=name), sender), message)


def _others(pids: list[Pid], sender: Pid | None) -> list[Pid]:
    but = api.self_() if sender is None else sender
    return [pid for pid in pids if pid != but]


def _send(pids: list[Pid], message: object) -> None:
    for pid in pids:
        try:
            api.send(pid, message)
        except MailboxFull:
            continue  # it has chosen to miss what it has no room for

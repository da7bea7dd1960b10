"""Erlang/OTP's actor model with true parallelism: green processes on every core.

>>> import parallel_actors as pa
>>> def echo():
...     sender, text = pa.receive()
...     pa.send(sender, f"you said: {text}")
>>> with pa.ActorSystem(workers=2):
...     pid = pa.spawn(echo)
...     pa.send(pid, (pa.self_(), "hi"))
...     pa.receive(str, timeout=10)
'you said: hi'
"""

from parallel_actors.process import options
from parallel_actors.system import ActorSystem
from parallel_actors.workers.api import (
    alias,
    ancestors,
    areceive,
    asleep,
    cancel_timer,
    demonitor,
    exit,
    is_alive,
    link,
    make_ref,
    monitor,
    process_dict,
    process_info,
    processes,
    read_timer,
    receive,
    register,
    registered,
    self_,
    send,
    send_after,
    send_interval,
    set_label,
    sleep,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unalias,
    unlink,
    unregister,
    whereis,
    worker_count,
    worker_index,
)
from parallel_actors.workers.errors import (
    ActorError,
    NamesFull,
    NameTaken,
    NoProc,
    NotPicklable,
    NotRegistered,
    NotRunning,
    ProcessExit,
    ProcessKilled,
    ReceiveTimeout,
    SegmentFull,
    StartError,
    StoreFull,
)
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Crash, Down, Exit, Shutdown, WorkerDown

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "ActorError",
    "ActorSystem",
    "Crash",
    "Down",
    "Exit",
    "NameTaken",
    "NamesFull",
    "NoProc",
    "NotPicklable",
    "NotRegistered",
    "NotRunning",
    "Pid",
    "ProcessExit",
    "ProcessKilled",
    "ReceiveTimeout",
    "Ref",
    "SegmentFull",
    "Shutdown",
    "StartError",
    "StoreFull",
    "WorkerDown",
    "alias",
    "ancestors",
    "areceive",
    "asleep",
    "cancel_timer",
    "demonitor",
    "exit",
    "is_alive",
    "link",
    "make_ref",
    "monitor",
    "options",
    "process_dict",
    "process_info",
    "processes",
    "read_timer",
    "receive",
    "register",
    "registered",
    "self_",
    "send",
    "send_after",
    "send_interval",
    "set_label",
    "sleep",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "trap_exit",
    "unalias",
    "unlink",
    "unregister",
    "whereis",
    "worker_count",
    "worker_index",
]

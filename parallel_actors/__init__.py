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

import importlib
from typing import TYPE_CHECKING

from parallel_actors.gen_server import (
    IGNORE,
    GenServer,
    NoReply,
    Ok,
    Reply,
    Stop,
    call,
    cast,
    reply,
    start,
    start_link,
    start_monitor,
    stop,
)
from parallel_actors.workers.api import (
    alias,
    ancestors,
    areceive,
    asleep,
    await_,
    cancel_timer,
    demonitor,
    demonitor_fd,
    exit,
    is_alive,
    link,
    make_ref,
    migrate,
    monitor,
    monitor_fd,
    no_preempt,
    process_dict,
    process_info,
    processes,
    read_timer,
    receive,
    register,
    registered,
    run_blocking,
    self_,
    send,
    send_after,
    send_interval,
    set_label,
    set_priority,
    share,
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
    worker_indices,
)
from parallel_actors.workers.codec import Shared
from parallel_actors.workers.errors import (
    ActorError,
    CallingSelf,
    CallTimeout,
    ChildError,
    MailboxFull,
    NamesFull,
    NameTaken,
    NodeDown,
    NoProc,
    NotPicklable,
    NotRegistered,
    NotRunning,
    ProcessExit,
    ProcessKilled,
    ReceiveTimeout,
    RemoteError,
    SegmentFull,
    StartError,
    StoreFull,
)
from parallel_actors.workers.ident import Pid, Ref
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Crash, Down, Exit, FdReady, Shutdown, WorkerDown

if TYPE_CHECKING:
    from parallel_actors import sys_
    from parallel_actors.actor import Actor, ActorRef, ReplyTo, call_later, delegate, info, ref
    from parallel_actors.dynamic_supervisor import DynamicSupervisor
    from parallel_actors.partition_supervisor import PartitionSupervisor
    from parallel_actors.process import options
    from parallel_actors.request import Done, Failed, Request, Requests, send_request
    from parallel_actors.scaling import WorkerLoad, aadd_worker, add_worker, aremove_worker, remove_worker, worker_loads
    from parallel_actors.supervisor import Backoff, ChildInfo, ChildSpec, Supervisor, child
    from parallel_actors.system import ActorSystem
    from parallel_actors.task import Task, callers
    from parallel_actors.task_supervisor import TaskSupervisor

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "IGNORE",
    "Actor",
    "ActorError",
    "ActorRef",
    "ActorSystem",
    "Backoff",
    "CallTimeout",
    "CallingSelf",
    "ChildError",
    "ChildInfo",
    "ChildSpec",
    "Crash",
    "Done",
    "Down",
    "DynamicSupervisor",
    "Exit",
    "Failed",
    "FdReady",
    "GenServer",
    "MailboxFull",
    "NameTaken",
    "NamesFull",
    "NoProc",
    "NoReply",
    "NodeDown",
    "NotPicklable",
    "NotRegistered",
    "NotRunning",
    "Ok",
    "PartitionSupervisor",
    "Pid",
    "ProcessExit",
    "ProcessKilled",
    "ReceiveTimeout",
    "Ref",
    "RemoteError",
    "Reply",
    "ReplyTo",
    "Request",
    "Requests",
    "SegmentFull",
    "Shared",
    "Shutdown",
    "StartError",
    "Stop",
    "StoreFull",
    "Supervisor",
    "Task",
    "TaskSupervisor",
    "WorkerDown",
    "WorkerLoad",
    "aadd_worker",
    "add_worker",
    "alias",
    "ancestors",
    "areceive",
    "aremove_worker",
    "asleep",
    "await_",
    "call",
    "call_later",
    "callers",
    "cancel_timer",
    "cast",
    "child",
    "delegate",
    "demonitor",
    "demonitor_fd",
    "exit",
    "info",
    "is_alive",
    "link",
    "make_ref",
    "migrate",
    "monitor",
    "monitor_fd",
    "no_preempt",
    "options",
    "process_dict",
    "process_info",
    "processes",
    "read_timer",
    "receive",
    "ref",
    "register",
    "registered",
    "remove_worker",
    "reply",
    "run_blocking",
    "self_",
    "send",
    "send_after",
    "send_interval",
    "send_request",
    "set_label",
    "set_priority",
    "share",
    "sleep",
    "spawn",
    "spawn_link",
    "spawn_monitor",
    "start",
    "start_link",
    "start_monitor",
    "stop",
    "sys_",
    "trap_exit",
    "unalias",
    "unlink",
    "unregister",
    "whereis",
    "worker_count",
    "worker_index",
    "worker_indices",
    "worker_loads",
]

# What stands in modules that not every program needs: imported when it is first asked for, since together they take as
# long as all the rest. Workers have them from the start (`parallel_actors.root.preload`).
_LATER = {
    "actor": ("Actor", "ActorRef", "ReplyTo", "call_later", "delegate", "info", "ref"),
    "config": (),
    "dynamic_supervisor": ("DynamicSupervisor",),
    "partition_supervisor": ("PartitionSupervisor",),
    "process": ("options",),
    "request": ("Done", "Failed", "Request", "Requests", "send_request"),
    "scaling": ("WorkerLoad", "aadd_worker", "add_worker", "aremove_worker", "remove_worker", "worker_loads"),
    "supervisor": ("Backoff", "ChildInfo", "ChildSpec", "Supervisor", "child"),
    "sys_": (),
    "system": ("ActorSystem",),
    "task": ("Task", "callers"),
    "task_supervisor": ("TaskSupervisor",),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in (module, *names)}

if not TYPE_CHECKING:  # for type checkers the imports above say it all, and any other name is an error

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        value = module if name == _MODULE_OF[name] else getattr(module, name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE_OF})

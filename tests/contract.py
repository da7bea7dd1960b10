"""The contract: the id of every promise to users, and which test shows it.

    from contract import contract

    @contract("S2.3")
    def test_a_send_to_a_dead_process_does_nothing() -> None: ...

    @contract("S9.4", partly=True)      # the rule has more to it than this test shows
    def test_the_first_ctrl_c_drains() -> None: ...

A rule that no test shows stands in `OPEN`, which may only shrink: `test_contract.py` fails for a rule that is neither
shown nor open, and for one that is both. Ids are written out as strings: the tests are read to collect them, not run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["OPEN", "RULES", "Claim", "claims", "contract"]

contract = pytest.mark.contract

RULES: dict[str, str] = {
    "S1.1": "a process is green; workers and the root are OS processes; the main thread is a process too",
    "S1.2": "nothing mutable is shared: messages, arguments, closures, replies and reasons are isolated",
    "S1.3": "whether a send succeeds never depends on where the target lives",
    "S1.4": "spawn returns a pid at once, link and monitor are atomic with it, mail that overtakes the birth arrives",
    "S1.5": "what cloudpickle carries can be sent, __main__ included; no guard, no re-import; definitions travel once",
    "S1.6": "bodies: def, async def or callbacks; each process has its own contextvars",
    "S1.7": "exit reasons are values; sys.exit ends one process; no exception kills a worker or hides the error",
    "S1.8": "preemption of Python code; what can't be preempted is reported; no_preempt and run_blocking",
    "S1.9": "kill: dead at once to everybody else, then a bounded unwinding",
    "S1.10": "a worker that doesn't turn after a kill or stop is killed by the root",
    "S1.11": "sleep, send_after, send_interval, cancel_timer, read_timer, on the monotonic clock",
    "S1.12": "process dictionary, labels, ancestors and callers, process_info, priorities",
    "S1.13": "any thread may call the API; the innermost system is current; no system inside a worker",
    "S2.1": "signals from A to B are delivered in the order that A sent them",
    "S2.2": "control signals act on receipt, are never dropped and never counted against a mailbox",
    "S2.3": "a send to a dead pid does nothing; to an unregistered name it raises",
    "S2.4": "exactly once while both workers live; a prefix, then the Down, when one dies",
    "S2.5": "a worker always drains its rings; a sender that is too fast is suspended, its neighbours aren't",
    "S2.6": "mailboxes are unbounded unless max_mailbox is set; a long one is reported",
    "S2.7": "what can't be unpickled becomes a dead letter and an error reply, and never harms the worker",
    "S3.1": "receive: first match in order, patterns, timeout, default",
    "S3.2": "waiting for the reply to a fresh reference doesn't scan older mail",
    "S4.1": "links: bidirectional, idempotent, what ends whom, trapping exits",
    "S4.2": "linking to the dead gives noproc; after unlink returns nothing of that link acts",
    "S4.3": "each monitor gives exactly one Down; noproc for the dead; demonitor with flush; names too",
    "S4.4": "an alias can be switched off; what comes late is dropped before the mailbox",
    "S4.5": "when Down or an exit signal arrives, the dead process's names are free",
    "S5.1": "register, unregister, whereis, registered: unique, seen by every worker, errors for taken and dead",
    "S5.2": "Registry, pg and PubSub",
    "S5.3": "where a pid is accepted, a name, a via name, an alias or a typed reference is too",
    "S6.1": "GenServer's callbacks and every return form",
    "S6.2": "start is synchronous, and the name is free when it fails",
    "S6.3": "call: 5 s, one tree of exceptions, no late replies, never hangs",
    "S6.4": "cast, reply from any process, send_request and collections, stop",
    "S6.5": "continue runs before waiting mail; a timeout of 0 loses to it",
    "S6.6": "when terminate runs",
    "S6.7": "unhandled calls and casts stop the server, unhandled info is logged",
    "S6.8": "normal, shutdown and Shutdown log nothing; any other reason gives one crash report",
    "S6.9": "gen_statem",
    "S6.10": "gen_event",
    "S6.11": "Agent",
    "S7.1": "typed actors: calls and casts checked by mypy and pyright, references as values",
    "S7.2": "deferred replies, time-out per call, request(), aio()",
    "S7.3": "Subject and Selector, become, exec, query, update, delegate, modules as servers",
    "S7.4": "checkpoint and restore, carry_state, adopting an actor",
    "S8.1": "child specs",
    "S8.2": "strategies, restart intensity, auto_shutdown, backoff",
    "S8.3": "order of start and stop; changing children at run time",
    "S8.4": "DynamicSupervisor, PartitionSupervisor, TaskSupervisor",
    "S8.5": "Task",
    "S8.6": "Application",
    "S8.7": "the death of one worker counts once in the restart intensity",
    "S9.1": "one worker per usable core, never forked from threads, BLAS capped, random generators apart",
    "S9.2": "a dead worker is noticed within 10 ms and replaced; everything on it ends with WorkerDown",
    "S9.3": "no worker outlives the root or the launching program by a second",
    "S9.4": "Ctrl-C and SIGTERM: drain, stop, kill; 130; also while user code hogs every core",
    "S9.5": "a stop leaves nothing behind",
    "S9.6": "output and logs of workers appear at the root in whole lines, in order per process",
    "S9.7": "work stealing, and moving live processes",
    "S9.8": "max_mailbox by count and bytes, with policies",
    "S9.9": "large buffers cross without a copy at the receiver; share()",
    "S10.1": "one tree of exceptions that carry reason, target, request, time, remote traceback, and what to do",
    "S10.2": "what can't be pickled raises at the call site and names the path inside the object",
}

OPEN: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Claim:
    """A test's word that it shows a rule. `where` is file:line."""

    rule: str
    partly: bool
    where: str


def claims(directory: Path) -> list[Claim]:
    """Every claim in the files `test_*.py` below `directory`, by reading them.

    Raises ValueError for a marker whose ids aren't written out, since nobody could see what it claims.
    """
    return [claim for path in sorted(directory.rglob("test_*.py")) for claim in _claims_in(path, directory)]


def _claims_in(path: Path, directory: Path) -> Iterator[Claim]:
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if not (isinstance(node, ast.Call) and _is_marker(node.func)):
            continue
        where = f"{path.relative_to(directory)}:{node.lineno}"
        partly = False
        for keyword in node.keywords:
            if keyword.arg != "partly" or not isinstance(keyword.value, ast.Constant):
                raise ValueError(f"{where}: expected contract(..., partly=True), got {ast.unparse(node)}")
            partly = bool(keyword.value.value)
        if not node.args:
            raise ValueError(f"{where}: expected at least one id, got {ast.unparse(node)}")
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise ValueError(f'{where}: expected ids written out, as contract("S2.3"), got {ast.unparse(node)}')
            yield Claim(argument.value, partly, where)


def _is_marker(function: ast.expr) -> bool:
    return ast.unparse(function) in ("contract", "pytest.mark.contract")

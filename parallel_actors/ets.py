"""`ets`: tables of rows that all processes read and change without a server in between (OTP's module of that name).

    sessions = ets.new("sessions", named_table=True, access="public")
    ets.insert("sessions", ("ann", 1, ["read"]))
    ets.lookup("sessions", "ann")       # [("ann", 1, ["read"])], a copy of one's own

A row is a tuple, one of its items is its key. A table belongs to a process, its owner, and ends with it; it is kept by
one worker, whose processes reach it by a function call, and others by a request. Each operation is atomic.
docs/shared-state.md has more.

The work is done by `parallel_actors.workers.ets`.
"""

from parallel_actors.workers.ets import (
    BIND,
    Table,
    delete,
    delete_all_objects,
    delete_object,
    first,
    foldl,
    give_away,
    info,
    insert,
    insert_new,
    last,
    lookup,
    lookup_element,
    match,
    match_delete,
    match_object,
    member,
    new,
    next,
    prev,
    rename,
    select,
    select_count,
    select_delete,
    setopts,
    tab2list,
    take,
    update_counter,
    update_element,
    whereis,
)

__all__ = [
    "BIND",
    "Table",
    "delete",
    "delete_all_objects",
    "delete_object",
    "first",
    "foldl",
    "give_away",
    "info",
    "insert",
    "insert_new",
    "last",
    "lookup",
    "lookup_element",
    "match",
    "match_delete",
    "match_object",
    "member",
    "new",
    "next",
    "prev",
    "rename",
    "select",
    "select_count",
    "select_delete",
    "setopts",
    "tab2list",
    "take",
    "update_counter",
    "update_element",
    "whereis",
]

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tables: OTP's `ets`.

A table lives on one worker, its *place*, in the memory of that worker's Scheduler (`Service`), until its owner ends. Who owns it is a matter of
one field: an owner, an heir and whoever else uses it may live anywhere, and move.

    a process of the place       check access -> execute(...) -> take out what was read       (no message, no switch)
    a process elsewhere, a guest REQUEST ("ets", number, caller, operation, ...) -> the place's scheduler executes it as it
                                 drains its rings (at least once per tick), and answers
    what looks at many rows,     on the caller's stack at the place; for others a process is spawned there (`_serve`): patterns and
    and patterns                 functions are user code

**Atomic.** `execute` is compiled, runs no user code, and isn't preempted; so each operation is whole. What would be user code stays
outside: rows are isolated before, and copied (unpickled) after it. Keys are of types that hash and compare in C. Where a comparison of
two rows may need a pickle (rows of a bag, `delete_object`), it is made on what was there, and made again if the table has changed
meanwhile. What an operation drops it lets go of when all is in order: a finalizer may use the table.

**Isolated.** A row is kept as a tuple. If it is immutable all through, readers of the place get that very tuple; else it is a `Mixed`, whose
items are immutable, or `Copied` (a copy that never leaves), or Encoded (what only pickle can copy).

**The end of an owner.** `Scheduler.terminate_now` tells the service before links and monitors fire; a process of the runtime, the guardian,
monitors all owners, for those that end elsewhere. Names of tables stand in the name table of the node, behind a prefix, with the number of
the table in place of a pid's: so the root frees those of a dead place.
"""
cimport cython
from cpython.object cimport Py_EQ, PyObject_RichCompareBool
from libc.stdint cimport uint32_t, uint64_t

from parallel_actors.workers.codec cimport Codec, Encoded
from parallel_actors.workers.ident cimport Pid, Ref, hi_endpoint, hi_incarnation, hi_nonce, make_hi
from parallel_actors.workers.patterns cimport match as fits
from parallel_actors.workers.scheduler cimport KEEPS, Process, Scheduler, here, me

import types
from _bisect import bisect_left, bisect_right

from parallel_actors.workers import api
from parallel_actors.workers.errors import AccessDenied, NameTaken, NodeDown, NoKey, NoProc, NoTable, RemoteError
from parallel_actors.workers.patterns import ANY
from parallel_actors.workers.reasons import Down, WorkerDown

cdef extern from "Python.h":
    Py_ssize_t PyTuple_GET_SIZE(object o)

cdef enum:
    MAX_DEPTH = 50      # of a key

# Types of tables
cdef enum:
    SET = 0
    ORDERED_SET = 1
    BAG = 2
    DUPLICATE_BAG = 3

cdef tuple TYPES = ("set", "ordered_set", "bag", "duplicate_bag")

cdef enum:
    PRIVATE = 0
    PROTECTED = 1
    PUBLIC = 2

cdef tuple ACCESS = ("private", "protected", "public")

# Operations. Up to INFO anybody may, up to SNAPSHOT who may read, up to DROP who may write, then the owner.
cdef enum:
    NEW
    INFO
    LOOKUP
    ELEMENT
    MEMBER
    FIRST
    LAST
    NEXT
    PREV
    SNAPSHOT
    INSERT
    INSERT_NEW
    DELETE
    DELETE_OBJECT
    CLEAR
    TAKE
    COUNTER
    UPDATE
    REMOVE
    RENAME
    DROP
    GIVE_AWAY
    SETOPTS

cdef str PREFIX = "\0ets/"
# Numbers of tables begin behind this: in the name table they stand where a process has its spawner's endpoint, and there is none of that number.
cdef uint64_t NUMBERS = <uint64_t>0xFFF << 52
cdef object _NO_DEFAULT = object()


# ---------------------------------------------------------------------- keys

cdef int check_key(object key, int depth=0) except -1:
    """Whether it hashes and compares without code of the user's."""
    kind = type(key)
    if kind is int or kind is str or kind is bytes or kind is Pid or kind is Ref or kind is bool:
        return 0
    if kind is float:
        if key != key:
            raise ValueError("expected a key that is equal to itself, got a NaN")
        return 0
    if kind is tuple or kind is frozenset:
        if depth > MAX_DEPTH:
            raise ValueError(f"expected a key that is nested at most {MAX_DEPTH} deep, got a deeper one")
        for item in key:
            if item is not None:
                check_key(item, depth + 1)
        return 0
    what = "an object that only pickle can copy" if kind is Encoded else f"{key!r} ({kind.__name__})"
    raise TypeError(
        f"expected a key of int, float, bool, str, bytes, Pid or Ref, or a tuple or frozenset of those, got {what}: use a plain value that "
        "stands for it")


cdef tuple rank(object key):
    """What the keys of an ordered_set are sorted by: numbers, then references, pids, tuples, strings, bytes."""
    kind = type(key)
    if kind is str:
        return (4, key)
    if kind is bytes:
        return (5, key)
    if kind is tuple:
        return (3, tuple([rank(item) for item in <tuple>key]))
    if kind is Pid:
        return (2, (<Pid>key).hi, (<Pid>key).lo)
    if kind is Ref:
        return (1, (<Ref>key).hi, (<Ref>key).lo)
    if key is None:
        return (-1,)
    if kind is frozenset:
        raise TypeError(f"expected a key that has an order, got {key!r}: frozensets have none")
    return (0, key)


# ---------------------------------------------------------------------- rows

@cython.final
cdef class Copied:
    """A mutable item of a row: the table's own, which nobody else ever gets."""
    cdef object value


@cython.final
cdef class Mixed:
    """A row that isn't immutable all through: each item is, or is Copied, or Encoded."""
    cdef tuple items


@cython.final
cdef class Rows:
    """Stored rows, on their way out."""
    cdef list rows


@cython.final
cdef class Items:
    """Stored items, on their way out. one: it is a single item."""
    cdef list items
    cdef bint one


cdef Rows rows_of(list rows):
    cdef Rows found = Rows.__new__(Rows)
    found.rows = rows
    return found


cdef Items items_found(list items, bint one):
    cdef Items found = Items.__new__(Items)
    found.items = items
    found.one = one
    return found


cdef inline tuple items_of(object row):
    return (<Mixed>row).items if type(row) is Mixed else <tuple>row


cdef object stored_item(Codec codec, object item):
    cdef object made = codec.isolate(item)
    cdef Copied copied
    if made is item or type(made) is Encoded or codec.is_immutable(made):
        return made
    copied = Copied.__new__(Copied)
    copied.value = made
    return copied


cdef object stored_row(list items):
    """A row of stored items."""
    cdef Mixed mixed
    for item in items:
        if type(item) is Copied or type(item) is Encoded:
            mixed = Mixed.__new__(Mixed)
            mixed.items = tuple(items)
            return mixed
    return tuple(items)


cdef object stored(Codec codec, object row):
    """A row of the user's as a table keeps it. User code may run."""
    if type(row) is not tuple:
        raise TypeError(f"expected a row to be a tuple, got {row!r} ({type(row).__name__})")
    if codec.is_immutable(row):
        return row
    return stored_row([stored_item(codec, item) for item in <tuple>row])


cdef object given_item(Codec codec, object item):
    """An item as its reader gets it. User code may run."""
    if type(item) is Copied:
        item = codec.isolate((<Copied>item).value)
    if type(item) is Encoded:
        return decoded(codec, (<Encoded>item).data)
    return item


cdef object decoded(Codec codec, bytes data):
    return codec.decode(<const unsigned char*><const char*>data, len(data))


cdef object given_row(Codec codec, object row):
    if type(row) is Mixed:
        return tuple([given_item(codec, item) for item in (<Mixed>row).items])
    return row


cdef inline bint plain(object item) noexcept:
    """Whether it travels as it is."""
    kind = type(item)
    return item is None or kind is int or kind is str or kind is float or kind is bool or kind is Pid


cdef tuple wired(Codec codec, items):
    """Items as they travel: which of them are bytes that have to be decoded, and all of them."""
    cdef list parts = []
    cdef object mask = 0, bit = 1
    for item in items:
        if not plain(item):
            mask |= bit
            item = (<Encoded>item).data if type(item) is Encoded else codec.encode((<Copied>item).value if type(item) is Copied else item)
        parts.append(item)
        bit <<= 1
    return mask, tuple(parts)


cdef list unwired(Codec codec, tuple wire, bint to_store):
    """The items again: stored ones at the place (no user code runs then), the reader's own elsewhere."""
    cdef list items = []
    cdef object mask = wire[0]
    cdef Copied copied
    cdef bytes data
    for item in <tuple>wire[1]:
        if mask & 1:
            data = item
            if not to_store:
                item = decoded(codec, data)
            else:
                item = codec.receive(<const unsigned char*><const char*>data, len(data))
                if type(item) is not Encoded and not codec.is_immutable(item):
                    copied = Copied.__new__(Copied)
                    copied.value = item
                    item = copied
        items.append(item)
        mask >>= 1
    return items


cdef bint basic(object item, int depth=0) except -1:
    """Whether to compare it runs no code of the user's."""
    kind = type(item)
    if plain(item) or kind is bytes or kind is Ref or kind is bytearray:
        return True
    if depth > MAX_DEPTH:
        return False
    if kind is tuple or kind is list or kind is set or kind is frozenset:
        for each in item:
            if not basic(each, depth + 1):
                return False
        return True
    if kind is dict:
        for key, value in (<dict>item).items():
            if not basic(key, depth + 1) or not basic(value, depth + 1):
                return False
        return True
    return False


cdef bytes bytes_of(Codec codec, object item):
    if type(item) is Encoded:
        return (<Encoded>item).data
    return codec.encode((<Copied>item).value if type(item) is Copied else item)


cdef bint same(Codec codec, object a, object b) except -1:
    """Whether two stored rows are the same: by `==` where that is Python's own, else by what they are pickled as."""
    cdef tuple x = items_of(a), y = items_of(b)
    cdef Py_ssize_t i
    if a is b:
        return True
    if PyTuple_GET_SIZE(x) != PyTuple_GET_SIZE(y):
        return False
    for i in range(PyTuple_GET_SIZE(x)):
        one, other = x[i], y[i]
        if one is other:
            continue
        left = (<Copied>one).value if type(one) is Copied else one
        right = (<Copied>other).value if type(other) is Copied else other
        if basic(left) and basic(right):
            if not PyObject_RichCompareBool(left, right, Py_EQ):
                return False
        elif bytes_of(codec, one) != bytes_of(codec, other):
            return False
    return True


# ---------------------------------------------------------------------- a table

@cython.final
cdef class Table:
    """A table, for whoever has this: it travels in messages. Made by `new`."""

    cdef uint64_t hi            # of the pids of its place
    cdef uint64_t lo            # its number there

    def __init__(self):
        raise TypeError("a table is made by ets.new()")

    __class_getitem__ = classmethod(types.GenericAlias)

    def __eq__(self, other):
        return type(other) is Table and (<Table>other).hi == self.hi and (<Table>other).lo == self.lo

    def __hash__(self):
        return hash((self.hi, self.lo))

    def __reduce__(self):
        return _table, (self.hi, self.lo)

    def __repr__(self):
        return f"<table {self.lo - NUMBERS} on worker {hi_endpoint(self.hi)}>"


def _table(uint64_t hi, uint64_t lo):
    cdef Table table = Table.__new__(Table)
    table.hi = hi
    table.lo = lo
    return table


@cython.final
cdef class Data:
    """The content of a table.

    Invariants: `size` is the number of rows; an ordered_set's `ranks` is sorted, and `keys[i]` is the key of `ranks[i]`; the list of a bag's key
    is never empty.
    """
    cdef Table table
    cdef str name
    cdef bint named
    cdef int kind
    cdef int access
    cdef Py_ssize_t keypos
    cdef Pid owner
    cdef Pid heir               # or None
    cdef bytes heir_data
    cdef dict rows              # key -> row, or the list of a bag's rows
    cdef Py_ssize_t size
    cdef uint64_t version       # counted up by each change
    cdef list ranks, keys       # of an ordered_set
    cdef list walk              # the keys in the order that first and next follow, if they aren't sorted,
    cdef dict walk_index        # where each stands there,
    cdef uint64_t walked        # and the version that it was made of

    cdef object key_of(self, object row):
        cdef tuple items = items_of(row)
        if PyTuple_GET_SIZE(items) <= self.keypos:
            raise ValueError(f"expected a row of at least {self.keypos + 1} items (its key is item {self.keypos}), got one of {PyTuple_GET_SIZE(items)}")
        key = items[self.keypos]
        if type(key) is Copied or type(key) is Encoded:
            check_key((<Copied>key).value if type(key) is Copied else key)
        check_key(key)
        return key

    cdef bint many(self) noexcept:
        return self.kind >= BAG

    cdef int put(self, object key, object row, list dropped) except -1:
        """Add a row. What it replaces goes to `dropped`."""
        cdef Py_ssize_t at
        if self.many():
            found = self.rows.get(key)
            if found is None:
                self.rows[key] = [row]
            else:
                (<list>found).append(row)
            self.size += 1
        elif key in self.rows:
            old = self.rows[key]
            dropped.append(old)
            self.rows[key] = row
        else:
            if self.kind == ORDERED_SET:
                ranked = rank(key)
                at = bisect_left(self.ranks, ranked)
                self.rows[key] = row
                self.ranks.insert(at, ranked)
                self.keys.insert(at, key)
            else:
                self.rows[key] = row
            self.size += 1
        return 0

    cdef list take(self, object key):
        """Remove all rows of a key, and return them."""
        cdef Py_ssize_t at
        found = self.rows.get(key)
        if found is None:
            return []
        if self.kind == ORDERED_SET:
            at = bisect_left(self.ranks, rank(key))
            del self.ranks[at]
            del self.keys[at]
        del self.rows[key]
        self.version += 1
        if self.many():
            self.size -= len(<list>found)
            return found
        self.size -= 1
        return [found]

    cdef list of_key(self, object key):
        found = self.rows.get(key)
        if found is None:
            return []
        return list(found) if self.many() else [found]

    cdef list all_rows(self):
        if self.kind == ORDERED_SET:
            return [self.rows[key] for key in self.keys]
        if not self.many():
            return list(self.rows.values())
        return [row for rows in self.rows.values() for row in <list>rows]

    cdef int insert(self, Codec codec, list rows, bint only_new) except -1:
        """0: there was one of these keys (only_new); 1: done."""
        cdef list keys = [self.key_of(row) for row in rows], dropped = [], fresh
        cdef uint64_t version
        cdef Py_ssize_t i
        if self.kind == ORDERED_SET:
            for key in keys:
                rank(key)               # raises for what has none
        if only_new:
            for key in keys:
                if key in self.rows:
                    return 0
        if self.kind == BAG:
            while True:
                version = self.version
                fresh = []
                for i in range(len(rows)):
                    if not self.has(codec, keys[i], rows[i], fresh):
                        fresh.append((keys[i], rows[i]))
                if version == self.version:     # else user code ran in between: look again
                    break
        else:
            fresh = list(zip(keys, rows))
        for key, row in fresh:
            self.put(key, row, dropped)
        self.version += 1
        return 1

    cdef bint has(self, Codec codec, object key, object row, list fresh) except -1:
        for other in self.of_key(key):
            if same(codec, row, other):
                return True
        for other_key, other in fresh:
            if other_key == key and same(codec, row, other):
                return True
        return False

    cdef int delete_object(self, Codec codec, object row) except -1:
        """Remove all rows that are the same as `row`. How many."""
        cdef uint64_t version
        cdef list doomed
        key = self.key_of(row)
        while True:
            version = self.version
            doomed = [other for other in self.of_key(key) if same(codec, row, other)]
            if version == self.version:
                break
        for other in doomed:
            self.remove(key, other)
        return len(doomed)

    cdef bint remove(self, object key, object row) except -1:
        """Remove that very row, if it is there still."""
        cdef list rows
        cdef Py_ssize_t i
        found = self.rows.get(key)
        if not self.many():
            if found is not row:
                return False
            self.take(key)
            return True
        if found is None:
            return False
        rows = found
        for i in range(len(rows)):
            if rows[i] is row:
                if len(rows) == 1:
                    self.take(key)
                else:
                    del rows[i]
                    self.size -= 1
                    self.version += 1
                return True
        return False

    cdef object step(self, int op, object key):
        """The key that is first or last, or the one after or before `key`; None: there is none."""
        cdef Py_ssize_t i
        if self.kind == ORDERED_SET:
            if op == FIRST:
                i = 0
            elif op == LAST:
                i = len(self.keys) - 1
            elif op == NEXT:
                i = bisect_right(self.ranks, rank(key))
            else:
                i = bisect_left(self.ranks, rank(key)) - 1
            return self.keys[i] if 0 <= i < len(self.keys) else None
        # Nothing is sorted: backwards is the same as forwards.
        if op == FIRST or op == LAST:
            if self.walk is None or self.walked != self.version:
                self.rewalk()
            i = 0
        else:
            place = None if self.walk is None else self.walk_index.get(key)
            if place is None:
                if key not in self.rows:
                    raise NoKey(f"expected a key of {self.table} to go on from, got {key!r}", target=self.table)
                self.rewalk()
                place = self.walk_index[key]
            i = <Py_ssize_t>place + 1
        while i < len(self.walk):
            if self.walk[i] in self.rows:
                return self.walk[i]
            i += 1
        return None

    cdef int rewalk(self) except -1:
        self.walk = list(self.rows)
        self.walk_index = {key: i for i, key in enumerate(self.walk)}
        self.walked = self.version
        return 0

    cdef list columns(self, object row, object positions):
        """The items of a row, to be changed at these positions."""
        cdef list items = list(items_of(row))
        for at in positions:
            if at == self.keypos:
                raise ValueError(f"expected an item other than the key (item {self.keypos}) to change, got {at}")
            if not 0 <= at < len(items):
                raise ValueError(f"expected a position from 0 to {len(items) - 1}, got {at}")
        return items

    cdef object row_to_change(self, object key, object default):
        """The row of a key, or the default one with the key put in; None: there is neither."""
        cdef list items
        if self.many():
            raise TypeError(f"expected a table of type set or ordered_set, got a {TYPES[self.kind]}: there may be many rows of a key")
        row = self.rows.get(key)
        if row is None and default is not None:
            items = list(items_of(default))
            if len(items) <= self.keypos:
                raise ValueError(f"expected a default row of at least {self.keypos + 1} items, got {len(items)}")
            items[self.keypos] = key
            return stored_row(items)
        return row

    cdef int replace(self, object key, list items) except -1:
        cdef list dropped = []
        self.put(key, stored_row(items), dropped)
        self.version += 1
        return 0

    cdef object count(self, object key, tuple changes, object default):
        cdef list items, sums = []
        row = self.row_to_change(key, default)
        if row is None:
            raise NoKey(f"expected a key of {self.table}, got {key!r}: give a default row, for where there is none", target=self.table)
        changes = tuple([(self.keypos + 1 if at is None else at, by, limit, instead) for at, by, limit, instead in changes])
        items = self.columns(row, [change[0] for change in changes])
        for at, by, limit, instead in changes:
            if type(items[at]) is not int:
                raise TypeError(f"expected item {at} of the row to be an int, got {items[at]!r} ({type(items[at]).__name__})")
            total = items[at] + by
            if limit is not None and (total > limit if by >= 0 else total < limit):
                total = instead
            items[at] = total
            sums.append(total)
        self.replace(key, items)
        return sums

    cdef bint update(self, object key, tuple positions, object values, object default) except -1:
        cdef Py_ssize_t i
        row = self.row_to_change(key, default)
        if row is None:
            return False
        items = self.columns(row, positions)
        new = items_of(values)
        for i in range(len(positions)):
            items[positions[i]] = new[i]
        self.replace(key, items)
        return True


# ---------------------------------------------------------------------- the tables of a worker

@cython.final
cdef class Service:
    """The tables that have their place here. Invariant: `owned[pid]` has the numbers of exactly the tables that `pid` owns."""

    cdef Scheduler scheduler
    cdef dict tables            # number -> Data
    cdef dict owned             # Pid of the owner -> set of numbers
    cdef dict watched           # Pid of an owner -> Ref of the guardian's monitor
    cdef Process guardian
    cdef uint64_t last

    def __init__(self, Scheduler scheduler):
        self.scheduler = scheduler
        self.tables = {}
        self.owned = {}
        self.watched = {}
        self.guardian = None

    cdef int own(self, Data data, Pid owner) except -1:
        """`owner` has it from here on."""
        cdef Scheduler s = self.scheduler
        cdef Ref ref
        numbers = self.owned.get(owner)
        if numbers is None:
            if self.guardian is None:
                self.guardian = <Process>(<Pid>s.add_callback_process(self.told, True)).process
            ref = s.make_ref(self.guardian)
            self.owned[owner] = numbers = set()
            self.watched[owner] = ref
            s.add_monitor(self.guardian, ref, owner)
        numbers.add(data.table.lo)
        data.owner = owner
        return 0

    cdef int disown(self, Data data) except -1:
        cdef Ref ref
        numbers = self.owned.get(data.owner)
        if numbers is None:
            return 0                # it has ended
        numbers.discard(data.table.lo)
        if not numbers:
            del self.owned[data.owner]
            ref = self.watched.pop(data.owner)
            self.scheduler.remove_monitor(self.guardian, ref)
        return 0

    def told(self, message):
        """A message to the guardian."""
        if type(message) is Down and type(message.pid) is Pid:
            self.owner_ended(message.pid)

    def owner_ended(self, Pid owner):
        """Its tables end with it, or go to their heirs."""
        cdef Data data
        cdef Ref ref
        numbers = self.owned.pop(owner, None)
        if numbers is None:
            return
        ref = self.watched.pop(owner)
        self.scheduler.remove_monitor(self.guardian, ref)
        for number in sorted(numbers):
            data = self.tables[number]
            if data.heir is None or data.heir == owner or self.is_dead(data.heir):
                self.drop(data)
            else:
                self.own(data, data.heir)
                self.tell_heir(data, owner)

    cdef bint is_dead(self, Pid pid) except -1:
        """As far as is known here. Of one that ends elsewhere the guardian hears."""
        cdef Scheduler s = self.scheduler
        return s.gone(pid) or pid.hi == s.hi and s.find(pid.lo) is None and not s.is_unborn(pid.lo)

    cdef int tell_heir(self, Data data, Pid owner) except -1:
        cdef Scheduler s = self.scheduler
        cdef object running = s.current
        cdef int guarded
        cdef bytes message
        s.current = None
        guarded = s.guard()
        try:
            message = s.codec.encode(("ETS-TRANSFER", data.table, owner, decoded(s.codec, data.heir_data)))
            s.send_bytes(data.heir, message)
        except Exception as error:      # no memory, or it went in and doesn't come out: the heir has the table all the same
            s.report("dead_letter", {"to": repr(data.heir), "error": error})
        finally:
            s.guarded = guarded
            s.current = running
        return 0

    cdef int drop(self, Data data) except -1:
        """The table ends."""
        del self.tables[data.table.lo]
        self.scheduler.tables -= 1
        if data.named:
            self.scheduler.names.free(PREFIX + data.name, data.table.hi, data.table.lo)
        return 0

    cdef Data data_of(self, uint64_t number, Pid caller, int op):
        cdef Data data = self.tables.get(number)
        if data is None:
            raise NoTable(f"expected a table that is there, got table {number - NUMBERS} of worker {self.scheduler.endpoint}: its owner has ended, or it was deleted")
        if op <= INFO or data.access == PUBLIC and op <= DROP or caller == data.owner:
            return data
        if op > DROP:
            raise AccessDenied(f"expected the owner of {data.table} ({data.owner}) to do this, got {caller}", target=data.table)
        if data.access == PRIVATE or op > SNAPSHOT:
            raise AccessDenied(
                f"expected a process that may {'read' if op <= SNAPSHOT else 'change'} {data.table}, got {caller}: it is {ACCESS[data.access]}, and "
                f"{data.owner} owns it", target=data.table)
        return data

    cdef Table new(self, Pid caller, str name, bint named, int kind, int access, Py_ssize_t keypos, Pid heir, bytes heir_data):
        cdef Data data = Data.__new__(Data)
        cdef Scheduler s = self.scheduler
        self.last += 1
        data.table = _table(s.hi, NUMBERS + self.last)
        if named and s.names.claim(PREFIX + name, data.table.hi, data.table.lo) != 1:
            raise NameTaken(f"expected a name that no table has, got {name!r}")
        data.name = name
        data.named = named
        data.kind = kind
        data.access = access
        data.keypos = keypos
        data.heir = heir
        data.heir_data = heir_data
        data.rows = {}
        data.ranks = []
        data.keys = []
        self.tables[data.table.lo] = data
        s.tables += 1
        self.own(data, caller)
        return data.table

    cdef object execute(self, uint64_t number, Pid caller, int op, tuple args, list rows):
        """Carry out an operation; rows: stored ones that go in. What comes out as Rows or Items is stored, still."""
        cdef Data data
        cdef Codec codec = self.scheduler.codec
        if op == NEW:
            name, named, kind, access, keypos, heir, heir_data = args
            return self.new(caller, name, named, kind, access, keypos, heir, heir_data)
        if op == INFO and number not in self.tables:
            return None
        data = self.data_of(number, caller, op)
        if op == LOOKUP:
            return rows_of(data.of_key(args[0]))
        if op == INSERT or op == INSERT_NEW:
            return bool(data.insert(codec, rows, op == INSERT_NEW))
        if op == ELEMENT:
            key, at = args
            found = data.of_key(key)
            for row in found:
                if not 0 <= at < len(items_of(row)):
                    raise ValueError(f"expected a position from 0 to {len(items_of(row)) - 1}, got {at}")
            return items_found([items_of(row)[at] for row in found], not data.many())
        if op == MEMBER:
            return args[0] in data.rows
        if op == DELETE:
            data.take(args[0])
            return None
        if op == TAKE:
            return rows_of(data.take(args[0]))
        if op == COUNTER:
            return data.count(args[0], args[1], rows[0] if rows else None)
        if op == UPDATE:
            return data.update(args[0], args[1], rows[0], rows[1] if len(rows) > 1 else None)
        if FIRST <= op <= PREV:
            return data.step(op, args[0])
        if op == DELETE_OBJECT:
            data.delete_object(codec, rows[0])
            return None
        if op == SNAPSHOT:
            return rows_of(data.of_key(args[0]) if args else data.all_rows())
        if op == REMOVE:
            return data.remove(data.key_of(rows[0]), rows[0])
        if op == CLEAR:
            old = data.rows, data.ranks, data.keys, data.walk
            data.rows, data.ranks, data.keys, data.walk = {}, [], [], None
            data.size = 0
            data.version += 1
            return None
        if op == INFO:
            return {
                "id": data.table, "name": data.name, "named_table": data.named, "type": TYPES[data.kind], "size": data.size,
                "keypos": data.keypos, "protection": ACCESS[data.access], "owner": data.owner, "heir": data.heir,
                "worker": self.scheduler.endpoint,
            }
        if op == RENAME:
            if data.named:
                if self.scheduler.names.claim(PREFIX + args[0], data.table.hi, data.table.lo) != 1:
                    raise NameTaken(f"expected a name that no table has, got {args[0]!r}")
                self.scheduler.names.free(PREFIX + data.name, data.table.hi, data.table.lo)
            data.name = args[0]
            return None
        if op == DROP:
            self.disown(data)
            self.drop(data)
            return None
        if op == SETOPTS:
            data.heir, data.heir_data = args
            return None
        if op == GIVE_AWAY:
            if args[0] == data.owner:
                raise ValueError(f"expected another process to give {data.table} to, got its owner")
            self.disown(data)
            self.own(data, args[0])
            return None
        raise ValueError(f"unknown operation {op}")

    def perform(self, tuple operation):
        """A request of another endpoint."""
        cdef Codec codec = self.scheduler.codec
        cdef list rows = None
        _, number, caller, op, args, wires = operation
        if wires is not None:
            rows = [stored_row(unwired(codec, wire, True)) for wire in wires]
        found = self.execute(number, caller, op, args, rows)
        if type(found) is Rows:
            return "rows", [wired(codec, items_of(row)) for row in (<Rows>found).rows]
        if type(found) is Items:
            return "item" if (<Items>found).one else "items", wired(codec, (<Items>found).items)
        if type(found) is Table:
            return "table", (<Table>found).hi, (<Table>found).lo
        return "plain", found


cdef Service service_of(Scheduler s):
    return <Service>s.service("ets")


cdef Table table_of(Scheduler s, object table):
    cdef uint64_t hi = 0, lo = 0
    if type(table) is Table:
        return <Table>table
    if type(table) is not str:
        raise TypeError(f"expected a table or the name of one, got {table!r} ({type(table).__name__})")
    if not s.names.lookup(PREFIX + <str>table, &hi, &lo):
        raise NoTable(f"expected the name of a table, got {table!r}: no table has it (any more)", target=table)
    return _table(hi, lo)


cdef object place_is_down(Table table, object reason):
    if table is None:
        return NodeDown(f"the worker that was to keep a new table went down: {reason}", reason=reason)
    return NodeDown(f"{table} went down with its worker: {reason}", reason=reason, target=table)


cdef object run(object handle, int op, tuple args, list rows=None):
    """Have an operation carried out where the table is. What it reads is the caller's own."""
    cdef Scheduler s = here()
    cdef Table table
    s.may_act()
    table = table_of(s, handle)
    if table.hi == s.hi:
        return given(s.codec, service_of(s).execute(table.lo, me(s).pid, op, args, rows))
    return run_at(s, table.hi, table, op, args, rows)


cdef object given(Codec codec, object found):
    """What a process of the place gets of what it has read."""
    if type(found) is Rows:
        return [given_row(codec, row) for row in (<Rows>found).rows]
    if type(found) is Items:
        if (<Items>found).one:
            return given_item(codec, (<Items>found).items[0]) if (<Items>found).items else _NO_DEFAULT
        return [given_item(codec, item) for item in (<Items>found).items] or _NO_DEFAULT
    return found


cdef object run_at(Scheduler s, uint64_t hi, Table table, int op, tuple args, list rows):
    cdef list wires = None
    if hi_nonce(hi) != s.segment.nonce or hi_endpoint(hi) >= s.segment.workers:
        raise NoTable(f"expected a table of this system, got {table}", target=table)
    if rows is not None:
        wires = [wired(s.codec, items_of(row)) for row in rows]
    try:
        found = s.ask(hi_endpoint(hi), hi_incarnation(hi), ("ets", 0 if table is None else table.lo, me(s).pid, op, args, wires), -1.0)
    except NoProc as error:
        if error.target is not None:
            raise               # about a process
        raise place_is_down(table, error.reason) from None
    what = found[0]
    if what == "rows":
        return [tuple(unwired(s.codec, wire, False)) for wire in found[1]]
    if what == "item":
        return unwired(s.codec, found[1], False)[0] if found[1][1] else _NO_DEFAULT
    if what == "items":
        return unwired(s.codec, found[1], False) or _NO_DEFAULT
    if what == "table":
        return _table(found[1], found[2])
    return found[1]


# ---------------------------------------------------------------------- what looks at many rows

cdef list candidates(Scheduler s, Table table, Pid caller, object pattern):
    """The stored rows that a pattern may fit: those of its key, if it names one."""
    cdef Service service = service_of(s)
    cdef Data data = service.data_of(table.lo, caller, SNAPSHOT)
    if type(pattern) is tuple and len(pattern) > data.keypos and type(pattern[data.keypos]) in KEY_TYPES:
        return data.of_key(pattern[data.keypos])
    return data.all_rows()


cdef tuple KEY_TYPES = (int, str, bytes, Pid, Ref)


def _scan(Table table not None, Pid caller not None, str what, pattern, where, result):
    """At the place, on the stack of a process: user code runs."""
    cdef Scheduler s = here()
    cdef list found = []
    cdef Py_ssize_t count = 0
    cdef bint bare = pattern is ANY and where is None
    if table.hi != s.hi:
        raise place_is_down(table, WorkerDown(hi_endpoint(table.hi)))
    if what == "delete":
        service_of(s).data_of(table.lo, caller, REMOVE)
    for row in candidates(s, table, caller, pattern):
        given = given_row(s.codec, row)
        if not bare and (not fits(pattern, given) or where is not None and not where(given)):
            continue
        if what == "delete":
            count += service_of(s).execute(table.lo, caller, REMOVE, (), [row])
        elif what == "count":
            count += 1
        else:
            found.append(given if result is None else result(given))
    return found if what == "select" else count


def _serve(ref, args):
    """The body of a process that does this for one that lives elsewhere."""
    try:
        answer = ref, True, _scan(*args)
    except Exception as error:
        answer = ref, False, error
    api.send(ref, answer)


cdef object scan(object handle, str what, object pattern, object where, object result):
    cdef Scheduler s = here()
    cdef Table table
    for name, function in (("where", where), ("result", result)):
        if function is not None and not callable(function):
            raise TypeError(f"expected {name} to be a function of a row, got {function!r} ({type(function).__name__})")
    s.may_act()
    table = table_of(s, handle)
    pid = me(s).pid
    args = (table, pid, what, pattern, where, result)
    if table.hi == s.hi:
        return _scan(*args)
    place = hi_endpoint(table.hi)
    if hi_nonce(table.hi) != s.segment.nonce or place >= s.segment.workers:
        raise NoTable(f"expected a table of this system, got {table}", target=table)
    return served(s, table, place, args)


cdef object served(Scheduler s, Table table, int place, tuple args):
    ref = api.alias()
    watch = None
    try:
        try:
            _, watch = api.spawn_with((place, None, None, 0, None), 2, _serve, (ref, args), {})
        except ValueError:          # the worker was removed
            raise place_is_down(table, WorkerDown(place)) from None
        answer = api.receive((ref, bool, ANY), Down(watch, ANY, ANY))
    finally:
        api.unalias(ref)
        if watch is not None:
            api.demonitor(watch, flush=True)
    if type(answer) is Down:
        if isinstance(answer.reason, WorkerDown):
            raise place_is_down(table, answer.reason)
        raise RemoteError(f"the process that looked through {table} ended: {answer.reason}", reason=answer.reason, target=table)
    if not answer[1]:
        raise answer[2]
    return answer[2]


# ---------------------------------------------------------------------- for everybody

cdef object checked(object key):
    if key is None:
        raise TypeError("expected a key, got None: it says that there is none")
    check_key(key)
    return key


cdef object checked_name(object name):
    if not isinstance(name, str):
        raise TypeError(f"expected the name of a table to be a str, got {name!r} ({type(name).__name__})")
    if not 1 <= len((<str>name).encode("utf-8", "surrogatepass")) <= 200:
        raise ValueError(f"expected a name of 1 to 200 bytes in UTF-8, got {name!r}")
    return name


cdef tuple heir_of(Scheduler s, object heir):
    """The pid and the encoded data of an heir: None, a pid, or (pid, data)."""
    if heir is None:
        return None, None
    data = None
    if isinstance(heir, tuple) and len(heir) == 2:
        heir, data = heir
    if type(heir) is not Pid:
        raise TypeError(f"expected heir to be None, a Pid, or (Pid, data), got {heir!r} ({type(heir).__name__})")
    return heir, s.codec.encode(data)


cdef int one_of(object value, tuple words, str what) except -1:
    if value not in words:
        raise ValueError(f"expected {what} to be one of {', '.join(words)}, got {value!r}")
    return words.index(value)


def new(name=None, *, type="set", access="protected", keypos=0, heir=None, bint named_table=False, worker=None):
    """A new table, owned by the caller (OTP: `ets:new/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     scores = pa.ets.new()
    ...     pa.ets.insert(scores, [("ann", 3), ("bob", 5)])
    ...     pa.ets.lookup(scores, "bob")
    [('bob', 5)]

    Args:
        name: a text for `info`; with `named_table`, what other processes find it by.
        type: "set" (one row per key), "ordered_set" (and sorted by key), "bag" (many rows per key, none twice) or "duplicate_bag".
        access: who else may use it: "protected": others read; "public": they write, too; "private": neither.
        keypos: the number of the item that is the key of a row; from 0.
        heir: the Pid of who gets the table when its owner ends, as the message `("ETS-TRANSFER", table, owner, data)`; or (Pid, data).
        named_table: whether the table's name may be used in its place, on all workers. It is the only one of that name.
        worker: the worker that keeps it; by default the caller's, or for a thread of the program the one with the fewest processes.

    It ends with its owner, unless there is an heir, and with its worker. Keys are plain values: int, float, bool, str, bytes, Pid, Ref, and tuples
    and frozensets of those.

    Raises:
        NameTaken: there is a table of that name.
        TypeError, ValueError: for bad arguments.
        NodeDown: the worker died meanwhile.
    """
    cdef Scheduler s = here()
    cdef Process p
    cdef int kind = one_of(type, TYPES, "type"), may = one_of(access, ACCESS, "access"), place
    s.may_act()
    p = me(s)
    if not isinstance(keypos, int) or isinstance(keypos, bool) or keypos < 0:
        raise ValueError(f"expected keypos to be the number of an item, from 0, got {keypos!r}")
    if name is not None:
        checked_name(name)
    elif named_table:
        raise ValueError("expected a named_table to have a name, got none")
    if worker is not None and (not isinstance(worker, int) or isinstance(worker, bool) or worker < 0):
        raise ValueError(f"expected worker to be the number of a worker (0, 1, ...), got {worker!r}")
    pid, data = heir_of(s, heir)
    args = (name, named_table, kind, may, keypos, pid, data)
    place = <int>s.endpoint if worker is None and s.endpoint < s.segment.workers else s.place(p, -1 if worker is None else worker)
    if place == <int>s.endpoint:
        p.flags |= KEEPS            # it had better stay where its table is
        return service_of(s).execute(0, p.pid, NEW, args, None)
    return run_at(s, make_hi(s.segment.nonce, place, s.segment.incarnation(place)), None, NEW, args, None)


def insert(table, rows, /):
    """Put a row in, or a list of rows, all of them in one step (OTP: `ets:insert/2`). In a set, a row of the same key is replaced."""
    put_in(table, INSERT, rows)


def insert_new(table, rows, /):
    """As `insert`, if there is no row of any of these keys; whether it was done (OTP: `ets:insert_new/2`)."""
    return put_in(table, INSERT_NEW, rows)


cdef object put_in(object table, int op, object rows):
    cdef Codec codec = here().codec
    if type(rows) is list:
        return run(table, op, (), [stored(codec, row) for row in <list>rows])
    return run(table, op, (), [stored(codec, rows)])


def lookup(table, key, /):
    """All rows of a key: a list, of at most one in a set (OTP: `ets:lookup/2`)."""
    return run(table, LOOKUP, (checked(key),))


def lookup_element(table, key, pos, /, default=_NO_DEFAULT):
    """Item `pos` of the row of a key; of a bag the list of those of all its rows (OTP: `ets:lookup_element/3,4`).

    Raises:
        NoKey: there is no such row, and no default.
    """
    if not isinstance(pos, int) or isinstance(pos, bool):
        raise TypeError(f"expected the number of an item, got {pos!r} ({type(pos).__name__})")
    found = run(table, ELEMENT, (checked(key), pos))
    if found is not _NO_DEFAULT:
        return found
    if default is _NO_DEFAULT:
        raise NoKey(f"expected a key of the table {table!r}, got {key!r}: give a default, for where there is none", target=table)
    return default


def member(table, key, /):
    """Whether there is a row of that key (OTP: `ets:member/2`)."""
    return run(table, MEMBER, (checked(key),))


def take(table, key, /):
    """Remove all rows of a key, and return them (OTP: `ets:take/2`)."""
    return run(table, TAKE, (checked(key),))


def delete(table, key=_NO_DEFAULT, /):
    """Remove all rows of a key; without one, the table itself (OTP: `ets:delete/1,2`)."""
    if key is _NO_DEFAULT:
        run(table, DROP, ())
    else:
        run(table, DELETE, (checked(key),))


def delete_object(table, row, /):
    """Remove the rows that are the same as `row` in all their items (OTP: `ets:delete_object/2`)."""
    run(table, DELETE_OBJECT, (), [stored(here().codec, row)])


def delete_all_objects(table, /):
    """Remove all rows, in one step (OTP: `ets:delete_all_objects/1`)."""
    run(table, CLEAR, ())


cdef tuple change_of(object change):
    cdef tuple parts
    if isinstance(change, tuple) and len(change) in (2, 4):
        parts = change if len(change) == 4 else (change[0], change[1], None, None)
    else:
        parts = (None, change, None, None)
    for part in parts[:2] if parts[2] is None else parts:
        if part is not None and type(part) is not int:
            raise TypeError(f"expected an increment, (pos, increment), or (pos, increment, threshold, set to), all of int, got {change!r}")
    if parts[1] is None:
        raise TypeError(f"expected an increment, got {change!r}")
    return parts


def update_counter(table, key, change=1, /, default=None):
    """Add to an item of the row of a key, in one step; returns the sum (OTP: `ets:update_counter/3,4`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     hits = pa.ets.new()
    ...     [pa.ets.update_counter(hits, "/", default=("/", 0)) for _ in range(3)]
    [1, 2, 3]

    Args:
        change: the increment of the item behind the key; or `(pos, increment)`; or `(pos, increment, threshold, set_to)`: a sum beyond the
            threshold becomes `set_to`. Or a list of these, made one after the other: then the sums are returned as a list.
        default: the row to begin with where there is none; its key is replaced.

    Raises:
        NoKey: there is no such row, and no default.
        TypeError: the table is a bag, or the item is no int. Then nothing has changed.
    """
    many = isinstance(change, list)
    changes = tuple([change_of(one) for one in change]) if many else (change_of(change),)
    sums = run(table, COUNTER, (checked(key), changes), None if default is None else [stored(here().codec, default)])
    return sums if many else sums[0]


def update_element(table, key, changes, /, default=None):
    """Change items of the row of a key, in one step; whether there was one (OTP: `ets:update_element/3,4`).

    Args:
        changes: `(pos, value)`, or a list of these.
        default: the row to begin with where there is none; its key is replaced.
    """
    cdef Codec codec = here().codec
    pairs = changes if isinstance(changes, list) else [changes]
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or type(pair[0]) is not int:
            raise TypeError(f"expected (pos, value), or a list of these, got {pair!r}")
    rows = [stored(codec, tuple([value for _, value in pairs]))]
    if default is not None:
        rows.append(stored(codec, default))
    return run(table, UPDATE, (checked(key), tuple([at for at, _ in pairs])), rows)


def first(table, /):
    """The first key, or None if there is no row; an ordered_set's least one (OTP: `ets:first/1`)."""
    return run(table, FIRST, (None,))


def last(table, /):
    """The last key, or None; an ordered_set's greatest one, otherwise as `first` (OTP: `ets:last/1`)."""
    return run(table, LAST, (None,))


def next(table, key, /):
    """The key after `key`, or None (OTP: `ets:next/2`). In an ordered_set `key` need not be there.

    Whoever goes on from `first` meets each key once that is there all the time, also while rows come and go.

    Raises:
        NoKey: the table isn't ordered, and neither has `key` nor had it when the walk began.
    """
    return run(table, NEXT, (checked(key),))


def prev(table, key, /):
    """The key before `key`, or None; where there is no order, as `next` (OTP: `ets:prev/2`)."""
    return run(table, PREV, (checked(key),))


def tab2list(table, /):
    """All rows, as they are at one moment; an ordered_set's sorted by key (OTP: `ets:tab2list/1`)."""
    return scan(table, "select", ANY, None, None)


def foldl(function, acc, table, /):
    """`acc = function(row, acc)` for all rows as they are at one moment, in the caller; the last `acc` (OTP: `ets:foldl/3`)."""
    for row in scan(table, "select", ANY, None, None):
        acc = function(row, acc)
    return acc


def select(table, pattern=ANY, /, *, where=None, result=None):
    """The rows that fit a pattern, as they are at one moment (OTP: `ets:select/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     stock = pa.ets.new(type="ordered_set")
    ...     pa.ets.insert(stock, [("apple", "fruit", 3), ("leek", "vegetable", 5), ("pear", "fruit", 8)])
    ...     pa.ets.select(stock, (pa.ANY, "fruit", int), where=lambda row: row[2] > 5, result=lambda row: row[0])
    ['pear']

    Args:
        pattern: as for `receive`: a tuple of values, types, predicates and `ANY`. One that has a value for the key only looks at its rows.
        where: a function of a row: whether to take it.
        result: a function of a row: what to return in its place.

    The functions run where the table is, on a copy of the rows: in the caller if that is its worker, else in a process there.
    """
    return scan(table, "select", pattern, where, result)


def select_count(table, pattern=ANY, /, *, where=None):
    """How many rows fit (OTP: `ets:select_count/2`)."""
    return scan(table, "count", pattern, where, None)


def select_delete(table, pattern=ANY, /, *, where=None):
    """Remove the rows that fit, one by one; how many (OTP: `ets:select_delete/2`). One that is replaced meanwhile stays."""
    return scan(table, "delete", pattern, where, None)


def match_object(table, pattern, /):
    """The rows that fit a pattern (OTP: `ets:match_object/2`)."""
    return scan(table, "select", pattern, None, None)


def match_delete(table, pattern, /):
    """Remove the rows that fit a pattern; how many (OTP: `ets:match_delete/2`)."""
    return scan(table, "delete", pattern, None, None)


@cython.final
cdef class _Bind:
    """The type of `BIND`."""

    def __repr__(self):
        return "BIND"

    def __reduce__(self):
        return "BIND"


BIND = _Bind.__new__(_Bind)


cdef object without_binds(object pattern, tuple path, list paths):
    """The pattern with ANY in place of each BIND, whose path goes to `paths`."""
    if pattern is BIND:
        paths.append(path)
        return ANY
    if type(pattern) is tuple:
        return tuple([without_binds(part, (*path, i), paths) for i, part in enumerate(pattern)])
    return pattern


@cython.final
cdef class _Bound:
    """Takes what the BINDs of a pattern stand for out of a row."""

    cdef list paths

    def __init__(self, paths):
        self.paths = paths

    def __reduce__(self):
        return _Bound, (self.paths,)

    def __call__(self, row):
        found = []
        for path in self.paths:
            part = row
            for i in path:
                part = part[i]
            found.append(part)
        return tuple(found)


def match(table, pattern, /):
    """What stands where a pattern has `BIND`, for each row that fits: a list of tuples (OTP: `ets:match/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     edges = pa.ets.new(type="bag")
    ...     pa.ets.insert(edges, [("a", "b", 1), ("a", "c", 4)])
    ...     pa.ets.match(edges, ("a", pa.ets.BIND, pa.ets.BIND))
    [('b', 1), ('c', 4)]
    """
    cdef list paths = []
    bare = without_binds(pattern, (), paths)
    return scan(table, "select", bare, None, _Bound(paths))


def info(table, /):
    """Facts about a table: a dict; None if there is no such table (any more) (OTP: `ets:info/1`)."""
    try:
        return run(table, INFO, ())
    except NoTable:
        return None
    except NodeDown:
        return None


def whereis(name, /):
    """The table of that name, or None (OTP: `ets:whereis/1`)."""
    cdef uint64_t hi = 0, lo = 0
    if here().names.lookup(PREFIX + checked_name(name), &hi, &lo):
        return _table(hi, lo)
    return None


def rename(table, name, /):
    """Give a table another name; `name` again (OTP: `ets:rename/2`).

    Raises:
        NameTaken: it is a named table, and there is another one of that name.
    """
    run(table, RENAME, (checked_name(name),))
    return name


def give_away(table, pid, data=None, /):
    """Make `pid` the owner of a table of the caller's; it gets `("ETS-TRANSFER", table, caller, data)` (OTP: `ets:give_away/3`).

    The table stays where it is.

    Raises:
        AccessDenied: the caller isn't its owner.
        NoProc: `pid` is dead.
        ValueError: `pid` is the owner.
    """
    cdef Scheduler s = here()
    if type(pid) is not Pid:
        raise TypeError(f"expected the Pid of the new owner, got {pid!r} ({type(pid).__name__})")
    if not api.is_alive(pid):
        raise NoProc(f"expected a live process to give {table} to, got {pid}, which is dead", reason="noproc", target=pid)
    s.codec.encode(data)            # what can't be sent is refused while the table is still the caller's
    table = table_of(s, table)
    run(table, GIVE_AWAY, (pid,))
    api.send(pid, ("ETS-TRANSFER", table, api.self_(), data))


def setopts(table, /, *, heir):
    """Give a table of the caller's another heir: None, a Pid, or (Pid, data) (OTP: `ets:setopts/2`)."""
    run(table, SETOPTS, heir_of(here(), heir))

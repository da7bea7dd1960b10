# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Terms that are read often and hardly ever changed: OTP's `persistent_term`.

    put   -> REQUEST to the root: it keeps the value (bytes), counts the generation up, answers
    get   -> the generation in shared memory is the one that this worker has asked for the key at: the object that was read then;
             else a REQUEST to the root, which sends the bytes if the worker hasn't got that version

The root keeps `key -> (version, bytes)`, and alone writes the generation (the segment's header; release), after the change and before it
answers. A reader loads it (acquire) before it asks. So a `get` that begins after a `put` has returned, or after anybody has read the
new value, reads the new value or a newer one.

An object that a worker has read is handed to all its processes: it is immutable all through. `put` refuses others.
"""
cimport cython
from libc.stdint cimport uint64_t

from parallel_actors.workers.ets cimport check_key
from parallel_actors.workers.scheduler cimport Scheduler, here
from parallel_actors.workers.segment cimport ld64_acquire, st64_release

from parallel_actors.workers.errors import NoKey

cdef enum:
    AT_GENERATION = 896         # header of the segment

cdef object _NO_DEFAULT = object()
cdef object _NO_TERM = object()


@cython.final
cdef class Term:
    """What a worker knows of a key."""
    cdef object value
    cdef uint64_t version       # of the value; 0: nobody has put one
    cdef uint64_t asked         # the generation at which that was so


@cython.final
cdef class Service:
    """At the root: all terms. Elsewhere: what was read."""

    cdef Scheduler scheduler
    cdef dict terms             # the root's: key -> (version, bytes)
    cdef dict read              # key -> Term

    def __init__(self, Scheduler scheduler):
        self.scheduler = scheduler
        self.terms = {}
        self.read = {}

    cdef uint64_t generation(self) noexcept:
        return ld64_acquire(self.scheduler.segment.base + AT_GENERATION)

    cdef uint64_t next_generation(self) noexcept:
        cdef uint64_t now = self.generation() + 1
        st64_release(self.scheduler.segment.base + AT_GENERATION, now)
        return now

    def perform(self, tuple operation):
        """At the root: a request of another endpoint."""
        what = operation[1]
        if what == "get":
            _, _, key, version = operation
            found = self.terms.get(key)
            if found is None:
                return None
            return found if found[0] != version else (version, None)
        if what == "put":
            _, _, key, data, only_new = operation
            found = self.terms.get(key)
            if found is not None and (only_new or found[1] == data):
                return found[1] == data
            self.terms[key] = (self.generation() + 1, data)
            self.next_generation()
            return True
        if what == "erase":
            if operation[2] not in self.terms:
                return False
            del self.terms[operation[2]]
            self.next_generation()
            return True
        if what == "keys":
            return list(self.terms)
        return {"count": len(self.terms), "memory": sum([len(data) for _, data in self.terms.values()])}

    cdef Term fetch(self, object key, uint64_t now):
        """Ask the root for a term. now: the generation that was read before."""
        cdef Scheduler s = self.scheduler
        cdef Term term = self.read.get(key)
        found = ask(s, ("terms", "get", key, 0 if term is None else term.version))
        term = self.read.get(key)           # another process may have read it meanwhile
        if term is None:
            term = Term.__new__(Term)
        elif term.asked > now:
            return term
        if found is None:
            term.value = None
            term.version = 0
        elif found[1] is not None and found[0] > term.version:
            data = found[1]
            value = s.codec.decode(<const unsigned char*><const char*><bytes>data, len(data))
            if term.asked > now:            # that was user code
                return term
            if not s.codec.is_immutable(value):
                raise TypeError(f"expected what is put to be immutable when it is unpickled, too, got {value!r} ({type(value).__name__})")
            term.value = value
            term.version = found[0]
        elif found[0] != term.version:      # it was replaced or erased by another process's answer: once more
            return self.fetch(key, self.generation())
        term.asked = now
        if len(self.read) > 10000:          # keys that nobody has put are remembered, too
            self.read.clear()
        self.read[key] = term
        return term


cdef object ask(Scheduler s, tuple operation):
    return s.ask(s.segment.root, 0, operation, -1.0)


cdef object checked(object key):
    if key is None:
        raise TypeError("expected a key, got None")
    check_key(key)
    return key


def put(key, value, /):
    """Give a key a value, for all processes of the node (OTP: `persistent_term:put/2`).

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     pa.persistent_term.put("limits", (10, 20))
    ...     pa.persistent_term.get("limits")
    (10, 20)

    Args:
        key: int, float, bool, str, bytes, Pid or Ref, or a tuple or frozenset of those.
        value: immutable all through: numbers, strings, tuples, frozensets, frozen dataclasses, enums, functions of modules, a `share`d buffer,
            `counters` and `atomics`. One that is equal to the old one, when pickled, changes nothing.

    When it returns, each `get` that begins, on any worker, has the new value. After each change a worker asks the root once for each key that
    it reads: put what changes often into a table (`ets`).

    Raises:
        TypeError: the value is mutable.
        NotPicklable: it can't be pickled.
    """
    put_in(key, value, False)


def put_new(key, value, /):
    """As `put`, but a key that has another value already is an error (OTP: `persistent_term:put_new/2`).

    Raises:
        ValueError: it has.
    """
    if not put_in(key, value, True):
        raise ValueError(f"expected a key that has no other value, got {key!r}")


cdef object put_in(object key, object value, bint only_new):
    cdef Scheduler s = here()
    s.may_act()
    checked(key)
    if not s.codec.is_immutable(value):
        raise TypeError(
            f"expected a value that is immutable all through (tuples, frozensets, frozen dataclasses, strings, numbers, ...), got {value!r} "
            f"({type(value).__name__}): all processes of a worker share it")
    return ask(s, ("terms", "put", key, s.codec.encode(value), only_new))


def get(key, /, default=_NO_DEFAULT):
    """The value of a key: the very object that other processes of this worker get (OTP: `persistent_term:get/1,2`).

    Raises:
        NoKey: there is none, and no default.
    """
    cdef Scheduler s = here()
    cdef Service service = <Service>s.service("terms")
    cdef Term term
    cdef uint64_t now = service.generation()
    try:
        term = service.read.get(key)
    except TypeError:           # it can't be hashed
        check_key(key)
        raise
    if term is None or term.asked < now:
        s.may_act()
        term = service.fetch(checked(key), now)
    if term.version:
        return term.value
    if default is _NO_DEFAULT:
        raise NoKey(f"expected the key of a persistent term, got {key!r}: nobody has put it, or it was erased. Give a default, for where there is none")
    return default


def erase(key, /):
    """Take a key and its value away; whether it was there (OTP: `persistent_term:erase/1`)."""
    cdef Scheduler s = here()
    s.may_act()
    return ask(s, ("terms", "erase", checked(key)))


def get_all():
    """All keys and their values: a dict (OTP: `persistent_term:get/0`). Each value is as `get` gives it."""
    cdef Scheduler s = here()
    s.may_act()
    found = {key: get(key, _NO_TERM) for key in ask(s, ("terms", "keys"))}
    return {key: value for key, value in found.items() if value is not _NO_TERM}     # without what was erased meanwhile


def info():
    """How many there are, and the bytes that the root keeps of their values (OTP: `persistent_term:info/0`)."""
    cdef Scheduler s = here()
    s.may_act()
    return ask(s, ("terms", "info"))

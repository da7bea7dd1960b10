# cython: language_level=3, boundscheck=False, wraparound=False
"""Process identifiers and references: 128 bits each, immutable, hashable, picklable.

A `Pid` says where its process lives (home endpoint and that endpoint's incarnation) and who
spawned it (spawner endpoint, its incarnation, a counter per spawner and home). The spawner
makes the pid without asking the home: so `spawn` returns at once, and the home can tell a
process that died (counter already seen) from one that is not born yet (S1.4).

A `Ref` is unique in the run. It names a monitor, a timer, a request or an alias.
The layouts of both stand in ``ident.pxd``.
"""
cimport cython


@cython.final
@cython.freelist(256)
cdef class Pid:
    """The address of a process. Compares, hashes and travels in messages.

    You get one from `spawn` and from `self_`; there is no reason to make one by hand.
    `Pid.worker` is the number of the worker that its process was born on.
    """

    def __init__(self):
        raise TypeError("a Pid can't be made by hand: take the one that spawn() or self_() returns")

    @property
    def worker(self):
        """The endpoint that the process was born on: a worker's number for a process on a worker."""
        return hi_endpoint(self.hi)

    @property
    def incarnation(self):
        """How often that worker had been replaced before this process was born."""
        return hi_incarnation(self.hi)

    def __eq__(self, other):
        if type(other) is not Pid:
            return NotImplemented
        return self.hi == (<Pid>other).hi and self.lo == (<Pid>other).lo

    def __hash__(self):
        return <Py_hash_t>((self.lo * 0x9E3779B97F4A7C15ULL) ^ (self.hi * 0xC2B2AE3D27D4EB4FULL) ^ (self.lo >> 31))

    def __lt__(self, other):
        if type(other) is not Pid:
            return NotImplemented
        return (self.hi, self.lo) < ((<Pid>other).hi, (<Pid>other).lo)

    def __reduce__(self):
        return _pid, (self.hi, self.lo)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        cdef uint32_t home = hi_endpoint(self.hi), inc = hi_incarnation(self.hi)
        cdef str text = f"<0.{home}" + (f"#{inc}" if inc else "") + f".{lo_counter(self.lo)}"
        if lo_spawner(self.lo) != home:
            text += f"@{lo_spawner(self.lo)}"
            if lo_incarnation(self.lo):
                text += f"#{lo_incarnation(self.lo)}"
        return text + ">"


@cython.final
@cython.freelist(256)
cdef class Ref:
    """A reference, unique in the run: of a monitor, a timer, a request, or an alias (`alias`)."""

    def __init__(self):
        raise TypeError("a Ref can't be made by hand: call make_ref()")

    def __eq__(self, other):
        if type(other) is not Ref:
            return NotImplemented
        return self.hi == (<Ref>other).hi and self.lo == (<Ref>other).lo

    def __hash__(self):
        return <Py_hash_t>((self.lo * 0x9E3779B97F4A7C15ULL) ^ self.hi)

    def __reduce__(self):
        return _ref, (self.hi, self.lo)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"#Ref<0.{hi_endpoint(self.hi)}.{hi_incarnation(self.hi)}.{self.lo}>"


cdef Pid new_pid(uint64_t hi, uint64_t lo):
    cdef Pid pid = Pid.__new__(Pid)
    pid.hi = hi
    pid.lo = lo
    return pid


cdef Ref new_ref(uint64_t hi, uint64_t lo):
    cdef Ref ref = Ref.__new__(Ref)
    ref.hi = hi
    ref.lo = lo
    return ref


def _pid(hi, lo):
    """Rebuild a pickled Pid."""
    return new_pid(hi, lo)


def _ref(hi, lo):
    """Rebuild a pickled Ref."""
    return new_ref(hi, lo)

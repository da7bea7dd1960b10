# cython: language_level=3, boundscheck=False, wraparound=False
"""Deadlines of one scheduler: a binary heap in which every timer knows its place.

A call with a time-out arms a timer and nearly always cancels it, so removal is O(log n) and
leaves nothing behind, where a heap of tombstones would grow with the rate of calls.
"""
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.math cimport isnan
cimport cython


cdef double seconds(object value, str what) except -2:
    """A time-out in seconds: None (or infinity) is -1, for ever."""
    cdef double s
    if value is None:
        return -1.0
    if type(value) is bool or isinstance(value, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"expected {what} to be a number of seconds or None, got {value!r}")
    try:
        s = float(value)
    except OverflowError:
        s = float("inf") if value > 0 else -1.0
    except (TypeError, ValueError):
        raise TypeError(f"expected {what} to be a number of seconds or None, got {value!r}") from None
    if isnan(s) or s < 0:
        raise ValueError(f"expected {what} to be 0 or more seconds, or None for ever, got {value!r}")
    return -1.0 if s == float("inf") else s


@cython.final
@cython.freelist(64)
cdef class Timer:
    """One deadline: wakes a process, or sends a message once or every `period`."""

    def __cinit__(self):
        self.index = -1


@cython.final
cdef class TimerHeap:
    """The timers of one scheduler, earliest first. Used by the scheduler's thread only."""

    def __cinit__(self):
        self.heap = []

    def __len__(self):
        return len(self.heap)

    cdef int64_t next_deadline(self) noexcept:
        """The earliest deadline in ns, or -1."""
        if PyList_GET_SIZE(self.heap) == 0:
            return -1
        return (<Timer>PyList_GET_ITEM(self.heap, 0)).deadline

    cdef int add(self, Timer timer) except -1:
        if timer.index >= 0:
            self.remove(timer)
        timer.index = PyList_GET_SIZE(self.heap)
        self.heap.append(timer)
        self._up(timer.index)
        return 0

    cdef int remove(self, Timer timer) except -1:
        """Take `timer` out. Nothing happens if it isn't in the heap (fired or cancelled before)."""
        cdef Py_ssize_t i = timer.index
        cdef Timer last
        if i < 0:
            return 0
        last = <Timer>self.heap.pop()
        timer.index = -1
        if last is not timer:
            self.heap[i] = last
            last.index = i
            self._up(i)
            self._down(last.index)
        return 0

    cdef Timer pop_due(self, int64_t now):
        cdef Timer first
        if PyList_GET_SIZE(self.heap) == 0:
            return None
        first = <Timer>PyList_GET_ITEM(self.heap, 0)
        if first.deadline > now:
            return None
        self.remove(first)
        return first

    cdef void _up(self, Py_ssize_t i) noexcept:
        cdef Timer timer = <Timer>PyList_GET_ITEM(self.heap, i)
        cdef Timer parent
        cdef Py_ssize_t above
        while i > 0:
            above = (i - 1) >> 1
            parent = <Timer>PyList_GET_ITEM(self.heap, above)
            if parent.deadline <= timer.deadline:
                break
            self.heap[i] = parent
            parent.index = i
            i = above
        self.heap[i] = timer
        timer.index = i

    cdef void _down(self, Py_ssize_t i) noexcept:
        cdef Timer timer = <Timer>PyList_GET_ITEM(self.heap, i)
        cdef Timer child
        cdef Py_ssize_t n = PyList_GET_SIZE(self.heap), below
        while True:
            below = 2 * i + 1
            if below >= n:
                break
            child = <Timer>PyList_GET_ITEM(self.heap, below)
            if below + 1 < n and (<Timer>PyList_GET_ITEM(self.heap, below + 1)).deadline < child.deadline:
                below += 1
                child = <Timer>PyList_GET_ITEM(self.heap, below)
            if timer.deadline <= child.deadline:
                break
            self.heap[i] = child
            child.index = i
            i = below
        self.heap[i] = timer
        timer.index = i

    def check_invariants(self):
        """Raise AssertionError unless the heap is ordered and every timer knows its place."""
        cdef Py_ssize_t i
        for i in range(len(self.heap)):
            assert (<Timer>self.heap[i]).index == i
            if i:
                assert (<Timer>self.heap[(i - 1) >> 1]).deadline <= (<Timer>self.heap[i]).deadline

    def exercise(self, operations):
        """For tests: run ("add", deadline) and ("remove", n-th added), check after each, return the order of firing."""
        added = []
        cdef Timer timer
        for operation, value in operations:
            if operation == "add":
                timer = Timer()
                timer.deadline = value
                timer.lo = len(added)
                added.append(timer)
                self.add(timer)
            elif value < len(added):
                self.remove(<Timer>added[value])
            self.check_invariants()
        fired = []
        while True:
            timer = self.pop_due(2**62)
            if timer is None:
                return fired
            fired.append((timer.deadline, timer.lo))
            self.check_invariants()

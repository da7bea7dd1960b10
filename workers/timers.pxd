from libc.stdint cimport int64_t, uint64_t


cdef double seconds(object value, str what) except -2


cdef class Timer:
    cdef int64_t deadline           # CLOCK_MONOTONIC, ns
    cdef int64_t period             # ns; 0 = once
    cdef Py_ssize_t index           # Invariant: heap[index] is self, or -1 when not in the heap
    cdef object target              # a Process to wake, or the destination of `message`
    cdef object message             # what to send; unused for a wake-up
    cdef bint wakes                 # True: wake the Process `target`
    cdef uint64_t hi, lo            # the Ref of send_after; 0 for a wake-up


cdef class TimerHeap:
    cdef list heap                  # Invariant: heap[i].deadline <= heap[2i+1].deadline, heap[2i+2].deadline

    cdef int add(self, Timer timer) except -1
    cdef int remove(self, Timer timer) except -1
    cdef Timer pop_due(self, int64_t now)
    cdef int64_t next_deadline(self) noexcept
    cdef void _up(self, Py_ssize_t i) noexcept
    cdef void _down(self, Py_ssize_t i) noexcept

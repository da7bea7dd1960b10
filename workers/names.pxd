cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from parallel_actors.workers.segment cimport Segment

@cython.final
cdef class NameTable:        # over a Segment
    cdef readonly Segment segment
    cdef uint32_t endpoint                   # the claimer, once claim_as has said so
    cdef uint32_t incarnation
    cdef bint claims_as_itself
    cdef void claim_as(self, uint32_t endpoint, uint32_t incarnation) noexcept
    cdef uint8_t* _find(self, const char* text, size_t n, uint64_t hash, uint64_t* at_free) noexcept nogil
    cdef uint8_t* _bind(self, const char* text, size_t n) except NULL
    cdef bint lookup(self, str name, uint64_t* hi, uint64_t* lo) except -1
    # Endpoint and incarnation from hi. 1 ok; 0 taken by a live owner, or a dead one that isn't freed yet.
    cdef int claim(self, str name, uint64_t hi, uint64_t lo) except -2
    cdef bint free(self, str name, uint64_t hi, uint64_t lo) except -1   # only if that pid owns it

cimport cython
from libc.stdint cimport int64_t, uintptr_t

cdef enum Place:
    CUTTABLE = 0        # user code
    IN_LOOP = 1         # asyncio's own code, which doesn't expect an exception there
    IN_LOCK = 2         # code of threading, queue, logging or the engine that may hold a lock
    IN_IMPORT = 3       # half-made modules are about
    IN_DEL = 4          # a finalizer: it interrupted somebody who doesn't expect others
    IN_NATIVE = 5       # a native library waits for us to return

@cython.final
cdef class Tick:
    cdef readonly bint armed
    cdef void *timer
    cdef bint made
    cdef dict files         # co_filename -> what it is
    cdef list prefixes      # C strings: where shared objects that may be switched away from come from
    cdef uintptr_t plain    # C stack between a process's start and the handler where no native frame is between; 0 = not known

    cdef int arm(self, int64_t ns) except -1
    cdef int disarm(self) except -1
    cdef int file_of(self, object name) except -1
    cdef int place(self, object frame, uintptr_t base, const char **foreign) except -1
    cdef int calibrate(self, uintptr_t base) except -1

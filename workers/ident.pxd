from libc.stdint cimport uint32_t, uint64_t

# Pid.hi, Ref.hi:  run nonce (32 bits) | home endpoint (16) | home incarnation (16)
# Pid.lo:          spawner endpoint (12) | spawner incarnation (16) | counter (36)
# Ref.lo:          counter of the endpoint that made it (64)

cdef inline uint64_t make_hi(uint32_t nonce, uint32_t endpoint, uint32_t incarnation) noexcept nogil:
    return (<uint64_t>nonce << 32) | (<uint64_t>(endpoint & 0xFFFF) << 16) | (incarnation & 0xFFFF)

cdef inline uint32_t hi_nonce(uint64_t hi) noexcept nogil:
    return <uint32_t>(hi >> 32)

cdef inline uint32_t hi_endpoint(uint64_t hi) noexcept nogil:
    return <uint32_t>((hi >> 16) & 0xFFFF)

cdef inline uint32_t hi_incarnation(uint64_t hi) noexcept nogil:
    return <uint32_t>(hi & 0xFFFF)

cdef inline uint64_t make_lo(uint32_t spawner, uint32_t incarnation, uint64_t counter) noexcept nogil:
    return (<uint64_t>(spawner & 0xFFF) << 52) | (<uint64_t>(incarnation & 0xFFFF) << 36) | (counter & 0xFFFFFFFFFULL)

cdef inline uint32_t lo_spawner(uint64_t lo) noexcept nogil:
    return <uint32_t>(lo >> 52)

cdef inline uint32_t lo_incarnation(uint64_t lo) noexcept nogil:
    return <uint32_t>((lo >> 36) & 0xFFFF)

cdef inline uint64_t lo_counter(uint64_t lo) noexcept nogil:
    return lo & 0xFFFFFFFFFULL


cdef class Pid:
    cdef readonly uint64_t hi
    cdef readonly uint64_t lo
    # At home and while alive: the Process (set and cleared by the scheduler only). Else None.
    cdef object process

cdef class Ref:
    cdef readonly uint64_t hi
    cdef readonly uint64_t lo

cdef Pid new_pid(uint64_t hi, uint64_t lo)
cdef Ref new_ref(uint64_t hi, uint64_t lo)

from libc.stdint cimport uint64_t


# Whether `message` fits `pattern`. Runs user code: predicates, `__eq__`, `__instancecheck__`; what they raise comes through.
cdef bint match(object pattern, object message) except -1

# Whether only messages that hold this very Ref fit: none that is older than the Ref does (S3.2). Runs no user code.
cdef bint mentions_ref(object pattern, uint64_t hi, uint64_t lo) except -1

cdef int check_key(object key, int depth=*) except -1

from libc.stdint cimport uint8_t, uint64_t


cdef class Encoded:
    # A whole message as `Codec.encode` wrote it, format byte included: `Codec.decode` takes it as it is.
    cdef readonly bytes data


cdef class Codec:
    cdef object store_put       # callable(bytes) -> offset in the shared store, raises when it is full; None: always inline
    cdef object store_get       # callable(offset) -> the bytes put there
    # Invariant: what stands in one of these lives as long as the codec, so an id in them is never reused.
    cdef dict _by_id            # id(class or function) -> Definition
    cdef dict _by_offset        # offset in the store -> Definition
    cdef dict _entries          # (id(namespace), name) -> Entry: a global of `__main__` as last written to the store
    cdef set _bundles           # offsets of the bundles of globals that this codec has loaded
    cdef dict _writing          # id -> the class or function whose definition is being written right now
    cdef list _writers          # idle ones: a pickling takes one and gives it back, so that `__reduce__` may itself send
    cdef dict _kinds            # type -> how its instances are isolated

    # Any message -> bytes, format byte first. Raises NotPicklable. User code (`__reduce__`) may run.
    cdef bytes encode(self, object message)
    cdef bytes compact(self, object message)
    # Any format -> the message. User code (`__setstate__`) may run: `data` must stay where it is until this returns.
    cdef object decode(self, const uint8_t* data, size_t n)
    # What a scheduler's loop does with a record: a compact message at once, else an Encoded. No user code runs.
    cdef object receive(self, const uint8_t* data, size_t n)
    # A message for the same worker: the value itself, a copy, or an Encoded. Raises as `encode` does.
    cdef object isolate(self, object message)
    # The same for a function to spawn.
    cdef object isolate_callable(self, object function)

    cdef bytes _pickle(self, object message, str root)
    cdef object _unpickle(self, const uint8_t* data, size_t n, uint64_t bundle)

from libc.stdint cimport uint8_t, uint64_t

from parallel_actors.workers.arena cimport Arena, Block, Holds


cdef class Encoded:
    # A whole message as `Codec.encode` wrote it, format byte included: `Codec.decode` takes it as it is.
    cdef readonly bytes data
    cdef Holds holds            # the blocks that it mentions, as long as it may be decoded; None: it mentions none


cdef class Shared:
    cdef Block block            # None: there was no room in the arena
    cdef bytes own              # then: what was shared
    cdef uint64_t start
    cdef uint64_t length
    cdef bint live              # on what is changed in place: it never travels by value
    cdef bytes meta             # pickled (dtype, shape, order) of an array; else empty


cdef class Codec:
    cdef readonly Arena arena   # None: large buffers go with the bytes
    # What the latest `pack` mentions, or None. Whoever calls `pack` reads it at once, and sets it to None: before anything else is done.
    cdef Holds packed
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
    cdef bytes encode_to_move(self, object message)
    cdef bint is_immutable(self, object o) except -1
    cdef bytes compact(self, object message)
    # The same for a message to another endpoint: large parts go into blocks of the arena. The bytes are worth something only together
    # with `packed`, and only as long as somebody has it: who keeps them, or hands them on, keeps that too (`Encoded.holds`).
    cdef bytes pack(self, object message, bint own)
    # Any format -> the message. User code (`__setstate__`) may run: `data` must stay where it is until this returns.
    cdef object decode(self, const uint8_t* data, size_t n)
    # What a scheduler's loop does with a record: a compact message at once, else an Encoded. No user code runs.
    cdef bint is_plain(self, const uint8_t* data, size_t n) noexcept     # to decode it runs no user code
    cdef object receive(self, const uint8_t* data, size_t n)
    # A message for the same worker: the value itself, a copy, or an Encoded. Raises as `encode` does.
    cdef object isolate(self, object message)
    # The same with large buffers in blocks, as `pack` does it: read-only, where they are arrays. `Encoded.holds` has the blocks.
    cdef object isolate_message(self, object message, bint own)
    # The same for a function to spawn.
    cdef object isolate_callable(self, object function)

    cdef bytes _encode(self, object message, int mode, bint compact=*)
    cdef object _isolate(self, object message, int mode)
    cdef object share(self, object buffer)
    cdef object _unpack(self, const uint8_t* data, size_t n)
    cdef bytes _pickle(self, object message, str root, int mode)
    cdef object _unpickle(self, const uint8_t* data, size_t n, uint64_t bundle)


cdef Shared make_shared(Block block, uint64_t start, uint64_t length, bytes meta)

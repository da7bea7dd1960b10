# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Messages to bytes and back; isolation of local messages; definitions of `__main__`.

Who calls what::

    send, same worker     isolate(m)  -> m itself | a copy | Encoded   appended to the mailbox
    send, other worker    encode(m)   -> bytes                         a record in a ring
    the consumer's loop   receive(bytes) -> value | Encoded            no user code
    receive()             decode(Encoded.data)                         in the receiver's own context

**Formats.** Byte 0 says which:

===  =========================================================================================
 1   compact: one value. A tag byte, then by tag a number, or a length (one byte; 255: four more) and content. For None,
     bools, numbers, str, bytes, tuple, list, dict, set, frozenset, Pid and Ref of exactly those types.
 2   pickle
 3   count u32, that many references (definition u64, bundle u64), then a pickle
 4   what the stream is (1 compact, 2 pickle), 0 u16, count u32, that many entries (kind, and three numbers, u64 each), then the
     stream, unless an entry says that it lies in a block; and buffers that there was no block for, 16-aligned
===  =========================================================================================

The compact encoding can't carry sharing or cycles: what might be shared (by its reference count) is remembered while it is written,
and met again sends the whole message to pickle. Decoding it never runs user code, and never reads past the end.

**Large buffers.** `encode` makes bytes that stand for themselves. `pack`, for messages to another endpoint, and `isolate_message`, for
those to the same, put buffers of ARENA_MIN bytes and more into blocks of the arena (arena.pyx): one copy, here. NumPy arrays,
memoryviews and whatever else gives pickle 5 its buffers out of band become read-only views of the block there; what has no such
form (bytes, bytearray, a long list) lies in a block with the whole pickle, and is made from it. Memory that lies in the arena already,
of a view that was received or of a `Shared`, isn't copied: the entry names its block. In a full arena the buffers go with the bytes, and
become views of those.

**Code by value.** Functions and classes that can't be imported by name in a worker (those of `__main__`, lambdas, local ones) are
taken apart by cloudpickle's functions. Three things differ from plain cloudpickle:

- *Definitions.* A named top-level class or function of `__main__` is written into the shared store once. A message has its offset
  among its references, and an out-of-band buffer (pickle 5's) in its place, so no unpickler hook and no "current codec" is needed.
- *Globals.* Functions of `__main__` that arrive here by whatever way share one dict, as they did there (`Namespace`). The globals
  that a definition reaches are written each on its own, with a version; a *bundle* lists them. So a definition never holds a global,
  recursion through globals is no recursion of definitions, and rebinding a global (a cell of a notebook run again) costs one entry.
  A local function of an importable module refers to that module's real globals.
- *Classes are made once per OS process* and never updated by a message: class attributes belong to the worker. That also keeps
  a message from a process to its neighbour from resetting the class they share (cloudpickle's own `loads` would).

**Isolation** copies what is mutable and built in, passes what is deeply immutable, and leaves the rest to pickle, whose bytes
are loaded in the receiver. It looks at types only by identity, so it runs no user code except through pickle.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy, PyDict_GetItem, PyDict_Next, PyDict_SetItem
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_GetSlice, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_FromLongLong
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from parallel_actors.workers.arena cimport ARENA_MIN, Arena, Block, Holds
from parallel_actors.workers.ident cimport Pid, Ref, new_pid, new_ref

import _pickle
import abc
import builtins
import copyreg
import dataclasses
import enum
import functools
import importlib
import os
import re
import sys
import types
import typing
import weakref

from cloudpickle import cloudpickle as _cp

from parallel_actors.workers.errors import NotPicklable

cdef extern from *:
    """
    #include <Python.h>

    /* A dict's version changes with each change of the dict. Deprecated in 3.12, kept up through 3.13. */
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    static inline uint64_t pa_dict_version(PyObject *d) { return ((PyDictObject *)d)->ma_version_tag; }
    static inline int pa_str_ready(PyObject *s) {
    #if PY_VERSION_HEX < 0x030C0000
        return PyUnicode_READY(s);
    #else
        return 0;
    #endif
    }
    #pragma GCC diagnostic pop

    static inline int pa_is_ascii(PyObject *s) { return PyUnicode_IS_COMPACT_ASCII(s); }
    static inline int pa_str_kind(PyObject *s) { return (int)PyUnicode_KIND(s); }
    static inline void *pa_str_data(PyObject *s) { return PyUnicode_DATA(s); }

    /* Atoms: exact builtin types without parts. The order is that of what messages mostly hold. */
    static PyTypeObject *pa_pid_type, *pa_ref_type, *pa_shared_type;
    static inline int pa_is_atom(PyObject *o) {
        PyTypeObject *t = Py_TYPE(o);
        return t == &PyUnicode_Type || t == &PyLong_Type || o == Py_None || t == &PyFloat_Type || t == &PyBool_Type
            || t == pa_pid_type || t == pa_ref_type || t == &PyBytes_Type;
    }
    static inline PyObject *pa_function_dict(PyObject *f) { return ((PyFunctionObject *)f)->func_dict; }
    static inline Py_ssize_t pa_basicsize(PyObject *t) { return ((PyTypeObject *)t)->tp_basicsize; }
    static inline int pa_has_dict(PyObject *t) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (((PyTypeObject *)t)->tp_flags & Py_TPFLAGS_MANAGED_DICT) return 1;
    #endif
        return ((PyTypeObject *)t)->tp_dictoffset != 0;
    }
    static inline int pa_is_heap_type(PyObject *t) { return (((PyTypeObject *)t)->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0; }
    static inline PyObject *pa_cfunction_self(PyObject *f) { return PyCFunction_GET_SELF(f); }

    /* What `put` needs without making an object: each new object may start the collector of 3.11, and with it finalizers. */
    static inline size_t pa_int_size(PyObject *i) { return _PyLong_NumBits(i) / 8 + 1; }
    static inline int pa_int_bytes(PyObject *i, unsigned char *to, size_t n) {
    #if PY_VERSION_HEX >= 0x030D0000
        return _PyLong_AsByteArray((PyLongObject *)i, to, n, 1, 1, 1);
    #else
        return _PyLong_AsByteArray((PyLongObject *)i, to, n, 1, 1);
    #endif
    }
    #if PY_VERSION_HEX >= 0x030D0000
    PyAPI_FUNC(int) _PySet_NextEntry(PyObject *set, Py_ssize_t *pos, PyObject **key, Py_hash_t *hash);
    #endif
    """
    size_t pa_int_size(PyObject* i)
    int pa_int_bytes(PyObject* i, unsigned char* to, size_t n) except -1
    object _PyLong_FromByteArray(const unsigned char* at, size_t n, int little_endian, int is_signed)
    int _PySet_NextEntry(PyObject* s, Py_ssize_t* pos, PyObject** key, Py_hash_t* hash)
    uint64_t pa_dict_version(object d)
    int pa_str_ready(PyObject* s) except -1
    bint pa_is_ascii(PyObject* s)
    int pa_str_kind(PyObject* s)
    void* pa_str_data(PyObject* s)
    PyTypeObject* pa_pid_type
    PyTypeObject* pa_ref_type
    PyTypeObject* pa_shared_type
    bint pa_is_atom(PyObject* o)
    PyObject* pa_function_dict(object f)
    Py_ssize_t pa_basicsize(object t)
    bint pa_has_dict(object t)
    bint pa_is_heap_type(object t)
    PyObject* pa_cfunction_self(object f)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject* o)
    PyTypeObject* Py_TYPE(PyObject* o)
    PyTypeObject PyUnicode_Type, PyLong_Type, PyFloat_Type, PyBytes_Type, PyTuple_Type, PyList_Type, PyDict_Type
    PyTypeObject PySet_Type, PyFrozenSet_Type, PyByteArray_Type, PyBool_Type, PyFunction_Type, PyType_Type
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False
    PyObject* Py_Ellipsis
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* s)
    object PyUnicode_New(Py_ssize_t size, uint32_t maxchar)
    object PyUnicode_FromKindAndData(int kind, const void* data, Py_ssize_t size)
    double PyFloat_AS_DOUBLE(PyObject* o)
    bint PyType_Check(object o)
    object PyMemoryView_FromMemory(char* mem, Py_ssize_t size, int flags)
    int PyBUF_READ
    int PyBUF_WRITE
    object PyObject_GenericGetAttr(object o, object name)
    Py_ssize_t _PyBytes_size "PyBytes_GET_SIZE"(PyObject* o)
    char* _PyBytes_str "PyBytes_AS_STRING"(PyObject* o)
    Py_ssize_t _PyTuple_size "PyTuple_GET_SIZE"(PyObject* o)
    Py_ssize_t _PyList_size "PyList_GET_SIZE"(PyObject* o)
    PyObject* _PyTuple_item "PyTuple_GET_ITEM"(PyObject* o, Py_ssize_t i)
    PyObject* _PyList_item "PyList_GET_ITEM"(PyObject* o, Py_ssize_t i)
    Py_ssize_t _PyDict_size "PyDict_GET_SIZE"(PyObject* o)
    int _PyDict_next "PyDict_Next"(PyObject* o, Py_ssize_t* pos, PyObject** key, PyObject** value)
    Py_ssize_t _PySet_size "PySet_GET_SIZE"(PyObject* o)
    int PyList_SetItem(object l, Py_ssize_t i, object o) except -1

pa_pid_type = <PyTypeObject*>Pid
pa_ref_type = <PyTypeObject*>Ref

cdef object _loads = _pickle.loads
cdef object _PickleBuffer = _pickle.PickleBuffer
cdef object _FunctionType = types.FunctionType
cdef object _CellType = types.CellType
cdef object _ModuleType = types.ModuleType
cdef object _NoneType = type(None)
cdef dict _modules = sys.modules
cdef set _by_value_modules = _cp._PICKLE_BY_VALUE_MODULES
cdef dict _extra_reducers = dict(_cp.Pickler._dispatch_table)


# --- The compact encoding ----------------------------------------------------------------------------------------------

cdef enum:
    T_NONE = 0, T_FALSE, T_TRUE, T_ELLIPSIS
    T_INT8, T_INT32, T_INT64, T_INT, T_FLOAT
    T_ASCII, T_STR1, T_STR2, T_STR4, T_BYTES
    T_TUPLE, T_LIST, T_DICT, T_SET, T_FROZENSET
    T_PID, T_REF, T_SHARED

cdef enum:
    FORMAT_COMPACT = 1, FORMAT_PICKLE = 2, FORMAT_PICKLE_REFS = 3, FORMAT_BLOCKS = 4
    MAX_DEPTH = 12          # of a compact message; decoding recurses on the C stack as deep
    SEEN = 16               # objects that might be shared; more, and pickle's memo is the better tool
    BIG = 512               # a str or bytes this long is written twice only by pickle's memo, that is, once
    SMALL = 64              # a shared tuple up to this many bytes is simply written again
    COPY_BELOW = 4096       # bytes: copying so few is cheaper than a memoryview on them
    SMALL_BUFFER = 480
    SHARES = 8              # handles of shared blocks in a compact message
    OLD_BLOCKS = 80         # that a message may mention beside those made for it,
    NEW_BLOCKS = 16         # and of those: more buffers than that share one

# How a message is made.
cdef enum:
    M_STAY = -1             # M_PLAIN, but what only stands for itself where its block is pinned is refused
    M_PLAIN = 0             # bytes that stand for themselves
    M_PACK = 1              # large buffers in blocks
    M_OWN = 2               # only the stream itself: arrays and views arrive as the receiver's own, writable

# Kinds of entries in FORMAT_BLOCKS.
cdef enum:
    E_DEFINITION = 0        # offset in the store, bundle
    E_BUFFER = 1            # number of the block, start, length: a memoryview
    E_SHARED = 2            # the same: a Shared
    E_INLINE = 3            # start in these bytes, length: a memoryview
    E_STREAM = 4            # block, start, length: the pickle, or the compact encoding, itself

cdef struct Lot:
    uint64_t kind
    uint64_t a
    uint64_t b
    uint64_t c

cdef struct Seen:
    PyObject* object        # borrowed: nothing runs that could free it
    size_t size             # as written; 0 while it is being written, or if it must not be written again

cdef struct Buffer:
    uint8_t* data
    size_t size
    size_t room
    size_t mutables         # mutable containers written so far
    int seen_count
    Seen seen[SEEN]
    PyObject* arena         # borrowed; NULL: nothing of this may lie in blocks
    int share_count
    PyObject* shares[SHARES]    # Shared, borrowed
    uint8_t small[SMALL_BUFFER]


cdef int grow(Buffer* b, size_t more) except -1:
    cdef size_t room = b.room * 2
    cdef uint8_t* data
    while room < b.size + more:
        room *= 2
    if b.data == b.small:
        data = <uint8_t*>PyMem_Malloc(room)
        if data != NULL:
            memcpy(data, b.small, b.size)
    else:
        data = <uint8_t*>PyMem_Realloc(b.data, room)
    if data == NULL:
        raise MemoryError
    b.data = data
    b.room = room
    return 0


cdef inline int need(Buffer* b, size_t more) except -1:
    if b.size + more > b.room:
        grow(b, more)
    return 0


cdef inline void put_length(Buffer* b, uint8_t tag, size_t n) noexcept:
    # The caller has reserved 6 bytes, and n fits 32 bits.
    cdef uint32_t wide
    b.data[b.size] = tag
    if n < 255:
        b.data[b.size + 1] = <uint8_t>n
        b.size += 2
    else:
        b.data[b.size + 1] = 255
        wide = <uint32_t>n
        memcpy(b.data + b.size + 2, &wide, 4)
        b.size += 6


cdef inline Seen* seen_before(Buffer* b, PyObject* o) noexcept:
    cdef int i
    for i in range(b.seen_count):
        if b.seen[i].object == o:
            return &b.seen[i]
    return NULL


cdef int put(Buffer* b, PyObject* o, int depth, bint shared) except -1:
    """Write one value: 1 if it was, 0 if the message has to go by pickle. Runs no Python code and makes no Python
    object (which might start the collector, and with it finalizers): nothing changes under our feet. `shared`: something else refers to `o` too."""
    cdef PyTypeObject* t = Py_TYPE(o)
    cdef int overflow = 0
    cdef int64_t i64
    cdef int32_t i32
    cdef double f
    cdef size_t n, size, start, mutables
    cdef Py_ssize_t i, pos
    cdef int kind, mine = -1
    cdef Seen* seen
    cdef PyObject* key
    cdef PyObject* value
    cdef uint64_t half

    if t == &PyUnicode_Type:
        pa_str_ready(o)
        n = <size_t>PyUnicode_GET_LENGTH(o)
        if pa_is_ascii(o):
            size = n
            kind = T_ASCII
        else:
            kind = pa_str_kind(o)
            size = n * <size_t>kind
            kind = T_STR1 if kind == 1 else T_STR2 if kind == 2 else T_STR4
        if size >= BIG:
            if n > 0xFFFFFFFF:
                return 0
            if shared and not remember_big(b, o):
                return 0
        need(b, size + 6)
        put_length(b, <uint8_t>kind, n)
        memcpy(b.data + b.size, pa_str_data(o), size)
        b.size += size
        return 1
    if t == &PyLong_Type:
        i64 = PyLong_AsLongLongAndOverflow(<object>o, &overflow)
        need(b, 9)
        if overflow == 0:
            if -128 <= i64 < 128:
                b.data[b.size] = T_INT8
                b.data[b.size + 1] = <uint8_t><int8_t>i64
                b.size += 2
            elif -0x80000000LL <= i64 < 0x80000000LL:
                i32 = <int32_t>i64
                b.data[b.size] = T_INT32
                memcpy(b.data + b.size + 1, &i32, 4)
                b.size += 5
            else:
                b.data[b.size] = T_INT64
                memcpy(b.data + b.size + 1, &i64, 8)
                b.size += 9
            return 1
        n = pa_int_size(o)
        if n > 0xFFFFFFFF:
            return 0
        need(b, n + 6)
        put_length(b, T_INT, n)
        pa_int_bytes(o, b.data + b.size, n)
        b.size += n
        return 1
    if t == &PyTuple_Type:
        if depth >= MAX_DEPTH:
            return 0
        if shared:
            seen = seen_before(b, o)
            if seen != NULL:
                if seen.size == 0:
                    return 0
            else:
                if b.seen_count == SEEN:
                    return 0
                mine = b.seen_count
                b.seen[mine].object = o
                b.seen[mine].size = 0
                b.seen_count += 1
        n = <size_t>_PyTuple_size(o)
        if n > 0xFFFFFFFF:
            return 0
        start = b.size
        mutables = b.mutables
        need(b, 6)
        put_length(b, T_TUPLE, n)
        for i in range(<Py_ssize_t>n):
            value = _PyTuple_item(o, i)
            if not put(b, value, depth + 1, Py_REFCNT(value) > 1):
                return 0
        if mine >= 0 and b.mutables == mutables and b.size - start <= SMALL:
            b.seen[mine].size = b.size - start
        return 1
    if o == Py_None:
        need(b, 1)
        b.data[b.size] = T_NONE
        b.size += 1
        return 1
    if t == &PyFloat_Type:
        need(b, 9)
        f = PyFloat_AS_DOUBLE(o)
        b.data[b.size] = T_FLOAT
        memcpy(b.data + b.size + 1, &f, 8)
        b.size += 9
        return 1
    if t == &PyBool_Type:
        need(b, 1)
        b.data[b.size] = T_TRUE if o == Py_True else T_FALSE
        b.size += 1
        return 1
    if t == &PyDict_Type or t == &PyList_Type or t == &PySet_Type:
        if depth >= MAX_DEPTH:
            return 0
        b.mutables += 1
        if shared:
            if b.seen_count == SEEN or seen_before(b, o) != NULL:
                return 0
            b.seen[b.seen_count].object = o
            b.seen[b.seen_count].size = 0
            b.seen_count += 1
        need(b, 6)
        if t == &PyDict_Type:
            n = <size_t>_PyDict_size(o)
            if n > 0xFFFFFFFF:
                return 0
            put_length(b, T_DICT, n)
            pos = 0
            while _PyDict_next(o, &pos, &key, &value):
                if not put(b, key, depth + 1, Py_REFCNT(key) > 1):
                    return 0
                if not put(b, value, depth + 1, Py_REFCNT(value) > 1):
                    return 0
            return 1
        if t == &PyList_Type:
            n = <size_t>_PyList_size(o)
            if n > 0xFFFFFFFF:
                return 0
            put_length(b, T_LIST, n)
            for i in range(<Py_ssize_t>n):
                value = _PyList_item(o, i)
                if not put(b, value, depth + 1, Py_REFCNT(value) > 1):
                    return 0
            return 1
        return put_set(b, o, T_SET, depth)
    if t == &PyBytes_Type:
        n = <size_t>_PyBytes_size(o)
        if n >= BIG:
            if n > 0xFFFFFFFF or n >= ARENA_MIN and b.arena != NULL:     # pickle doesn't copy it
                return 0
            if shared and not remember_big(b, o):
                return 0
        need(b, n + 6)
        put_length(b, T_BYTES, n)
        memcpy(b.data + b.size, _PyBytes_str(o), n)
        b.size += n
        return 1
    if t == pa_pid_type or t == pa_ref_type:
        need(b, 17)
        b.data[b.size] = T_PID if t == pa_pid_type else T_REF
        half = (<Pid>o).hi if t == pa_pid_type else (<Ref>o).hi
        memcpy(b.data + b.size + 1, &half, 8)
        half = (<Pid>o).lo if t == pa_pid_type else (<Ref>o).lo
        memcpy(b.data + b.size + 9, &half, 8)
        b.size += 17
        return 1
    if t == &PyFrozenSet_Type:
        if depth >= MAX_DEPTH:
            return 0
        # Frozen sets are few and their sharing hardly matters; but a nest of shared ones must not be unfolded.
        if shared and depth and not remember_big(b, o):
            return 0
        need(b, 6)
        return put_set(b, o, T_FROZENSET, depth)
    if o == Py_Ellipsis:
        need(b, 1)
        b.data[b.size] = T_ELLIPSIS
        b.size += 1
        return 1
    if t == pa_shared_type and b.arena != NULL:
        return put_shared(b, o)
    return 0


cdef int put_shared(Buffer* b, PyObject* o) except -1:
    cdef Shared handle = <Shared>o
    cdef size_t n
    if handle.block is None or <PyObject*>handle.block.arena != b.arena or b.share_count == SHARES:
        return 0
    b.shares[b.share_count] = o
    b.share_count += 1
    n = <size_t>PyBytes_GET_SIZE(handle.meta)
    need(b, 25 + n + 6)
    b.data[b.size] = T_SHARED
    memcpy(b.data + b.size + 1, &handle.block.id, 8)
    memcpy(b.data + b.size + 9, &handle.start, 8)
    memcpy(b.data + b.size + 17, &handle.length, 8)
    b.size += 25
    put_length(b, T_BYTES, n)
    memcpy(b.data + b.size, PyBytes_AS_STRING(handle.meta), n)
    b.size += n
    return 1


cdef bint remember_big(Buffer* b, PyObject* o) noexcept:
    """False if it was met before, or there is no room to remember it: pickle's memo writes such things once."""
    if b.seen_count == SEEN or seen_before(b, o) != NULL:
        return False
    b.seen[b.seen_count].object = o
    b.seen[b.seen_count].size = 0
    b.seen_count += 1
    return True


cdef int put_set(Buffer* b, PyObject* o, uint8_t tag, int depth) except -1:
    cdef size_t n = <size_t>_PySet_size(o)
    cdef PyObject* item
    cdef Py_ssize_t pos = 0
    cdef Py_hash_t hash
    if n > 0xFFFFFFFF:
        return 0
    put_length(b, tag, n)
    while _PySet_NextEntry(o, &pos, &item, &hash):
        if not put(b, item, depth + 1, Py_REFCNT(item) > 1):
            return 0
    return 1


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end
    PyObject* arena         # borrowed, an Arena or None


cdef object corrupt(str what):
    return ValueError(f"expected a message of this node, got corrupt bytes ({what})")


cdef inline size_t take_length(Cursor* c, size_t width) except? 0xFFFFFFFFFFFFFFFF:
    """A length whose content (`width` bytes at least for each) fits into what is left."""
    cdef size_t n
    cdef uint32_t wide
    if c.at >= c.end:
        raise corrupt("a length is missing")
    n = c.at[0]
    c.at += 1
    if n == 255:
        if c.end - c.at < 4:
            raise corrupt("a length is missing")
        memcpy(&wide, c.at, 4)
        c.at += 4
        n = wide
    if n * width > <size_t>(c.end - c.at):
        raise corrupt("a length is too long")
    return n


cdef object take(Cursor* c, int depth):
    cdef uint8_t tag
    cdef size_t n, i
    cdef int64_t i64
    cdef int32_t i32
    cdef double f
    cdef uint64_t hi, lo
    cdef object made, key, item
    cdef const uint8_t* at
    cdef uint8_t bits
    if c.at >= c.end:
        raise corrupt("a value is missing")
    tag = c.at[0]
    c.at += 1
    if tag == T_ASCII:
        n = take_length(c, 1)
        at = c.at
        bits = 0
        for i in range(n):
            bits |= at[i]
        if bits & 128:
            raise corrupt("not ASCII")
        if n <= 1:  # interned by the interpreter
            made = PyUnicode_FromKindAndData(1, at, <Py_ssize_t>n)
        else:
            made = PyUnicode_New(<Py_ssize_t>n, 127)
            memcpy(pa_str_data(<PyObject*>made), at, n)
        c.at += n
        return made
    if tag == T_INT8:
        if c.end - c.at < 1:
            raise corrupt("a number is cut")
        made = PyLong_FromLongLong(<int8_t>c.at[0])
        c.at += 1
        return made
    if tag == T_TUPLE:
        if depth >= MAX_DEPTH:
            raise corrupt("nested too deeply")
        n = take_length(c, 1)
        made = PyTuple_New(<Py_ssize_t>n)
        for i in range(n):
            item = take(c, depth + 1)
            Py_INCREF(item)
            PyTuple_SET_ITEM(made, <Py_ssize_t>i, item)
        return made
    if tag == T_NONE:
        return None
    if tag == T_TRUE:
        return True
    if tag == T_FALSE:
        return False
    if tag == T_INT32:
        if c.end - c.at < 4:
            raise corrupt("a number is cut")
        memcpy(&i32, c.at, 4)
        c.at += 4
        return PyLong_FromLongLong(i32)
    if tag == T_FLOAT:
        if c.end - c.at < 8:
            raise corrupt("a number is cut")
        memcpy(&f, c.at, 8)
        c.at += 8
        return f
    if tag == T_PID or tag == T_REF:
        if c.end - c.at < 16:
            raise corrupt("a pid is cut")
        memcpy(&hi, c.at, 8)
        memcpy(&lo, c.at + 8, 8)
        c.at += 16
        return new_pid(hi, lo) if tag == T_PID else new_ref(hi, lo)
    if tag == T_LIST:
        if depth >= MAX_DEPTH:
            raise corrupt("nested too deeply")
        n = take_length(c, 1)
        made = PyList_New(<Py_ssize_t>n)
        for i in range(n):
            item = take(c, depth + 1)
            Py_INCREF(item)
            PyList_SET_ITEM(made, <Py_ssize_t>i, item)
        return made
    if tag == T_DICT:
        if depth >= MAX_DEPTH:
            raise corrupt("nested too deeply")
        n = take_length(c, 2)
        made = {}
        for i in range(n):
            key = take(c, depth + 1)
            item = take(c, depth + 1)
            PyDict_SetItem(made, key, item)
        return made
    if tag == T_BYTES:
        n = take_length(c, 1)
        made = PyBytes_FromStringAndSize(<char*>c.at, <Py_ssize_t>n)
        c.at += n
        return made
    if tag == T_INT64:
        if c.end - c.at < 8:
            raise corrupt("a number is cut")
        memcpy(&i64, c.at, 8)
        c.at += 8
        return PyLong_FromLongLong(i64)
    if tag == T_STR1 or tag == T_STR2 or tag == T_STR4:
        i32 = 1 if tag == T_STR1 else 2 if tag == T_STR2 else 4
        n = take_length(c, <size_t>i32)
        # Their code points are checked in here.
        made = from_kind(i32, c.at, n)
        c.at += n * <size_t>i32
        return made
    if tag == T_INT:
        n = take_length(c, 1)
        made = _PyLong_FromByteArray(c.at, n, 1, 1)
        c.at += n
        return made
    if tag == T_SET or tag == T_FROZENSET:
        if depth >= MAX_DEPTH:
            raise corrupt("nested too deeply")
        n = take_length(c, 1)
        made = set()
        for i in range(n):
            (<set>made).add(take(c, depth + 1))
        return made if tag == T_SET else frozenset(made)
    if tag == T_ELLIPSIS:
        return Ellipsis
    if tag == T_SHARED:
        if c.end - c.at < 24:
            raise corrupt("a handle is cut")
        memcpy(&hi, c.at, 8)
        memcpy(&lo, c.at + 8, 8)
        memcpy(&i64, c.at + 16, 8)
        c.at += 24
        made = take(c, depth)
        if type(made) is not bytes:
            raise corrupt("a handle without its bytes")
        return make_shared(block_of(<Arena>c.arena, hi, lo, <uint64_t>i64), lo, <uint64_t>i64, <bytes>made)
    raise corrupt(f"tag {tag}")


cdef Block block_of(Arena arena, uint64_t number, uint64_t start, uint64_t length):
    """The block of that number, which the message that mentions it holds."""
    cdef Block block = None
    if arena is not None:
        block = arena.held(number)
    if block is None:
        raise corrupt("it mentions a block that it doesn't hold")
    if start > block.size or length > block.size - start:
        raise corrupt("it mentions more than there is of a block")
    return block


cdef object from_kind(int kind, const uint8_t* at, size_t n):
    cdef size_t i
    cdef uint32_t point
    cdef void* aligned
    if kind == 1:
        return PyUnicode_FromKindAndData(1, at, <Py_ssize_t>n)
    if kind == 4:
        for i in range(n):
            memcpy(&point, at + 4 * i, 4)
            if point > 0x10FFFF:
                raise corrupt("not a code point")
    # The bytes of a record are not aligned for their kind.
    aligned = PyMem_Malloc(n * <size_t>kind + 1)
    if aligned == NULL:
        raise MemoryError
    memcpy(aligned, at, n * <size_t>kind)
    try:
        return PyUnicode_FromKindAndData(kind, aligned, <Py_ssize_t>n)
    finally:
        PyMem_Free(aligned)


# --- What can be imported by name ---------------------------------------------------------------------------------------

cdef inline bint is_main(object module):
    return module == "__main__" or module == "__mp_main__"


cdef bint by_value_module(object module) except -1:
    """Whether this module, or a parent of it, was given to `cloudpickle.register_pickle_by_value`."""
    if not _by_value_modules:
        return False
    while module:
        if module in _by_value_modules:
            return True
        module = module.rpartition(".")[0]
    return False


cdef bint resolves(object o, object module, object qualname) except -1:
    """Whether `module.qualname` is `o` here. Runs a module's or a class's `__getattr__` at most."""
    cdef PyObject* found
    cdef object holder, part
    if type(module) is not str or type(qualname) is not str:
        return False
    found = PyDict_GetItem(_modules, module)
    if found is NULL:
        return False
    holder = <object>found
    if type(holder) is _ModuleType and "." not in <str>qualname:
        found = PyDict_GetItem((<object>holder).__dict__, qualname)
        return found is <PyObject*>o
    for part in (<str>qualname).split("."):
        if part == "<locals>":
            return False
        holder = getattr(holder, part, None)
        if holder is None:
            return False
    return holder is o


# Classes and functions whose module was loaded anew since (`parallel_actors.code`): each stands for what has its name now.
_superseded = weakref.WeakSet()


def supersede(object things):
    """The names of these functions and classes mean others from now on."""
    _superseded.update(things)


def newest(object o):
    """What has the name of `o` now, where the module of `o` was loaded anew, and has that name still; else `o`."""
    if not _superseded or not isinstance(o, (type, types.FunctionType)) or o not in _superseded:
        return o
    try:
        return named(o.__module__, o.__qualname__)
    except (ImportError, AttributeError):
        return o


def named(str module, str qualname):
    """The class or function of that name, as it is here and now."""
    found = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


cdef object by_name(object o):
    """How one whose name means another now is pickled; None: it isn't one."""
    if not _superseded or o not in _superseded or newest(o) is o:
        return None
    return named, (o.__module__, o.__qualname__)


cdef bint by_reference(object o, object module, object qualname) except -1:
    """Whether every worker finds the same thing under its name."""
    return not is_main(module) and resolves(o, module, qualname) and not by_value_module(module)


# --- Globals of code that goes by value ---------------------------------------------------------------------------------

@cython.final
cdef class Namespace:
    """The globals of one `__main__` (or module by value): one dict wherever its functions arrive.

    Process-wide, like cloudpickle's class tracker: two codecs of one OS process mean the same `__main__`.
    """

    cdef str origin             # unique: names this namespace in every process
    cdef bint local             # Invariant: True where `globals` is the module's own dict; messages never change that
    cdef dict globals
    cdef dict versions          # name -> the version it has; at home counted up when a value is rebound between two messages
    cdef dict values            # at home: name -> the value that has this version

    def __reduce__(self):
        cdef dict start = {k: self.globals[k] for k in ("__name__", "__package__", "__file__") if k in self.globals}
        return _namespace, (self.origin, start)

    cdef long version(self, str name, object value) except -1:
        cdef long version = self.versions.get(name, 0)
        if self.local and (version == 0 or self.values.get(name) is not value):
            version += 1
            self.versions[name] = version
            self.values[name] = value
        return version

    cdef int apply(self, str name, long version, object value) except -1:
        # What the worker rebound itself stays, unless its home has rebound it since.
        if not self.local and (name not in self.globals or version > <long>self.versions.get(name, 0)):
            self.globals[name] = value
            self.versions[name] = version
        return 0


cdef dict _namespaces = {}      # origin -> Namespace
cdef dict _namespace_by_id = {} # id(its dict) -> Namespace; it holds the dict, so the id stays its own


def _namespace(str origin, dict start):
    """Unpickle a Namespace: the one of this origin that this OS process has."""
    cdef Namespace ns = _namespaces.get(origin)
    if ns is None:
        start["__builtins__"] = builtins.__dict__
        ns = make_namespace(origin, start, False)
    return ns


cdef Namespace make_namespace(str origin, dict globals, bint local):
    cdef Namespace ns = Namespace.__new__(Namespace)
    ns.origin = origin
    ns.local = local
    ns.globals = globals
    ns.versions = {}
    ns.values = {}
    _namespaces[origin] = ns
    _namespace_by_id[id(globals)] = ns
    return ns


cdef object globals_of(object function):
    """A Namespace, or the name of the module whose own dict it is, or None for a dict that belongs to no module."""
    cdef dict globals = function.__globals__
    cdef object ns = _namespace_by_id.get(id(globals))
    if ns is not None:
        return ns
    name = globals.get("__name__")
    module = _modules.get(name) if type(name) is str else None
    if module is None or getattr(module, "__dict__", None) is not globals:
        return None
    if is_main(name) or by_value_module(name):
        return make_namespace(os.urandom(16).hex(), globals, True)
    return name


# --- Functions and classes by value -------------------------------------------------------------------------------------

# Both process-wide, for the reason that a class is one class per OS process.
cdef object _functions = weakref.WeakValueDictionary()      # tracker -> a named function of a namespace
cdef object _function_trackers = weakref.WeakKeyDictionary()
# The trackers of classes and functions that have been begun and have no state yet. A process can be preempted in between, or killed:
# whoever meets the half-made thing next gives it its state. So it is noted before anybody can find it.
cdef set _unfinished = set()


def _rebuild_function(code, place, free, tracker):
    cdef dict globals
    if tracker is not None:
        function = _functions.get(tracker)
        if function is not None:
            return function
    if type(place) is Namespace:
        globals = (<Namespace>place).globals
    elif type(place) is str:
        globals = importlib.import_module(place).__dict__
    else:
        globals = place
        globals.setdefault("__builtins__", builtins.__dict__)
    closure = None if free is None else tuple([_CellType() for _ in range(free)])
    function = _FunctionType(code, globals, code.co_name, None, closure)
    if tracker is not None:
        _function_trackers[function] = tracker
        _unfinished.add(tracker)
        function = _functions.setdefault(tracker, function)
    return function


def _finish_function(function, state):
    cdef Namespace ns
    attributes, slots, entries, tracked = state
    if entries:
        ns = _namespace_by_id.get(id(function.__globals__))
        for name, version, value in entries:
            if ns is not None:
                ns.apply(name, version, value)
            else:
                function.__globals__[name] = value
    tracker = _function_trackers.get(function) if tracked else None
    if tracked and tracker not in _unfinished:
        return
    function.__dict__.update(attributes)
    closure = slots.pop("__closure__")
    slots.pop("_cloudpickle_submodules", None)
    if closure is not None:
        for mine, given in zip(function.__closure__, closure):
            try:
                mine.cell_contents = given.cell_contents
            except ValueError:  # it was empty there too
                pass
    for name, value in slots.items():
        setattr(function, name, value)
    if tracked:
        _unfinished.discard(tracker)


def _rebuild_class(make, tracker, arguments):
    made = _cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if made is None:
        _unfinished.add(tracker)
        made = make(*arguments)
    return made


def _finish_class(cls, state):
    tracker = _cp._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(cls)
    if tracker in _unfinished:
        _cp._class_setstate(cls, state)
        _unfinished.discard(tracker)


def _definition(it):
    """What a pickle calls in the place of a definition, with the out-of-band "buffer" that is the definition itself."""
    return it


def _rebuild_cached_property(function, name):
    made = functools.cached_property(function)
    made.attrname = name
    return made


def _reduce_cached_property(it):
    return _rebuild_cached_property, (it.func, it.attrname)


if sys.version_info < (3, 12):
    # There it holds a lock, which would keep its class at home.
    _extra_reducers[functools.cached_property] = _reduce_cached_property

cdef object _definition_global = _definition
# The mark of an out-of-band definition. Writable, or the pickler would add an opcode that wants a real buffer.
cdef object _token = _PickleBuffer(bytearray(1))


cdef object reduce_class(object cls):
    cdef object arguments, state
    if issubclass(cls, enum.Enum):
        arguments = _cp._enum_getnewargs(cls)
        return (
            _rebuild_class, (_cp._make_skeleton_enum, arguments[5], arguments),
            _cp._enum_getstate(cls), None, None, _finish_class,
        )
    arguments = _cp._class_getnewargs(cls)
    if typing.NamedTuple in arguments[2]:
        # It isn't a class but makes one; what it made is a plain subclass of tuple.
        arguments = arguments[:2] + (cls.__bases__,) + arguments[3:]
    state = _cp._class_getstate(cls)
    # cloudpickle sets __slots__ as a plain attribute, which leaves every instance with a __dict__.
    slots = state[0].get("__slots__")
    if type(slots) is str:
        slots = (slots,)
    if type(slots) in (tuple, list) and all([type(slot) is str for slot in slots]):
        arguments[3]["__slots__"] = tuple(slots)
        del state[0]["__slots__"]
        for slot in slots:
            if slot.startswith("__") and not slot.endswith("__"):
                state[0].pop(f"_{cls.__name__.lstrip('_')}{slot}", None)
    return (
        _rebuild_class, (_cp._make_skeleton_class, arguments[4], arguments), state, None, None, _finish_class,
    )


@cython.final
cdef class Definition:
    """A class or function of `__main__` that stands in the store."""

    cdef object it              # Invariant: never cleared, so its id is its own while the codec lives
    cdef uint64_t offset
    cdef uint64_t bundle        # of the globals that it reaches; 0: none
    cdef bint inline            # goes by value in each message: the store was full, or its globals change all the time
    cdef bint local             # written here; else loaded, with the bundle that it came with
    cdef set names              # local: (Namespace, name) that its code mentions
    cdef list entries           # local: offsets of the entries in the bundle
    cdef uint64_t checked       # local: sum of the versions of the namespaces' dicts at which the bundle was right


@cython.final
cdef class Entry:
    """A global of `__main__` that stands in the store."""

    cdef object value           # Invariant: what was written; while the global still is it, the entry is right
    cdef uint64_t offset
    cdef set names              # (Namespace, name) that the value's code mentions
    cdef int written            # how often


cdef enum:
    MAX_REWRITES = 64           # of one global. The store never shrinks: what changes more often goes by value


class _Volatile(Exception):
    """Raised inside the codec when a global can't or shouldn't be put into the store."""


class _Pickler(_pickle.Pickler):
    # The C pickler looks these up on itself for each dump.
    __slots__ = ("reducer_override",)


@cython.final
cdef class Writer:
    """One pickling at a time: of a message, or of a definition or global for the store."""

    cdef Codec codec
    cdef object dump
    cdef object clear_memo
    cdef list chunks            # what the pickler has written: as a rule one frame
    cdef list references        # (definition, bundle) pairs, flat, in the order of their places in the pickle
    cdef dict loose             # id(dict of globals) -> (it, its stand-in): globals that belong to no module
    # What is for the store leaves the globals out and collects their names here. None: a message, globals go with the functions.
    cdef set names
    cdef int mode
    cdef bint has_buffers       # among the references: (memoryview or Shared, None) in place of (definition, bundle)
    cdef int shares
    cdef Holds holds            # of what `pack` made

    def __cinit__(self, Codec codec):
        self.codec = codec
        self.chunks = []
        self.references = []
        self.loose = {}
        pickler = _Pickler(self, 5, buffer_callback=self.in_band)
        pickler.reducer_override = self.reduce
        self.dump = pickler.dump
        self.clear_memo = pickler.clear_memo

    def write(self, data):
        self.chunks.append(data if type(data) is bytes else bytes(data))

    def in_band(self, buffer):
        if buffer is _token:
            return False
        if self.mode != M_PACK:
            return True
        try:
            raw = buffer.raw()
        except BufferError:     # not contiguous: the pickler says so itself
            return True
        if raw.nbytes < ARENA_MIN:
            return True
        self.references += (raw, None)
        self.has_buffers = True
        return False

    def reduce(self, o):
        """The pickler's `reducer_override`: called for all but the commonest builtin types."""
        cdef PyTypeObject* t = Py_TYPE(<PyObject*>o)
        cdef PyObject* reducer
        if t == &PyFunction_Type:
            return self.function(o)
        if PyType_Check(o):
            return self.class_(o)
        if is_array(<object>t) and self.names is None:
            return self.array(o)
        if <object>t is memoryview:
            return self.view(o)
        if t == pa_shared_type:
            return self.shared(<Shared>o)
        reducer = PyDict_GetItem(_extra_reducers, <object>t)
        if reducer is NULL:
            return NotImplemented
        return (<object>reducer)(o)

    cdef object array(self, object o):
        # A large one arrives the same whatever its layout: NumPy's own way gives up on all but the plainest.
        cdef object dtype = o.dtype
        if self.mode <= M_PLAIN or o.nbytes < ARENA_MIN or dtype.hasobject:
            return NotImplemented
        if not (o.flags.c_contiguous or o.flags.f_contiguous):
            o = o.copy(order="C")
        order = "C" if o.flags.c_contiguous else "F"
        make = _array if self.mode == M_PACK else _array_own
        return make, (_PickleBuffer(flat_bytes(o)), plain_dtype(dtype), o.shape, order)

    cdef object view(self, object o):
        cdef object shape = o.shape if o.ndim != 1 else None, data
        if o.format.removeprefix("@") not in _castable:
            raise TypeError(f"expected a memoryview of plain numbers, got one of format {o.format!r}; send what it is a view of, or its bytes")
        if o.nbytes == 0:
            shape = None
        if self.mode == M_PACK and o.nbytes >= ARENA_MIN:
            data = _PickleBuffer(o if o.c_contiguous else o.tobytes())
        else:
            data = bytearray(o.tobytes()) if self.mode == M_OWN else o.tobytes()
        return _view, (data, o.format, shape)

    cdef object shared(self, Shared handle):
        if handle.live and (self.mode <= M_PLAIN or self.shares == OLD_BLOCKS // 2) and handle.block.arena is self.codec.arena:
            if self.mode == M_STAY:
                raise TypeError("an array of numbers that are changed in place stays where somebody holds it")
            handle.block.arena.pin(handle.block)
            return _live_again, (handle.block.id, handle.length)
        if handle.block is None or handle.block.arena is not self.codec.arena or self.mode <= M_PLAIN or self.shares == OLD_BLOCKS // 2:
            return _shared_again, (_PickleBuffer(handle), handle.meta)
        self.references += (handle, None)
        self.has_buffers = True
        self.shares += 1
        return _shared_given, (_token, handle.meta)

    cdef object class_(self, object cls):
        cdef object module = getattr(cls, "__module__", None)
        cdef object name = getattr(cls, "__qualname__", None)
        cdef object whole
        if not is_main(module):
            if resolves(cls, module, name):
                if not by_value_module(module):
                    return NotImplemented
            elif type(cls) is type:
                # Types of values that have no name of their own, such as NoneType.
                whole = _cp._BUILTIN_TYPE_NAMES.get(cls)
                if cls is _NoneType:
                    return type, (None,)
                if cls is type(Ellipsis):
                    return type, (Ellipsis,)
                if cls is type(NotImplemented):
                    return type, (NotImplemented,)
                if whole is not None:
                    return _cp._builtin_type, (whole,)
            whole = by_name(cls)
            if whole is not None:
                return whole
        whole = self.reference(cls, module, name)
        return reduce_class(cls) if whole is None else whole

    cdef object function(self, object function):
        cdef object module = function.__module__
        cdef object name = function.__qualname__
        cdef object place, entries = None, whole, code, tracker = None
        cdef Namespace ns
        cdef dict attributes, slots, globals
        if by_reference(function, module, name):
            return NotImplemented
        whole = by_name(function)
        if whole is not None:
            return whole
        whole = self.reference(function, module, name)
        if whole is not None:
            return whole
        code = function.__code__
        attributes, slots = _cp._function_getstate(function)
        globals = slots.pop("__globals__")
        place = globals_of(function)
        if type(place) is Namespace:
            ns = <Namespace>place
            tracker = _function_trackers.get(function)
            if tracker is None and resolves(function, module, name):
                tracker = _function_trackers.setdefault(function, os.urandom(16).hex())
                _functions[tracker] = function
            if self.names is not None:
                for key in globals:
                    self.names.add((ns, key))
            else:
                entries = [(key, ns.version(key, value), value) for key, value in globals.items()]
        elif place is None:
            kept = self.loose.get(id(function.__globals__))
            if kept is None:
                start = {
                    key: function.__globals__[key]
                    for key in ("__package__", "__name__", "__path__", "__file__")
                    if key in function.__globals__
                }
                kept = self.loose[id(function.__globals__)] = (function.__globals__, start)
            place = kept[1]
            entries = [(key, 0, value) for key, value in globals.items()]
        else:
            slots.pop("_cloudpickle_submodules")
        free = None if function.__closure__ is None else len(code.co_freevars)
        return (
            _rebuild_function, (code, place, free, tracker),
            (attributes, slots, entries, tracker is not None), None, None, _finish_function,
        )

    cdef object reference(self, object o, object module, object name):
        """The reduction that stands for a definition in the store; None: it goes by value."""
        cdef Definition d = self.codec_definition(o, module, name)
        cdef uint64_t bundle = 0
        if d is None:
            return None
        if self.names is None:
            try:
                bundle = bundle_of(self.codec, d)
            except _Volatile:
                d.inline = True
                return None
        elif d.local:
            self.names |= d.names
        elif d.bundle:
            # A loaded one has its globals from elsewhere: they aren't ours to write again.
            bundle = d.bundle
        self.references.append(d.offset)
        self.references.append(bundle)
        return _definition_global, (_token,)

    cdef Definition codec_definition(self, object o, object module, object name):
        cdef Codec codec = self.codec
        cdef Definition d = codec._by_id.get(id(o))
        if d is not None:
            return None if d.inline else d
        if codec.store_put is None or id(o) in codec._writing or not resolves(o, module, name):
            return None
        return define(codec, o)

    cdef bytes pack(self):
        """`output`, with what is large in blocks. They are in `holds` then."""
        cdef Arena arena = self.codec.arena
        cdef size_t size = 1, total = 0, start, end
        cdef Py_ssize_t i, n = len(self.references) // 2
        cdef list parts, views
        cdef Holds holds
        cdef Block block
        cdef Lot* entries
        cdef bytes table
        cdef uint32_t count
        cdef uint8_t* at
        for chunk in self.chunks:
            size += <size_t>PyBytes_GET_SIZE(chunk)
        if not self.has_buffers and (arena is None or size < ARENA_MIN):
            return self.output()
        holds = Holds()
        table = PyBytes_FromStringAndSize(NULL, 8 + <Py_ssize_t>sizeof(Lot) * (n + 1))
        entries = <Lot*>(PyBytes_AS_STRING(table) + 8)
        views = []              # (number of the entry, memoryview) of what has no block yet
        for i in range(n):
            one = self.references[2 * i]
            entries[i].c = 0
            if type(one) is int:
                entries[i].kind = E_DEFINITION
                entries[i].a = one
                entries[i].b = self.references[2 * i + 1]
            elif type(one) is Shared:
                holds.add((<Shared>one).block)
                entries[i].kind = E_SHARED
                entries[i].a = (<Shared>one).block.id
                entries[i].b = (<Shared>one).start
                entries[i].c = (<Shared>one).length
            else:
                start = 0
                block = None
                if arena is not None and holds.count < OLD_BLOCKS:
                    block = block_under(arena, one, &start)
                if block is not None:
                    holds.add(block)
                    entries[i].kind = E_BUFFER
                    entries[i].a = block.id
                    entries[i].b = start
                    entries[i].c = one.nbytes
                else:
                    views.append((i, one))
                    total += (<size_t>one.nbytes + 63) & ~<size_t>63
        block = None
        start = 0
        if arena is not None and len(views) > NEW_BLOCKS:
            block = arena.allocate(total)
        parts = []
        end = 0
        for i, one in views:
            if len(views) <= NEW_BLOCKS:
                start = 0
                block = None if arena is None else arena.allocate(<uint64_t>one.nbytes)
            if block is None:
                entries[i].kind = E_INLINE
                entries[i].a = end      # from where the first one will stand
                entries[i].b = one.nbytes
                parts.append(one)
                end += one.nbytes
                if end & 15:
                    parts.append(bytes(16 - (end & 15)))
                    end += 16 - (end & 15)
                continue
            copy_into(block.data + start, one)
            holds.add(block)
            entries[i].kind = E_BUFFER
            entries[i].a = block.id
            entries[i].b = start
            entries[i].c = one.nbytes
            start += (<size_t>one.nbytes + 63) & ~<size_t>63
        count = <uint32_t>n
        block = None
        if arena is not None and size >= ARENA_MIN:
            block = arena.allocate(size)
        if block is not None:
            at = block.data
            at[0] = FORMAT_PICKLE
            at += 1
            for chunk in self.chunks:
                memcpy(at, PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
                at += PyBytes_GET_SIZE(chunk)
            holds.add(block)
            entries[n].kind = E_STREAM
            entries[n].a = block.id
            entries[n].b = 0
            entries[n].c = size
            count += 1
        at = <uint8_t*>PyBytes_AS_STRING(table)
        at[0] = FORMAT_BLOCKS
        at[1] = FORMAT_PICKLE
        at[2] = at[3] = 0
        memcpy(at + 4, &count, 4)
        table = table[:8 + sizeof(Lot) * count]
        # What goes with the bytes begins behind the stream.
        start = <size_t>len(table) + (size if block is None else 0)
        end = (start + 15) & ~<size_t>15
        entries = <Lot*>(PyBytes_AS_STRING(table) + 8)
        for i in range(n):
            if entries[i].kind == E_INLINE:
                entries[i].a += end
        if holds.count:
            self.holds = holds
        if block is None:
            parts = [table, b"\x02", *self.chunks, bytes(end - start) if parts else b"", *parts]
        else:
            parts = [table, bytes(end - start) if parts else b"", *parts]
        return b"".join(parts)

    cdef bytes output(self):
        cdef uint64_t word
        cdef uint32_t count
        cdef list parts
        if not self.references:
            parts = [b"\x02"]
        else:
            count = <uint32_t>(len(self.references) // 2)
            parts = [b"\x03", PyBytes_FromStringAndSize(<char*>&count, 4)]
            for item in self.references:
                word = item
                parts.append(PyBytes_FromStringAndSize(<char*>&word, 8))
        parts += self.chunks
        return b"".join(parts)


cdef bytes write(Codec codec, object o, set names, int mode=M_PLAIN):
    """Pickle `o`. What goes wrong comes out as it was raised. But for M_PLAIN, `codec.packed` has the blocks."""
    cdef Writer writer
    cdef bytes data
    cdef Holds holds
    cdef bint keep
    writer = <Writer>codec._writers.pop() if codec._writers else Writer(codec)
    writer.names = names
    writer.mode = mode
    try:
        writer.dump(o)
        data = writer.output() if mode <= M_PLAIN else writer.pack()
        # One with a huge memo is thrown away, as is a pickler that was left half-way.
        keep = len(data) <= 65536 and len(writer.chunks) <= 8 and len(codec._writers) < 4
        holds = writer.holds
    finally:
        # In any case: writer and pickler refer to each other, and would keep objects of the user's until the next collection.
        writer.clear_memo()
        writer.chunks.clear()
        writer.references.clear()
        writer.loose.clear()
        writer.names = None
        writer.has_buffers = False
        writer.shares = 0
        writer.holds = None
    if keep:
        codec._writers.append(writer)
    # Last, behind all that lets go of objects of the user's: their finalizers may send.
    writer = None
    codec.packed = holds
    return data


# --- Arrays, views, shared buffers --------------------------------------------------------------------------------------

cdef frozenset _castable = frozenset("bBhHiIlLqQnNfdc?")
cdef object _ndarray = None


cdef bint is_array(object t) except -1:
    global _ndarray
    if _ndarray is None:
        numpy = _modules.get("numpy")
        if numpy is None:
            return False
        _ndarray = getattr(numpy, "ndarray", None)      # None: it is being imported
    return t is _ndarray


cdef object numpy_here():
    # An import that another process of this worker has begun counts once it is done: `import_module` waits for that.
    return importlib.import_module("numpy")


cdef object flat_bytes(object array):
    """The memory of a contiguous array as a flat array of bytes: its own type may be one that exports none."""
    if not array.flags.c_contiguous:
        array = array.T
    return array.reshape(-1).view("u1")


cdef object plain_dtype(object dtype):
    """What stands for it in a pickle: its name, where that says it all."""
    return dtype.str if dtype.isbuiltin == 1 and dtype.metadata is None else dtype


def _array(buffer, dtype, shape, order):
    """Unpickle a large array: a view of `buffer`, read-only."""
    return numpy_here().ndarray(shape, dtype, buffer, order=order)


def _array_own(buffer, dtype, shape, order):
    """Unpickle a large array that its receiver may write to."""
    return numpy_here().ndarray(shape, dtype, bytearray(buffer) if type(buffer) is bytes else buffer, order=order)


def _view(data, format, shape):
    """Unpickle a memoryview."""
    cdef object view = memoryview(data)
    if shape is not None:
        return view.cast(format, shape)
    return view if format == "B" else view.cast(format)


cdef int copy_into(uint8_t* at, object view) except -1:
    cdef Py_buffer buffer
    PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
    memcpy(at, buffer.buf, buffer.len)
    PyBuffer_Release(&buffer)
    return 0


cdef Block block_under(Arena arena, object view, size_t* start):
    """The block that this memory lies in, if it does and nobody can write to it. It is held, since `view` is there."""
    cdef Py_buffer buffer
    cdef Block block = None
    PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
    if buffer.readonly and buffer.len:
        block = arena.at(buffer.buf, <uint64_t>buffer.len)
        if block is not None:
            start[0] = <uint8_t*>buffer.buf - block.data
    PyBuffer_Release(&buffer)
    return block


cdef object local_array(Codec codec, object o):
    """A large array for a process of this endpoint: as it would arrive elsewhere."""
    cdef Block block = None
    cdef size_t start = 0
    cdef bint contiguous = o.flags.c_contiguous or o.flags.f_contiguous
    cdef object numpy = _modules["numpy"], made, order = "F" if o.flags.f_contiguous and not o.flags.c_contiguous else "C"
    if codec.arena is not None:
        if contiguous and not o.flags.writeable and block_under(codec.arena, flat_bytes(o), &start) is not None:
            return o.view()         # nobody can change it; the new one has its own shape and strides
        block = codec.arena.allocate(<uint64_t>o.nbytes)
    if block is None:
        made = o.copy(order=order)
        made.flags.writeable = False
        return made
    if contiguous:
        copy_into(block.data, flat_bytes(o))
    else:
        numpy.ndarray(o.shape, o.dtype, PyMemoryView_FromMemory(<char*>block.data, o.nbytes, PyBUF_WRITE))[...] = o
    return numpy.ndarray(o.shape, o.dtype, memoryview(block)[:o.nbytes], order=order)


@cython.final
@cython.no_gc
cdef class Shared:
    """A handle on an immutable buffer that many messages and receivers share. Made by `share`; sending it copies nothing.

    >>> import parallel_actors as pa
    >>> with pa.ActorSystem(workers=1):
    ...     table = pa.share(b"\\1\\2\\3")
    ...     bytes(table), len(table), memoryview(table)[1]
    (b'\\x01\\x02\\x03', 3, 2)

    It is used where a read-only buffer is: `memoryview(handle)`, `bytes(handle)`, `np.frombuffer(handle)`; of an array `array()` has shape
    and type too. The memory comes back when the last handle, view and message that has it is gone.
    """

    def __init__(self):
        raise TypeError("a Shared is made by share(buffer)")

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("expected to be read only: others share this buffer; make a copy to write to")
        if self.block is not None:
            PyBuffer_FillInfo(view, self, self.block.data + self.start, <Py_ssize_t>self.length, 1, flags)
        else:
            PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self.own), <Py_ssize_t>self.length, 1, flags)

    def __len__(self):
        return self.length

    @property
    def nbytes(self):
        """Bytes in the buffer."""
        return self.length

    def array(self, *, copy=False):
        """The buffer as a NumPy array: the one that was shared, or of bytes where it was none.

        Args:
            copy: True for an array of one's own, which can be written to; False for a read-only view.
        """
        numpy = numpy_here()
        dtype, shape, order = _loads(self.meta) if self.meta else ("u1", (self.length,), "C")
        made = numpy.ndarray(shape, dtype, self, order=order)
        return made.copy(order="K") if copy else made

    def __reduce__(self):
        if self.live:
            raise TypeError("expected counters and atomics to travel in messages of this library, got a pickle by something else")
        return _shared_again, (bytes(self), self.meta)

    def __repr__(self):
        if not self.meta:
            return f"<Shared {self.length} bytes>"
        dtype, shape, _ = _loads(self.meta)
        return f"<Shared array of {dtype}, shape {shape}>"


pa_shared_type = <PyTypeObject*>Shared


cdef Shared make_shared(Block block, uint64_t start, uint64_t length, bytes meta):
    cdef Shared made = Shared.__new__(Shared)
    made.block = block
    made.start = start
    made.length = length
    made.meta = meta
    return made


def _shared_given(Shared it not None, bytes meta):
    """Unpickle a handle: out of band came where it lies."""
    it.meta = meta
    return it


# What finds the arena of the calling thread's node; the scheduler's module sets it.
cdef object arena_here = None


def find_arena_by(function):
    global arena_here
    arena_here = function


def _live_again(uint64_t number, uint64_t length):
    """Unpickle a handle on what is changed in place, from bytes that nobody counted: its block was pinned when they were written."""
    cdef Arena arena = arena_here()
    if arena is None:
        raise corrupt("there is no arena here")
    cdef Shared made = make_shared(arena.take(number), 0, length, b"")
    made.live = True
    return made


def _shared_again(data, bytes meta):
    """Unpickle a handle that went by value: on the block that its content came in, or on bytes."""
    cdef Shared made = Shared.__new__(Shared)
    cdef size_t start = 0
    cdef Block block
    made.meta = meta
    made.length = len(data)
    if type(data) is memoryview and type(data.obj) is Block:
        block = data.obj
        block = block_under(block.arena, data, &start)
        if block is not None:
            made.block = block
            made.start = start
            return made
    made.own = bytes(data)
    return made


cdef Definition define(Codec codec, object o):
    """Write the definition of a named class or function of `__main__` into the store. None: no room there."""
    cdef Definition d = Definition.__new__(Definition)
    cdef bytes data
    d.it = o
    d.names = set()
    d.local = True
    codec._writing[id(o)] = o
    try:
        data = write(codec, o, d.names)
    finally:
        codec._writing.pop(id(o), None)
    try:
        d.offset = codec.store_put(data)
    except MemoryError:         # SegmentFull among them
        d.inline = True
    codec._by_id[id(o)] = d
    if d.inline:
        return None
    codec._by_offset[d.offset] = d
    return d


cdef uint64_t bundle_of(Codec codec, Definition d) except? 0xFFFFFFFFFFFFFFFF:
    """The offset of a list of all globals that the code of `d` reaches, as they are now."""
    cdef uint64_t now = 0
    cdef set reached
    cdef list todo, entries
    cdef Entry entry
    cdef Namespace ns
    if not d.local or not d.names:
        return d.bundle
    # Versions are unique and only go up, so their sum changes whenever one of them does.
    for ns in {pair[0] for pair in d.names}:
        now += pa_dict_version(ns.globals)
    if now == d.checked:
        return d.bundle
    reached = set()
    entries = []
    todo = sorted(d.names, key=second)
    while todo:
        pair = todo.pop()
        if pair in reached:
            continue
        reached.add(pair)
        ns = <Namespace>pair[0]
        name = pair[1]
        if name not in ns.globals:  # a builtin, or not bound yet
            continue
        entry = entry_of(codec, ns, name)
        entries.append(entry.offset)
        todo += entry.names
    entries.sort()
    if entries != d.entries:
        d.bundle = put_in_store(codec, write(codec, entries, set())) if entries else 0
        d.entries = entries
        # Our own globals: there is nothing to load.
        codec._bundles.add(d.bundle)
    if len({pair[0] for pair in reached}) == 1:
        # Writing may have run user code that rebound something: `now` was taken before.
        d.checked = now
    return d.bundle


def second(pair):
    return pair[1]


cdef Entry entry_of(Codec codec, Namespace ns, str name):
    cdef object key = (id(ns), name)
    cdef object value = ns.globals[name]
    cdef Entry entry = codec._entries.get(key)
    cdef Entry fresh
    if entry is not None and (entry.value is value or not ns.local):
        return entry
    if entry is not None and entry.written >= MAX_REWRITES:
        raise _Volatile
    fresh = Entry.__new__(Entry)
    fresh.value = value
    fresh.names = set()
    fresh.written = 1 if entry is None else entry.written + 1
    fresh.offset = put_in_store(codec, write(codec, (ns, name, ns.version(name, value), value), fresh.names))
    codec._entries[key] = fresh
    return fresh


cdef uint64_t put_in_store(Codec codec, bytes data) except? 0xFFFFFFFFFFFFFFFF:
    try:
        return codec.store_put(data)
    except MemoryError:         # SegmentFull among them
        raise _Volatile


cdef object load_definition(Codec codec, uint64_t offset, uint64_t bundle):
    """The class or function at this offset, loaded once. `bundle`: that holds its globals."""
    cdef Definition d
    cdef bytes data
    d = codec._by_offset.get(offset)
    if d is None:
        if codec.store_get is None:
            raise corrupt("a definition, but there is no store")
        data = codec.store_get(offset)
        it = codec._unpickle(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), bundle)
        # Unpickling ran user code: another process of this worker may have been here first.
        d = codec._by_offset.get(offset)
        if d is None:
            d = Definition.__new__(Definition)
            d.it = it
            d.offset = offset
            codec._by_offset[offset] = d
            # What is at home in this OS process (another guest wrote it) is for this codec to define when it sends it: only
            # at home are its globals followed.
            if not resolves(it, it.__module__, it.__qualname__):
                codec._by_id[id(it)] = d
    if bundle and not d.local:
        d.bundle = bundle
    return d.it


cdef int load_bundle(Codec codec, uint64_t offset) except -1:
    cdef bytes data = codec.store_get(offset)
    cdef Namespace ns
    cdef uint64_t at
    entries = codec._unpickle(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), 0)
    for at in entries:
        data = codec.store_get(at)
        # The references in an entry come without a bundle of their own: this one covers them.
        ns, name, version, value = codec._unpickle(
            <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), offset)
        ns.apply(name, version, value)
    # Last: whoever comes while this one is half done loads it too, which does no harm.
    codec._bundles.add(offset)
    return 0


# --- Isolation ----------------------------------------------------------------------------------------------------------

cdef enum:
    K_PICKLE = 0, K_SHARE, K_SET, K_FROZENSET, K_BYTEARRAY, K_NDARRAY, K_TUPLE, K_FROZEN, K_FUNCTION, K_BUILTIN, K_DATETIME
    MAX_COPY_DEPTH = 32
    MEMO = 16

@cython.final
cdef class Kind:
    """How instances of one type are isolated."""

    cdef int code
    cdef tuple fields           # K_FROZEN: names of the fields
    cdef Py_ssize_t count       # K_FROZEN: of the fields
    cdef bint has_dict          # K_FROZEN: instances have a __dict__, which must hold fields only

cdef struct Memo:
    int count
    int budget                  # containers still to be looked at when all that is asked is "immutable?"
    PyObject* key[MEMO]         # both owned
    PyObject* value[MEMO]
    int mode                    # M_PACK: large arrays go into blocks
    PyObject* more              # owned: dict from address to (object, copy), once the arrays are full

cdef object _BY_PICKLE = object()   # a copier's answer: this message has to go by pickle
cdef object _EnumType = enum.EnumType
cdef object _ABCMeta = abc.ABCMeta


cdef Kind make_kind(int code):
    cdef Kind kind = Kind.__new__(Kind)
    kind.code = code
    return kind

cdef Kind _PICKLE = make_kind(K_PICKLE)
cdef dict _builtin_kinds = {
    Shared: make_kind(K_SHARE),
    complex: make_kind(K_SHARE), type(Ellipsis): make_kind(K_SHARE), type(NotImplemented): make_kind(K_SHARE),
    range: make_kind(K_SHARE), re.Pattern: make_kind(K_SHARE),
    set: make_kind(K_SET), frozenset: make_kind(K_FROZENSET), bytearray: make_kind(K_BYTEARRAY),
    types.FunctionType: make_kind(K_FUNCTION), types.BuiltinFunctionType: make_kind(K_BUILTIN),
}
# Types of the standard library by their names, and the modules that have them. Looked for there when one is met: the engine imports
# none of them.
cdef dict _library_kinds = {
    "date": ("datetime", K_SHARE), "timedelta": ("datetime", K_SHARE), "timezone": ("datetime", K_SHARE),
    "datetime": ("datetime", K_DATETIME), "time": ("datetime", K_DATETIME), "ZoneInfo": ("zoneinfo", K_SHARE),
    "Decimal": ("decimal", K_SHARE), "Fraction": ("fractions", K_SHARE), "UUID": ("uuid", K_SHARE),
    "AtomicsRef": ("parallel_actors.workers.cells", K_SHARE), "CountersRef": ("parallel_actors.workers.cells", K_SHARE),
    "Table": ("parallel_actors.workers.ets", K_SHARE),
    "ActorRef": ("parallel_actors.actor", K_SHARE), "ReplyTo": ("parallel_actors.actor", K_SHARE),
    "PurePosixPath": ("pathlib", K_SHARE), "PosixPath": ("pathlib", K_SHARE), "PureWindowsPath": ("pathlib", K_SHARE),
}


cdef Kind kind_of(Codec codec, object cls):
    cdef PyObject* found
    cdef Kind kind
    # A metaclass of the user's may have its own __hash__ and __eq__; such classes aren't worth it.
    if type(cls) is not type and type(cls) is not _EnumType and type(cls) is not _ABCMeta:
        return _PICKLE
    found = PyDict_GetItem(codec._kinds, cls)
    if found is not NULL:
        return <Kind>found
    kind = classify(cls)
    if len(codec._kinds) >= 4096:   # classes made on the fly must not pile up
        codec._kinds.clear()
        codec._kinds.update(_builtin_kinds)
    codec._kinds[cls] = kind
    return kind


cdef Kind classify(object cls):
    if type(cls) is _EnumType:
        return make_kind(K_SHARE)
    found = _library_kinds.get(cls.__name__)
    if found is not None and getattr(_modules.get(found[0]), cls.__name__, None) is cls:
        return make_kind(found[1])
    if type(cls) is type and issubclass(cls, tuple) and not pa_has_dict(cls) \
            and pa_basicsize(cls) == pa_basicsize(tuple):
        return make_kind(K_TUPLE)   # a NamedTuple: nothing in it but its items
    if "__dataclass_params__" in cls.__dict__:
        kind = frozen_kind(cls)
        return _PICKLE if kind is None else kind
    numpy = _modules.get("numpy")
    if numpy is not None and cls.__module__ == "numpy":
        if cls is getattr(numpy, "ndarray", None):
            return make_kind(K_NDARRAY)
        generic = getattr(numpy, "generic", None)
        if type(generic) is type and issubclass(cls, generic) and not issubclass(cls, (numpy.void, numpy.object_)):
            return make_kind(K_SHARE)
    return _PICKLE


cdef Kind frozen_kind(object cls):
    """For a frozen dataclass that is nothing but its fields, else None."""
    cdef Kind kind
    fields = cls.__dict__.get("__dataclass_fields__")
    if type(fields) is not dict:
        return None
    names = tuple([name for name, f in fields.items() if f._field_type is dataclasses._FIELD])
    for base in type.mro(cls):
        if base is object or base is typing.Generic or base is typing.Protocol:
            continue
        # A builtin or C base has state that isn't a field.
        if not pa_is_heap_type(base) or type(base) not in (type, _ABCMeta):
            return None
        params = base.__dict__.get("__dataclass_params__")
        if params is not None and not params.frozen:
            return None
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if type(slots) is str else tuple(slots):
            if slot not in names and slot not in ("__weakref__", "__dict__"):
                return None
        # Someone else's way to set or get attributes says nothing about immutability any more.
        if "__getattribute__" in base.__dict__:
            return None
    for name in names:
        if name in ("__dict__", "__class__"):
            return None
        for base in type.mro(cls):
            found = base.__dict__.get(name, names)
            if found is not names and hasattr(type(found), "__set__") and type(found) is not types.MemberDescriptorType:
                return None     # a property or other descriptor: reading it would run user code
    kind = make_kind(K_FROZEN)
    kind.fields = names
    kind.count = len(names)
    kind.has_dict = pa_has_dict(cls)
    return kind


cdef bint immutable(Codec codec, object o, int depth, Memo* memo) except -1:
    cdef PyTypeObject* t = Py_TYPE(<PyObject*>o)
    cdef Py_ssize_t i
    cdef PyObject* item
    cdef Kind kind
    cdef object value
    if pa_is_atom(<PyObject*>o):
        return True
    memo.budget -= 1
    if depth > MAX_COPY_DEPTH or memo.budget < 0:
        return False
    if t == &PyTuple_Type:
        for i in range(PyTuple_GET_SIZE(o)):
            item = _PyTuple_item(<PyObject*>o, i)
            if not pa_is_atom(item) and not immutable(codec, <object>item, depth + 1, memo):
                return False
        return True
    if PyType_Check(o):
        return True
    kind = kind_of(codec, <object>t)
    if kind.code == K_SHARE:
        return True
    if kind.code == K_FROZEN:
        return frozen(codec, o, kind, depth, memo)
    if kind.code == K_TUPLE:
        for i in range(PyTuple_GET_SIZE(o)):
            if not immutable(codec, <object>_PyTuple_item(<PyObject*>o, i), depth + 1, memo):
                return False
        return True
    if kind.code == K_FROZENSET:
        for value in <frozenset>o:
            if not immutable(codec, value, depth + 1, memo):
                return False
        return True
    if kind.code == K_DATETIME:
        value = o.tzinfo
        return value is None or kind_of(codec, type(value)).code == K_SHARE
    if kind.code == K_FUNCTION:
        return o.__closure__ is None and shared_code(codec, o, depth, memo)
    if kind.code == K_BUILTIN:
        # A module's function has the module as its self; a bound method its object.
        item = pa_cfunction_self(o)
        return item is NULL or type(<object>item) is _ModuleType or PyType_Check(<object>item)
    return False


cdef bint frozen(Codec codec, object o, Kind kind, int depth, Memo* memo) except -1:
    cdef object name, value, fields
    cdef Py_ssize_t found = 0, pos = 0
    cdef PyObject* key
    cdef PyObject* item
    if kind.has_dict:
        fields = PyObject_GenericGetAttr(o, "__dict__")
        if type(fields) is not dict:
            return False
        while PyDict_Next(fields, &pos, &key, &item):
            # Not one of its fields: it was cached there, or set behind the back of `frozen`.
            if <object>key not in kind.fields:
                return False
            found += 1
            if not pa_is_atom(item):
                value = <object>item
                if not immutable(codec, value, depth + 1, memo):
                    return False
        if found == kind.count:
            return True
    for name in kind.fields:    # in slots; or a default that stayed in the class
        try:
            value = PyObject_GenericGetAttr(o, name)
        except AttributeError:
            return False
        if not pa_is_atom(<PyObject*>value) and not immutable(codec, value, depth + 1, memo):
            return False
    return True


cdef bint shared_code(Codec codec, object function, int depth, Memo* memo) except -1:
    """Whether a function is code that the processes of a worker may share: one found by its name (then all that hangs on
    it belongs to the worker, as module globals do), or one that has nothing mutable. Closures are the caller's."""
    cdef object value
    if id(function) in codec._by_id or resolves(function, function.__module__, function.__qualname__):
        return True
    if pa_function_dict(function) is not NULL and <object>pa_function_dict(function):
        return False
    if function.__defaults__ is not None and not immutable(codec, function.__defaults__, depth + 1, memo):
        return False
    if function.__kwdefaults__ is not None:
        for value in function.__kwdefaults__.values():
            if not immutable(codec, value, depth + 1, memo):
                return False
    return True


cdef object copy_function(Codec codec, object function, int depth, Memo* memo):
    cdef list cells
    cdef object cell, value, made
    if function.__closure__ is None:
        return function if shared_code(codec, function, depth, memo) else _BY_PICKLE
    if id(function) in codec._by_id or resolves(function, function.__module__, function.__qualname__):
        return function
    if not shared_code(codec, function, depth, memo):
        return _BY_PICKLE
    # The values are immutable, but the cells are variables: the sender may rebind them (`for i in ...: spawn(lambda: i)`), and so may
    # the function (`nonlocal`). So the receiver gets cells of its own.
    cells = []
    for cell in <tuple>function.__closure__:
        try:
            value = cell.cell_contents
        except ValueError:
            return _BY_PICKLE
        if not immutable(codec, value, depth + 1, memo):
            return _BY_PICKLE
        cells.append(_CellType(value))
    made = _FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells))
    made.__kwdefaults__ = None if function.__kwdefaults__ is None else dict(function.__kwdefaults__)
    made.__qualname__ = function.__qualname__
    made.__module__ = function.__module__
    made.__doc__ = function.__doc__
    made.__annotations__ = function.__annotations__
    return made


cdef object memo_get(Memo* memo, object o):
    """The copy that was made of `o`, or None: no copy is None."""
    cdef int i
    for i in range(memo.count):
        if memo.key[i] == <PyObject*>o:
            return <object>memo.value[i]
    if memo.more is not NULL:
        found = (<dict>memo.more).get(id(o))
        if found is not None:
            return found[1]
    return None


cdef int memo_put(Memo* memo, object o, object copy) except -1:
    cdef dict more
    if memo.count < MEMO:
        Py_INCREF(o)
        Py_INCREF(copy)
        memo.key[memo.count] = <PyObject*>o
        memo.value[memo.count] = <PyObject*>copy
        memo.count += 1
        return 0
    if memo.more is NULL:
        more = {}
        Py_INCREF(more)
        memo.more = <PyObject*>more
    (<dict>memo.more)[id(o)] = (o, copy)
    return 0


cdef void memo_clear(Memo* memo) noexcept:
    cdef int i
    for i in range(memo.count):
        Py_DECREF(<object>memo.key[i])
        Py_DECREF(<object>memo.value[i])
    if memo.more is not NULL:
        Py_DECREF(<object>memo.more)


cdef object copy(Codec codec, object o, bint shared, int depth, Memo* memo):
    """An isolated `o`: itself, a copy, or _BY_PICKLE. `shared`: something besides its container refers to it, so it may be
    met again in this message; only such objects are looked up and remembered. (Two ways to one object part, or meet, at
    an object with two references.)"""
    cdef PyTypeObject* t = Py_TYPE(<PyObject*>o)
    cdef Py_ssize_t i, n, pos
    cdef PyObject* item
    cdef PyObject* key
    cdef object made = None, new
    cdef Kind kind
    if depth > MAX_COPY_DEPTH:
        return _BY_PICKLE
    if shared:
        made = memo_get(memo, o)
        if made is not None:
            return made
    if t == &PyTuple_Type:
        n = PyTuple_GET_SIZE(o)
        for i in range(n):
            item = _PyTuple_item(<PyObject*>o, i)
            if pa_is_atom(item):
                if made is not None:
                    Py_INCREF(<object>item)
                    PyTuple_SET_ITEM(made, i, <object>item)
                continue
            new = copy(codec, <object>item, Py_REFCNT(item) > 1, depth + 1, memo)
            if new is _BY_PICKLE:
                return new
            if made is None and <PyObject*>new != item:
                made = PyTuple_New(n)
                for pos in range(i):
                    Py_INCREF(<object>_PyTuple_item(<PyObject*>o, pos))
                    PyTuple_SET_ITEM(made, pos, <object>_PyTuple_item(<PyObject*>o, pos))
            if made is not None:
                Py_INCREF(new)
                PyTuple_SET_ITEM(made, i, new)
        if made is None:
            made = o
        # The root isn't remembered: ('inc', 1) shall cost nothing. A cycle through it ends at the depth limit.
        if shared and depth:
            memo_put(memo, o, made)
        return made
    if t == &PyDict_Type:
        made = PyDict_Copy(o)
        if shared:
            memo_put(memo, o, made)
        pos = 0
        # Over our own copy: nobody else can change it. Only values are replaced, so the position stays good.
        while PyDict_Next(made, &pos, &key, &item):
            if not pa_is_atom(key) and not immutable(codec, <object>key, depth + 1, memo):
                return _BY_PICKLE
            if pa_is_atom(item):
                continue
            new = copy(codec, <object>item, Py_REFCNT(item) > 2, depth + 1, memo)
            if new is _BY_PICKLE:
                return new
            if <PyObject*>new != item:
                if not pa_is_atom(key):
                    return _BY_PICKLE   # storing would run the key's own __hash__ and __eq__
                PyDict_SetItem(made, <object>key, new)
        return made
    if t == &PyList_Type:
        made = PyList_GetSlice(o, 0, PyList_GET_SIZE(o))
        if shared:
            memo_put(memo, o, made)
        for i in range(PyList_GET_SIZE(made)):
            item = _PyList_item(<PyObject*>made, i)
            if pa_is_atom(item):
                continue
            new = copy(codec, <object>item, Py_REFCNT(item) > 2, depth + 1, memo)
            if new is _BY_PICKLE:
                return new
            if <PyObject*>new != item:
                Py_INCREF(new)      # PyList_SetItem takes it over
                PyList_SetItem(made, i, new)
        return made
    if pa_is_atom(<PyObject*>o) or PyType_Check(o):
        return o
    kind = kind_of(codec, <object>t)
    if kind.code == K_PICKLE:
        return _BY_PICKLE
    if kind.code == K_SET:
        made = set(o)
        for new in <set>made:
            if not immutable(codec, new, depth + 1, memo):
                return _BY_PICKLE
    elif kind.code == K_BYTEARRAY:
        made = bytearray(o)
    elif kind.code == K_NDARRAY:
        if o.dtype.hasobject:
            return _BY_PICKLE
        if memo.mode == M_PACK and o.nbytes >= ARENA_MIN:
            made = local_array(codec, o)
        else:
            made = o.copy(order="K")
    elif kind.code == K_FUNCTION:
        made = copy_function(codec, o, depth, memo)
        if made is _BY_PICKLE or made is o:
            return made
    else:
        return o if immutable(codec, o, depth, memo) else _BY_PICKLE
    if shared:
        memo_put(memo, o, made)
    return made


# --- What couldn't be pickled -------------------------------------------------------------------------------------------

cdef object not_picklable(object message, str root, object error):
    """The error for the sender: it names the smallest part of the message that can't be pickled."""
    cdef object culprit = message, path = root
    if isinstance(error, RecursionError):
        return NotPicklable(
            f"expected a message that nests less deeply than the recursion limit allows, got {short(root, message)}; "
            "send a flat structure (a list of records) instead", path=root)
    try:
        path, culprit, error = blame(message, root, error)
    except Exception:
        pass    # the search runs user code; then the whole message is named
    kind = type(culprit)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__
    why = safe_text(error)
    return NotPicklable(
        f"expected a message that can be pickled, got {path} of type {name}: {why}; "
        "send what the receiver needs to make its own (a path, an address, plain data), "
        "or give the class a __reduce__", path=path)


cdef str safe_text(object error):
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."


cdef str short(str path, object o):
    return f"{path} of type {type(o).__qualname__}"


cdef object failure(object o):
    """Why `o` can't be pickled, or None if it can."""
    cdef Codec codec = Codec()
    try:
        write(codec, o, None)
    except Exception as e:
        return e
    return None


def blame(o, path, error):
    """Go down, each time into the first part that can't be pickled itself. Returns path, object, its error."""
    seen = set()
    while id(o) not in seen and len(seen) < 100:
        seen.add(id(o))
        part, label, why = first_failure(o)
        if why is None:
            break
        path = f"{path}{label}" if label[0] in ".[" else f"{path} {label}"
        o = part
        error = why
    return path, o, error


def first_failure(o):
    try:
        for label, part in parts_of(o):
            why = failure(part)
            if why is not None and not isinstance(why, RecursionError):
                return part, label, why
    except Exception:
        pass    # it can't be taken apart: then it is the culprit
    return None, None, None


def parts_of(o):
    """Pairs (how it is written behind the path, part)."""
    t = type(o)
    if t in (list, tuple):
        for i, part in enumerate(o):
            yield f"[{i}]", part
    elif t is dict:
        for key, part in list(o.items()):
            yield f"[{show(key)}]", part
        for key in list(o):
            yield f"key {show(key)}", key
    elif t in (set, frozenset):
        for part in list(o):
            yield f"item {show(part)}", part
    elif t is types.FunctionType:
        for name, cell in zip(o.__code__.co_freevars, o.__closure__ or ()):
            try:
                part = cell.cell_contents
            except ValueError:
                continue
            yield f".closure[{name!r}]", part
        for i, part in enumerate(o.__defaults__ or ()):
            yield f".__defaults__[{i}]", part
        for name, part in (o.__kwdefaults__ or {}).items():
            yield f".__kwdefaults__[{name!r}]", part
        for name, part in o.__dict__.items():
            yield f".{name}", part
        if type(globals_of(o)) is not str:
            for name in _cp._extract_code_globals(o.__code__):
                if name in o.__globals__:
                    yield f".globals[{name!r}]", o.__globals__[name]
    elif t is types.MethodType:
        yield ".__self__", o.__self__
        yield ".__func__", o.__func__
    elif isinstance(o, type):
        for name, part in _cp._class_getstate(o)[0].items():
            if isinstance(part, (staticmethod, classmethod)):
                part = part.__func__
            if isinstance(part, property):
                part = part.fget
            yield f".{name}", part
    else:
        yield from parts_of_reduction(o)


def parts_of_reduction(o):
    """What an object's own `__reduce_ex__` gives: state first, since that has names."""
    reducer = copyreg.dispatch_table.get(type(o)) or _extra_reducers.get(type(o))
    reduction = reducer(o) if reducer is not None else o.__reduce_ex__(5)
    if type(reduction) is not tuple or len(reduction) < 2:
        return
    reduction = tuple(reduction) + (None,) * (6 - len(reduction))
    states = reduction[2]
    if type(states) is not tuple or len(states) != 2:
        states = (states,)
    for state in states:
        if type(state) is dict:
            for name, part in state.items():
                yield f".{name}" if type(name) is str and name.isidentifier() else f".__dict__[{show(name)}]", part
        elif state is not None:
            yield ".__getstate__()", state
    if isinstance(o, BaseException):
        for i, part in enumerate(o.args):
            yield f".args[{i}]", part
    for i, part in enumerate(reduction[3] or ()):
        yield f"[{i}]", part
    for key, part in reduction[4] or ():
        yield f"[{show(key)}]", part
    if type(reduction[1]) is tuple:
        for i, part in enumerate(reduction[1]):
            yield f".__reduce__()[1][{i}]", part


def show(key):
    try:
        text = repr(key)
    except Exception:
        return f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:60] + "..."


# --- The codec ----------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Encoded:
    """A message that is still bytes: decoded in its receiver's own context, where `__setstate__` may run."""

    def __repr__(self):
        return f"<Encoded message of {len(self.data)} bytes>"


cdef Encoded make_encoded(bytes data):
    cdef Encoded encoded = Encoded.__new__(Encoded)
    encoded.data = data
    return encoded


@cython.final
cdef class Codec:
    """Encodes, decodes and isolates for one scheduler.

    `store_put(bytes) -> int` and `store_get(int) -> bytes` are the shared store of the node, for the definitions of `__main__`. Without
    them everything goes inline. `arena` is where large buffers go. Used by one thread. Re-entrant: user code that it runs may use it.
    """

    def __init__(self, store_put=None, store_get=None, Arena arena=None):
        self.arena = arena
        self.store_put = store_put
        self.store_get = store_get
        self._by_id = {}
        self._by_offset = {}
        self._entries = {}
        self._bundles = set()
        self._writing = {}
        self._writers = []
        self._kinds = dict(_builtin_kinds)

    cdef bytes encode(self, object message):
        return self._encode(message, M_PLAIN)

    cdef bytes pack(self, object message, bint own):
        return self._encode(message, M_OWN if own else M_PACK)

    cdef bytes encode_to_move(self, object message):
        """As `encode`; raises for what had better stay here (see M_STAY)."""
        return self._encode(message, M_STAY)

    cdef bint is_immutable(self, object o) except -1:
        """Whether `o` is immutable all through, so that processes may share it. No user code runs."""
        cdef Memo memo
        memo.count = 0
        memo.budget = 1000000
        memo.mode = M_PLAIN
        memo.more = NULL
        return immutable(self, o, 0, &memo)

    cdef bytes compact(self, object message):
        """As `encode`, where no user code has to run; else None."""
        return self._encode(message, M_PLAIN, True)

    cdef bytes _encode(self, object message, int mode, bint compact=False):
        cdef Buffer b
        cdef int done
        cdef bytes data
        cdef Holds holds = None
        cdef Block block = None
        cdef Lot entry
        cdef uint32_t one = 1
        b.arena = <PyObject*>self.arena if mode > M_PLAIN and self.arena is not None else NULL
        b.share_count = 0
        b.data = b.small
        b.room = SMALL_BUFFER
        b.size = 1
        b.mutables = 0
        b.seen_count = 0
        b.small[0] = FORMAT_COMPACT
        try:
            done = put(&b, <PyObject*>message, 0, True)
            if done:
                if b.size >= ARENA_MIN and b.arena != NULL:
                    block = self.arena.allocate(b.size)
                if b.share_count or block is not None:
                    holds = Holds()
                    for done in range(b.share_count):
                        holds.add((<Shared>b.shares[done]).block)
                if block is None:
                    data = PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.size)
                else:
                    holds.add(block)
                    memcpy(block.data, b.data, b.size)
                    entry.kind = E_STREAM
                    entry.a = block.id
                    entry.b = 0
                    entry.c = b.size
                    data = PyBytes_FromStringAndSize(NULL, 8 + sizeof(Lot))
                    PyBytes_AS_STRING(data)[0] = FORMAT_BLOCKS
                    PyBytes_AS_STRING(data)[1] = FORMAT_COMPACT
                    PyBytes_AS_STRING(data)[2] = PyBytes_AS_STRING(data)[3] = 0
                    memcpy(PyBytes_AS_STRING(data) + 4, &one, 4)
                    memcpy(PyBytes_AS_STRING(data) + 8, &entry, sizeof(Lot))
                if holds is not None:
                    self.packed = holds
                return data
        finally:
            if b.data != b.small:
                PyMem_Free(b.data)
        return None if compact else self._pickle(message, "msg", mode)

    cdef object decode(self, const uint8_t* data, size_t n):
        cdef Cursor c
        cdef object message
        if n == 0:
            raise corrupt("none at all")
        if data[0] == FORMAT_BLOCKS:
            return self._unpack(data, n)
        if data[0] != FORMAT_COMPACT:
            return self._unpickle(data, n, 0)
        c.arena = <PyObject*>self.arena
        c.at = data + 1
        c.end = data + n
        message = take(&c, 0)
        if c.at != c.end:
            raise corrupt("something follows the message")
        return message

    cdef bint is_plain(self, const uint8_t* data, size_t n) noexcept:
        return n != 0 and (data[0] == FORMAT_COMPACT or data[0] == FORMAT_BLOCKS and n > 1 and data[1] == FORMAT_COMPACT)

    cdef object receive(self, const uint8_t* data, size_t n):
        if self.is_plain(data, n):
            return self.decode(data, n)
        return make_encoded(PyBytes_FromStringAndSize(<char*>data, <Py_ssize_t>n))

    cdef object isolate(self, object message):
        return self._isolate(message, M_PLAIN)

    cdef object isolate_message(self, object message, bint own):
        return self._isolate(message, M_OWN if own else M_PACK)

    cdef object _isolate(self, object message, int mode):
        cdef Memo memo
        cdef object made
        cdef Encoded encoded
        cdef Holds holds
        cdef bytes data
        if pa_is_atom(<PyObject*>message):
            return message
        memo.count = 0
        memo.budget = 1000000
        memo.mode = mode
        memo.more = NULL
        try:
            made = copy(self, message, True, 0, &memo)
        finally:
            memo_clear(&memo)
        if made is _BY_PICKLE:
            data = self._pickle(message, "msg", mode)
            holds = self.packed
            self.packed = None
            encoded = make_encoded(data)
            encoded.holds = holds
            return encoded
        return made

    cdef object share(self, object buffer):
        cdef Block block = None
        cdef size_t start = 0
        cdef bytes meta = b""
        cdef Shared made
        cdef object data
        if type(buffer) is Shared:
            return buffer
        if is_array(type(buffer)):
            if buffer.dtype.hasobject:
                raise TypeError(f"expected an array of numbers to share, got one of Python objects: {buffer.dtype}")
            if not (buffer.flags.c_contiguous or buffer.flags.f_contiguous):
                buffer = buffer.copy(order="C")
            meta = _pickle.dumps((plain_dtype(buffer.dtype), buffer.shape, "C" if buffer.flags.c_contiguous else "F"), 5)
            data = memoryview(flat_bytes(buffer))
        else:
            try:
                data = memoryview(buffer)
            except TypeError:
                raise TypeError(f"expected a buffer to share (bytes, bytearray, memoryview, an array), got {type(buffer).__name__}") from None
            if not data.c_contiguous:
                data = memoryview(data.tobytes())
        if self.arena is not None and data.nbytes:
            block = block_under(self.arena, data, &start)
            if block is None:
                block = self.arena.allocate(<uint64_t>data.nbytes)
                if block is not None:
                    copy_into(block.data, data)
        made = make_shared(block, start, <uint64_t>data.nbytes, meta)
        if block is None:
            made.own = data.tobytes()
        return made

    cdef object isolate_callable(self, object function):
        """A function to spawn here: itself, a copy, or an Encoded that the new process decodes."""
        return self._isolate(function, M_PACK)

    cdef bytes _pickle(self, object message, str root, int mode):
        if type(message) is _FunctionType:
            root = f"<function {message.__qualname__}>"
        try:
            return write(self, message, None, mode)
        except MemoryError:
            raise
        except Exception as error:
            raise not_picklable(message, root, error) from error

    cdef object _unpack(self, const uint8_t* data, size_t n):
        """FORMAT_BLOCKS. The blocks are held by whoever has the bytes."""
        cdef uint32_t count, i
        cdef Lot entry
        cdef size_t start
        cdef const uint8_t* stream
        cdef size_t size
        cdef Block block, whole = None
        cdef list found = []
        if n < 8:
            raise corrupt("cut")
        memcpy(&count, data + 4, 4)
        start = 8 + sizeof(Lot) * <size_t>count
        if n < start:
            raise corrupt("cut")
        stream = data + start
        size = n - start
        for i in range(count):
            memcpy(&entry, data + 8 + sizeof(Lot) * i, sizeof(Lot))
            if entry.kind == E_DEFINITION:
                if entry.b and entry.b not in self._bundles:
                    load_bundle(self, entry.b)
                found.append(load_definition(self, entry.a, entry.b))
            elif entry.kind == E_INLINE:
                if entry.a > n or entry.b > n - entry.a:
                    raise corrupt("a buffer is cut")
                found.append(memoryview(PyBytes_FromStringAndSize(<const char*>data + entry.a, <Py_ssize_t>entry.b)))
            else:
                block = block_of(self.arena, entry.a, entry.b, entry.c)
                if entry.kind == E_BUFFER:
                    found.append(memoryview(block)[entry.b:entry.b + entry.c])
                elif entry.kind == E_SHARED:
                    found.append(make_shared(block, entry.b, entry.c, b""))
                elif entry.kind == E_STREAM:
                    whole = block       # keeps it until this returns
                    stream = block.data + entry.b
                    size = entry.c
                else:
                    raise corrupt(f"entry of kind {entry.kind}")
        if size == 0:
            raise corrupt("cut")
        if stream[0] == FORMAT_COMPACT:
            return self.decode(stream, size)
        if stream[0] != FORMAT_PICKLE:
            raise corrupt(f"format {stream[0]}")
        return _loads(PyMemoryView_FromMemory(<char*>stream + 1, <Py_ssize_t>(size - 1), PyBUF_READ), buffers=found)

    cdef object _unpickle(self, const uint8_t* data, size_t n, uint64_t bundle):
        """`bundle`: for references that come without their own."""
        cdef uint32_t count, i
        cdef uint64_t offset, own
        cdef size_t start = 1
        cdef list found = None
        cdef object view
        if n == 0:
            raise corrupt("none at all")
        if data[0] == FORMAT_PICKLE_REFS:
            if n < 5:
                raise corrupt("cut")
            memcpy(&count, data + 1, 4)
            start = 5 + 16 * <size_t>count
            if n < start:
                raise corrupt("cut")
            found = []
            for i in range(count):
                memcpy(&offset, data + 5 + 16 * i, 8)
                memcpy(&own, data + 13 + 16 * i, 8)
                if own and own not in self._bundles:
                    load_bundle(self, own)
                found.append(load_definition(self, offset, own if own else bundle))
        elif data[0] != FORMAT_PICKLE:
            raise corrupt(f"format {data[0]}")
        if n < COPY_BELOW:
            view = PyBytes_FromStringAndSize(<char*>data + start, <Py_ssize_t>(n - start))
        else:
            view = PyMemoryView_FromMemory(<char*>data + start, <Py_ssize_t>(n - start), PyBUF_READ)
        return _loads(view) if found is None else _loads(view, buffers=found)


# --- For Python ---------------------------------------------------------------------------------------------------------

def encode_bytes(Codec codec not None, message):
    """`Codec.encode`."""
    return codec.encode(message)


def decode_bytes(Codec codec not None, bytes data not None):
    """`Codec.decode`."""
    return codec.decode(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


def receive_bytes(Codec codec not None, bytes data not None):
    """`Codec.receive`: the value, or an Encoded."""
    return codec.receive(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


def isolated(Codec codec not None, message):
    """`Codec.isolate`, and what the receiver then does: the message as it gets it."""
    cdef object made = codec.isolate(message)
    if type(made) is Encoded:
        return decode_bytes(codec, (<Encoded>made).data)
    return made


def pack_bytes(Codec codec not None, message, *, bint own=False):
    """`Codec.pack`, as an Encoded, which holds what the bytes mention."""
    cdef bytes data = codec.pack(message, own)
    cdef Holds holds = codec.packed
    codec.packed = None
    cdef Encoded encoded = make_encoded(data)
    encoded.holds = holds
    return encoded


def unpack(Codec codec not None, Encoded encoded not None):
    """The message of an Encoded."""
    return codec.decode(<const uint8_t*>PyBytes_AS_STRING(encoded.data), <size_t>PyBytes_GET_SIZE(encoded.data))


def isolated_message(Codec codec not None, message, *, bint own=False):
    """`Codec.isolate_message`, and what the receiver then does."""
    cdef object made = codec.isolate_message(message, own)
    return unpack(codec, made) if type(made) is Encoded else made


def share_with(Codec codec not None, buffer):
    """`Codec.share`."""
    return codec.share(buffer)


def isolate_raw(Codec codec not None, message):
    """`Codec.isolate`: the message, a copy, or an Encoded."""
    return codec.isolate(message)


def dumps(o):
    """Pickle something on its own, with its definitions inline: readable in any process of the node, without a store."""
    return write(Codec(), o, None)


def loads(bytes data not None):
    """The reverse of `dumps`."""
    return (<Codec>Codec()).decode(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


def _bench(Codec codec not None, message, str what, int rounds):
    """Nanoseconds per operation, without the cost of a call from Python."""
    import time
    cdef int i
    cdef bytes data = codec.encode(message)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t n = <size_t>PyBytes_GET_SIZE(data)
    cdef double start = time.perf_counter()
    if what == "encode":
        for i in range(rounds):
            codec.encode(message)
    elif what == "decode":
        for i in range(rounds):
            codec.decode(at, n)
    else:
        for i in range(rounds):
            codec.isolate(message)
    return (time.perf_counter() - start) / rounds * 1e9

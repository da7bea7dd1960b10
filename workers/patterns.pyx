# cython: language_level=3, boundscheck=False, wraparound=False
"""What `receive` matches (S3.1).

===================================  ============================================================
 pattern                              fits
===================================  ============================================================
 `ANY`                                everything
 a type, or a union of types          what `isinstance` says
 None, True, False, `...`             that very object (so 1 isn't True)
 a tuple or list                      one as long whose items fit the pattern's items
 a dict                               one that has at least its keys, with values that fit
 an instance of a dataclass           an instance of the same class whose fields fit; those that `==` leaves out don't count
 a function or other callable         what it returns something true for
 anything else: a value               what is equal to it
===================================  ============================================================

A pattern is looked at in the receiving process, on its own stack: predicates and `__eq__` are user code. The scheduler calls `match` for each
waiting message in turn, so the common shapes cost no allocation.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_Check
from cpython.object cimport Py_EQ, PyObject, PyObject_IsInstance, PyObject_RichCompareBool
from cpython.tuple cimport PyTuple_Check
from libc.stdint cimport uint64_t

from parallel_actors.workers.ident cimport Pid, Ref

from parallel_actors.workers.reasons import Down as _Down

import dataclasses
import types
import typing

cdef extern from "Python.h":
    bint PyType_Check(object o)
    bint PyDict_Check(object o)
    bint PyCallable_Check(object o)
    Py_ssize_t PyTuple_GET_SIZE(object o)
    Py_ssize_t PyList_GET_SIZE(object o)
    PyObject* PyTuple_GET_ITEM(object o, Py_ssize_t i)
    PyObject* PyList_GET_ITEM(object o, Py_ssize_t i)


cdef enum:
    MAX_DEPTH = 200     # a pattern that holds itself is an error, not an overflow of the C stack


@cython.final
cdef class _AnyPattern:
    """The type of `ANY`."""

    def __repr__(self):
        return "ANY"

    def __reduce__(self):
        return "ANY"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef object _ANY = _AnyPattern.__new__(_AnyPattern)
ANY = _ANY

cdef object _UnionType = types.UnionType
cdef object _TypingUnion = type(typing.Union[int, str])
cdef object _GenericAlias = types.GenericAlias
cdef object _Any = typing.Any
cdef object _CoroutineType = types.CoroutineType
cdef object _EllipsisType = type(Ellipsis)
cdef object _NoneType = type(None)

# A pure cache: class -> names of the fields that count, or None for a class that is no dataclass.
cdef dict _fields = {}


cdef tuple fields_of(object cls):
    cdef object names
    if type(cls) is not type:   # a metaclass may have a __hash__ of its own: not into the cache
        return compared_fields(cls)
    names = _fields.get(cls, _fields)
    if names is _fields:
        names = compared_fields(cls)
        if len(_fields) >= 512:
            _fields.clear()
        _fields[cls] = names
    return names


cdef tuple compared_fields(object cls):
    if not dataclasses.is_dataclass(cls):
        return None
    return tuple([f.name for f in dataclasses.fields(cls) if f.compare])


cdef bint match(object pattern, object message) except -1:
    return fits(pattern, message, 0)


cdef bint fits(object pattern, object message, int depth) except -1:
    cdef object kind
    cdef tuple names
    if pattern is _ANY:
        return True
    kind = type(pattern)
    if kind is str or kind is int or kind is float or kind is bytes:
        if pattern is message:
            return True
        if type(message) is bool:
            return False
        return PyObject_RichCompareBool(pattern, message, Py_EQ)
    if kind is type:
        if type(message) is pattern:
            return True
        if pattern is _Any:
            return True
        return PyObject_IsInstance(message, pattern)
    if kind is Ref:
        return type(message) is Ref and (<Ref>message).hi == (<Ref>pattern).hi and (<Ref>message).lo == (<Ref>pattern).lo
    if kind is Pid:
        return type(message) is Pid and (<Pid>message).hi == (<Pid>pattern).hi and (<Pid>message).lo == (<Pid>pattern).lo
    if kind is bool or kind is _NoneType or kind is _EllipsisType:
        return pattern is message
    if depth > MAX_DEPTH:
        raise RecursionError("expected a pattern of ordinary depth, got one that is nested too deeply, or holds itself")
    if kind is tuple:
        return PyTuple_Check(message) and fits_tuple(pattern, message, depth)
    if kind is dict:
        return PyDict_Check(message) and fits_dict(pattern, message, depth)
    if kind is list:
        return PyList_Check(message) and fits_list(pattern, message, depth)
    if PyType_Check(pattern):   # a class with a metaclass
        if pattern is _Any:
            return True
        return PyObject_IsInstance(message, pattern)
    if kind is _UnionType or kind is _TypingUnion:
        return is_instance(pattern, message)
    if kind is _GenericAlias:
        raise bad(pattern)
    if kind.__module__ == "typing":     # these can be called, but aren't predicates
        return is_instance(pattern, message)
    names = fields_of(kind)
    if names is not None:
        return type(message) is kind and fits_fields(names, pattern, message, depth)
    if PyTuple_Check(pattern):  # a named tuple: of the same kind
        return PyObject_IsInstance(message, kind) and fits_tuple(pattern, message, depth)
    if PyDict_Check(pattern):
        return PyDict_Check(message) and fits_dict(pattern, message, depth)
    if PyList_Check(pattern):
        return PyList_Check(message) and fits_list(pattern, message, depth)
    if isinstance(pattern, _GenericAlias):      # Callable[[int], int] is of a subclass
        raise bad(pattern)
    if PyCallable_Check(pattern):
        return asked(pattern, message)
    if pattern is message:
        return True
    return PyObject_RichCompareBool(pattern, message, Py_EQ)


cdef bint fits_tuple(object pattern, object message, int depth) except -1:
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(pattern)
    if PyTuple_GET_SIZE(message) != n:
        return False
    for i in range(n):
        if not fits(<object>PyTuple_GET_ITEM(pattern, i), <object>PyTuple_GET_ITEM(message, i), depth + 1):
            return False
    return True


cdef bint fits_list(object pattern, object message, int depth) except -1:
    cdef Py_ssize_t i = 0
    cdef object part, item
    if PyList_GET_SIZE(pattern) != PyList_GET_SIZE(message):
        return False
    # Sizes anew each time, and references of our own: a predicate may change either list.
    while i < PyList_GET_SIZE(pattern) and i < PyList_GET_SIZE(message):
        part = <object>PyList_GET_ITEM(pattern, i)
        item = <object>PyList_GET_ITEM(message, i)
        if not fits(part, item, depth + 1):
            return False
        i += 1
    return PyList_GET_SIZE(pattern) == PyList_GET_SIZE(message)


cdef bint fits_dict(object pattern, object message, int depth) except -1:
    cdef object key, value, item
    cdef PyObject* found
    # Not PyDict_Next: a predicate may change the pattern, and the iterator notices.
    for key, value in (<dict>pattern).items():
        found = PyDict_GetItemWithError(message, key)
        if found is NULL:
            return False
        item = <object>found
        if not fits(value, item, depth + 1):
            return False
    return True


cdef bint fits_fields(tuple names, object pattern, object message, int depth) except -1:
    cdef object name
    for name in names:
        if not fits(getattr(pattern, name), getattr(message, name), depth + 1):
            return False
    return True


cdef bint is_instance(object pattern, object message) except -1:
    try:
        return isinstance(message, pattern)
    except TypeError as error:
        raise bad(pattern) from error


cdef bint asked(object predicate, object message) except -1:
    cdef object answer = predicate(message)
    if type(answer) is bool:
        return answer is True
    if type(answer) is _CoroutineType:
        answer.close()
        raise TypeError(f"expected a plain function as a predicate, got an async one: {predicate!r}")
    return True if answer else False


cdef object bad(object pattern):
    return TypeError(
        f"expected a pattern (a type, a value, a shape with ANY and types inside, a predicate), got {pattern!r}: types with "
        "parameters can't be tested at run time; use the bare type, or a predicate"
    )


cdef bint mentions_ref(object pattern, uint64_t hi, uint64_t lo) except -1:
    return mentions_at(pattern, hi, lo, 0)


cdef bint mentions_at(object pattern, uint64_t hi, uint64_t lo, int depth) except -1:
    cdef Py_ssize_t i
    cdef object part
    if type(pattern) is Ref:
        return (<Ref>pattern).hi == hi and (<Ref>pattern).lo == lo
    if type(pattern) is tuple and depth < 4:
        for i in range(PyTuple_GET_SIZE(pattern)):
            part = <object>PyTuple_GET_ITEM(pattern, i)
            if (type(part) is Ref or type(part) is tuple) and mentions_at(part, hi, lo, depth + 1):
                return True
    elif type(pattern) is _Down:
        return mentions_at(pattern.ref, hi, lo, 4)
    return False


def matches(pattern, message):
    """Whether `message` fits `pattern`: what `receive(pattern)` asks of each message."""
    return match(pattern, message)


def mentions(pattern, Ref ref not None):
    """Whether only messages that hold `ref` fit `pattern`."""
    return mentions_ref(pattern, ref.hi, ref.lo)

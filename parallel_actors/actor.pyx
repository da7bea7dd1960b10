# cython: language_level=3, boundscheck=False, wraparound=False
"""Typed actors: a class whose methods are the calls and casts of a server, and references that offer just those.

    start_link(Counter, 0) -> a GenServer whose callbacks are `Served(Counter)`, whose state is the instance
    counter.value()        -> ActorRef -> BoundCall -> call(pid, ("value", args, keywords)) -> Counter.value
    counter.bump(2)        -> ... -> cast(pid, ("bump", args, keywords))

To a type checker a reference is an instance: a `@call` method gives a `BoundCall` with the method's own arguments and
result, and is that at run time, in other processes; inside the actor `self.value()` is a plain method call. Types: actor.pyi.
"""
cimport cython
from cpython.object cimport PyObject_Call, PyObject_GenericGetAttr

from parallel_actors.workers.ident cimport Pid
from parallel_actors.workers.scheduler cimport here

from types import CoroutineType, GenericAlias, MemberDescriptorType, MethodType

from parallel_actors.gen_server import Defaults, NoReply, Reply, cast, reply, use_actors
from parallel_actors.gen_server import call as call_server
from parallel_actors.names import Via
from parallel_actors.request import ask, send_request
from parallel_actors.workers.api import self_, whereis
from parallel_actors.workers.codec import newest
from parallel_actors.workers.errors import NotRegistered
from parallel_actors.workers.patterns import matches


# ---------------------------------------------------------------------- what decorated methods are

cdef class Method:
    """A method that other processes may use: the part that calls and casts share."""

    cdef readonly object function
    cdef readonly str name
    cdef readonly bint later        # it answers by its first argument, a ReplyTo

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, function, *, later=False):
        if not callable(function):
            raise TypeError(f"expected a method of an Actor to decorate, got {function!r}")
        self.function = function
        self.later = later
        self.name = getattr(function, "__name__", "")

    def __set_name__(self, owner, str name):
        if name.startswith("_"):
            raise TypeError(f"expected the name of a call or cast to be a public one, got {name!r}")
        self.name = name

    def __get__(self, instance, owner):
        return self if instance is None else MethodType(self.function, instance)

    def __reduce__(self):
        return remade, (type(self), self.function, self.name, self.later)

    @property
    def __doc__(self):
        return self.function.__doc__

    @property
    def __wrapped__(self):
        return self.function


@cython.final
cdef class CallMethod(Method):
    """What `@call` makes of a method."""


@cython.final
cdef class CastMethod(Method):
    """What `@cast` makes of a method."""


def remade(kind, function, name, later):
    """A method of a class that travels by value."""
    cdef Method made = kind(function, later=later)
    made.name = name
    return made


@cython.final
@cython.freelist(16)
cdef class BoundCall:
    """A call of one actor: `counter.value`."""

    cdef object address, timeout
    cdef str name

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, address, str name not None, timeout=5.0):
        self.address = address
        self.name = name
        self.timeout = timeout

    def __call__(self, *args, **keywords):
        """Call it, and wait for the result. Raises as `parallel_actors.call`."""
        return call_server(self.address, (self.name, args, keywords or None), self.timeout)

    def options(self, *, timeout):
        """The same with another time-out: seconds, or None for as long as the actor lives."""
        return BoundCall(self.address, self.name, timeout)

    def request(self, *args, **keywords):
        """Call it, and wait later: `request.wait(timeout)`."""
        return send_request(self.address, (self.name, args, keywords or None))

    def aio(self, *args, **keywords):
        """Call it from an `async def` body, or from asyncio in a program with an `ActorSystem`: `await` this.

        Raises as `parallel_actors.call`. Cancelled, it leaves nothing behind.
        """
        return ask(self.address, (self.name, args, keywords or None), self.timeout)

    def __repr__(self):
        return f"<call {self.name} of {self.address!r}>"


@cython.final
@cython.freelist(16)
cdef class BoundCast:
    """A cast to one actor: `counter.bump`."""

    cdef object address
    cdef str name

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, address, str name not None):
        self.address = address
        self.name = name

    def __call__(self, *args, **keywords):
        """Send it, and go on, whether the actor lives or not."""
        cast(self.address, (self.name, args, keywords or None))

    def __repr__(self):
        return f"<cast {self.name} of {self.address!r}>"


@cython.final
cdef class ReplyTo:
    """Whom to answer: what a `@call_later` method gets. Can be kept, and sent to whoever is to answer."""

    cdef object from_

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, from_):
        self.from_ = from_

    def reply(self, value, /):
        """Answer, from any process; a second answer, or one that comes too late, is dropped."""
        reply(self.from_, value)

    def __reduce__(self):
        return ReplyTo, (self.from_,)


def call_later(method, /):
    """Make a method a call whose answer comes later, by its first argument (OTP: `noreply`, then `gen_server:reply/2`).

    >>> import parallel_actors as pa
    >>> class Door(pa.Actor):
    ...     def __init__(self):
    ...         self.waiting = []
    ...     @pa.call_later
    ...     def wait(self, to: pa.ReplyTo[str]):
    ...         self.waiting.append(to)
    ...     @pa.cast
    ...     def open(self):
    ...         for to in self.waiting:
    ...             to.reply("come in")
    >>> with pa.ActorSystem(workers=1):
    ...     door = pa.start(Door)
    ...     request = door.wait.request()
    ...     door.open()
    ...     request.wait(10)
    'come in'
    """
    return CallMethod(method, later=True)


def delegate(function, /, *, to, cast=False, store=False):
    """Make a function of a plain data structure a call or a cast of the actor that holds it (ExActor: `delegate_to`).

    >>> import parallel_actors as pa
    >>> class Words(pa.Actor):
    ...     def __init__(self) -> None:
    ...         self.seen: set[str] = set()
    ...         self.total = 0
    ...     add = pa.delegate(set.add, to="seen", cast=True)
    ...     all = pa.delegate(sorted, to="seen")
    ...     plus = pa.delegate(int.__add__, to="total", store=True)
    ...     sum = pa.delegate(int, to="total")
    >>> with pa.ActorSystem(workers=1):
    ...     words = pa.start(Words)
    ...     words.add("be")
    ...     words.plus(7)
    ...     words.all(), words.sum()
    (['be'], 7)

    Args:
        function: called with the attribute, and with what the caller gives. Its result is the answer.
        to: the name of the attribute that holds the structure.
        cast: whether it is a cast, which has no answer.
        store: whether the result is the attribute's new value (for structures that don't change); the answer is None then.

    Raises:
        TypeError: for a `function` that can't be called, or a `to` that is no attribute's name.
    """
    if not callable(function):
        raise TypeError(f"expected a function of the data structure, got {function!r}")
    if not (isinstance(to, str) and to.isidentifier()):
        raise TypeError(f"expected to= to be the name of an attribute of the actor, got {to!r}")

    delegated = Delegated(function, to, store)
    return CastMethod(delegated) if cast else CallMethod(delegated)


class Delegated:
    """The method that `delegate` makes. An object, not a closure: a class of `__main__` travels with its methods."""

    def __init__(self, function, to, store):
        self.function = function
        self.to = to
        self.store = store
        self.__name__ = getattr(function, "__name__", "delegated")
        self.__doc__ = getattr(function, "__doc__", None)

    def __call__(self, actor, *args, **keywords):
        result = self.function(getattr(actor, self.to), *args, **keywords)
        if not self.store:
            return result
        setattr(actor, self.to, result)


class Info:
    """What `@info` makes of a method."""

    def __init__(self, patterns, function):
        self.patterns = patterns
        self.function = function

    def __get__(self, instance, owner=None):
        return self if instance is None else MethodType(self.function, instance)


def info(*patterns):
    """Have a method take other messages: `@info(Down)`, `@info(("tick", ANY))`; without a pattern, all of them.

    The first method whose pattern fits, in the order of the class, gets the message; patterns are those of `receive`.
    What none takes is logged.
    """

    def decorate(method):
        return Info(patterns, method)

    return decorate


# ---------------------------------------------------------------------- the actor


class Actor:
    """The base of typed actors: an ordinary class, an instance of which lives in a process of its own.

    >>> import parallel_actors as pa
    >>> class Counter(pa.Actor):
    ...     def __init__(self, start: int = 0) -> None:
    ...         self.n = start
    ...     @pa.call
    ...     def value(self) -> int:
    ...         return self.n
    ...     @pa.cast
    ...     def bump(self, by: int = 1) -> None:
    ...         self.n += by
    >>> with pa.ActorSystem(workers=1):
    ...     counter = pa.start(Counter, 40)
    ...     counter.bump(by=2)
    ...     counter.value()
    42

    `__init__` runs in the new process; what it raises is raised by `start` as a `StartError`. Other processes have a
    reference (`ActorRef`), which offers the methods with `@call` and `@cast` and nothing else. A method may be
    `async def`. What a method raises ends the actor, and is raised in the caller as a `RemoteError`: a supervisor
    begins anew. To end in order, raise `ProcessExit("normal")`.

    Optional methods, as in `GenServer`: `terminate(self, reason)`; `format_status(self, status)`, whose "state" is a
    dict of the instance's attributes; `code_change(self, version, extra)`, which sets what the new class needs;
    `carried(self)`, for an instance that goes on in a new process (see `Carry`), in the place of `__init__`: it raises
    where it can't.
    """

    _actor_methods = {}         # name -> Method
    _actor_infos = []           # Info

    @property
    def __pid__(self):
        """What it is addressed by; of a reference its pid, inside the actor the actor's own."""
        return self_()

    def __init_subclass__(cls, **kwargs):
        super(Actor, cls).__init_subclass__(**kwargs)
        methods = {}
        infos = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                methods.pop(name, None)
                infos.pop(name, None)
                if isinstance(value, Method):
                    methods[name] = value
                elif isinstance(value, Info):
                    infos[name] = value
        cls._actor_methods = methods
        cls._actor_infos = list(infos.values())


@cython.final
cdef class ActorRef:
    """A reference to a typed actor: its calls and casts. Compared and hashed by what it addresses; travels in messages.

    Wherever a pid is accepted, it is too.
    """

    cdef readonly object _address       # a Pid, a registered name, or a via name
    cdef object kind                    # the class
    cdef dict methods                   # its calls and casts

    def __init__(self, address, actor):
        self._address = address
        self.kind = actor
        self.methods = actor._actor_methods

    @property
    def __pid__(self):
        """Of a name, the pid that has it now."""
        if type(self._address) is Pid:
            return self._address
        pid = whereis(self._address)
        if pid is None:
            raise NotRegistered(f"expected an actor called {self._address!r}, got none: no process has this name")
        return pid

    def __getattribute__(self, name):
        cdef BoundCall made
        cdef BoundCast sent
        found = self.methods.get(name)      # first: a miss among the attributes would cost an exception
        if found is None:
            return PyObject_GenericGetAttr(self, name)
        if type(found) is not CallMethod:
            sent = BoundCast.__new__(BoundCast)
            sent.address = self._address
            sent.name = name
            return sent
        made = BoundCall.__new__(BoundCall)
        made.address = self._address
        made.name = name
        made.timeout = 5.0
        return made

    def __getattr__(self, name):
        now = newest(self.kind)
        if now is not self.kind and hasattr(now, "_actor_methods"):     # its module was loaded anew
            self.kind = now
            self.methods = now._actor_methods
            if name in self.methods:
                return getattr(self, name)
        raise AttributeError(no_attribute(self.kind, name), name=name, obj=self)

    def __setattr__(self, name, value):
        raise AttributeError(
            f"expected attributes to be set by the actor itself, got {name!r} set on a reference to a"
            f" {self.kind.__qualname__}: give the class a @cast method",
            name=name,
            obj=self,
        )

    def __dir__(self):
        return list(self.methods)

    def __eq__(self, other):
        return type(other) is ActorRef and self._address == (<ActorRef>other)._address

    def __hash__(self):
        return hash(self._address)

    def __reduce__(self):
        return ActorRef, (self._address, self.kind)

    def __repr__(self):
        return f"<{self.kind.__qualname__} {self._address!r}>"


def ref(actor, address, /):
    """A reference to an actor of that class, by its pid or its name. A name is looked up at each call.

    >>> import parallel_actors as pa
    >>> class Echo(pa.Actor):
    ...     @pa.call
    ...     def say(self, word: str) -> str:
    ...         return word
    >>> with pa.ActorSystem(workers=1):
    ...     sup = pa.Supervisor.start_link([pa.child(Echo, name="echo")])
    ...     pa.ref(Echo, "echo").say("hello")
    'hello'

    Args:
        actor: the class; what lives there isn't asked whether it is one.
        address: a pid, a name, plain or via (whether there is such a process shows at the call), or another reference.

    Raises:
        TypeError: for a class that is no Actor, or an address that is none.
    """
    if not hasattr(actor, "_actor_methods"):
        raise TypeError(f"expected a class of Actor, got {actor!r}")
    if type(address) is ActorRef:
        address = (<ActorRef>address)._address
    if not isinstance(address, (Pid, str, Via)):
        raise TypeError(f"expected a Pid or a registered name, got {address!r} ({type(address).__name__})")
    return ActorRef(address, actor)


cdef str no_attribute(actor, str name):
    offered = ", ".join(actor._actor_methods) or "none"
    text = f"a reference to a {actor.__qualname__} has no {name!r}; its calls and casts are: {offered}."
    if not name.startswith("__"):
        text += (
            f" The instance lives in another process: for an attribute or a plain method of it, give the class a @call"
            f" method that returns {name!r}."
        )
    return text


@cython.final
cdef class Served:
    """The callbacks of the GenServer that serves an actor; its state is the instance."""

    cdef object kind            # the class
    cdef dict methods           # its calls and casts

    def __init__(self, actor):
        self.kind = actor
        self.methods = actor._actor_methods

    def __reduce__(self):
        return Served, (self.kind,)

    @property
    def __qualname__(self):
        return self.kind.__qualname__       # what reports call it

    @property
    def _serves(self):
        """The user's class."""
        return self.kind

    @property
    def terminate(self):
        """There is one only where the class has one: a server without it ends at once."""
        if not hasattr(self.kind, "terminate"):
            raise AttributeError("terminate")
        return terminated

    def init(self, *args, **keywords):
        return self.kind(*args, **keywords)

    def carried(self, state):
        if type(state) is not self.kind:
            if type(state).__qualname__ != self.kind.__qualname__ or type(state).__module__ != self.kind.__module__:
                raise TypeError(f"expected the state of a {self.kind.__qualname__}, got {type(state).__qualname__}")
            state.__class__ = self.kind         # a class that was saved by its definition: of `__main__`
        own = getattr(state, "carried", None)
        if own is not None:
            settled(own())
        return state

    def handle_call(self, request, from_, state):
        cdef Method method = self.method(CallMethod, request)
        if method.later:
            self.result(method, (state, ReplyTo(from_)), <tuple>request)
            return NoReply()
        return Reply(self.result(method, (state,), <tuple>request))

    def handle_cast(self, request, state):
        cdef Method method = self.method(CastMethod, request)
        self.result(method, (state,), <tuple>request)
        return NoReply()

    def handle_info(self, message, state):
        for each in self.kind._actor_infos:
            if not each.patterns or any([matches(pattern, message) for pattern in each.patterns]):
                settled(each.function(state, message))
                return NoReply()
        return Defaults(self.kind.__qualname__).handle_info(message, state)

    def code_change(self, version, state, extra):
        """An instance of this class with the attributes of the one before: that one stays what it is, if this fails."""
        made = self.kind.__new__(self.kind)
        for kind in type(state).__mro__:
            for slot in slots_of(kind):
                if hasattr(state, slot):
                    object.__setattr__(made, slot, getattr(state, slot))
        if hasattr(state, "__dict__"):
            made.__dict__.update(state.__dict__)
        if hasattr(made, "code_change"):
            settled(made.code_change(version, extra))
        return made

    def format_status(self, status):
        made = status["state"]
        shown = {**status, "state": getattr(made, "__dict__", made)}
        own = getattr(made, "format_status", None)
        return shown if own is None else own(shown)

    cdef Method method(self, kind, request):
        """The method that is asked for."""
        if type(request) is tuple and len(<tuple>request) == 3 and type((<tuple>request)[0]) is str:
            found = self.methods.get((<tuple>request)[0])
            if found is not None and type(found) is kind and type((<tuple>request)[1]) is tuple:
                return <Method>found
        raise NotImplementedError(
            f"expected a {'call' if kind is CallMethod else 'cast'} of {self.kind.__qualname__}, got {request!r}:"
            " use its methods, through a reference"
        )

    cdef object result(self, Method method, tuple first, tuple request):
        return settled(PyObject_Call(method.function, first + <tuple>request[1], <object>request[2] or NO_KEYWORDS))


cdef dict NO_KEYWORDS = {}


cdef tuple slots_of(kind):
    """The attributes of a class's own `__slots__`, private ones by the names that they really have."""
    return tuple([name for name, each in kind.__dict__.items() if type(each) is MemberDescriptorType])


cdef object settled(result):
    """The value of a method: that of an `async def` is awaited."""
    return here().drive(result) if type(result) is CoroutineType else result


def terminated(reason, state):
    """The actor cleans up."""
    return state.terminate(reason)


Actor._served_by = Served
use_actors(Actor, ActorRef)

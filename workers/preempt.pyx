# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The tick: the timer signal that lets the scheduler take the processor from a process, and where it must not.

    timer (SIGEV_THREAD_ID) -> C handler of CPython: a flag -> at the next bytecode: `scheduler.on_tick` -> `Tick.place` -> cut

The signal is SIGRTMAX: CPython calls the handlers of pending signals in the order of their numbers, so no other one is left
waiting in a handler that switches away. It doesn't restart system calls (no SA_RESTART): a process that waits for a
`threading.Lock` held by a preempted one is interrupted too, and then the holder runs.

Where a process must not be cut:

* below a frame of a shared object that is neither CPython's, the standard library's nor ours: many native libraries don't expect to
  be entered again, from another stack, while they wait for a callback;
* inside an import: others would see half-made modules;
* inside a `__del__`: whoever was interrupted by it doesn't expect others to run;
* in code of `threading`, `queue`, `logging` and of the engine, which may hold a lock: unless it stands there waiting for one, or
  won't leave such code.
"""
cimport cython
from cpython.object cimport PyObject

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dlfcn.h>
    #include <errno.h>
    #include <link.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    #include <unwind.h>
    #include <sys/syscall.h>

    #ifndef sigev_notify_thread_id
    #define sigev_notify_thread_id _sigev_un._tid
    #endif

    static int pa_timer_make(void **timer) {
        struct sigevent event;
        timer_t made;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMAX;
        event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
        if (timer_create(CLOCK_MONOTONIC, &event, &made) != 0)
            return errno;
        *timer = (void *)made;
        return 0;
    }
    static int pa_timer_set(void *timer, int64_t ns) {
        struct itimerspec spec;
        spec.it_value.tv_sec = spec.it_interval.tv_sec = ns / 1000000000LL;
        spec.it_value.tv_nsec = spec.it_interval.tv_nsec = ns % 1000000000LL;
        return timer_settime((timer_t)timer, 0, &spec, NULL) ? errno : 0;
    }
    static int pa_timer_delete(void *timer) { return timer_delete((timer_t)timer); }

    static int pa_sigrtmax(void) { return SIGRTMAX; }
    static uintptr_t pa_sp(void) { return (uintptr_t)__builtin_frame_address(0); }

    /* Shared objects whose frames may be switched away from, and those that may not. Objects stay mapped, as a rule; one that was
       unloaded leaves a range that nothing points into. */
    #define PA_OBJECTS 256
    typedef struct { uintptr_t start, end; int trusted; const char *name; } pa_object;
    static pa_object pa_objects[PA_OBJECTS];
    static int pa_object_count = 0;
    static const char *pa_prefixes[16];
    static int pa_prefix_count = 0;

    typedef struct { uintptr_t ip, python; pa_object found; } pa_search;

    static int pa_look(struct dl_phdr_info *info, size_t size, void *data) {
        pa_search *search = data;
        (void)size;
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const ElfW(Phdr) *h = &info->dlpi_phdr[i];
            uintptr_t start = info->dlpi_addr + h->p_vaddr, end = start + h->p_memsz;
            if (h->p_type != PT_LOAD || search->ip < start || search->ip >= end)
                continue;
            const char *name = info->dlpi_name ? info->dlpi_name : "";
            int trusted = search->python >= start && search->python < end;
            for (int k = 0; k < pa_prefix_count && !trusted; k++)
                trusted = strncmp(name, pa_prefixes[k], strlen(pa_prefixes[k])) == 0;
            search->found.start = start;
            search->found.end = end;
            search->found.trusted = trusted;
            search->found.name = name;
            return 1;
        }
        return 0;
    }

    static const pa_object *pa_object_of(uintptr_t ip) {
        static pa_object unknown = { 0, 0, 0, "code made at run time" };
        for (int i = 0; i < pa_object_count; i++)
            if (ip >= pa_objects[i].start && ip < pa_objects[i].end)
                return &pa_objects[i];
        pa_search search = { ip, (uintptr_t)&PyEval_EvalCode, { 0, 0, 0, NULL } };
        if (!dl_iterate_phdr(pa_look, &search))
            return &unknown;
        /* Full: begin again. Only speed depends on it. */
        if (pa_object_count == PA_OBJECTS) pa_object_count = 0;
        pa_objects[pa_object_count] = search.found;
        return &pa_objects[pa_object_count++];
    }

    typedef struct { uintptr_t base; int reached; const char *foreign; } pa_walk;

    static _Unwind_Reason_Code pa_step(struct _Unwind_Context *context, void *data) {
        pa_walk *walk = data;
        if (_Unwind_GetCFA(context) > walk->base) {
            walk->reached = 1;
            return _URC_END_OF_STACK;
        }
        /* A return address stands behind the call: one less is inside it. */
        const pa_object *object = pa_object_of(_Unwind_GetIP(context) - 1);
        if (!object->trusted) {
            walk->foreign = object->name;
            return _URC_END_OF_STACK;
        }
        return _URC_NO_REASON;
    }

    /* The shared object of the innermost native frame between here and `base`, or NULL. */
    static const char *pa_foreign(uintptr_t base) {
        pa_walk walk = { base, 0, NULL };
        _Unwind_Backtrace(pa_step, &walk);
        if (walk.foreign == NULL && !walk.reached)
            return "code that can't be unwound";
        return walk.foreign;
    }
    """
    int pa_timer_make(void **) nogil
    int pa_timer_set(void *, int64_t) nogil
    int pa_timer_delete(void *) nogil
    int pa_sigrtmax() nogil
    uintptr_t pa_sp() nogil
    const char *pa_foreign(uintptr_t) nogil
    const char **pa_prefixes
    int pa_prefix_count

cdef extern from "Python.h":
    ctypedef struct PyFrameObject:
        pass
    ctypedef struct PyCodeObject:
        PyObject *co_filename
        PyObject *co_name
    PyFrameObject *PyFrame_GetBack(PyFrameObject *)
    PyCodeObject *PyFrame_GetCode(PyFrameObject *)
    void Py_DECREF(void *)
    void Py_INCREF(void *)

TICK_SIGNAL = pa_sigrtmax()

cdef enum File:
    USER = 0
    STDLIB = 1
    LOCKS = 2           # code that may hold a lock
    IMPORTS = 3
    LOGS = 4            # holds its lock while it calls user code
    LOOPS = 5           # asyncio's machinery
    WEAK = 6            # has callbacks of weak references

cdef uintptr_t SLACK = 128      # bytes: less than any native frame and the interpreter's own below it need
cdef str DEL = "__del__"
cdef tuple REMOVE = ("_remove", "remove")       # an exception ends there, as in a finalizer


@cython.final
cdef class Tick:
    """The timer of one scheduler's thread (one per OS process), and the rules of where a process may be cut.

    Args:
        stdlib: the folders of the standard library's modules.
        trusted: where shared objects lie that may be switched away from, as prefixes of their paths.
        locks: other folders with code that may hold a lock.

    Source: timer_create(2), SIGEV_THREAD_ID; the preemption of Go 1.14 works by the same means.
    """

    def __cinit__(self, stdlib, trusted, locks):
        global pa_prefix_count
        cdef int failed
        self.files = {}
        for folder in stdlib:
            for name in ("threading.py", "queue.py", "concurrent/futures/thread.py", "concurrent/futures/_base.py"):
                self.files[f"{folder}/{name}"] = LOCKS
            self.files[f"{folder}/logging/__init__.py"] = LOGS
            for name in ("_weakrefset.py", "weakref.py"):
                self.files[f"{folder}/{name}"] = WEAK
            for name in ("base_events.py", "events.py", "selector_events.py"):
                self.files[f"{folder}/asyncio/{name}"] = LOOPS
        for name in ("importlib._bootstrap", "importlib._bootstrap_external", "zipimport"):
            self.files[f"<frozen {name}>"] = IMPORTS
        self.files["\0"] = (tuple(f"{folder}/" for folder in stdlib), tuple(f"{folder}/" for folder in locks))
        self.prefixes = [prefix.encode() for prefix in trusted][:16]
        pa_prefix_count = 0
        for prefix in self.prefixes:
            pa_prefixes[pa_prefix_count] = <bytes>prefix
            pa_prefix_count += 1
        failed = pa_timer_make(&self.timer)
        if failed:
            raise OSError(failed, "timer_create failed: is the limit of pending signals (`ulimit -i`) used up?")
        self.made = True
        # The unwinder loads its library at its first use: not in a handler.
        pa_foreign(0)

    def __dealloc__(self):
        if self.made:
            pa_timer_delete(self.timer)

    cdef int arm(self, int64_t ns) except -1:
        """From now on a tick every `ns`, the first in `ns`."""
        cdef int failed = pa_timer_set(self.timer, ns)
        if failed:
            raise OSError(failed, "timer_settime failed")
        self.armed = ns != 0
        return 0

    cdef int disarm(self) except -1:
        """No ticks any more (one that is on its way may still come)."""
        return self.arm(0)

    cdef int file_of(self, object name) except -1:
        """What the code of this file is: learnt once per file."""
        found = self.files.get(name)
        if found is None:
            stdlib, locks = self.files["\0"]
            if name.startswith(locks):
                found = LOCKS
            elif name.startswith("<frozen ") or name.startswith(stdlib) and "/site-packages/" not in name:
                found = STDLIB
            else:
                found = USER
            if len(self.files) > 10_000:
                return found        # code made on the fly, each with a name of its own
            self.files[name] = found
        return found

    cdef int place(self, object frame, uintptr_t base, const char **foreign) except -1:
        """Where the running process stands: `frame` is its innermost one (None: it has none), `base` the C stack where it begins.

        `foreign` (may be NULL) is set to the path of the native library for IN_NATIVE.
        """
        cdef PyFrameObject *f = <PyFrameObject *>frame
        cdef PyFrameObject *back
        cdef PyCodeObject *code
        cdef bint outer = False
        cdef int file, found = CUTTABLE
        cdef uintptr_t depth
        cdef const char *library
        if frame is None:
            return IN_NATIVE        # compiled code alone, which looks for signals: a server's, while it makes the repr() of a state
        Py_INCREF(f)
        while f != NULL:
            code = PyFrame_GetCode(f)
            file = self.file_of(<object>code.co_filename)
            if <object>code.co_name == DEL or file == WEAK and <object>code.co_name in REMOVE:
                found = IN_DEL
            Py_DECREF(code)
            if file == IMPORTS:
                found = IN_IMPORT
            elif file == LOGS or file == LOCKS and not outer:
                if found < IN_LOCK:
                    found = IN_LOCK
            elif file == LOOPS and not outer:
                if found == CUTTABLE:
                    found = IN_LOOP
            elif file == USER:
                outer = True
            if found >= IN_IMPORT:
                Py_DECREF(f)
                return found
            back = PyFrame_GetBack(f)
            Py_DECREF(f)
            f = back
        depth = base - pa_sp()
        if self.plain == 0 or depth > self.plain + SLACK:
            library = pa_foreign(base)
            if library != NULL:
                if foreign != NULL:
                    foreign[0] = library
                return IN_NATIVE
        return found

    cdef int calibrate(self, uintptr_t base) except -1:
        """Called like `place`, in plain Python code: how much C stack that takes."""
        self.plain = base - pa_sp()
        return 0

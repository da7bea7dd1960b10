# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A thread that ends this OS process when another one (the root) is dead. It never takes the GIL (S9.3).

    boot.py: start(pidfd of the root)  ->  thread: poll(root, stop)  ->  SIGKILL to ourselves
                                                                     ->  stop(): the thread returns, joined

A worker may sit in a native call that holds the GIL when the root dies: no Python code runs then, no signal handler, no
thread of Python's. So this is a bare pthread: it sleeps in `poll`, touches no Python object, and has all signals blocked (a handler
of the user's, a profiler's for instance, must not run on its small stack, and Python's must run on the main thread).

How it ends the process: by SIGKILL. `exit()` would run atexit handlers and flush stdio while other threads run, and may
wait for ever on a lock that one of them holds; SIGTERM may be blocked or handled. `_exit` is as immediate, but it looks
like an ordinary exit to whoever reaps us; SIGKILL says that the worker didn't end by itself. `_exit` comes second, for
where a process can't SIGKILL itself: as PID 1 of a container.

Not PR_SET_PDEATHSIG: it follows the *thread* that forked us, and the forkserver, not the root, is our parent.
"""
from libc.string cimport strerror

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <unistd.h>
    #include <sys/eventfd.h>
    #include <sys/syscall.h>

    static int pa_watched = -1, pa_stop = -1;
    static pid_t pa_owner = 0;               /* 0: no thread runs. Another pid than ours: it ran in the process that forked us. */
    static pthread_t pa_thread;

    static void *pa_watch(void *unused) {
        struct pollfd fds[2];
        (void)unused;
        fds[0].fd = pa_watched;
        fds[1].fd = pa_stop;
        fds[0].events = fds[1].events = POLLIN;
        for (;;) {
            fds[0].revents = fds[1].revents = 0;
            if (poll(fds, 2, -1) < 0)
                continue;                    /* EINTR: after SIGSTOP and SIGCONT */
            if (fds[1].revents)
                return NULL;                 /* before the other: whoever calls stop() is ending in good order */
            if (fds[0].revents & POLLIN) {
                /* The system call itself: nothing that somebody may have put before it in libc. */
                syscall(SYS_kill, getpid(), SIGKILL);
                for (;;)
                    _exit(128 + SIGKILL);
            }
            if (fds[0].revents)
                fds[0].fd = -1;              /* POLLNVAL: somebody has closed our descriptor; don't spin on it */
        }
    }

    static void pa_forget(void) {
        if (pa_watched >= 0) close(pa_watched);
        if (pa_stop >= 0) close(pa_stop);
        pa_watched = pa_stop = -1;
        pa_owner = 0;
    }

    static int pa_watching(void) { return pa_owner == getpid(); }

    /* 0 or an errno */
    static int pa_start(int pidfd) {
        sigset_t all, before;
        pthread_attr_t attr;
        int err;
        if (pa_owner != 0)
            pa_forget();                     /* a forked child: its descriptors are copies, the thread isn't there */
        pa_watched = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
        if (pa_watched < 0)
            return errno;
        pa_stop = eventfd(0, EFD_CLOEXEC);
        if (pa_stop < 0) {
            err = errno;
            pa_forget();
            return err;
        }
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 128 * 1024);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        err = pthread_create(&pa_thread, &attr, pa_watch, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
        if (err) {
            pa_forget();
            return err;
        }
        pthread_setname_np(pa_thread, "pa-watcher");
        pa_owner = getpid();
        return 0;
    }

    static void pa_end(void) {
        uint64_t one = 1;
        if (pa_owner == getpid()) {
            while (write(pa_stop, &one, 8) < 0 && errno == EINTR) {}
            pthread_join(pa_thread, NULL);
        }
        pa_forget();
    }
    """
    bint pa_watching() noexcept nogil
    int pa_start(int pidfd) noexcept nogil
    void pa_end() noexcept nogil


def start(int pidfd):
    """End this OS process at once when the process behind `pidfd` has ended. Returns at once.

    >>> import os
    >>> pidfd = os.pidfd_open(os.getppid())
    >>> start(pidfd); os.close(pidfd)                # the watcher keeps a copy of the descriptor
    >>> stop()

    Args:
        pidfd: from `os.pidfd_open`, made while the process was known to live. It may be closed afterwards. If the process
            has ended already, this one ends right now.

    Raises:
        RuntimeError: a watcher runs already: call `stop` first.
        OSError: `pidfd` isn't open, or no thread can be started.

    After a fork the child has no watcher: call `start` in it.
    """
    if pa_watching():
        raise RuntimeError("this OS process has a watcher already: call stop() first")
    cdef int err = pa_start(pidfd)
    if err:
        raise OSError(err, f"can't watch descriptor {pidfd}: {strerror(err).decode()}")


def stop():
    """End the watcher and wait for its thread. Without one: does nothing."""
    with nogil:
        pa_end()

# cython: language_level=3
"""Memory for the Python frames of processes.

CPython keeps a thread's frames in chunks of 16 KB, each from the arena allocator: an `mmap`, and a `munmap` at the end. Here every
process that waits on a stack has a chunk of its own, so a hundred thousand of them are as many system calls, and when they die in no
order, as many mappings as the kernel allows (`vm.max_map_count`). `install` puts an allocator before CPython's (PyObject_SetArenaAllocator)
that takes chunks from one reserved range, and hands the warmest free one out first.

What the range gives is never given back as a mapping; beyond some free chunks their pages are (`MADV_DONTNEED`).
"""

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <sys/mman.h>

    #define PA_CHUNK (16 * 1024)
    #define PA_WARM 2048                        /* free chunks that keep their pages: 8 to 32 MB */

    static PyObjectArenaAllocator pa_default;
    static char *pa_range = NULL, *pa_fresh, *pa_range_end;
    static void **pa_free = NULL;               /* a stack; those below pa_cold have given their pages back */
    static size_t pa_free_count = 0, pa_free_room = 0, pa_in_use = 0;

    static void *pa_chunk_alloc(void *ctx, size_t size) {
        (void)ctx;
        if (size == PA_CHUNK) {
            if (pa_free_count) {
                pa_in_use++;
                return pa_free[--pa_free_count];
            }
            /* Room to free it is made now: a free can't fail. */
            if (pa_in_use + 1 > pa_free_room) {
                size_t room = pa_free_room ? pa_free_room * 2 : 4096;
                void **grown = realloc(pa_free, room * sizeof(void *));
                if (grown == NULL)
                    return NULL;
                pa_free = grown;
                pa_free_room = room;
            }
            if (pa_fresh < pa_range_end) {
                void *chunk = pa_fresh;
                pa_fresh += PA_CHUNK;
                pa_in_use++;
                return chunk;
            }
        }
        return pa_default.alloc(pa_default.ctx, size);
    }

    static void pa_chunk_free(void *ctx, void *chunk, size_t size) {
        (void)ctx;
        if ((char *)chunk < pa_range || (char *)chunk >= pa_range_end) {
            pa_default.free(pa_default.ctx, chunk, size);
            return;
        }
        pa_in_use--;
        if (pa_free_count >= PA_WARM)
            madvise(chunk, PA_CHUNK, MADV_DONTNEED);
        pa_free[pa_free_count++] = chunk;
    }

    /* Bytes reserved, or 0: CPython's own allocator stays. */
    static size_t pa_chunks_install(size_t size) {
        PyObjectArenaAllocator ours = { NULL, pa_chunk_alloc, pa_chunk_free };
        void *range;
        if (pa_range != NULL)
            return 0;
        for (; size >= ((size_t)1 << 28); size /= 2) {
            range = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (range == MAP_FAILED)
                continue;
            /* A huge page under 128 chunks would make all of each resident. */
            madvise(range, size, MADV_NOHUGEPAGE);
            madvise(range, size, MADV_DONTDUMP);
            pa_range = pa_fresh = range;
            pa_range_end = pa_range + size / PA_CHUNK * PA_CHUNK;
            PyObject_GetArenaAllocator(&pa_default);
            PyObject_SetArenaAllocator(&ours);
            return size;
        }
        return 0;
    }
    static size_t pa_chunks_in_use(void) { return pa_in_use; }
    """
    size_t pa_chunks_install(size_t)
    size_t pa_chunks_in_use()


def install(size_t reserve=1 << 36):
    """Take chunks for frames from a range of their own from now on. Once per OS process, for good.

    Args:
        reserve: bytes of addresses (not of memory), 16 KB for each process that waits on a stack at the same time. Halved until the
            machine allows it; beyond the range CPython's own allocator is used.

    Returns the bytes that were reserved; 0 if there were none to be had (a limit of addresses, RLIMIT_AS): then everything stays as
    it was.

    >>> install() >= 0
    True
    """
    return pa_chunks_install(reserve)


def in_use():
    """Chunks of the range that hold frames now."""
    return pa_chunks_in_use()

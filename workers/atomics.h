/* Atomic access to shared memory, by the compilers' __atomic builtins (GCC, Clang; x86-64, arm64).
 *
 * Only segment.pyx, ring.pyx, names.pyx, steal.pyx, arena.pyx and cells.pyx use it. Every word that another OS process may touch at the same time goes
 * through here: a plain C access could be torn, cached in a register or moved by the compiler. The names say the C11 order;
 * what pairs with what stands at the callers.
 */
#ifndef PARALLEL_ACTORS_ATOMICS_H
#define PARALLEL_ACTORS_ATOMICS_H

#include <stdint.h>

static inline uint8_t pa_ld8_acquire(const void *p) { return __atomic_load_n((const uint8_t *)p, __ATOMIC_ACQUIRE); }
static inline void pa_st8_release(void *p, uint8_t v) { __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELEASE); }
static inline uint32_t pa_ld32_relaxed(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
static inline uint32_t pa_ld32_acquire(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
static inline void pa_st32_relaxed(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void pa_st32_release(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
static inline uint32_t pa_xchg32(void *p, uint32_t v) { return __atomic_exchange_n((uint32_t *)p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t pa_add32(void *p, uint32_t v) { return __atomic_fetch_add((uint32_t *)p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t pa_or32(void *p, uint32_t v) { return __atomic_fetch_or((uint32_t *)p, v, __ATOMIC_SEQ_CST); }
static inline int pa_cas32(void *p, uint32_t old, uint32_t v) {
    return __atomic_compare_exchange_n((uint32_t *)p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline uint64_t pa_ld64_relaxed(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
static inline uint64_t pa_ld64_acquire(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
static inline uint64_t pa_ld64_seq(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST); }
static inline uint64_t pa_add64_relaxed(void *p, uint64_t v) { return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline void pa_st64_relaxed(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline void pa_st64_release(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
static inline uint64_t pa_xchg64(void *p, uint64_t v) { return __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t pa_add64(void *p, uint64_t v) { return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t pa_or64(void *p, uint64_t v) { return __atomic_fetch_or((uint64_t *)p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t pa_and64(void *p, uint64_t v) { return __atomic_fetch_and((uint64_t *)p, v, __ATOMIC_SEQ_CST); }
static inline int pa_cas64(void *p, uint64_t old, uint64_t v) {
    return __atomic_compare_exchange_n((uint64_t *)p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* The full fence between a store and a later load of another word (Dekker: the wake-up, a guest going live). */
static inline void pa_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
/* A reader of a version-checked entry: what was loaded before stays before what is loaded after. */
static inline void pa_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void pa_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

#endif

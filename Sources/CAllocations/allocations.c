// Counts allocations by standing in for the C library's functions, in every process that links this.

#include "CAllocations.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

// A thread's number and its count, which stay when the thread has ended. Whoever comes when all are taken shares the last.
#define SLOTS 4096
static struct slot {
    _Alignas(64) _Atomic int32_t thread;
    _Atomic uint64_t count;
} slots[SLOTS];
static _Atomic uint32_t taken;
static _Thread_local struct slot *own;

int32_t number_of_this_thread(void) { return (int32_t)syscall(SYS_gettid); }

static struct slot *take(void) {
    uint32_t position = atomic_fetch_add(&taken, 1);
    own = &slots[position < SLOTS ? position : SLOTS - 1];
    atomic_store(&own->thread, number_of_this_thread());
    return own;
}

static inline struct slot *slot_of_this_thread(void) { return own != NULL ? own : take(); }

// Only its own thread writes a count.
static inline void note(void) {
    struct slot *slot = slot_of_this_thread();
    uint64_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    atomic_store_explicit(&slot->count, count + 1, memory_order_relaxed);
}

uint64_t allocations_of_this_thread(void) {
    return atomic_load_explicit(&slot_of_this_thread()->count, memory_order_relaxed);
}

uint64_t allocations_of_thread(int32_t thread) {
    uint64_t sum = 0;
    uint32_t count = atomic_load(&taken);
    for (uint32_t position = 0; position < count && position < SLOTS; position++) {
        if (atomic_load(&slots[position].thread) == thread) sum += atomic_load(&slots[position].count);
    }
    return sum;
}

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)

bool allocations_are_counted(void) { return false; }

#else

bool allocations_are_counted(void) { return true; }

// glibc's own functions under their second names; what they return is for its free, which stays as it is
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t number, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    note();
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    note();
    return __libc_calloc(number, size);
}

void *realloc(void *block, size_t size) {
    note();
    return __libc_realloc(block, size);
}

void *memalign(size_t alignment, size_t size) {
    note();
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) return EINVAL;
    void *memory = memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *block = memory;
    return 0;
}

#endif

#ifndef CALLOCATIONS_H
#define CALLOCATIONS_H

#include <stdint.h>

/// How many blocks of memory the calling thread has asked for: every call of malloc, calloc, realloc and their aligned
/// kin, by whatever library. Stays at zero in a build with a sanitizer, which brings its own allocator.
uint64_t allocations_of_this_thread(void);

#endif

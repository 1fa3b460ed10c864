#ifndef CALLOCATIONS_H
#define CALLOCATIONS_H

#include <stdbool.h>
#include <stdint.h>

/// Whether allocations are counted: not in a build with a sanitizer, which brings its own allocator.
bool allocations_are_counted(void);

/// How many blocks of memory the calling thread has asked for: every call of malloc, calloc, realloc and their aligned
/// kin, by whatever library.
uint64_t allocations_of_this_thread(void);

/// The same of the thread with this number, and of those that had it before.
uint64_t allocations_of_thread(int32_t thread);

/// The number of the calling thread, as in /proc/self/task.
int32_t number_of_this_thread(void);

#endif

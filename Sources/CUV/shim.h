#include <sys/prctl.h>
#include <uv.h>

/* prctl is variadic, which Swift cannot call. At most 15 bytes of the name are kept. */
static inline void cuv_name_this_thread(const char *name) { (void)prctl(PR_SET_NAME, name, 0, 0, 0); }

/* Checks that stay on in release builds, and the few macros everything uses. */

#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include <assert.h> /* static_assert */
#include <stddef.h>

/*
 * A failed check is a bug in this program. Bad input and bad disks are errors
 * and are returned; they never come here. A node that stops is a fault the
 * cluster is built to survive, a node that goes on with broken state is not.
 */
#define check(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__, __func__))

/* For the place that no execution may reach. */
#define never(why) check_failed(why, __FILE__, __LINE__, __func__)

_Noreturn void check_failed(const char *cond, const char *file, int line, const char *func);

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif /* BASE_CHECK_H */

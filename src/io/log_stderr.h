/* The log sink of a process: each line is one write() to stderr, times are the machine's clock. Any
 * thread may log. */

#ifndef IO_LOG_STDERR_H
#define IO_LOG_STDERR_H

#include "base/log.h"

struct log_sink *log_stderr(void);

#endif /* IO_LOG_STDERR_H */

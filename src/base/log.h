/*
 * Log lines on stderr: `ts=… level=… node=… sub=… msg="…" k=v …`, one write each, at most
 * 50 lines a second per call site (the number left out is told). The clock and
 * the sink are set by whoever runs the process (base/ calls neither); the
 * simulator sets virtual time and its own sink. log_level and the sink are set before threads
 * start.
 */

#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_site {
    uint64_t second;
    uint32_t count;
    uint32_t dropped;
};

struct log_sink {
    void (*write)(struct log_sink *sink, const char *line, uint32_t len);
    uint64_t (*wall_us)(struct log_sink *sink);
};

void log_set(struct log_sink *sink, enum log_level level, const char *node);
bool log_enabled(enum log_level level);

/* `sub`: the subsystem ("osd.3", "raft", "nbd"). The format's text is the message; write pairs as `
 * key=value` after it. */
void log_line(struct log_site *site, enum log_level level, const char *sub, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A site's counters are approximate when two threads share it; that only changes when it is
 * rate-limited. */
#define LOG_AT(level, sub, ...)                            \
    do {                                                   \
        static _Thread_local struct log_site site_;        \
        if (log_enabled(level))                            \
            log_line(&site_, (level), (sub), __VA_ARGS__); \
    } while (0)

#define log_debug(sub, ...) LOG_AT(LOG_DEBUG, sub, __VA_ARGS__)
#define log_info(sub, ...)  LOG_AT(LOG_INFO, sub, __VA_ARGS__)
#define log_warn(sub, ...)  LOG_AT(LOG_WARN, sub, __VA_ARGS__)
#define log_error(sub, ...) LOG_AT(LOG_ERROR, sub, __VA_ARGS__)

#endif /* BASE_LOG_H */

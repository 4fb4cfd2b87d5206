#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

enum { LINE_SIZE = 1024, TEXT_SIZE = 768, LINES_PER_SECOND_MAX = 50 };

static struct {
    struct log_sink *sink; /* NULL: lines are dropped */
    enum log_level level;
    char node[64];
} log_state = {.level = LOG_INFO, .node = "-"};

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug",
    [LOG_INFO] = "info",
    [LOG_WARN] = "warn",
    [LOG_ERROR] = "error",
};

void log_set(struct log_sink *sink, enum log_level level, const char *node)
{
    log_state.sink = sink;
    log_state.level = level;
    if (node == NULL || !str_copy(log_state.node, sizeof(log_state.node), node) || node[0] == '\0')
        str_copy(log_state.node, sizeof(log_state.node), "-");
}

bool log_enabled(enum log_level level)
{
    return log_state.sink != NULL && level >= log_state.level;
}

/* A line under construction; what does not fit is left off, the newline always fits. */
struct line {
    char text[LINE_SIZE];
    uint32_t len;
};

static void line_put_char(struct line *line, char c)
{
    if (line->len < LINE_SIZE - 1)
        line->text[line->len++] = c;
}

/* One line stays one line, and one field one field, whatever a foreign name contains. */
static void line_put_escaped(struct line *line, const char *s, size_t len, bool quoted)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c == 0x7f) {
            line_put_char(line, '\\');
            line_put_char(line, 'x');
            line_put_char(line, "0123456789abcdef"[c >> 4]);
            line_put_char(line, "0123456789abcdef"[c & 15]);
            continue;
        }
        if (quoted && (c == '"' || c == '\\'))
            line_put_char(line, '\\');
        line_put_char(line, (char)c);
    }
}

static void line_put(struct line *line, const char *s)
{
    line_put_escaped(line, s, strlen(s), false);
}

/* True when `s` begins with ` key=`. */
static bool pair_begins(const char *s)
{
    if (*s++ != ' ')
        return false;

    const char *key = s;
    while ((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_')
        s++;
    return s > key && *s == '=';
}

static void line_put_text(struct line *line, const char *text)
{
    size_t message_len = 0;

    while (text[message_len] != '\0' && !pair_begins(text + message_len))
        message_len++;
    line_put(line, " msg=\"");
    line_put_escaped(line, text, message_len, true);
    line_put(line, "\"");
    line_put(line, text + message_len);
}

static void line_put_time(struct line *line, uint64_t wall_us)
{
    char text[64];
    struct tm tm;
    time_t seconds = (time_t)(wall_us / 1000000);

    gmtime_r(&seconds, &tm);
    snprintf(text, sizeof(text), "ts=%04d-%02d-%02dT%02d:%02d:%02d.%06uZ", tm.tm_year + 1900,
             tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
             (unsigned)(wall_us % 1000000));
    line_put(line, text);
}

/* False: this line is one too many. Otherwise `left_out` tells how many were. */
static bool site_may_speak(struct log_site *site, uint64_t second, uint32_t *left_out)
{
    *left_out = 0;
    if (site->second != second) {
        site->second = second;
        site->count = 0;
        *left_out = site->dropped;
        site->dropped = 0;
    }
    if (site->count >= LINES_PER_SECOND_MAX) {
        site->dropped++;
        return false;
    }
    site->count++;
    return true;
}

void log_line(struct log_site *site, enum log_level level, const char *sub, const char *fmt, ...)
{
    struct log_sink *sink = log_state.sink;
    struct line line = {.len = 0};
    char text[TEXT_SIZE];
    uint32_t left_out;
    va_list args;

    if (sink == NULL)
        return;
    uint64_t wall_us = sink->wall_us(sink);
    if (!site_may_speak(site, wall_us / 1000000, &left_out))
        return;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);

    line_put_time(&line, wall_us);
    line_put(&line, " level=");
    line_put(&line, level_names[level]);
    line_put(&line, " node=");
    line_put(&line, log_state.node);
    line_put(&line, " sub=");
    line_put(&line, sub);
    line_put_text(&line, text);
    if (left_out > 0) {
        snprintf(text, sizeof(text), " left_out=%" PRIu32, left_out);
        line_put(&line, text);
    }
    line.text[line.len++] = '\n';
    sink->write(sink, line.text, line.len);
}

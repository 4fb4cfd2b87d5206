#include "gw/problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

static const struct {
    unsigned http_status;
    int exit_code;
} problem_kinds[PROBLEM_KIND_COUNT] = {
    [PROBLEM_NONE] = {200, 0},          [PROBLEM_FAILED] = {500, 1},
    [PROBLEM_USAGE] = {400, 2},         [PROBLEM_NOT_FOUND] = {404, 3},
    [PROBLEM_EXISTS] = {409, 4},        [PROBLEM_NOT_PERMITTED] = {403, 5},
    [PROBLEM_SAFETY] = {428, 6},        [PROBLEM_UNREACHABLE] = {503, 7},
    [PROBLEM_PARTIAL] = {207, 8},       [PROBLEM_TIMED_OUT] = {504, 9},
    [PROBLEM_INTERRUPTED] = {499, 130},
};

static void problem_text(char *dst, const char *fmt, va_list args)
{
    vsnprintf(dst, PROBLEM_TEXT_MAX, fmt, args);
}

int problem_set(struct problem *p, enum problem_kind kind, const char *code, const char *fmt, ...)
{
    check(kind > PROBLEM_NONE && kind < PROBLEM_KIND_COUNT);

    memset(p, 0, sizeof(*p));
    p->kind = kind;
    snprintf(p->code, sizeof(p->code), "%s", code);

    va_list args;
    va_start(args, fmt);
    problem_text(p->message, fmt, args);
    va_end(args);
    return -1;
}

void problem_why(struct problem *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    problem_text(p->why, fmt, args);
    va_end(args);
}

void problem_action(struct problem *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    problem_text(p->action, fmt, args);
    va_end(args);
}

unsigned problem_http_status(enum problem_kind kind)
{
    check(kind < PROBLEM_KIND_COUNT);
    return problem_kinds[kind].http_status;
}

int problem_exit_code(enum problem_kind kind)
{
    check(kind < PROBLEM_KIND_COUNT);
    return problem_kinds[kind].exit_code;
}

enum problem_kind problem_of_http(unsigned status)
{
    for (int kind = PROBLEM_FAILED; kind < PROBLEM_KIND_COUNT; kind++)
        if (problem_kinds[kind].http_status == status)
            return (enum problem_kind)kind;
    if (status == 405)
        return PROBLEM_USAGE;
    return status >= 200 && status < 300 ? PROBLEM_NONE : PROBLEM_FAILED;
}

enum problem_kind problem_of_errno(int error)
{
    switch (error) {
    case 0:
        return PROBLEM_NONE;
    case -EINVAL:
    case -ERANGE:
        return PROBLEM_USAGE;
    case -ENOENT:
        return PROBLEM_NOT_FOUND;
    case -EEXIST:
        return PROBLEM_EXISTS;
    case -EPERM:
    case -EACCES:
        return PROBLEM_NOT_PERMITTED;
    case -EAGAIN:
    case -EPIPE:
    case -ECONNREFUSED:
        return PROBLEM_UNREACHABLE;
    case -ETIMEDOUT:
        return PROBLEM_TIMED_OUT;
    default:
        return PROBLEM_FAILED;
    }
}

/* A text may quote anything, and may have been cut in the middle of a character; JSON is UTF-8. */
static json_t *problem_string(const char *text)
{
    char plain[PROBLEM_TEXT_MAX];
    json_t *string = json_string(text);
    if (string != NULL)
        return string;
    snprintf(plain, sizeof(plain), "%s", text);
    for (char *c = plain; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(plain);
}

json_t *problem_to_json(const struct problem *p)
{
    json_t *object = json_object();
    json_object_set_new(object, "code", json_string(p->code));
    json_object_set_new(object, "message", problem_string(p->message));
    json_object_set_new(object, "why", problem_string(p->why));
    json_object_set_new(object, "action", problem_string(p->action));
    return object;
}

static void problem_copy(char *dst, size_t dst_size, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(dst, dst_size, "%s", text != NULL ? text : "");
}

void problem_of_json(struct problem *p, enum problem_kind kind, const json_t *object)
{
    memset(p, 0, sizeof(*p));
    p->kind = kind;
    problem_copy(p->code, sizeof(p->code), object, "code");
    problem_copy(p->message, sizeof(p->message), object, "message");
    problem_copy(p->why, sizeof(p->why), object, "why");
    problem_copy(p->action, sizeof(p->action), object, "action");
    if (p->code[0] == '\0')
        snprintf(p->code, sizeof(p->code), "failed");
    if (p->message[0] == '\0')
        snprintf(p->message, sizeof(p->message), "the node answered with an error and no text");
}

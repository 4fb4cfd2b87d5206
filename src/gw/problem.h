/*
 * What went wrong, for people: a stable code, a sentence each for what, why and what to do. The
 * one place where a kind of failure becomes an HTTP status and a process' exit code, so that the
 * tools and the API cannot disagree (DESIGN.md section 17).
 */

#ifndef GW_PROBLEM_H
#define GW_PROBLEM_H

#include <jansson.h>

enum problem_kind {
    PROBLEM_NONE, /* no problem */
    PROBLEM_FAILED,
    PROBLEM_USAGE,
    PROBLEM_NOT_FOUND,
    PROBLEM_EXISTS,
    PROBLEM_NOT_PERMITTED,
    PROBLEM_SAFETY, /* it would destroy something, and nobody said --yes */
    PROBLEM_UNREACHABLE,
    PROBLEM_PARTIAL,
    PROBLEM_TIMED_OUT,
    PROBLEM_INTERRUPTED,
    PROBLEM_KIND_COUNT
};

enum { PROBLEM_TEXT_MAX = 400, PROBLEM_CODE_MAX = 40 };

struct problem {
    enum problem_kind kind;
    char code[PROBLEM_CODE_MAX]; /* snake_case, stable */
    char message[PROBLEM_TEXT_MAX];
    char why[PROBLEM_TEXT_MAX];
    char action[PROBLEM_TEXT_MAX];
};

/* Fill it in; texts that are too long are cut. `fmt` is the message. Returns -1, for `return`. */
int problem_set(struct problem *p, enum problem_kind kind, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void problem_why(struct problem *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void problem_action(struct problem *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

unsigned problem_http_status(enum problem_kind kind);
int problem_exit_code(enum problem_kind kind);

/* The kind that travels as this HTTP status. */
enum problem_kind problem_of_http(unsigned status);

/* The kind a refused command stands for (-errno of meta_result.code). */
enum problem_kind problem_of_errno(int error);

/* {"code", "message", "why", "action"}; and back, whatever the other side sent. */
json_t *problem_to_json(const struct problem *p);
void problem_of_json(struct problem *p, enum problem_kind kind, const json_t *object);

#endif /* GW_PROBLEM_H */

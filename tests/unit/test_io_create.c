/* Which back end loop_create() takes, and what it says: each case in a process of its own, since
 * LOOP_AUTO is decided once, with a seccomp filter for the refusal. */

#include "io/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "io/loop_impl.h"

/* From here on, the system call fails with `err` in this process. */
static bool forbid(uint32_t number, uint32_t err)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(code), .filter = code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static uint32_t lines;
static char last_line[1024];

static void sink_write(struct log_sink *sink, const char *line, uint32_t len)
{
    (void)sink;
    lines++;
    snprintf(last_line, sizeof(last_line), "%.*s", (int)len, line);
}

static uint64_t sink_wall_us(struct log_sink *sink)
{
    (void)sink;
    return 0;
}

static bool create_gives(enum loop_kind kind, const char *name)
{
    struct loop *l;

    if (loop_create(&l, kind, 4) != 0)
        return false;
    bool same = strcmp(l->backend->name, name) == 0;
    loop_destroy(l);
    return same;
}

/* The number of the first line that does not hold; 0: all do. */
#define EXPECT(condition)    \
    do {                     \
        if (!(condition))    \
            return __LINE__; \
    } while (0)

static int refused(uint32_t number, uint32_t err, const char *name)
{
    static struct log_sink sink = {.write = sink_write, .wall_us = sink_wall_us};
    struct loop *l;

    log_set(&sink, LOG_INFO, "test");
    EXPECT(forbid(number, err));
    EXPECT(create_gives(LOOP_AUTO, "uv"));
    EXPECT(lines == 1);
    EXPECT(strstr(last_line, "level=warn") != NULL && strstr(last_line, name) != NULL);
    EXPECT(create_gives(LOOP_AUTO, "uv"));
    EXPECT(lines == 1);
    EXPECT(create_gives(LOOP_UV, "uv"));
    EXPECT(loop_create(&l, LOOP_URING, 4) == -(int)err && l == NULL);
    return 0;
}

static int refused_with_eperm(void)
{
    return refused(SYS_io_uring_setup, EPERM, "error=EPERM");
}

static int refused_with_enosys(void)
{
    return refused(SYS_io_uring_setup, ENOSYS, "error=ENOSYS");
}

/* A ring that can be made and not used is no ring. */
static int refused_when_used(void)
{
    return refused(SYS_io_uring_enter, EACCES, "error=EACCES");
}

static int short_of_descriptors(void)
{
    struct loop *l;

    EXPECT(forbid(SYS_io_uring_setup, EMFILE));
    EXPECT(loop_create(&l, LOOP_AUTO, 4) == -EMFILE && l == NULL);
    return 0;
}

static int not_refused(void)
{
    static struct log_sink sink = {.write = sink_write, .wall_us = sink_wall_us};

    log_set(&sink, LOG_INFO, "test");
    EXPECT(create_gives(LOOP_AUTO, "uring"));
    EXPECT(create_gives(LOOP_UV, "uv"));
    EXPECT(create_gives(LOOP_AUTO, "uring"));
    EXPECT(lines == 0);
    return 0;
}

/* Exit codes have eight bits: the line goes through a pipe. */
static int in_child(int (*fn)(void))
{
    int pipes[2], line = -1, status;

    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        line = fn();
        _exit(write(pipes[1], &line, sizeof(line)) == sizeof(line) ? 0 : 1);
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &line, sizeof(line)), sizeof(line));
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return line;
}

static void where_io_uring_is_refused_libuv_is_taken_and_the_log_says_so_once(void **state)
{
    (void)state;
    assert_int_equal(in_child(refused_with_eperm), 0);
    assert_int_equal(in_child(refused_with_enosys), 0);
    assert_int_equal(in_child(refused_when_used), 0);
}

static void a_shortage_is_no_refusal(void **state)
{
    (void)state;
    assert_int_equal(in_child(short_of_descriptors), 0);
}

static void where_io_uring_works_it_is_taken_and_nothing_is_said(void **state)
{
    struct loop *l;

    (void)state;
    if (loop_create(&l, LOOP_URING, 4) != 0)
        skip();
    loop_destroy(l);
    assert_int_equal(in_child(not_refused), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_io_uring_is_refused_libuv_is_taken_and_the_log_says_so_once),
        cmocka_unit_test(a_shortage_is_no_refusal),
        cmocka_unit_test(where_io_uring_works_it_is_taken_and_nothing_is_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

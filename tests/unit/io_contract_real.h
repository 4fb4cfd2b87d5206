/* The contract of io/loop.h for back ends over a real system: in a folder of its own below the
 * working directory. A test program sets real_kind. */

#ifndef TESTS_UNIT_IO_CONTRACT_REAL_H
#define TESTS_UNIT_IO_CONTRACT_REAL_H

#include "tests/unit/io_contract.h"

#include <ftw.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A file system below this size is filled to the brim (run the test in a small tmpfs). */
enum { SMALL_DISK = 64 << 20 };

struct real_env {
    struct contract_env env; /* first: the contract's tests are given this */
    char dir[64];
    struct loop_timer timers[2];
    bool (*cond)(void *arg);
    void *arg;
    struct loop *running;
};

static struct real_env *real_env;
static enum loop_kind real_kind;

static void real_on_look(struct loop_timer *t)
{
    (void)t;
    loop_stop(real_env->running);
}

/* Each loop in turn, for a moment: so it falls asleep and wakes as it does in a process. */
static bool real_run(struct contract_env *env, bool (*cond)(void *arg), void *arg,
                     uint64_t limit_ns)
{
    struct loop *loops[] = {env->loop, env->other};
    uint64_t end = loop_now(env->loop) + limit_ns;

    while (!cond(arg)) {
        if (loop_now(env->loop) >= end)
            return false;
        for (uint32_t i = 0; i < COUNT_OF(loops); i++) {
            real_env->running = loops[i];
            loop_timer_start(loops[i], &real_env->timers[i], loop_now(loops[i]) + 100000);
            loop_run(loops[i]);
        }
    }
    return true;
}

static uint64_t real_disk_bytes(const char *path)
{
    struct statvfs st;

    assert_int_equal(statvfs(path, &st), 0);
    uint64_t bytes = (uint64_t)st.f_blocks * st.f_frsize;
    return bytes <= SMALL_DISK ? bytes : 0;
}

static int real_setup(void **state)
{
    real_env = calloc(1, sizeof(*real_env));
    struct contract_env *env = &real_env->env;

    strcpy(real_env->dir, "./io_contract.XXXXXX");
    assert_non_null(mkdtemp(real_env->dir));
    env->dir = real_env->dir;
    env->disk_bytes = real_disk_bytes(env->dir);
    assert_true(loop_addr_parse("127.0.0.1:0", &env->addr));
    env->run = real_run;
    assert_int_equal(loop_create(&env->loop, real_kind, 16), 0);
    assert_int_equal(loop_create(&env->other, real_kind, 16), 0);
    loop_timer_init(&real_env->timers[0], real_on_look);
    loop_timer_init(&real_env->timers[1], real_on_look);
    *state = env;
    return 0;
}

static int real_remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int real_teardown(void **state)
{
    struct contract_env *env = *state;

    loop_destroy(env->loop);
    loop_destroy(env->other);
    nftw(real_env->dir, real_remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(real_env);
    return 0;
}

static int real_contract_run(enum loop_kind kind)
{
    const struct CMUnitTest tests[] = {CONTRACT_TESTS(real_setup, real_teardown)};

    real_kind = kind;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif /* TESTS_UNIT_IO_CONTRACT_REAL_H */

/* The contract of io/loop.h, held by the back end over io_uring. */

#include "tests/unit/io_contract.h"

#include <ftw.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A file system below this size is filled to the brim (run the test in a small tmpfs). */
enum { SMALL_DISK = 64 << 20 };

struct uring_env {
    struct contract_env env; /* first: the contract's tests are given this */
    char dir[64];
    struct loop_timer timers[2];
    bool (*cond)(void *arg);
    void *arg;
    struct loop *running;
};

static struct uring_env *uring_env;

static void on_look(struct loop_timer *t)
{
    (void)t;
    loop_stop(uring_env->running);
}

/* Each loop in turn, for a moment: so it falls asleep and wakes as it does in a process. */
static bool uring_env_run(struct contract_env *env, bool (*cond)(void *arg), void *arg,
                          uint64_t limit_ns)
{
    struct loop *loops[] = {env->loop, env->other};
    uint64_t end = loop_now(env->loop) + limit_ns;

    while (!cond(arg)) {
        if (loop_now(env->loop) >= end)
            return false;
        for (uint32_t i = 0; i < COUNT_OF(loops); i++) {
            uring_env->running = loops[i];
            loop_timer_start(loops[i], &uring_env->timers[i], loop_now(loops[i]) + 100000);
            loop_run(loops[i]);
        }
    }
    return true;
}

static uint64_t disk_bytes(const char *path)
{
    struct statvfs st;

    assert_int_equal(statvfs(path, &st), 0);
    uint64_t bytes = (uint64_t)st.f_blocks * st.f_frsize;
    return bytes <= SMALL_DISK ? bytes : 0;
}

static int setup(void **state)
{
    uring_env = calloc(1, sizeof(*uring_env));
    struct contract_env *env = &uring_env->env;

    strcpy(uring_env->dir, "./io_contract.XXXXXX");
    assert_non_null(mkdtemp(uring_env->dir));
    env->dir = uring_env->dir;
    env->disk_bytes = disk_bytes(env->dir);
    assert_true(loop_addr_parse("127.0.0.1:0", &env->addr));
    env->run = uring_env_run;
    assert_int_equal(loop_uring_create(&env->loop, 16), 0);
    assert_int_equal(loop_uring_create(&env->other, 16), 0);
    loop_timer_init(&uring_env->timers[0], on_look);
    loop_timer_init(&uring_env->timers[1], on_look);
    *state = env;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    struct contract_env *env = *state;

    loop_destroy(env->loop);
    loop_destroy(env->other);
    nftw(uring_env->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(uring_env);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {CONTRACT_TESTS(setup, teardown)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

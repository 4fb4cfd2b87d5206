/* The contract of io/loop.h, held by the simulator: the same tests as over io_uring, from several
 * seeds. */

#include "tests/unit/io_contract.h"

#include "io/sim.h"

enum { SEEDS = 20 };

struct sim_env {
    struct contract_env env; /* first: the contract's tests are given this */
    struct sim *sim;
};

static uint64_t seed;

static bool sim_env_run(struct contract_env *env, bool (*cond)(void *arg), void *arg,
                        uint64_t limit_ns)
{
    struct sim *s = ((struct sim_env *)env)->sim;

    return sim_run_until_true(s, cond, arg, sim_now(s) + limit_ns);
}

static int setup(void **state)
{
    struct sim_env *e = calloc(1, sizeof(*e));

    e->env.disk_bytes = 64 << 20;
    e->sim = sim_create(&(struct sim_config){.seed = seed, .host_disk_bytes = e->env.disk_bytes});
    struct sim_host *h = sim_host_create(e->sim, 7);
    e->env.dir = "dir";
    e->env.run = sim_env_run;
    e->env.loop = sim_loop_create(h);
    e->env.other = sim_loop_create(h);
    sim_host_addr(h, 0, &e->env.addr);
    assert_int_equal(loop_dir_create(e->env.loop, e->env.dir), 0);
    *state = &e->env;
    return 0;
}

static int teardown(void **state)
{
    struct sim_env *e = *state;

    loop_destroy(e->env.loop);
    loop_destroy(e->env.other);
    sim_destroy(e->sim);
    free(e);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {CONTRACT_TESTS(setup, teardown)};
    int failed = 0;

    for (seed = 1; seed <= SEEDS && failed == 0; seed++) {
        failed = cmocka_run_group_tests(tests, NULL, NULL);
        if (failed != 0)
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    }
    return failed;
}

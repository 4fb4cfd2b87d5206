/* One server and three, in the simulator, over everything below them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>

#include "io/sim.h"
#include "raft/core.h"

struct machine {
    uint64_t values[64];
    uint32_t count;
    uint32_t leading_calls;
    bool leading;
    int fatal;
};

static void machine_apply(void *arg, uint64_t index, struct slice entry, void **result)
{
    struct machine *m = arg;
    (void)index;
    assert_int_equal(entry.len, 8);
    assert_true(m->count < 64);
    m->values[m->count++] = get_u64(entry.base);
    *result = &m->values[m->count - 1];
}

static int machine_snapshot(void *arg, void **buf, size_t *len)
{
    struct machine *m = arg;
    *len = 8 * (size_t)m->count;
    *buf = malloc(*len + 1);
    for (uint32_t i = 0; i < m->count; i++)
        put_u64((uint8_t *)*buf + 8 * i, m->values[i]);
    return 0;
}

static int machine_restore(void *arg, struct slice s)
{
    struct machine *m = arg;
    m->count = (uint32_t)(s.len / 8);
    for (uint32_t i = 0; i < m->count; i++)
        m->values[i] = get_u64((const uint8_t *)s.base + 8 * i);
    return 0;
}

static void machine_leading(void *arg, bool leading)
{
    struct machine *m = arg;
    m->leading = leading;
    m->leading_calls++;
}

static void machine_fatal(void *arg, const char *what, int error)
{
    struct machine *m = arg;
    (void)what;
    m->fatal = error;
}

static struct raft_core *core_open(struct loop *l, struct machine *m)
{
    struct raft_core_config config = {.loop = l,
                                      .dir = "raft",
                                      .id = 1,
                                      .fsm = {.apply = machine_apply,
                                              .snapshot = machine_snapshot,
                                              .restore = machine_restore,
                                              .leading = machine_leading,
                                              .arg = m},
                                      .fatal = machine_fatal};
    struct raft_core *r;
    assert_int_equal(raft_core_open(&config, &r), 0);
    return r;
}

static uint32_t done_count;
static int done_result;

static void on_done(struct raft_proposal *p)
{
    done_count++;
    done_result = p->result;
}

static bool is_leading(void *arg)
{
    struct machine *m = arg;
    return m->leading;
}

static bool is_done(void *arg)
{
    return done_count == *(uint32_t *)arg;
}

static void a_single_voter_leads_and_keeps_what_it_acknowledged(void **state)
{
    struct sim *s = sim_create(&(struct sim_config){.seed = 1});
    struct sim_host *h = sim_host_create(s, 1);
    struct loop *l = sim_loop_create(h);
    struct machine m = {0};
    struct raft_core *r;
    (void)state;

    assert_int_equal(raft_core_bootstrap(l, "raft", 1), 0);
    assert_int_equal(raft_core_bootstrap(l, "raft", 1), -EEXIST);
    r = core_open(l, &m);
    assert_true(sim_run_until_true(s, is_leading, &m, sim_now(s) + 5 * NS_PER_S));

    struct raft_proposal p[10];
    uint8_t entry[10][8];
    done_count = 0;
    for (uint32_t i = 0; i < 10; i++) {
        put_u64(entry[i], 100 + i);
        p[i] = (struct raft_proposal){.entry = entry[i], .len = 8, .done = on_done};
        raft_core_propose(r, &p[i]);
    }
    uint32_t want = 10;
    assert_true(sim_run_until_true(s, is_done, &want, sim_now(s) + 5 * NS_PER_S));
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(p[i].result, 0);
        assert_int_equal(*(uint64_t *)p[i].apply_result, 100 + i);
    }
    assert_int_equal(m.count, 10);

    sim_host_crash(h, true);
    raft_core_close(r);
    loop_destroy(l);
    l = sim_loop_create(h);
    m = (struct machine){0};
    r = core_open(l, &m);
    assert_true(sim_run_until_true(s, is_leading, &m, sim_now(s) + 5 * NS_PER_S));
    assert_int_equal(m.count, 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(m.values[i], 100 + i);

    sim_host_crash(h, false);
    raft_core_close(r);
    loop_destroy(l);
    sim_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_single_voter_leads_and_keeps_what_it_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

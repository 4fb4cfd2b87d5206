/* Snapshot files, whenever the disk fails; and a server that finds its newest one bad. */

#include "tests/unit/raft_cluster.h"

#include "base/check.h"
#include "base/prng.h"
#include "raft/conf.h"
#include "raft/snapshot.h"

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct raft_snapshots store;
    struct raft_snapshot_op op;
    struct raft_snapshot snapshot; /* being put */
    struct raft_buffer buf;
    bool done;
};

static void world_open(struct world *w)
{
    assert_int_equal(raft_snapshots_open(&w->store, w->loop, "raft"), 0);
}

static void world_init(struct world *w, uint64_t seed)
{
    *w = (struct world){0};
    w->sim = sim_create(&(struct sim_config){.seed = seed});
    w->host = sim_host_create(w->sim, 1);
    w->loop = sim_loop_create(w->host);
    assert_int_equal(loop_dir_create(w->loop, "raft"), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
    world_open(w);
}

static void world_forget(struct world *w)
{
    raft_configuration_close(&w->snapshot.configuration);
    raft_configuration_init(&w->snapshot.configuration);
    free(w->buf.base);
    w->buf.base = NULL;
}

static void world_crash(struct world *w, bool power_loss)
{
    sim_host_crash(w->host, power_loss);
    if (!w->done && w->op.store != NULL)
        raft_snapshot_op_drop(&w->op);
    world_forget(w);
    raft_snapshots_close(&w->store);
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
    sim_disk_clear_faults(w->host);
    w->op = (struct raft_snapshot_op){0};
}

static void world_deinit(struct world *w)
{
    world_crash(w, false);
    sim_host_crash(w->host, false);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
}

static void on_done(struct raft_snapshot_op *op)
{
    struct world *w = container_of(op, struct world, op);
    w->done = true;
}

static bool is_done(void *arg)
{
    struct world *w = arg;
    return w->done;
}

static uint8_t byte_of(uint64_t index, size_t at)
{
    return (uint8_t)mix64(index * 31 + at / 8);
}

static void put_start(struct world *w, uint64_t index, size_t len)
{
    world_forget(w);
    w->buf = (struct raft_buffer){malloc(len + 1), len};
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)w->buf.base)[i] = byte_of(index, i);
    w->snapshot = (struct raft_snapshot){.index = index,
                                         .term = index / 10 + 1,
                                         .configuration_index = 1,
                                         .bufs = &w->buf,
                                         .n_bufs = 1};
    raft_configuration_init(&w->snapshot.configuration);
    assert_int_equal(raft_configuration_add(&w->snapshot.configuration, 7, "7", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&w->snapshot.configuration, 9, "9", RAFT_STANDBY), 0);
    w->op =
        (struct raft_snapshot_op){.store = &w->store, .snapshot = &w->snapshot, .done = on_done};
    w->done = false;
    raft_snapshot_put_start(&w->op);
}

static int put(struct world *w, uint64_t index, size_t len)
{
    put_start(w, index, len);
    assert_true(sim_run_until_true(w->sim, is_done, w, sim_now(w->sim) + 60 * NS_PER_S));
    return w->op.result;
}

static void check_snapshot(const struct raft_snapshot *s, uint64_t index, size_t len)
{
    assert_int_equal(s->index, index);
    assert_int_equal(s->term, index / 10 + 1);
    assert_int_equal(s->bufs[0].len, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(((uint8_t *)s->bufs[0].base)[i], byte_of(index, i));
    assert_int_equal(s->configuration.n, 2);
    assert_int_equal(s->configuration.servers[1].id, 9);
    assert_int_equal(s->configuration.servers[1].role, RAFT_STANDBY);
}

/* 0: there is none. */
static uint64_t loaded_index(struct world *w, size_t len)
{
    struct raft_snapshot *s;
    assert_int_equal(raft_snapshots_load(&w->store, &s), 0);
    if (s == NULL)
        return 0;
    uint64_t index = s->index;
    check_snapshot(s, index, len);
    raft_snapshot_destroy(s);
    return index;
}

static void a_snapshot_of_any_length_comes_back(void **state)
{
    static const size_t lens[] = {0, 1, 4095, 4096, 4097, 262144, 262145, 700001};
    (void)state;

    for (size_t i = 0; i < COUNT_OF(lens); i++) {
        struct world w;
        world_init(&w, i);
        assert_int_equal(loaded_index(&w, 0), 0);
        assert_int_equal(put(&w, 50, lens[i]), 0);
        world_crash(&w, true);
        world_open(&w);
        assert_int_equal(loaded_index(&w, lens[i]), 50);
        w.op = (struct raft_snapshot_op){.store = &w.store, .done = on_done};
        w.done = false;
        raft_snapshot_get_start(&w.op);
        assert_true(sim_run_until_true(w.sim, is_done, &w, sim_now(w.sim) + 60 * NS_PER_S));
        assert_int_equal(w.op.result, 0);
        check_snapshot(w.op.snapshot, 50, lens[i]);
        raft_snapshot_destroy(w.op.snapshot);
        world_deinit(&w);
    }
}

static void count_name(void *arg, const char *name)
{
    (void)name;
    (*(uint32_t *)arg)++;
}

static void two_are_kept(void **state)
{
    struct world w;
    uint32_t count = 0;
    (void)state;

    world_init(&w, 1);
    for (uint64_t index = 10; index <= 60; index += 10)
        assert_int_equal(put(&w, index, 5000), 0);
    assert_int_equal(loop_dir_list(w.loop, "raft/snap", count_name, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(w.store.count, 2);
    assert_int_equal(w.store.indexes[0], 60);
    assert_int_equal(w.store.indexes[1], 50);
    world_deinit(&w);
}

static void a_bad_one_is_not_one_of_the_two(void **state)
{
    struct world w;
    struct raft_snapshot *got = NULL;
    (void)state;

    world_init(&w, 1);
    for (uint64_t index = 10; index <= 20; index += 10)
        assert_int_equal(put(&w, index, 5000), 0);
    assert_int_equal(sim_disk_flip(w.host, "raft/snap/0000000000000014", 8 * 8200), 0);
    assert_int_equal(raft_snapshots_load(&w.store, &got), 0);
    assert_int_equal(got->index, 10);
    raft_snapshot_destroy(got);
    assert_int_equal(put(&w, 30, 5000), 0);

    raft_snapshots_close(&w.store);
    assert_int_equal(raft_snapshots_open(&w.store, w.loop, "raft"), 0);
    assert_int_equal(w.store.count, 2);
    assert_int_equal(w.store.indexes[0], 30);
    assert_int_equal(w.store.indexes[1], 10);
    world_deinit(&w);
}

static void power_lost_at_any_moment_leaves_the_old_or_the_new(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        struct world w;
        world_init(&w, seed);
        assert_int_equal(put(&w, 20, 300000), 0);
        put_start(&w, 30, 300000);
        sim_run_until(w.sim, sim_now(w.sim) + prng_below(sim_prng(w.sim), 3 * NS_PER_MS));
        bool done = w.done;
        assert_true(!done || w.op.result == 0);
        world_crash(&w, true);
        world_open(&w);
        uint64_t index = loaded_index(&w, 300000);
        assert_true(index == 30 || (index == 20 && !done));
        world_deinit(&w);
    }
}

static void a_failed_call_is_told_and_leaves_the_old(void **state)
{
    (void)state;
    for (uint64_t after = 0; after < 6; after++) {
        for (int op = SIM_DISK_WRITE; op <= SIM_DISK_FLUSH; op++) {
            struct world w;
            world_init(&w, after);
            assert_int_equal(put(&w, 20, 300000), 0);
            sim_disk_fail(w.host, "raft/snap", (enum sim_disk_op)op, after, ENOSPC, false);
            int rv = put(&w, 30, 300000);
            assert_true(rv == 0 || rv == -ENOSPC);
            world_crash(&w, true);
            world_open(&w);
            assert_int_equal(loaded_index(&w, 300000), rv == 0 ? 30 : 20);
            world_deinit(&w);
        }
    }
}

static void no_flipped_bit_goes_unnoticed(void **state)
{
    size_t len = 9000, file = 4096 * 2 + 12288;
    (void)state;

    for (size_t byte = 0; byte < file; byte += byte % 4096 < 128 ? 1 : 211) {
        struct world w;
        struct raft_snapshot *s = NULL;
        world_init(&w, 3);
        assert_int_equal(put(&w, 20, len), 0);
        world_crash(&w, true);
        assert_int_equal(sim_disk_flip(w.host, "raft/snap/0000000000000014", byte * 8 + 3), 0);
        world_open(&w);
        int rv = raft_snapshots_load(&w.store, &s);
        assert_true(rv == -EBADMSG || rv == -ENOTSUP || rv == 0);
        if (rv == 0) /* in the padding */
            check_snapshot(s, 20, len);
        raft_snapshot_destroy(s);
        world_deinit(&w);
    }
}

static void propose_and_wait(struct cluster *c, int count)
{
    int result;

    for (int i = 0; i < count; i++) {
        node_propose(cluster_await_leader(c), &result);
        assert_int_equal(cluster_wait(c, &result, 5), 0);
    }
}

static void with_the_newest_bad_the_older_one_and_the_log_are_enough(void **state)
{
    struct cluster c;
    struct raft_core_status status;
    char path[64];
    (void)state;

    cluster_init(&c, 6, 1);
    c.snapshot_entries = 40;
    c.trailing_entries = 5;
    c.value_bytes = 40000;
    cluster_bootstrap(&c);
    cluster_await_leader(&c);
    propose_and_wait(&c, 300);
    struct node *n = &c.nodes[1];
    raft_core_status(n->core, &status);
    assert_true(status.snapshot_index > 200);
    snprintf(path, sizeof(path), "raft/snap/%016llx", (unsigned long long)status.snapshot_index);
    node_crash(n, true);
    assert_int_equal(sim_disk_flip(n->host, path, 8 * 8200), 0);
    assert_int_equal(node_start(n), 0);
    assert_int_equal(n->count, 300);
    propose_and_wait(&c, 100);
    node_crash(n, true);
    assert_int_equal(node_start(n), 0);
    assert_int_equal(n->count, 400);
    cluster_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_of_any_length_comes_back),
        cmocka_unit_test(two_are_kept),
        cmocka_unit_test(a_bad_one_is_not_one_of_the_two),
        cmocka_unit_test(power_lost_at_any_moment_leaves_the_old_or_the_new),
        cmocka_unit_test(a_failed_call_is_told_and_leaves_the_old),
        cmocka_unit_test(no_flipped_bit_goes_unnoticed),
        cmocka_unit_test(with_the_newest_bad_the_older_one_and_the_log_are_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

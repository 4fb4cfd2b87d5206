/* The log on disk, by hand and at every point of failure. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/pool.h"
#include "base/prng.h"
#include "io/sim.h"
#include "raft/log_format.h"

enum {
    SEGMENT = 128 << 10, /* 29 pages of records */
    ENTRIES_MAX = 200,
};

struct entry {
    struct raft_log_op op;
    struct raft_entry raft;
    uint8_t data[20000];
    struct world *world;
    bool done;
};

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct raft_log_disk log;
    struct entry *entries[ENTRIES_MAX + 1]; /* by index, as of the model */
    uint64_t count;                         /* appended, in the model */
    uint64_t acked;
    int fatal;
};

static void on_fatal(void *arg, const char *what, int error)
{
    struct world *w = arg;
    (void)what;
    w->fatal = error;
}

static struct raft_log_config config_of(struct world *w)
{
    return (struct raft_log_config){
        .loop = w->loop, .dir = "raft", .segment_size = SEGMENT, .fatal = on_fatal, .arg = w};
}

static int world_open(struct world *w)
{
    struct raft_log_config config = config_of(w);
    w->fatal = 0;
    return raft_log_open(&w->log, &config);
}

static void world_init(struct world *w, uint64_t seed)
{
    *w = (struct world){0};
    w->sim = sim_create(&(struct sim_config){.seed = seed});
    w->host = sim_host_create(w->sim, 1);
    w->loop = sim_loop_create(w->host);
    struct raft_log_config config = config_of(w);
    assert_int_equal(loop_dir_create(w->loop, "raft"), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
    assert_int_equal(world_open(w), -ENOENT);
    assert_int_equal(raft_log_create(&config, 1), 0);
    assert_int_equal(world_open(w), 0);
}

/* The process ends; the log is not opened again yet. */
static void world_crash(struct world *w, bool power_loss)
{
    sim_host_crash(w->host, power_loss);
    raft_log_close(&w->log);
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
    sim_disk_clear_faults(w->host);
}

static void world_deinit(struct world *w)
{
    sim_host_crash(w->host, false);
    raft_log_close(&w->log);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
    for (uint64_t i = 0; i <= ENTRIES_MAX; i++)
        free(w->entries[i]);
}

static void entry_on_done(struct raft_log_op *op)
{
    struct entry *e = container_of(op, struct entry, op);
    e->done = true;
    e->world->acked++;
}

/* `salt` tells two entries of one index apart. */
static struct entry *entry_new(struct world *w, uint64_t index, uint64_t term, uint32_t len,
                               uint64_t salt)
{
    struct entry *e = mem_zalloc(sizeof(*e));
    struct prng p;

    prng_init(&p, index * 1000003 + salt);
    for (uint32_t i = 0; i < len; i++)
        e->data[i] = (uint8_t)prng_next(&p);
    e->world = w;
    e->raft = (struct raft_entry){.term = term, .type = RAFT_COMMAND, .buf = {e->data, len}};
    e->op = (struct raft_log_op){
        .kind = RAFT_LOG_APPEND, .entries = &e->raft, .entries_count = 1, .done = entry_on_done};
    return e;
}

static void append(struct world *w, uint64_t term, uint32_t len, uint64_t salt)
{
    uint64_t index = ++w->count;

    free(w->entries[index]);
    w->entries[index] = entry_new(w, index, term, len, salt);
    raft_log_start(&w->log, &w->entries[index]->op);
}

static bool is_settled(void *arg)
{
    struct world *w = arg;
    return w->fatal != 0 || raft_log_is_idle(&w->log);
}

static void settle(struct world *w)
{
    assert_true(sim_run_until_true(w->sim, is_settled, w, sim_now(w->sim) + 60 * NS_PER_S));
}

static bool is_entry(struct world *w, uint64_t index)
{
    const struct raft_log_record *r = raft_log_get(&w->log, index);
    const struct entry *e = w->entries[index];

    return !r->is_bad && r->term == e->raft.term && r->len == e->raft.buf.len &&
           r->type == e->raft.type && memcmp(r->data, e->data, r->len) == 0;
}

/* Just opened: entries 1 .. last are the model's, and at least the acknowledged. */
static void check_intact(struct world *w, uint64_t at_least)
{
    assert_int_equal(raft_log_bad_first(&w->log, 1), 0);
    assert_in_range(raft_log_last_index(&w->log), at_least, w->count);
    for (uint64_t i = w->log.first_index; i <= raft_log_last_index(&w->log); i++)
        assert_true(is_entry(w, i));
}

/* Twenty entries of many lengths, over several segments. */
static void append_many(struct world *w, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        append(w, 1 + i / 7, (i * 977) % 19000 + 8, 0);
        if (i % 3 == 0)
            settle(w);
    }
    settle(w);
}

static void what_was_acknowledged_comes_back_after_power_loss(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 1);
    append_many(&w, 60);
    assert_int_equal(w.acked, 60);
    assert_true(w.log.segments_count > 3);
    for (int i = 0; i < 3; i++) {
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        check_intact(&w, 60);
    }
    append_many(&w, 10);
    world_crash(&w, true);
    assert_int_equal(world_open(&w), 0);
    check_intact(&w, 70);
    world_deinit(&w);
}

static void requests_that_wait_together_share_two_flushes(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 2);
    for (int i = 0; i < 10; i++)
        append(&w, 1, 100, 0);
    settle(&w);
    assert_int_equal(w.acked, 10);
    assert_int_equal(w.log.flushes_count, 2);
    world_deinit(&w);
}

static void power_lost_at_any_moment_takes_nothing_that_was_acknowledged(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct world w;
        world_init(&w, seed);
        struct prng *p = sim_prng(w.sim);
        for (int round = 0; round < 4; round++) {
            w.acked = w.count;
            for (uint64_t n = 1 + prng_below(p, 12); n > 0; n--)
                append(&w, 1, 8 + (uint32_t)prng_below(p, 12000), seed * 10 + (uint64_t)round);
            sim_run_until(w.sim, sim_now(w.sim) + prng_below(p, 3 * NS_PER_MS));
            uint64_t acked = w.acked;
            world_crash(&w, prng_chance(p, 3, 4));
            assert_int_equal(world_open(&w), 0);
            check_intact(&w, acked);
            w.count = raft_log_last_index(&w.log);
        }
        world_deinit(&w);
    }
}

static void a_failed_write_or_flush_stops_the_log_and_loses_nothing_acknowledged(void **state)
{
    static const int errors[] = {EIO, ENOSPC};
    (void)state;

    for (uint64_t after = 0; after < 40; after++) {
        for (int op = SIM_DISK_WRITE; op <= SIM_DISK_FLUSH; op++) {
            struct world w;
            int error = errors[after % 2];
            world_init(&w, after);
            sim_disk_fail(w.host, "raft", (enum sim_disk_op)op, after, error, false);
            for (uint32_t i = 0; i < 40 && w.fatal == 0; i++) {
                append(&w, 1, 6000, 0);
                settle(&w);
            }
            assert_int_equal(w.fatal, -error);
            uint64_t acked = w.acked;
            world_crash(&w, true);
            assert_int_equal(world_open(&w), 0);
            check_intact(&w, acked);
            world_deinit(&w);
        }
    }
}

static void truncate_model(struct world *w, uint64_t index)
{
    w->count = index - 1;
}

static void truncated_entries_never_come_back(void **state)
{
    (void)state;
    for (uint64_t index = 1; index <= 30; index++) {
        struct world w;
        world_init(&w, index);
        append_many(&w, 30);
        assert_int_equal(raft_log_truncate_now(&w.log, index), 0);
        truncate_model(&w, index);
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        check_intact(&w, index - 1);
        append(&w, 9, 50, 1);
        append(&w, 9, 9000, 1);
        settle(&w);
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        check_intact(&w, index + 1);
        world_deinit(&w);
    }
}

static void a_truncation_that_fails_anywhere_leaves_a_log_that_once_was(void **state)
{
    (void)state;
    for (uint64_t after = 0; after < 12; after++) {
        for (int op = SIM_DISK_WRITE; op <= SIM_DISK_FLUSH; op++) {
            for (uint64_t index = 4; index <= 30; index += 5) {
                struct world w;
                world_init(&w, after * 100 + index);
                append_many(&w, 30);
                sim_disk_fail(w.host, "raft", (enum sim_disk_op)op, after, EIO, false);
                int rv = raft_log_truncate_now(&w.log, index);
                world_crash(&w, true);
                assert_int_equal(world_open(&w), 0);
                check_intact(&w, index - 1);
                if (rv == 0)
                    assert_int_equal(raft_log_last_index(&w.log), index - 1);
                /* What comes next does not meet the old ones. */
                w.count = raft_log_last_index(&w.log);
                append(&w, 9, 70, 1);
                settle(&w);
                world_crash(&w, true);
                assert_int_equal(world_open(&w), 0);
                check_intact(&w, w.count);
                assert_int_equal(raft_log_last_index(&w.log), w.count);
                world_deinit(&w);
            }
        }
    }
}

static void truncation_waits_for_its_turn(void **state)
{
    struct world w;
    struct raft_log_op cut = {.kind = RAFT_LOG_TRUNCATE, .index = 3};
    (void)state;

    world_init(&w, 5);
    struct entry *gone[3];
    struct entry holder = {.world = &w};
    cut.done = entry_on_done;
    holder.op = cut;
    append(&w, 1, 100, 0);
    append(&w, 1, 100, 0);
    for (uint64_t i = 0; i < 3; i++) {
        gone[i] = entry_new(&w, 3 + i, 1, 5000, 0);
        raft_log_start(&w.log, &gone[i]->op);
    }
    raft_log_start(&w.log, &holder.op);
    append(&w, 2, 100, 1);
    settle(&w);
    assert_true(holder.done);
    world_crash(&w, true);
    assert_int_equal(world_open(&w), 0);
    check_intact(&w, 3);
    assert_int_equal(raft_log_last_index(&w.log), 3);
    for (int i = 0; i < 3; i++)
        free(gone[i]);
    world_deinit(&w);
}

/* ---- Corruption ---- */

static void segment_path(char *dst, size_t size, uint64_t number)
{
    snprintf(dst, size, "raft/log/%016llx", (unsigned long long)number);
}

/* After a flip: everything is there, or something is said. */
static void check_honest(struct world *w, uint64_t expected)
{
    int rv = world_open(w);

    if (rv != 0) {
        assert_true(rv == -EBADMSG || rv == -ENOTSUP);
        return;
    }
    assert_int_equal(raft_log_last_index(&w->log), expected);
    for (uint64_t i = 1; i <= expected; i++) {
        if (!raft_log_get(&w->log, i)->is_bad)
            assert_true(is_entry(w, i));
    }
}

static void a_flipped_bit_anywhere_is_mended_or_reported(void **state)
{
    char path[64];
    uint32_t stride = getenv("SKERRY_TEST_EVERY_BYTE") != NULL ? 1 : 509;
    uint32_t bad = 0, whole = 0;
    (void)state;

    for (uint64_t number = 1; number <= 2; number++) {
        for (uint64_t byte = 0; byte < SEGMENT;
             byte += byte % 4096 < 256 ? 1 + stride / 20 : stride) {
            struct world w;
            world_init(&w, 7);
            append_many(&w, 20);
            assert_int_equal(w.log.segments_count, 2);
            world_crash(&w, true);
            segment_path(path, sizeof(path), number);
            assert_int_equal(sim_disk_flip(w.host, path, byte * 8 + byte % 8), 0);
            check_honest(&w, 20);
            if (w.log.dir != NULL && raft_log_bad_first(&w.log, 1) == 0) {
                whole++;
                world_crash(&w, true);
                assert_int_equal(world_open(&w), 0);
                check_intact(&w, 20);
            } else {
                bad++;
            }
            world_deinit(&w);
        }
    }
    assert_true(bad > 0 && whole > 0);
}

/* Record 5 is bad on disk, its copy is not: it is named, and can be written anew. */
static void a_corrupt_record_keeps_its_name_and_can_be_mended(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t index = 1; index <= 20; index++) {
        char path[64];
        world_init(&w, 11);
        append_many(&w, 20);
        const struct raft_log_record *r = raft_log_get(&w.log, index);
        uint64_t at = (uint64_t)r->page * RAFT_LOG_PAGE + RAFT_LOG_HEADER + 3;
        segment_path(path, sizeof(path), r->segment);
        world_crash(&w, true);
        assert_int_equal(sim_disk_flip(w.host, path, at * 8), 0);
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(raft_log_last_index(&w.log), 20);
        assert_int_equal(raft_log_bad_first(&w.log, 1), index);
        r = raft_log_get(&w.log, index);
        assert_false(r->is_unknown);
        assert_int_equal(r->term, w.entries[index]->raft.term);

        struct entry *e = w.entries[index];
        e->data[1] ^= 1;
        assert_int_equal(raft_log_mend_now(&w.log, index, &e->raft), -EINVAL);
        e->data[1] ^= 1;
        e->raft.term++;
        assert_int_equal(raft_log_mend_now(&w.log, index, &e->raft), -EINVAL);
        e->raft.term--;
        assert_int_equal(raft_log_mend_now(&w.log, index, &e->raft), 0);
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        check_intact(&w, 20);
        world_deinit(&w);
    }
}

static void a_record_and_its_copy_both_bad_are_not_taken_for_a_torn_tail(void **state)
{
    (void)state;
    for (uint64_t index = 1; index <= 20; index++) {
        struct world w;
        char path[64];
        world_init(&w, 12);
        append_many(&w, 20);
        const struct raft_log_record *r = raft_log_get(&w.log, index);
        uint64_t at = (uint64_t)r->page * RAFT_LOG_PAGE + 9;
        uint64_t first = w.log.segments[r->segment - 1].first_index;
        uint64_t copy = 2 * RAFT_LOG_PAGE + (index - first) * RAFT_LOG_HEADER + 9;
        segment_path(path, sizeof(path), r->segment);
        world_crash(&w, true);
        sim_disk_flip(w.host, path, at * 8);
        sim_disk_flip(w.host, path, copy * 8);
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(raft_log_bad_first(&w.log, 1), index);
        assert_true(raft_log_get(&w.log, index)->is_unknown);
        assert_int_equal(raft_log_last_index(&w.log), 20);

        /* The record behind it knows its crc. Of the last one nothing is known. */
        struct entry *e = w.entries[index];
        e->raft.term++;
        assert_int_equal(raft_log_mend_now(&w.log, index, &e->raft), -EINVAL);
        e->raft.term--;
        assert_int_equal(raft_log_mend_now(&w.log, index, &e->raft), index < 20 ? 0 : -EINVAL);
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(raft_log_bad_first(&w.log, 1), index < 20 ? 0 : 20);
        world_deinit(&w);
    }
}

static void a_missing_segment_is_reported(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 13);
    append_many(&w, 40);
    world_crash(&w, true);
    assert_int_equal(loop_unlink(w.loop, "raft/log/0000000000000002"), 0);
    assert_int_equal(world_open(&w), -EBADMSG);
    world_deinit(&w);
}

static void an_unreadable_page_is_reported_not_taken_for_the_end(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 14);
    append_many(&w, 20);
    world_crash(&w, true);
    /* the first chunk of the second segment, and then each of its pages */
    sim_disk_fail(w.host, "raft/log/0000000000000002", SIM_DISK_READ, 1, EIO, false);
    int rv = world_open(&w);
    assert_true(rv == -EBADMSG || (rv == 0 && raft_log_bad_first(&w.log, 1) != 0));
    world_deinit(&w);
}

/* ---- The ends ---- */

static void a_reset_log_starts_where_it_is_told(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t after = 0; after < 10; after++) {
        world_init(&w, 15 + after);
        append_many(&w, 40);
        assert_int_equal(raft_log_reset_now(&w.log, 100), 0);
        assert_int_equal(raft_log_last_index(&w.log), 99);
        w.count = 99;
        append(&w, 3, 100, 2);
        settle(&w);
        world_crash(&w, true);
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(w.log.first_index, 100);
        check_intact(&w, 100);
        world_deinit(&w);
    }
}

static void trimming_takes_whole_segments_from_the_front(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 16);
    append_many(&w, 40);
    uint64_t keep = w.log.segments[2].first_index + 1;
    assert_int_equal(raft_log_trim_now(&w.log, keep), 0);
    assert_int_equal(w.log.first_index, keep - 1);
    append_many(&w, 3);
    world_crash(&w, true);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(w.log.first_index, keep - 1);
    check_intact(&w, 43);
    world_deinit(&w);
}

static void a_record_can_be_read_back(void **state)
{
    struct world w;
    uint8_t data[20000];
    (void)state;

    world_init(&w, 17);
    append_many(&w, 20);
    for (uint64_t i = 1; i <= 20; i++) {
        assert_int_equal(raft_log_read_now(&w.log, i, data), 0);
        assert_memory_equal(data, w.entries[i]->data, w.entries[i]->raft.buf.len);
    }
    assert_int_equal(raft_log_read_now(&w.log, 21, data), -ENOENT);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_acknowledged_comes_back_after_power_loss),
        cmocka_unit_test(requests_that_wait_together_share_two_flushes),
        cmocka_unit_test(power_lost_at_any_moment_takes_nothing_that_was_acknowledged),
        cmocka_unit_test(a_failed_write_or_flush_stops_the_log_and_loses_nothing_acknowledged),
        cmocka_unit_test(truncated_entries_never_come_back),
        cmocka_unit_test(a_truncation_that_fails_anywhere_leaves_a_log_that_once_was),
        cmocka_unit_test(truncation_waits_for_its_turn),
        cmocka_unit_test(a_flipped_bit_anywhere_is_mended_or_reported),
        cmocka_unit_test(a_corrupt_record_keeps_its_name_and_can_be_mended),
        cmocka_unit_test(a_record_and_its_copy_both_bad_are_not_taken_for_a_torn_tail),
        cmocka_unit_test(a_missing_segment_is_reported),
        cmocka_unit_test(an_unreadable_page_is_reported_not_taken_for_the_end),
        cmocka_unit_test(a_reset_log_starts_where_it_is_told),
        cmocka_unit_test(trimming_takes_whole_segments_from_the_front),
        cmocka_unit_test(a_record_can_be_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

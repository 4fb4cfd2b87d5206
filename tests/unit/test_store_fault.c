/* Every disk call fails once; every block of the ring rots; and a start that is cut off half-way.
 */

#include "test_store_world.h"

enum { OBJECTS = 6, OPS = 60 };

/* ---- The n-th call fails ---- */

struct history {
    struct op *ops[OPS];
    uint64_t acked[OBJECTS + 1];     /* version */
    uint64_t submitted[OBJECTS + 1]; /* version */
    bool deleted[OPS + 100];         /* by version */
};

/* Version v of an object: a tombstone, or 4 blocks that begin with 1000 * v. */
static void history_start(struct world *w, struct history *h, uint32_t i, uint64_t version)
{
    uint64_t object = 1 + i % OBJECTS;

    if (h->ops[i] == NULL)
        h->ops[i] = op_new(w);
    h->deleted[version] = version % 7 == 3;
    op_prepare_range(h->ops[i], h->deleted[version] ? STORE_DELETE : STORE_WRITE, object, version,
                     0, 4, 1000 * version);
    store_write_start(w->store, &h->ops[i]->w);
    h->submitted[object] = version;
}

static void history_wait(struct world *w, struct history *h, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        assert_true(world_wait(w, &h->ops[i]->done, 20 * NS_PER_S));
        assert_true(h->ops[i]->w.result == 0 || h->ops[i]->w.result == -EIO);
        if (h->ops[i]->w.result == 0)
            h->acked[1 + i % OBJECTS] = h->ops[i]->w.version;
    }
}

static void history_check(struct world *w, const struct history *h)
{
    for (uint64_t object = 1; object <= OBJECTS; object++) {
        struct store_object o = {0};
        uint64_t value;
        store_lookup(w->store, &(struct store_id){1, object}, &o);
        assert_true(o.version >= h->acked[object] && o.version <= h->submitted[object]);
        if (o.version == 0)
            continue;
        assert_int_equal(o.deleted, h->deleted[o.version]);
        assert_int_equal(o.present[0], o.deleted ? 0 : 15);
        for (uint32_t b = 0; b < 4; b++) {
            assert_int_equal(world_read(w, object, b, &value), 0);
            assert_int_equal(value, o.deleted ? 0 : 1000 * o.version + b);
        }
    }
}

/* Returns whether anything failed: then there may be a later call to fail. */
static bool one_call_fails(enum sim_disk_op op, uint64_t n)
{
    struct world w;
    struct history h = {0};
    bool hit = false;

    world_init(&w, 1000 + n);
    for (uint32_t i = 0; i < 12; i++)
        history_start(&w, &h, i, 1 + i);
    history_wait(&w, &h, 0, 12);
    world_crash(&w, true); /* before a block says that all is durable */

    sim_disk_fail(w.host, "", op, n, -EIO, true);
    int result = world_open(&w);
    assert_true(result == 0 || result == -EIO);
    hit = result != 0;
    if (result == 0) {
        for (uint32_t i = 12; i < OPS; i++) {
            history_start(&w, &h, i, 1 + i);
            world_run(&w, i % 3 * 100 * 1000);
        }
        history_wait(&w, &h, 12, OPS);
        for (uint64_t object = 1; object <= OBJECTS; object++) {
            uint64_t value;
            int read = world_read(&w, object, 0, &value);
            assert_true(read == 0 || read == -EIO || (read == -ENOENT && h.acked[object] == 0));
            hit = hit || read == -EIO;
        }
        world_settle(&w);
        hit = hit || w.failed_count > 0;
        assert_true(w.failed_count <= 1);
    }
    assert_int_equal(world_restart(&w, true), 0);
    history_check(&w, &h);
    for (uint32_t i = 0; i < OPS; i++) {
        if (h.ops[i] != NULL)
            op_free(h.ops[i]);
    }
    world_deinit(&w);
    return hit;
}

static void whichever_disk_call_fails_nothing_acked_is_lost(void **state)
{
    static const enum sim_disk_op ops[] = {SIM_DISK_READ, SIM_DISK_WRITE, SIM_DISK_FLUSH};
    uint64_t counts[COUNT_OF(ops)];
    (void)state;

    for (uint32_t i = 0; i < COUNT_OF(ops); i++) {
        counts[i] = 0;
        for (uint32_t missed = 0; missed < 10; counts[i]++)
            missed = one_call_fails(ops[i], counts[i]) ? 0 : missed + 1;
    }
    printf("%llu reads, %llu writes, %llu flushes failed\n", (unsigned long long)counts[0],
           (unsigned long long)counts[1], (unsigned long long)counts[2]);
    assert_true(counts[0] > 5 && counts[1] > 60 && counts[2] > 15);
}

/* ---- S12 ---- */

static uint64_t block_bit(struct world *w, uint64_t seq, uint64_t bit)
{
    const struct superblock *sb = &w->store->super;

    return (sb->ring_first + seq % sb->ring_blocks) * STORE_BLOCK * 8 + bit;
}

static void rot_in_any_block_that_was_durable_is_said_and_nothing_is_lost_silently(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 50);
    for (uint32_t i = 0; i < 24; i++)
        assert_int_equal(world_write(&w, 1 + i % 5, 10 + i, i % 4, 2, 100 * (i + 1)), 0);
    world_settle(&w);
    uint64_t tail = w.store->tail_durable, head = w.store->head;
    assert_int_equal(head, w.store->head_records + 1); /* the quiet store's last word */
    assert_true(head - tail > 20);
    for (uint64_t seq = tail; seq < head; seq++) {
        for (uint64_t bit = 3; bit < STORE_BLOCK * 8; bit += 9001) {
            uint64_t at = block_bit(&w, seq, bit);
            world_crash(&w, true);
            assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, at), 0);
            assert_int_equal(world_open(&w), -EBADMSG);
            assert_non_null(strstr(w.open.error, "damaged"));
            assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, at), 0);
            assert_int_equal(world_open(&w), 0);
            assert_int_equal(world_status(&w).objects, 5);
        }
    }
    /* The last one: it may as well have been torn, and nobody waited for it. */
    uint64_t at = block_bit(&w, head, 777);
    world_crash(&w, true);
    assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, at), 0);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(world_status(&w).objects, 5);
    for (uint32_t i = 19; i < 24; i++) {
        struct store_object o;
        assert_true(store_lookup(w.store, &(struct store_id){1, 1 + i % 5}, &o));
        assert_int_equal(o.version, 10 + i);
    }
    world_deinit(&w);
}

/* Once a later block has said that its data is durable, data that rots takes nothing else along. */
static void rot_in_old_data_does_not_drop_its_record_at_a_start(void **state)
{
    struct world w;
    uint64_t value;
    (void)state;

    world_init(&w, 51);
    assert_int_equal(world_write(&w, 5, 1, 0, 2, 100), 0);
    world_settle(&w);
    assert_int_equal(world_write(&w, 5, 2, 1, 1, 200), 0);
    struct layout l;
    object_read(object_find(w.store, &(struct store_id){1, 5}), &l);
    uint64_t slot = l.slots[0];
    assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, slot * STORE_BLOCK * 8), 0);
    assert_int_equal(world_restart(&w, true), 0);
    assert_int_equal(world_read(&w, 5, 0, &value), -EBADMSG);
    assert_int_equal(world_read(&w, 5, 1, &value), 0);
    assert_int_equal(value, 200);
    world_deinit(&w);
}

/* ---- S3: more drops than a start block names, and the second of two is lost ---- */

enum { CROWD = 400, FIRST = 4, TWICE = 9999 };

static void crowd_start(struct world *w, struct op **ops, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint64_t object = i == FIRST ? TWICE : 100 + i;
        ops[i] = op_new(w);
        op_prepare_range(ops[i], STORE_WRITE, object, 20, 0, 1, 5000 + i);
        store_write_start(w->store, &ops[i]->w);
    }
}

/* A few writes; while they are under way the crowd, whose data takes long; and one more when the
 * few are durable: its block, the last one, cannot say that the crowd's data is. */
static void crowd_write(struct world *w, struct op **ops)
{
    crowd_start(w, ops, 0, FIRST);
    world_run(w, 2000);
    sim_disk_set_slow(w->host, 1, 1, 20 * NS_PER_MS);
    crowd_start(w, ops, FIRST, CROWD);
    for (uint32_t i = 0; i < FIRST; i++)
        assert_true(world_wait(w, &ops[i]->done, NS_PER_S));
    ops[CROWD] = op_new(w);
    op_prepare_range(ops[CROWD], STORE_WRITE, TWICE, 30, 1, 1, 7777);
    store_write_start(w->store, &ops[CROWD]->w);
    for (uint32_t i = 0; i <= CROWD; i++)
        assert_true(world_wait(w, &ops[i]->done, NS_PER_S));
}

static void a_start_cut_off_between_two_blocks_of_drops_revives_nothing(void **state)
{
    struct world w;
    struct op *ops[CROWD + 1];
    uint64_t slots[CROWD];
    (void)state;

    world_init(&w, 60);
    assert_int_equal(world_write(&w, TWICE, 10, 0, 2, 100), 0);
    world_settle(&w);
    crowd_write(&w, ops);
    for (uint32_t i = 0; i < CROWD; i++) {
        struct layout l;
        object_read(object_find(w.store, &ops[i]->w.id), &l);
        slots[i] = layout_slot(&l, ops[i]->w.offset / STORE_BLOCK);
    }
    assert_true(w.store->mark_durable < w.store->seq_last - (CROWD - FIRST));
    uint64_t head = w.store->head;
    world_crash(&w, true);
    for (uint32_t i = FIRST; i < CROWD;
         i++) /* as if their data had not come as far as their records */
        assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, (uint64_t)slots[i] * STORE_BLOCK * 8),
                         0);

    assert_int_equal(world_open(&w), 0);
    assert_int_equal(w.store->head, head + 2);
    for (int pass = 0; pass < 3; pass++) {
        struct store_object o;
        uint64_t value;
        assert_int_equal(world_status(&w).objects, 1 + FIRST);
        assert_true(store_lookup(w.store, &(struct store_id){1, TWICE}, &o));
        assert_int_equal(o.version, 10);
        assert_int_equal(world_read(&w, TWICE, 1, &value), 0);
        assert_int_equal(value, 101);
        uint64_t at = block_bit(&w, w.store->head, 99);
        world_crash(&w, true);
        if (pass == 0) /* the second block of drops never came to be */
            assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, at), 0);
        assert_int_equal(world_open(&w), 0);
    }
    for (uint32_t i = 0; i <= CROWD; i++)
        op_free(ops[i]);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whichever_disk_call_fails_nothing_acked_is_lost),
        cmocka_unit_test(rot_in_any_block_that_was_durable_is_said_and_nothing_is_lost_silently),
        cmocka_unit_test(rot_in_old_data_does_not_drop_its_record_at_a_start),
        cmocka_unit_test(a_start_cut_off_between_two_blocks_of_drops_revives_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The store by hand: what each operation does, what is refused, what a bad disk does to it. */

#include "test_store_world.h"

static struct store_object lookup(struct world *w, uint64_t object)
{
    struct store_object o = {0};

    assert_true(store_lookup(w->store, &(struct store_id){1, object}, &o));
    return o;
}

static bool exists(struct world *w, uint64_t object)
{
    struct store_object o;

    return store_lookup(w->store, &(struct store_id){1, object}, &o);
}

static void expect_block(struct world *w, uint64_t object, uint32_t block, uint64_t value)
{
    uint64_t found;

    assert_int_equal(world_read(w, object, block, &found), 0);
    assert_int_equal(found, value);
}

/* ---- What the operations do ---- */

static void what_was_written_is_read_and_the_rest_is_holes(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 1);
    assert_int_equal(world_write(&w, 5, 10, 2, 3, 100), 0);
    for (int pass = 0; pass < 2; pass++) {
        struct store_object o = lookup(&w, 5);
        assert_int_equal(o.version, 10);
        assert_int_equal(o.pg, 1);
        assert_false(o.deleted);
        assert_int_equal(o.present[0], 0x1c);
        expect_block(&w, 5, 1, 0);
        expect_block(&w, 5, 2, 100);
        expect_block(&w, 5, 4, 102);
        expect_block(&w, 5, 255, 0);
        assert_int_equal(store_image_blocks(w.store, 1), 3);
        assert_int_equal(world_restart(&w, true), 0);
    }
    uint64_t value;
    assert_int_equal(world_read(&w, 6, 0, &value), -ENOENT);
    assert_int_equal(value, 0);
    world_deinit(&w);
}

static void zero_makes_holes_and_gives_their_slots_back(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 2);
    uint64_t used = world_status(&w).used_bytes;
    assert_int_equal(world_write(&w, 5, 10, 0, 8, 100), 0);
    assert_int_equal(world_change(&w, STORE_ZERO, 5, 11, 2, 4), 0);
    world_settle(&w);
    assert_int_equal(world_status(&w).used_bytes - used, 4 * STORE_BLOCK);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(lookup(&w, 5).present[0], 0xc3);
        assert_int_equal(lookup(&w, 5).version, 11);
        expect_block(&w, 5, 1, 101);
        expect_block(&w, 5, 2, 0);
        expect_block(&w, 5, 6, 106);
        assert_int_equal(world_restart(&w, true), 0);
        assert_int_equal(world_status(&w).used_bytes - used, 4 * STORE_BLOCK);
    }
    world_deinit(&w);
}

static void a_deleted_object_is_a_tombstone_until_it_is_trimmed(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 3);
    assert_int_equal(world_write(&w, 4, 10, 0, 8, 100), 0);
    assert_int_equal(world_change(&w, STORE_DELETE, 4, 12, 0, 0), 0);
    assert_int_equal(world_restart(&w, true), 0);
    assert_true(lookup(&w, 4).deleted);
    assert_int_equal(lookup(&w, 4).version, 12);
    assert_int_equal(world_status(&w).tombstones, 1);
    assert_int_equal(store_image_blocks(w.store, 1), 0);
    store_trim(w.store, 0, 11);
    assert_true(exists(&w, 4));
    store_trim(w.store, 0, 12);
    assert_false(exists(&w, 4));
    assert_int_equal(world_status(&w).tombstones, 0);
    world_deinit(&w);
}

enum { CROWD = 900 }; /* more than cleaning copies at once */

static void create_crowd(struct world *w)
{
    struct op *ops[CROWD];

    for (uint32_t i = 0; i < CROWD; i++) {
        ops[i] = op_new(w);
        op_prepare_range(ops[i], STORE_WRITE, 100 + i, 10, 0, 1, 5000 + i);
        store_write_start(w->store, &ops[i]->w);
    }
    for (uint32_t i = 0; i < CROWD; i++) {
        assert_true(world_wait(w, &ops[i]->done, NS_PER_S));
        op_free(ops[i]);
    }
}

/* The tombstone is a delta; the full record below it leaves the ring first. */
static void a_trimmed_tombstone_does_not_leave_deltas_without_a_full_record(void **state)
{
    struct world w;
    uint32_t moves = 0;
    (void)state;

    world_init(&w, 4);
    assert_int_equal(world_write(&w, 4, 10, 0, 8, 100), 0);
    world_settle(&w);
    create_crowd(&w);
    assert_int_equal(world_change(&w, STORE_DELETE, 4, 12, 0, 0), 0);
    uint64_t delta = w.store->head_records;
    store_trim(w.store, 0, 12);
    for (uint32_t i = 0; w.store->tail_durable <= delta; i++) {
        uint64_t tail = w.store->tail_durable;
        assert_int_equal(world_write(&w, 3, 2000 + i, 0, 1, 1 + i), 0);
        if (w.store->tail_durable == tail)
            continue;
        moves++;
        assert_int_equal(world_restart(&w, true), 0);
        store_trim(w.store, 0, 12);
        assert_false(exists(&w, 4));
        assert_int_equal(world_status(&w).objects, CROWD + 1);
    }
    assert_true(moves > 1); /* it was between the two */
    world_deinit(&w);
}

static void replace_makes_the_object_exactly_this(void **state)
{
    struct world w;
    static const struct store_dedup given[] = {{9, 1, 30}, {9, 2, 31}};
    (void)state;

    world_init(&w, 5);
    struct op *op = op_new(&w);
    op_prepare_range(op, STORE_WRITE, 5, 20, 0, 8, 100);
    op->w.client = 9;
    op->w.seq = 7;
    assert_int_equal(op_run(op), 0);
    op_prepare_range(op, STORE_WRITE, 5, 50, 0, 8, 200);
    op->w.client = 9;
    op->w.seq = 8;
    assert_int_equal(op_run(op), 0);

    op_prepare(op, STORE_REPLACE, 5, 31); /* an older version wins: another history */
    op->w.present[0] = 1u << 3;
    op->w.present[1] = 1;
    op_fill(op, 5, 3, 1, 900);
    block_fill(op->data + STORE_BLOCK, 901);
    op->crcs[1] = crc32c_block(1, 5, 64, op->data + STORE_BLOCK, STORE_BLOCK);
    op->w.dedups = given;
    op->w.dedups_count = 2;
    op->w.dedup_above = 20;
    assert_int_equal(op_run(op), 0);
    op_free(op);
    for (int pass = 0; pass < 2; pass++) {
        struct store_dedup found[8];
        uint64_t version;
        assert_int_equal(lookup(&w, 5).version, 31);
        assert_int_equal(lookup(&w, 5).present[0], 8);
        assert_int_equal(lookup(&w, 5).present[1], 1);
        expect_block(&w, 5, 3, 900);
        expect_block(&w, 5, 64, 901);
        expect_block(&w, 5, 0, 0);
        assert_int_equal(store_dedup_list(w.store, &(struct store_id){1, 5}, 0, found, 8), 3);
        assert_int_equal(store_dedup_list(w.store, &(struct store_id){1, 5}, 20, found, 1), 2);
        assert_true(store_dedup_find(w.store, 1, 9, 7, &version) && version == 20);
        assert_false(store_dedup_find(w.store, 1, 9, 8, &version));
        assert_true(store_dedup_find(w.store, 1, 9, 2, &version) && version == 31);
        assert_false(store_dedup_find(w.store, 0, 9, 2, &version));
        assert_int_equal(world_restart(&w, true), 0);
    }
    world_deinit(&w);
}

static void purge_forgets_everything(void **state)
{
    struct world w;
    uint64_t version;
    (void)state;

    world_init(&w, 6);
    uint64_t used = world_status(&w).used_bytes;
    struct op *op = op_new(&w);
    op_prepare_range(op, STORE_WRITE, 5, 20, 0, 8, 100);
    op->w.client = 9;
    op->w.seq = 7;
    assert_int_equal(op_run(op), 0);
    assert_int_equal(world_change(&w, STORE_PURGE, 5, 0, 0, 0), 0);
    assert_int_equal(world_change(&w, STORE_PURGE, 77, 0, 0, 0), 0); /* nobody knew it */
    world_settle(&w);
    for (int pass = 0; pass < 2; pass++) {
        assert_false(exists(&w, 5));
        assert_false(store_dedup_find(w.store, 1, 9, 7, &version));
        assert_int_equal(world_status(&w).used_bytes, used);
        assert_int_equal(world_status(&w).objects, 0);
        assert_int_equal(w.store->ring_bytes, 0);
        assert_int_equal(world_restart(&w, true), 0);
    }
    op_free(op);
    world_deinit(&w);
}

static void dedup_records_live_without_an_object_and_fall_below_the_floor(void **state)
{
    struct world w;
    static const struct store_dedup given[] = {{9, 1, 30}, {9, 5, 31}, {8, 5, 32}};
    uint64_t version;
    (void)state;

    world_init(&w, 7);
    struct op *op = op_new(&w);
    op_prepare(op, STORE_DEDUP, 5, 0);
    op->w.dedups = given;
    op->w.dedups_count = 3;
    assert_int_equal(op_run(op), 0);
    op_free(op);
    assert_int_equal(world_restart(&w, true), 0);
    assert_int_equal(lookup(&w, 5).version, 0);
    assert_int_equal(world_status(&w).dedups, 3);
    store_dedup_floor(w.store, 1, 9, 5);
    assert_false(store_dedup_find(w.store, 1, 9, 1, &version));
    assert_true(store_dedup_find(w.store, 1, 9, 5, &version));
    store_dedup_floor(w.store, 1, 9, UINT64_MAX);
    assert_false(store_dedup_find(w.store, 1, 9, 5, &version));
    assert_true(store_dedup_find(w.store, 1, 8, 5, &version));
    assert_int_equal(world_status(&w).dedups, 1);
    world_deinit(&w);
}

/* A floor is not written down: what a restart finds again must still fit into one record. */
static void an_object_never_has_more_dedup_records_than_a_record_holds(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 8);
    struct op *op = op_new(&w);
    struct store_dedup *list = mem_zalloc(RECORD_DEDUPS_MAX * sizeof(*list));
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < 5000; i++)
            list[i] = (struct store_dedup){9, round * 5000 + i, 10};
        op_prepare(op, STORE_DEDUP, 5, 0);
        op->w.dedups = list;
        op->w.dedups_count = 5000;
        assert_int_equal(op_run(op), 0);
        op_prepare(op, STORE_DEDUP, 5, 0);
        op->w.dedups = list;
        op->w.dedups_count = RECORD_DEDUPS_MAX - 4999;
        assert_int_equal(op_run(op), -ENOSPC);
        store_dedup_floor(w.store, 1, 9, (round + 1) * 5000);
    }
    assert_int_equal(world_restart(&w, true), 0);
    assert_true(world_status(&w).dedups >= 5000 && world_status(&w).dedups <= RECORD_DEDUPS_MAX);
    free(list);
    op_free(op);
    world_deinit(&w);
}

static void a_listing_shows_each_object_of_the_pg_once(void **state)
{
    struct world w;
    struct store_object out[7];
    struct store_cursor cursor = {0};
    uint32_t count, total = 0;
    (void)state;

    world_init(&w, 9);
    for (uint64_t object = 1; object <= 60; object++)
        assert_int_equal(world_write(&w, object, object, 0, 1, object), 0);
    bool seen[61] = {false};
    while ((count = store_list(w.store, 0, 20, &cursor, out, COUNT_OF(out))) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            assert_true(out[i].id.object % 2 == 0 && out[i].version > 20);
            assert_false(seen[out[i].id.object]);
            seen[out[i].id.object] = true;
        }
        total += count;
        assert_int_equal(world_change(&w, STORE_PURGE, 2 * (total / 7), 0, 0, 0), 0);
    }
    assert_int_equal(total, 20);
    world_deinit(&w);
}

/* ---- No room ---- */

static void no_slots_is_said_before_anything_has_changed(void **state)
{
    struct world w;
    uint64_t object = 1;
    (void)state;

    world_init(&w, 10);
    while (world_write(&w, object, 1, 0, 256, object * 1000) == 0)
        object++;
    struct store_status full = world_status(&w);
    assert_true(full.free_bytes < STORE_OBJECT_MAX && full.free_bytes > 0);
    assert_false(exists(&w, object));
    assert_int_equal(store_image_blocks(w.store, 1), (object - 1) * 256);
    /* Overwriting needs no more than there is, and deleting helps. */
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(world_write(&w, 1 + i % (object - 1), 2 + i, 0, 256, 7000 + i * 1000), 0);
    assert_int_equal(world_change(&w, STORE_DELETE, 3, 99, 0, 0), 0);
    assert_int_equal(world_write(&w, object, 1, 0, 256, 5), 0);
    assert_int_equal(world_restart(&w, true), 0);
    expect_block(&w, object, 255, 260);
    world_deinit(&w);
}

static void a_full_ring_refuses_new_objects_and_still_deletes(void **state)
{
    struct world w;
    uint64_t object = 1;
    (void)state;

    world_init(&w, 11);
    while (world_write(&w, object, 1, 0, 1, object) == 0)
        assert_true(++object < 20000);
    assert_true(world_status(&w).free_bytes > STORE_OBJECT_MAX);
    assert_true(world_status(&w).log_free_bytes < 200 && world_status(&w).log_bytes > 100000);
    assert_false(exists(&w, object));
    assert_int_equal(world_write(&w, 1, 2, 0, 1, 77), 0);
    for (uint64_t i = 1; i < object; i += 2)
        assert_int_equal(world_change(&w, STORE_PURGE, i, 0, 0, 0), 0);
    assert_int_equal(world_write(&w, object, 1, 0, 1, object), 0);
    assert_int_equal(world_restart(&w, true), 0);
    assert_int_equal(world_status(&w).objects, object - object / 2);
    world_deinit(&w);
}

/* ---- S6: until a durable block names the new tail, its space is not used ---- */

static void ring_space_returns_with_a_durable_block_only(void **state)
{
    struct world w;
    bool moved = false;
    (void)state;

    world_init(&w, 12);
    struct op *op = op_new(&w);
    for (uint32_t i = 0; i < 2000 && !moved; i++) {
        op_prepare_range(op, STORE_WRITE, 5, 10 + i, 0, 1, i + 1);
        store_write_start(w.store, &op->w);
        while (!op->done) {
            world_run(&w, 5000);
            struct store *s = w.store;
            if (s->tail == s->tail_durable)
                continue;
            moved = true;
            assert_true(ring_used(s) == s->head + 1 - s->tail_durable);
            s->config.mutants = 1u << STORE_MUTANT_RING_REUSE; /* what the rule is about */
            assert_true(ring_used(s) < s->head + 1 - s->tail_durable);
            s->config.mutants = 0;
        }
    }
    assert_true(moved);
    op_free(op);
    world_deinit(&w);
}

/* ---- S1: a slot that a read may still be reading is not given away ---- */

static void a_slow_read_keeps_the_slots_it_reads(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 13);
    assert_int_equal(world_write(&w, 5, 1, 0, 16, 100), 0);
    world_settle(&w);
    uint64_t used = world_status(&w).used_bytes;
    struct op *slow = op_new(&w);
    sim_disk_set_slow(w.host, 1, 1, 5 * NS_PER_S);
    op_read_start(slow, 5, 0, 16);
    world_run(&w, 1000);
    sim_disk_set_slow(w.host, 0, 1, 0);
    assert_int_equal(world_write(&w, 5, 2, 0, 16, 200), 0);
    world_settle(&w);
    if (!slow->done)
        assert_int_equal(world_status(&w).used_bytes, used + 16 * STORE_BLOCK);
    assert_true(world_wait(&w, &slow->done, 60 * NS_PER_S));
    assert_int_equal(slow->r.result, 0);
    assert_int_equal(slow->r.version, 1);
    assert_true(block_is(slow->data, 100));
    world_settle(&w);
    assert_int_equal(world_status(&w).used_bytes, used);
    op_free(slow);
    world_deinit(&w);
}

static void a_read_waits_for_data_that_is_on_its_way(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 14);
    struct op *a = op_new(&w), *b = op_new(&w);
    op_prepare_range(a, STORE_WRITE, 5, 1, 0, 16, 100);
    store_write_start(w.store, &a->w);
    op_read_start(b, 5, 15, 2);
    assert_true(world_wait(&w, &b->done, NS_PER_S));
    assert_int_equal(b->r.result, 0);
    assert_true(block_is(b->data, 115));
    assert_true(block_is(b->data + STORE_BLOCK, 0));
    assert_true(world_wait(&w, &a->done, NS_PER_S));
    op_free(a);
    op_free(b);
    world_deinit(&w);
}

/* ---- A bad disk ---- */

static uint64_t slot_of(struct world *w, uint64_t object, uint32_t block)
{
    const struct object *o = object_find(w->store, &(struct store_id){1, object});
    struct layout l;

    object_read(o, &l);
    return layout_slot(&l, block);
}

static void a_flipped_bit_is_named_and_never_returned(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 15);
    assert_int_equal(world_write(&w, 5, 1, 0, 8, 100), 0);
    assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, slot_of(&w, 5, 3) * STORE_BLOCK * 8 + 12345),
                     0);
    struct op *op = op_new(&w);
    assert_int_equal(op_read(op, 5, 0, 8), -EBADMSG);
    assert_int_equal(op->r.bad_block, 3);
    assert_int_equal(world_status(&w).crc_errors_total, 1);
    expect_block(&w, 5, 2, 102);
    assert_int_equal(world_write(&w, 5, 2, 3, 1, 999), 0); /* repaired */
    expect_block(&w, 5, 3, 999);
    op_free(op);
    world_deinit(&w);
}

static void a_misdirected_write_is_found_by_the_next_read(void **state)
{
    struct world w;
    uint64_t value;
    (void)state;

    world_init(&w, 16);
    assert_int_equal(world_write(&w, 5, 1, 0, 1, 100), 0);
    sim_disk_lie(w.host, "", SIM_LIE_WRITE_DROPPED, 0);
    assert_int_equal(world_write(&w, 5, 2, 0, 1, 200), 0);
    assert_int_equal(world_read(&w, 5, 0, &value), -EBADMSG);
    world_deinit(&w);
}

static void a_failed_read_is_an_error_of_that_read(void **state)
{
    struct world w;
    uint64_t value;
    (void)state;

    world_init(&w, 17);
    assert_int_equal(world_write(&w, 5, 1, 0, 1, 100), 0);
    sim_disk_fail(w.host, "", SIM_DISK_READ, 0, -EIO, true);
    assert_int_equal(world_read(&w, 5, 0, &value), -EIO);
    assert_int_equal(w.failed_count, 0);
    expect_block(&w, 5, 0, 100);
    world_deinit(&w);
}

/* The n-th write or flush fails: everything ends, with -EIO, and the process lives. */
static void fail_store(enum sim_disk_op op, uint64_t n, uint64_t seed)
{
    struct world w;
    struct op *ops[20];

    world_init(&w, seed);
    assert_int_equal(world_write(&w, 1, 1, 0, 1, 100), 0);
    sim_disk_fail(w.host, "", op, n, -EIO, true);
    for (uint32_t i = 0; i < COUNT_OF(ops); i++) {
        ops[i] = op_new(&w);
        op_prepare_range(ops[i], STORE_WRITE, 2 + i % 5, 2 + i, 0, 16, 1000 * i + 1);
        store_write_start(w.store, &ops[i]->w);
        if (i % 4 == 3) /* the log's writes fail too, not the data's alone */
            world_run(&w, 300 * 1000);
    }
    uint32_t failed = 0;
    for (uint32_t i = 0; i < COUNT_OF(ops); i++) {
        assert_true(world_wait(&w, &ops[i]->done, 10 * NS_PER_S));
        assert_true(ops[i]->w.result == 0 || ops[i]->w.result == -EIO);
        failed += ops[i]->w.result != 0;
    }
    if (failed > 0) {
        uint64_t value;
        assert_int_equal(w.failed_count, 1);
        assert_int_equal(w.failed_error, -EIO);
        assert_true(world_status(&w).failed);
        assert_int_equal(world_write(&w, 1, 50, 0, 1, 1), -EIO);
        assert_int_equal(world_read(&w, 1, 0, &value), -EIO);
        assert_int_equal(w.failed_count, 1);
    }
    assert_int_equal(world_restart(&w, true), 0);
    expect_block(&w, 1, 0, 100);
    for (uint32_t i = 0; i < COUNT_OF(ops); i++) {
        if (ops[i]->w.result == 0)
            assert_true(lookup(&w, 2 + i % 5).version >= 2 + i);
        op_free(ops[i]);
    }
    world_deinit(&w);
}

static void a_failed_write_or_flush_fails_the_store_and_not_the_process(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 24; n++)
        fail_store(SIM_DISK_WRITE, n, 100 + n);
    for (uint64_t n = 0; n < 5; n++)
        fail_store(SIM_DISK_FLUSH, n, 200 + n);
}

/* ---- What is not opened ---- */

static int open_as(struct world *w, uint8_t cluster, uint32_t osd)
{
    world_open_start(w);
    memset(w->store->config.cluster, cluster, sizeof(w->store->config.cluster));
    w->store->config.osd = osd;
    assert_true(world_wait(w, &w->opened, 60 * NS_PER_S));
    return w->open.result;
}

static void only_its_own_cluster_and_osd_open_it(void **state)
{
    struct world w;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 20});
    world_format_store(&w);
    assert_int_equal(open_as(&w, 0xc2, WORLD_OSD), -EPERM);
    assert_string_equal(w.open.error, "belongs to another cluster");
    assert_null(w.open.store);
    assert_int_equal(open_as(&w, 0xc1, WORLD_OSD + 1), -EPERM);
    assert_string_equal(w.open.error, "is the disk of another OSD");
    assert_int_equal(open_as(&w, 0xc1, WORLD_OSD), 0);
    assert_int_equal(w.open.incarnation, 1); /* who was refused did not count as a boot */
    world_deinit(&w);
}

/* Change a superblock, or (edit NULL) fill it with garbage. */
static void edit_super(struct world *w, uint32_t copy, void (*edit)(uint8_t *block))
{
    struct loop_file *file;
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    uint64_t at = superblock_place(WORLD_BLOCKS, copy) * STORE_BLOCK;

    assert_int_equal(loop_file_open(w->loop, WORLD_PATH, LOOP_FILE_WRITE, &file), 0);
    assert_int_equal(loop_read_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
    if (edit == NULL)
        memset(block, 0x77, STORE_BLOCK);
    else
        edit(block);
    put_u32(block + STORE_BLOCK - 4, crc32c(0, block, STORE_BLOCK - 4) + (edit == NULL));
    assert_int_equal(loop_write_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
    assert_int_equal(loop_flush_now(file), 0);
    loop_file_close(file);
    free(block);
}

static void edit_newer(uint8_t *block)
{
    put_u32(block + 8, SUPER_VERSION + 1);
}

static void any_one_copy_of_the_superblock_is_enough(void **state)
{
    struct world w;
    (void)state;

    for (uint32_t whole = 0; whole < SUPER_COPIES; whole++) {
        world_create(&w, &(struct sim_config){.seed = 30 + whole});
        world_format_store(&w);
        assert_int_equal(world_open(&w), 0);
        world_crash(&w, true);
        for (uint32_t i = 0; i < SUPER_COPIES; i++) {
            if (i != whole)
                edit_super(&w, i, NULL);
        }
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(w.open.incarnation, 2);
        world_crash(&w, true);
        edit_super(&w, whole, NULL); /* the others were written again */
        assert_int_equal(world_open(&w), 0);
        assert_int_equal(w.open.incarnation, 3);
        world_crash(&w, true);
        for (uint32_t i = 0; i < SUPER_COPIES; i++)
            edit_super(&w, i, NULL);
        assert_int_equal(world_open(&w), -EINVAL);
        assert_string_equal(w.open.error, "holds no Skerry store");
        world_deinit(&w);
    }
}

static void a_newer_version_is_refused_by_name_and_left_alone(void **state)
{
    struct world w;
    struct store_format f;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 40});
    world_format_store(&w);
    edit_super(&w, 0, edit_newer);
    assert_int_equal(world_open(&w), -ENOTSUP);
    assert_string_equal(w.open.error, "was written by a newer version");
    assert_int_equal(store_probe(w.loop, WORLD_PATH, &f), -ENOTSUP);
    f = world_format();
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EEXIST);
    world_deinit(&w);
}

static void a_file_that_shrank_is_refused(void **state)
{
    struct world w;
    struct loop_file *file;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 41});
    world_format_store(&w);
    assert_int_equal(loop_file_open(w.loop, WORLD_PATH, LOOP_FILE_WRITE, &file), 0);
    assert_int_equal(loop_file_resize(file, WORLD_SIZE / 2, false), 0);
    loop_file_close(file);
    assert_int_equal(world_open(&w), -EINVAL);
    assert_string_equal(w.open.error, "is smaller than when it was made");
    world_deinit(&w);
}

static void a_locked_file_is_in_use(void **state)
{
    struct world w;
    struct loop_file *file;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 42});
    world_format_store(&w);
    assert_int_equal(loop_file_open(w.loop, WORLD_PATH, LOOP_FILE_WRITE | LOOP_FILE_LOCK, &file),
                     0);
    assert_int_equal(world_open(&w), -EWOULDBLOCK);
    assert_string_equal(w.open.error, "is in use by another process");
    loop_file_close(file);
    assert_int_equal(world_open(&w), 0);
    world_deinit(&w);
}

static void format_refuses_nonsense_and_what_is_there(void **state)
{
    struct world w;
    struct store_format f = world_format(), found;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 43});
    f.size = WORLD_SIZE - STORE_BLOCK;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EINVAL);
    f.size = WORLD_SIZE;
    f.object_size = 4095;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EINVAL);
    f.object_size = 2 << 20;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EINVAL);
    assert_int_equal(store_probe(w.loop, WORLD_PATH, &found), -EINVAL);
    world_format_store(&w);
    f = world_format();
    assert_int_equal(store_probe(w.loop, WORLD_PATH, &found), 0);
    assert_int_equal(found.osd, WORLD_OSD);
    assert_int_equal(found.size, WORLD_SIZE);
    assert_memory_equal(found.cluster, f.cluster, 16);
    assert_memory_equal(found.uuid, f.uuid, 16);
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EEXIST);
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, true), 0);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(w.open.incarnation, 1);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_and_the_rest_is_holes),
        cmocka_unit_test(zero_makes_holes_and_gives_their_slots_back),
        cmocka_unit_test(a_deleted_object_is_a_tombstone_until_it_is_trimmed),
        cmocka_unit_test(a_trimmed_tombstone_does_not_leave_deltas_without_a_full_record),
        cmocka_unit_test(replace_makes_the_object_exactly_this),
        cmocka_unit_test(purge_forgets_everything),
        cmocka_unit_test(dedup_records_live_without_an_object_and_fall_below_the_floor),
        cmocka_unit_test(an_object_never_has_more_dedup_records_than_a_record_holds),
        cmocka_unit_test(a_listing_shows_each_object_of_the_pg_once),
        cmocka_unit_test(no_slots_is_said_before_anything_has_changed),
        cmocka_unit_test(a_full_ring_refuses_new_objects_and_still_deletes),
        cmocka_unit_test(ring_space_returns_with_a_durable_block_only),
        cmocka_unit_test(a_slow_read_keeps_the_slots_it_reads),
        cmocka_unit_test(a_read_waits_for_data_that_is_on_its_way),
        cmocka_unit_test(a_flipped_bit_is_named_and_never_returned),
        cmocka_unit_test(a_misdirected_write_is_found_by_the_next_read),
        cmocka_unit_test(a_failed_read_is_an_error_of_that_read),
        cmocka_unit_test(a_failed_write_or_flush_fails_the_store_and_not_the_process),
        cmocka_unit_test(only_its_own_cluster_and_osd_open_it),
        cmocka_unit_test(any_one_copy_of_the_superblock_is_enough),
        cmocka_unit_test(a_newer_version_is_refused_by_name_and_left_alone),
        cmocka_unit_test(a_file_that_shrank_is_refused),
        cmocka_unit_test(a_locked_file_is_in_use),
        cmocka_unit_test(format_refuses_nonsense_and_what_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

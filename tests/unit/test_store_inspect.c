/*
 * A disk that nobody serves, looked at: what check says is what a start does, every fault is found
 * at its place, and nothing is written.
 */

#include "test_store_world.h"
#include "store/inspect.h"

enum { FOUND_MAX = 200 };

struct look {
    struct inspect *in;
    struct inspect_report rep;
    struct inspect_finding found[FOUND_MAX];
    uint32_t found_count;
    char error[INSPECT_ERROR_MAX];
};

static void look_on_found(void *arg, const struct inspect_finding *f)
{
    struct look *l = arg;

    assert_true(l->found_count < FOUND_MAX && f->text[0] != '\0');
    assert_true(f->severity != INSPECT_NOTE || l->rep.verdict != INSPECT_DAMAGED);
    l->found[l->found_count++] = *f;
}

static int look_open(struct look *l, struct world *w, uint64_t memory_max)
{
    struct inspect_config config = {
        .loop = w->loop,
        .path = WORLD_PATH,
        .memory_max = memory_max,
        .found = look_on_found,
        .arg = l,
    };

    memset(l, 0, sizeof(*l));
    return inspect_open(&config, &l->in, l->error);
}

/* Of a world without an open store. */
static void look(struct look *l, struct world *w)
{
    assert_int_equal(look_open(l, w, 0), 0);
    assert_int_equal(inspect_check(l->in, &l->rep, l->error), 0);
}

static void look_end(struct look *l)
{
    inspect_close(l->in);
}

/* One of this code at this block of the device. */
static bool look_has(const struct look *l, enum inspect_code code, uint64_t place)
{
    for (uint32_t i = 0; i < l->found_count; i++)
        if (l->found[i].code == code && l->found[i].has_place && l->found[i].place == place)
            return true;
    return false;
}

static void flip(struct world *w, uint64_t block, uint32_t bit)
{
    assert_int_equal(sim_disk_flip(w->host, WORLD_PATH, block * STORE_BLOCK * 8 + bit), 0);
}

static uint64_t disk_sum(struct world *w)
{
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    uint64_t sum = 0;

    for (uint64_t i = 0; i < WORLD_BLOCKS; i++) {
        assert_int_equal(sim_disk_peek(w->host, WORLD_PATH, i * STORE_BLOCK, block, STORE_BLOCK),
                         0);
        sum = sum * 31 + crc32c(0, block, STORE_BLOCK);
    }
    free(block);
    return sum;
}

/* ---- What is there ---- */

static void a_new_store_is_sound_and_empty(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 1});
    world_format_store(&w);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    assert_int_equal(l.found_count, 0);
    assert_int_equal(l.rep.super.osd, WORLD_OSD);
    assert_int_equal(l.rep.super.ring_blocks, l.rep.places_valid + l.rep.places_empty);
    assert_int_equal(l.rep.end, 1);
    assert_int_equal(l.rep.status.objects, 0);
    look_end(&l);
    world_deinit(&w);
}

static void prepare(struct world *w, uint64_t object, uint64_t version)
{
    struct op *op = op_new(w);

    op_prepare_range(op, STORE_PREPARE, object, version, 4, 2, 0);
    op_fill(op, object, 4, 2, 700);
    assert_int_equal(op_run(op), 0);
    op_free(op);
}

/* Objects of all kinds: 1 plain, 2 with a prepared version, 3 a tombstone, 4 with a request. */
static void fill(struct world *w)
{
    struct op *op = op_new(w);

    assert_int_equal(world_write(w, 1, 10, 0, 8, 100), 0);
    assert_int_equal(world_change(w, STORE_ZERO, 1, 11, 2, 2), 0);
    assert_int_equal(world_write(w, 2, 10, 0, 5, 200), 0);
    prepare(w, 2, 12);
    assert_int_equal(world_write(w, 3, 10, 0, 1, 300), 0);
    assert_int_equal(world_change(w, STORE_DELETE, 3, 11, 0, 0), 0);
    op_prepare_range(op, STORE_WRITE, 4, 10, 255, 1, 400);
    op->w.client = 9;
    op->w.seq = 1;
    assert_int_equal(op_run(op), 0);
    op_free(op);
}

static void check_object(void *arg, const struct inspect_object *o)
{
    uint32_t *seen = arg;

    *seen |= 1u << o->id.object;
    assert_int_equal(o->deleted, o->id.object == 3);
    assert_int_equal(o->prepared, o->id.object == 2 ? 12 : 0);
    assert_int_equal(o->prepared_blocks, o->id.object == 2 ? 2 : 0);
    assert_int_equal(o->dedups, o->id.object == 4);
    if (o->id.object == 1) {
        assert_int_equal(o->blocks, 6);
        assert_int_equal(layout_slot(o->now, 2), 0);
        assert_int_not_equal(layout_slot(o->now, 4), 0);
    }
}

static void what_is_there_is_counted_and_nothing_is_written(void **state)
{
    struct world w;
    struct look l;
    uint32_t seen = 0;
    (void)state;

    world_init(&w, 2);
    fill(&w);
    world_settle(&w);
    struct store_status status = world_status(&w);
    uint64_t blocks = store_image_blocks(w.store, 1);
    world_crash(&w, true);
    uint64_t sum = disk_sum(&w);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    assert_int_equal(l.rep.status.objects, status.objects);
    assert_int_equal(l.rep.status.tombstones, 1);
    assert_int_equal(l.rep.status.dedups, 1);
    assert_int_equal(l.rep.status.used_bytes, status.used_bytes);
    assert_int_equal(l.rep.status.log_free_bytes, status.log_free_bytes);
    assert_int_equal(l.rep.prepared, 1);
    assert_int_equal(l.rep.images_count, 1);
    assert_int_equal(l.rep.images[0].id, 1);
    assert_int_equal(l.rep.images[0].objects, 3);
    assert_int_equal(l.rep.images[0].tombstones, 1);
    assert_int_equal(l.rep.images[0].blocks, blocks);
    inspect_objects(l.in, check_object, &seen);
    assert_int_equal(seen, 0x1e);
    seen = 0;
    assert_true(inspect_object(l.in, &(struct store_id){1, 2}, check_object, &seen));
    assert_int_equal(seen, 4);
    assert_false(inspect_object(l.in, &(struct store_id){1, 5}, check_object, &seen));
    look_end(&l);
    assert_int_equal(disk_sum(&w), sum);
    world_deinit(&w);
}

static void a_disk_in_use_is_refused_and_one_looked_at_is_not_served(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_init(&w, 3);
    assert_int_equal(look_open(&l, &w, 0), -EWOULDBLOCK);
    assert_non_null(strstr(l.error, "in use"));
    world_crash(&w, false);
    look(&l, &w);
    assert_int_equal(world_open(&w), -EWOULDBLOCK);
    look_end(&l);
    assert_int_equal(world_open(&w), 0);
    world_deinit(&w);
}

static void memory_has_a_limit_and_what_exceeds_it_is_said(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_init(&w, 4);
    fill(&w);
    world_crash(&w, true);
    assert_int_equal(look_open(&l, &w, 1000), -ENOMEM);
    assert_non_null(strstr(l.error, "memory"));
    assert_int_equal(look_open(&l, &w, 100 << 10), 0); /* enough to begin with */
    assert_int_equal(inspect_check(l.in, &l.rep, l.error), -ENOMEM);
    assert_non_null(strstr(l.error, "memory"));
    look_end(&l);
    world_deinit(&w);
}

/* ---- Superblocks ---- */

static void put_super_version(struct world *w, uint32_t i, uint32_t version)
{
    struct loop_file *file;
    uint64_t at = superblock_place(WORLD_BLOCKS, i) * STORE_BLOCK;
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);

    assert_int_equal(loop_file_open(w->loop, WORLD_PATH, LOOP_FILE_WRITE, &file), 0);
    assert_int_equal(loop_read_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
    put_u32(block + 8, version);
    put_u32(block + STORE_BLOCK - 4, crc32c(0, block, STORE_BLOCK - 4));
    assert_int_equal(loop_write_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
    assert_int_equal(loop_flush_now(file), 0);
    loop_file_close(file);
    free(block);
}

static void a_damaged_superblock_is_named_and_a_start_goes_on(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_init(&w, 5);
    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        world_crash(&w, true);
        flip(&w, superblock_place(WORLD_BLOCKS, i), 4000);
        look(&l, &w);
        assert_int_equal(l.rep.verdict, INSPECT_SOUND);
        assert_int_equal(l.found_count, 1);
        assert_true(look_has(&l, INSPECT_SUPER_DAMAGED, superblock_place(WORLD_BLOCKS, i)));
        assert_false(l.rep.supers[i].is_whole);
        look_end(&l);
        assert_int_equal(world_open(&w), 0);
    }
    world_deinit(&w);
}

static void what_is_no_store_of_this_version_is_told_apart(void **state)
{
    struct world w;
    struct look l;
    static const uint32_t versions[] = {1, 3};
    (void)state;

    for (uint32_t k = 0; k < COUNT_OF(versions); k++) {
        world_create(&w, &(struct sim_config){.seed = 6});
        world_format_store(&w);
        for (uint32_t i = 0; i < SUPER_COPIES; i++)
            put_super_version(&w, i, versions[k]);
        assert_int_equal(look_open(&l, &w, 0), -ENOTSUP);
        assert_non_null(strstr(l.error, "another version"));
        for (uint32_t i = 0; i < SUPER_COPIES; i++)
            flip(&w, superblock_place(WORLD_BLOCKS, i), 4000);
        assert_int_equal(look_open(&l, &w, 0), -EINVAL);
        assert_non_null(strstr(l.error, "no Skerry store"));
        world_deinit(&w);
    }
}

static void a_device_that_shrank_or_grew_is_said(void **state)
{
    struct world w;
    struct look l;
    struct loop_file *file;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 7});
    world_format_store(&w);
    assert_int_equal(loop_file_open(w.loop, WORLD_PATH, LOOP_FILE_WRITE, &file), 0);
    assert_int_equal(loop_file_resize(file, 2 * WORLD_SIZE, false), 0);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    assert_int_equal(l.rep.counts[INSPECT_DEVICE_GREW], 1);
    assert_true(l.rep.supers[2].is_whole); /* at its old place */
    look_end(&l);
    assert_int_equal(loop_file_resize(file, WORLD_SIZE - STORE_BLOCK, false), 0);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_DAMAGED);
    assert_int_equal(l.rep.counts[INSPECT_DEVICE_SHRANK], 1);
    assert_false(l.rep.has_state);
    look_end(&l);
    loop_file_close(file);
    world_deinit(&w);
}

/* ---- The log ---- */

static void a_rotten_block_of_the_log_is_named_and_what_goes_with_it(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_init(&w, 8);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(world_write(&w, 1, 10 + i, 0, 1, 1 + i), 0);
        world_settle(&w);
    }
    world_crash(&w, true);
    look(&l, &w);
    uint64_t end = l.rep.end, place = 1 + (end - 10);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    look_end(&l);
    flip(&w, place, 3000);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_DAMAGED);
    assert_true(look_has(&l, INSPECT_LOG_BLOCK_LOST, place));
    assert_int_equal(l.rep.counts[INSPECT_LOG_BLOCK_LOST], 1);
    assert_int_equal(l.rep.counts[INSPECT_LOG_CUT], 1);
    assert_int_equal(l.rep.end, end - 11);
    assert_true(l.rep.has_state); /* of that moment */
    assert_int_equal(l.rep.status.objects, 1);
    look_end(&l);
    assert_int_equal(world_open(&w), -EBADMSG);
    world_deinit(&w);
}

struct walked {
    uint64_t ring, blocks, records, first, last;
    uint32_t kinds[5];
};

static void walk_on_block(void *arg, const struct inspect_block *b)
{
    struct walked *k = arg;

    if (k->blocks++ == 0)
        k->first = b->seq;
    k->last = b->seq;
    assert_int_equal(b->state, INSPECT_PLACE_VALID);
    assert_int_equal(b->head.seq, b->seq);
    assert_int_equal(b->place, 1 + b->seq % k->ring);
}

static void walk_on_record(void *arg, const struct inspect_record *r)
{
    struct walked *k = arg;

    assert_false(r->is_bad);
    assert_true(r->block_first <= r->block_last);
    k->records++;
    k->kinds[r->head.kind]++;
}

static void a_walk_shows_each_block_and_each_record_once(void **state)
{
    struct world w;
    struct look l;
    struct walked all = {0}, some;
    (void)state;

    world_init(&w, 9);
    fill(&w);
    assert_int_equal(world_change(&w, STORE_PURGE, 3, 0, 0, 0), 0);
    world_settle(&w);
    world_crash(&w, true);
    look(&l, &w);
    all.ring = l.rep.super.ring_blocks;
    some = all;
    inspect_walk(l.in, &(struct inspect_walk){
                           .block = walk_on_block, .record = walk_on_record, .arg = &all});
    assert_int_equal(all.first, l.rep.tail);
    assert_int_equal(all.last, l.rep.end);
    assert_int_equal(all.blocks, l.rep.end - l.rep.tail + 1);
    assert_int_equal(all.kinds[RECORD_FULL], l.rep.records_full);
    assert_int_equal(all.kinds[RECORD_DELTA], l.rep.records_delta);
    assert_int_equal(all.kinds[RECORD_PURGE], 1);
    assert_int_equal(all.records, l.rep.record_last);
    inspect_walk(
        l.in, &(struct inspect_walk){.from = 2, .count = 3, .block = walk_on_block, .arg = &some});
    assert_int_equal(some.first, 2);
    assert_int_equal(some.blocks, 3);
    look_end(&l);
    world_deinit(&w);
}

/* ---- Records that cannot be: blocks by hand behind the first one ---- */

struct hand {
    struct world w;
    struct loop_file *file;
    struct superblock sb;
    struct block_head head;
    uint8_t *block;
    uint64_t seq;
};

static void hand_init(struct hand *h, uint64_t seed)
{
    memset(h, 0, sizeof(*h));
    world_create(&h->w, &(struct sim_config){.seed = seed});
    world_format_store(&h->w);
    h->block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    assert_int_equal(loop_file_open(h->w.loop, WORLD_PATH, LOOP_FILE_WRITE, &h->file), 0);
    assert_int_equal(loop_read_now(h->file, h->block, STORE_BLOCK, 0), STORE_BLOCK);
    assert_int_equal(superblock_decode(h->block, &h->sb), 0);
    assert_int_equal(loop_read_now(h->file, h->block, STORE_BLOCK, 2 * STORE_BLOCK), STORE_BLOCK);
    assert_int_equal(block_open(h->block, h->sb.nonce, &h->head), 0);
    struct block_head next = {.nonce = h->sb.nonce,
                              .seq = 2,
                              .tail = 1,
                              .durable = 1,
                              .mark = 1000,
                              .prev_crc = h->head.crc};
    h->head = next;
}

static void hand_bytes(struct hand *h, const uint8_t *bytes, uint32_t len)
{
    piece_put(h->block, &h->head,
              &(struct piece){.seq = ++h->seq, .total = len, .len = len, .bytes = bytes});
}

static void hand_record(struct hand *h, enum record_kind kind, uint32_t flags, uint64_t object,
                        uint64_t slot)
{
    uint8_t bytes[RECORD_HEADER + RECORD_RUN + 2 * RECORD_CRC];
    struct record_head r = {.kind = kind, .flags = flags, .id = {1, object}, .version = 5};

    r.runs_count = r.crcs_count = slot != 0;
    record_head_encode(bytes, &r);
    if (slot != 0) {
        record_run_put(bytes, 0, &(struct record_run){.count = 1, .slot = slot});
        record_crc_put(bytes, &r, 0, 7);
    }
    hand_bytes(h, bytes, record_size(r.runs_count, r.crcs_count, 0, false));
}

/* The block is written; a start refuses it, and so does check. */
static void hand_look(struct hand *h, struct look *l)
{
    block_seal(h->block, &h->head);
    assert_int_equal(loop_write_now(h->file, h->block, STORE_BLOCK, 3 * STORE_BLOCK), STORE_BLOCK);
    assert_int_equal(loop_flush_now(h->file), 0);
    loop_file_close(h->file);
    look(l, &h->w);
    assert_int_equal(l->rep.verdict, INSPECT_DAMAGED);
}

static void hand_end(struct hand *h, struct look *l)
{
    look_end(l);
    assert_int_equal(world_open(&h->w), -EBADMSG);
    world_deinit(&h->w);
    free(h->block);
}

static void records_that_contradict_each_other_are_named(void **state)
{
    struct hand h;
    struct look l;
    (void)state;

    hand_init(&h, 10);
    hand_record(&h, RECORD_FULL, 0, 1, 5000);
    hand_record(&h, RECORD_FULL, 0, 2, 5000);
    hand_record(&h, RECORD_FULL, 0, 3, 200);
    hand_record(&h, RECORD_DELTA, 0, 4, 6000);
    hand_record(&h, RECORD_FULL, 0, 5, 6001);
    hand_record(&h, RECORD_DELTA, RECORD_COMMIT, 5, 0);
    hand_look(&h, &l);
    assert_true(look_has(&l, INSPECT_SLOT_SHARED, 5000));
    assert_true(look_has(&l, INSPECT_SLOT_OUTSIDE, 200));
    assert_int_equal(l.rep.counts[INSPECT_OBJECT_HEADLESS], 1);
    assert_true(look_has(&l, INSPECT_RECORD_CONTRADICTS, 3));
    assert_int_equal(l.rep.counts[INSPECT_RECORD_CONTRADICTS], 1);
    hand_end(&h, &l);
}

static void a_record_that_makes_no_sense_is_placed(void **state)
{
    static const uint8_t junk[RECORD_HEADER] = {9};
    struct hand h;
    struct look l;
    (void)state;

    hand_init(&h, 11);
    hand_record(&h, RECORD_FULL, 0, 1, 5000);
    hand_bytes(&h, junk, sizeof(junk));
    hand_record(&h, RECORD_FULL, 0, 2, 5001);
    hand_look(&h, &l);
    assert_true(look_has(&l, INSPECT_RECORD_BAD, 3));
    assert_int_equal(l.rep.status.objects, 1); /* up to there */
    hand_end(&h, &l);
}

static void a_number_at_the_end_of_all_numbers_ends(void **state)
{
    struct hand h;
    struct look l;
    (void)state;

    hand_init(&h, 12);
    h.head.seq = BLOCK_NUMBERS_MAX + (2 - BLOCK_NUMBERS_MAX % h.sb.ring_blocks);
    h.head.tail = h.head.seq;
    h.head.durable = 0;
    block_seal(h.block, &h.head);
    assert_int_equal(loop_write_now(h.file, h.block, STORE_BLOCK,
                                    (1 + h.head.seq % h.sb.ring_blocks) * STORE_BLOCK),
                     STORE_BLOCK);
    assert_int_equal(loop_flush_now(h.file), 0);
    loop_file_close(h.file);
    look(&l, &h.w);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    look_end(&l);
    assert_int_equal(world_open(&h.w), 0);
    world_deinit(&h.w);
    free(h.block);
}

/* ---- Beyond the mark ---- */

static void data_that_did_not_come_drops_its_record(void **state)
{
    struct world w;
    struct look l;
    struct layout now;
    (void)state;

    world_init(&w, 13);
    assert_int_equal(world_write(&w, 1, 10, 0, 1, 100), 0);
    object_read(object_find(w.store, &(struct store_id){1, 1}), &now);
    uint64_t slot = layout_slot(&now, 0);
    world_crash(&w, true);
    look(&l, &w);
    assert_int_equal(l.rep.verdict, INSPECT_SOUND);
    assert_int_equal(l.rep.records_beyond_mark, 1);
    look_end(&l);
    flip(&w, slot, 100);
    look(&l, &w);
    assert_true(look_has(&l, INSPECT_RECORD_DROPPED, slot));
    assert_int_equal(l.rep.verdict, INSPECT_DROPS);
    assert_int_equal(l.rep.records_dropped, 1);
    look_end(&l);
    assert_int_equal(world_open(&w), 0);
    world_deinit(&w);
}

static void hand_write(struct hand *h)
{
    block_seal(h->block, &h->head);
    assert_int_equal(
        loop_write_now(h->file, h->block, STORE_BLOCK, (1 + h->head.seq) * STORE_BLOCK),
        STORE_BLOCK);
}

/* The block of the record is the last one; one after a gap says that it was durable. */
static void data_that_was_durable_and_is_not_there_is_rotten(void **state)
{
    struct hand h;
    struct look l;
    (void)state;

    hand_init(&h, 14);
    h.head.mark = 0;
    hand_record(&h, RECORD_FULL, 0, 1, 5000);
    hand_write(&h);
    h.head = (struct block_head){.nonce = h.sb.nonce, .seq = 4, .tail = 1, .durable = 2};
    hand_write(&h);
    assert_int_equal(loop_flush_now(h.file), 0);
    loop_file_close(h.file);
    look(&l, &h.w);
    assert_true(look_has(&l, INSPECT_RECORD_ROTTEN, 5000));
    assert_true(look_has(&l, INSPECT_LOG_TORN, 1 + 3));
    assert_int_equal(l.rep.verdict, INSPECT_LOSES);
    look_end(&l);
    assert_int_equal(world_open(&h.w), 0);
    world_deinit(&h.w);
    free(h.block);
}

/* ---- What check says is what a start does ---- */

enum { LIFE_OPS = 40, LIFE_OBJECTS = 12, LIFE_ROUNDS = 4 };

struct life {
    struct world w;
    struct prng rng;
    struct op *ops[LIFE_OPS];
    uint64_t version;
    uint32_t damaged, dropped;
};

static void life_op(struct life *f, struct op *op)
{
    static const enum store_write_kind kinds[] = {STORE_WRITE, STORE_WRITE,  STORE_WRITE,
                                                  STORE_ZERO,  STORE_DELETE, STORE_PURGE};
    enum store_write_kind kind = kinds[prng_below(&f->rng, COUNT_OF(kinds))];
    uint32_t first = (uint32_t)prng_below(&f->rng, 32),
             count = 1 + (uint32_t)prng_below(&f->rng, 8);
    uint64_t object = prng_below(&f->rng, LIFE_OBJECTS);

    f->version++;
    op_prepare_range(op, kind, object, f->version, first, count, f->version * 100);
    if (kind == STORE_DELETE || kind == STORE_PURGE)
        op->w.offset = op->w.len = 0;
    if (kind == STORE_WRITE && prng_below(&f->rng, 2) == 0) {
        op->w.client = 1 + prng_below(&f->rng, 3);
        op->w.seq = f->version;
    }
    store_write_start(f->w.store, &op->w);
}

static void life_run(struct life *f)
{
    for (uint32_t i = 0; i < LIFE_OPS; i++) {
        f->ops[i] = op_new(&f->w);
        life_op(f, f->ops[i]);
        if (prng_below(&f->rng, 3) == 0)
            world_run(&f->w, prng_below(&f->rng, 2000 * 1000));
    }
    if (prng_below(&f->rng, 4) == 0)
        world_settle(&f->w);
    world_crash(&f->w, prng_below(&f->rng, 3) != 0);
    for (uint32_t i = 0; i < LIFE_OPS; i++)
        op_free(f->ops[i]);
}

/* Some bit of a superblock, of the log near its end, or of anything. */
static void life_rot(struct life *f, const struct inspect_report *rep)
{
    uint64_t block = prng_below(&f->rng, WORLD_BLOCKS), back = prng_below(&f->rng, 30);

    if (prng_below(&f->rng, 4) != 0)
        block = 1 + (rep->end > back ? rep->end - back : rep->end) % rep->super.ring_blocks;
    flip(&f->w, block, (uint32_t)prng_below(&f->rng, STORE_BLOCK * 8));
}

/* False: it is damaged, and its life over. */
static bool life_compare(struct life *f, const struct inspect_report *rep)
{
    int result = world_open(&f->w);

    assert_int_equal(result < 0, rep->verdict == INSPECT_DAMAGED);
    if (result < 0)
        return false;
    struct store_status status = world_status(&f->w);
    assert_int_equal(status.objects, rep->status.objects);
    assert_int_equal(status.tombstones, rep->status.tombstones);
    assert_int_equal(status.dedups, rep->status.dedups);
    assert_int_equal(status.used_bytes, rep->status.used_bytes);
    assert_int_equal(store_image_blocks(f->w.store, 1),
                     rep->images_count == 0 ? 0 : rep->images[0].blocks);
    return true;
}

static void life(struct life *f, uint64_t seed)
{
    struct look l;
    bool alive = true;

    world_init(&f->w, seed);
    for (uint32_t i = 0; i < LIFE_ROUNDS && alive; i++) {
        life_run(f);
        look(&l, &f->w);
        assert_true(l.rep.verdict < INSPECT_LOSES); /* nothing is wrong with it yet */
        struct inspect_report before = l.rep;
        if (prng_below(&f->rng, 2) == 0) {
            look_end(&l);
            life_rot(f, &before);
            look(&l, &f->w);
        }
        struct inspect_report rep = l.rep;
        struct inspect_image image = {0};
        if (rep.images_count > 0)
            image = rep.images[0];
        rep.images = &image;
        look_end(&l);
        f->dropped += rep.records_dropped > 0;
        f->damaged += rep.verdict == INSPECT_DAMAGED;
        alive = life_compare(f, &rep);
    }
    world_deinit(&f->w);
}

static void check_and_a_start_agree_whatever_happened(void **state)
{
    struct life f = {0};
    (void)state;

    for (uint64_t seed = 1; seed <= 150; seed++) {
        prng_init(&f.rng, seed);
        f.version = 0;
        life(&f, seed);
    }
    print_message("%u damaged, %u with records to drop\n", f.damaged, f.dropped);
    assert_true(f.damaged > 10 && f.dropped > 10);
}

/* ---- Data ---- */

struct verify {
    struct inspect_verify v;
    struct inspect_bad bad[16];
    uint32_t bad_count;
    bool done;
};

static void verify_on_bad(struct inspect_verify *v, const struct inspect_bad *bad)
{
    struct verify *k = container_of(v, struct verify, v);

    assert_true(k->bad_count < COUNT_OF(k->bad));
    k->bad[k->bad_count++] = *bad;
}

static void verify_on_progress(struct inspect_verify *v)
{
    assert_true(v->blocks_done <= v->blocks_total);
}

static void verify_on_done(struct inspect_verify *v)
{
    container_of(v, struct verify, v)->done = true;
}

static void verify(struct verify *k, struct world *w, struct look *l)
{
    *k = (struct verify){.v = {.in = l->in,
                               .bad = verify_on_bad,
                               .progress = verify_on_progress,
                               .done = verify_on_done}};
    inspect_verify_start(&k->v);
    assert_false(k->done);
    assert_true(world_wait(w, &k->done, 60 * NS_PER_S));
    assert_int_equal(k->v.blocks_bad, k->bad_count);
}

static void take_slots(void *arg, const struct inspect_object *o)
{
    uint64_t *slots = arg;

    slots[0] = layout_slot(o->now, 100);
    slots[1] = layout_slot(o->changes, 4);
}

static void verify_finds_each_bad_block_and_no_other(void **state)
{
    struct world w;
    struct look l;
    struct verify k;
    uint64_t slots[2];
    (void)state;

    world_init(&w, 20);
    for (uint64_t o = 10; o < 30; o++)
        assert_int_equal(world_write(&w, o, 10, 0, 256, 1000 * o), 0);
    assert_int_equal(world_change(&w, STORE_ZERO, 12, 11, 7, 90), 0);
    prepare(&w, 11, 12);
    world_settle(&w);
    world_crash(&w, true);
    look(&l, &w);
    verify(&k, &w, &l);
    assert_int_equal(k.bad_count, 0);
    assert_int_equal(k.v.blocks_done, 20 * 256 - 90 + 2);
    assert_int_equal(k.v.blocks_done, l.rep.images[0].blocks);
    assert_true(inspect_object(l.in, &(struct store_id){1, 11}, take_slots, slots));
    flip(&w, slots[0], 77);
    flip(&w, slots[1], 77);
    verify(&k, &w, &l);
    assert_int_equal(k.bad_count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(k.bad[i].id.object, 11);
        assert_int_equal(k.bad[i].block, k.bad[i].prepared ? 4 : 100);
        assert_int_equal(k.bad[i].slot, slots[k.bad[i].prepared]);
        assert_int_equal(k.bad[i].error, -EBADMSG);
        assert_int_not_equal(k.bad[i].expected, k.bad[i].found);
    }
    look_end(&l);
    world_deinit(&w);
}

static void what_cannot_be_read_at_once_is_read_block_by_block(void **state)
{
    struct world w;
    struct look l;
    struct verify k;
    (void)state;

    world_init(&w, 21);
    assert_int_equal(world_write(&w, 10, 10, 0, 256, 1000), 0);
    world_settle(&w);
    world_crash(&w, true);
    look(&l, &w);
    sim_disk_fail(w.host, "", SIM_DISK_READ, 2, EIO, true); /* the third read, as a whole */
    verify(&k, &w, &l);
    assert_int_equal(k.bad_count, 0);
    assert_int_equal(k.v.blocks_done, 256);
    look_end(&l);
    sim_disk_clear_faults(w.host);
    world_deinit(&w);
}

static void a_log_that_cannot_be_read_is_no_crash(void **state)
{
    struct world w;
    struct look l;
    (void)state;

    world_init(&w, 22);
    fill(&w);
    world_crash(&w, true);
    assert_int_equal(look_open(&l, &w, 0), 0);
    sim_disk_fail(w.host, "", SIM_DISK_READ, 0, EIO, false);
    assert_int_equal(inspect_check(l.in, &l.rep, l.error), 0);
    assert_int_equal(l.rep.verdict, INSPECT_DAMAGED);
    assert_int_equal(l.rep.counts[INSPECT_LOG_UNREADABLE], l.rep.super.ring_blocks);
    assert_int_equal(l.rep.counts[INSPECT_LOG_NO_END], 1);
    look_end(&l);
    sim_disk_clear_faults(w.host);
    world_deinit(&w);
}

static void format_takes_the_log_that_is_asked_for(void **state)
{
    struct world w;
    struct look l;
    struct store_format f = world_format();
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 23});
    f.ring_blocks = 255;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EINVAL);
    f.ring_blocks = WORLD_BLOCKS / 4 + 1;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EINVAL);
    f.ring_blocks = WORLD_BLOCKS / 4;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), 0);
    f.ring_blocks = 256;
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, false), -EEXIST);
    assert_int_equal(store_format(w.loop, WORLD_PATH, &f, true), 0);
    look(&l, &w);
    assert_int_equal(l.rep.super.ring_blocks, 256);
    look_end(&l);
    assert_int_equal(world_open(&w), 0);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_store_is_sound_and_empty),
        cmocka_unit_test(what_is_there_is_counted_and_nothing_is_written),
        cmocka_unit_test(a_disk_in_use_is_refused_and_one_looked_at_is_not_served),
        cmocka_unit_test(memory_has_a_limit_and_what_exceeds_it_is_said),
        cmocka_unit_test(a_damaged_superblock_is_named_and_a_start_goes_on),
        cmocka_unit_test(what_is_no_store_of_this_version_is_told_apart),
        cmocka_unit_test(a_device_that_shrank_or_grew_is_said),
        cmocka_unit_test(a_rotten_block_of_the_log_is_named_and_what_goes_with_it),
        cmocka_unit_test(a_walk_shows_each_block_and_each_record_once),
        cmocka_unit_test(records_that_contradict_each_other_are_named),
        cmocka_unit_test(a_record_that_makes_no_sense_is_placed),
        cmocka_unit_test(a_number_at_the_end_of_all_numbers_ends),
        cmocka_unit_test(data_that_did_not_come_drops_its_record),
        cmocka_unit_test(data_that_was_durable_and_is_not_there_is_rotten),
        cmocka_unit_test(check_and_a_start_agree_whatever_happened),
        cmocka_unit_test(verify_finds_each_bad_block_and_no_other),
        cmocka_unit_test(what_cannot_be_read_at_once_is_read_block_by_block),
        cmocka_unit_test(a_log_that_cannot_be_read_is_no_crash),
        cmocka_unit_test(format_takes_the_log_that_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

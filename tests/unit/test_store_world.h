/* One host with one small store, for the tests of src/store/. */

#ifndef TEST_STORE_WORLD_H
#define TEST_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/crc32c.h"
#include "io/sim.h"
#include "store/impl.h"

#define WORLD_PATH "osd"

enum {
    WORLD_SIZE = 64 << 20,
    WORLD_BLOCKS = WORLD_SIZE / STORE_BLOCK,
    WORLD_RING = 563, /* blocks; what store_format() gives such a store */
    WORLD_OSD = 7,
};

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct store_open open;
    struct store *store;
    bool opened; /* the open came back */
    uint64_t mutants;
    bool discards;
    uint64_t scrub_period_s, scrub_rate; /* 0: no scrub */
    void (*scrub_bad)(void *arg, const struct store_id *id, uint64_t pg, uint32_t block, int error);
    uint32_t failed_count;
    int failed_error;
};

static inline struct store_format world_format(void)
{
    struct store_format f = {.osd = WORLD_OSD, .size = WORLD_SIZE, .object_size = 128 << 10};

    memset(f.cluster, 0xc1, sizeof(f.cluster));
    memset(f.uuid, 0x1d, sizeof(f.uuid));
    return f;
}

static inline void world_create(struct world *w, const struct sim_config *config)
{
    const char *mutants = getenv("STORE_MUTANTS"); /* test_store_mutants.c */

    *w = (struct world){.sim = sim_create(config)};
    w->mutants = mutants != NULL ? strtoull(mutants, NULL, 0) : 0;
    w->host = sim_host_create(w->sim, 1);
    w->loop = sim_loop_create(w->host);
}

static inline void world_format_store(struct world *w)
{
    struct store_format f = world_format();

    assert_int_equal(store_format(w->loop, WORLD_PATH, &f, false), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
}

/* A smaller ring than store_format() makes: it fills and wraps sooner. Only of a new store. */
static inline void world_shrink_ring(struct world *w, uint64_t ring_blocks)
{
    struct loop_file *file;
    struct superblock sb;
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);

    assert_int_equal(loop_file_open(w->loop, WORLD_PATH, LOOP_FILE_WRITE, &file), 0);
    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        uint64_t at = superblock_place(WORLD_BLOCKS, i) * STORE_BLOCK;
        assert_int_equal(loop_read_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
        assert_int_equal(superblock_decode(block, &sb), 0);
        sb.ring_blocks = ring_blocks;
        superblock_encode(&sb, block);
        assert_int_equal(loop_write_now(file, block, STORE_BLOCK, at), STORE_BLOCK);
    }
    assert_int_equal(loop_flush_now(file), 0);
    loop_file_close(file);
    free(block);
}

static inline void world_on_failed(void *arg, int error, const char *what)
{
    struct world *w = arg;

    assert_non_null(what);
    w->failed_count++;
    w->failed_error = error;
}

static inline void world_on_opened(struct store_open *o)
{
    struct world *w = container_of(o, struct world, open);

    w->opened = true;
    w->store = o->store;
}

static inline void world_open_start(struct world *w)
{
    struct store_format f = world_format();

    w->opened = false;
    w->failed_count = 0;
    w->open = (struct store_open){
        .config = {.loop = w->loop,
                   .path = WORLD_PATH,
                   .osd = f.osd,
                   .failed = world_on_failed,
                   .arg = w,
                   .scrub_period_s = w->scrub_period_s,
                   .scrub_rate = w->scrub_rate,
                   .scrub_bad = w->scrub_bad,
                   .discard = w->discards ? STORE_DISCARD_AUTO : STORE_DISCARD_OFF,
                   .mutants = w->mutants},
        .done = world_on_opened,
    };
    memcpy(w->open.config.cluster, f.cluster, sizeof(f.cluster));
    store_open_start(&w->open);
    w->store = w->open.store;
}

static inline bool world_is(void *arg)
{
    return *(bool *)arg;
}

/* Run until *flag; false if that takes more than `ns`. */
static inline bool world_wait(struct world *w, bool *flag, uint64_t ns)
{
    return *flag || sim_run_until_true(w->sim, world_is, flag, sim_now(w->sim) + ns);
}

static inline void world_run(struct world *w, uint64_t ns)
{
    sim_run_until(w->sim, sim_now(w->sim) + ns);
}

/* Open it, and to the end. */
static inline int world_open(struct world *w)
{
    world_open_start(w);
    if (!world_wait(w, &w->opened, 60 * NS_PER_S))
        return -ETIMEDOUT;
    return w->open.result;
}

/* The process ends; another one begins, with no store open. */
static inline void world_crash(struct world *w, bool power_loss)
{
    sim_host_crash(w->host, power_loss);
    if (w->store != NULL)
        store_close(w->store);
    w->store = NULL;
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
}

static inline void world_deinit(struct world *w)
{
    sim_host_crash(w->host, false);
    if (w->store != NULL)
        store_close(w->store);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
}

static inline void world_init(struct world *w, uint64_t seed)
{
    world_create(w, &(struct sim_config){.seed = seed});
    world_format_store(w);
    assert_int_equal(world_open(w), 0);
}

static inline int world_restart(struct world *w, bool power_loss)
{
    world_crash(w, power_loss);
    sim_disk_clear_faults(w->host);
    return world_open(w);
}

/* ---- Content ---- */

/* Every value fills a block in its own way; 0 is a hole. */
static inline void block_fill(uint8_t *block, uint64_t value)
{
    for (uint32_t i = 0; i < STORE_BLOCK / sizeof(uint64_t); i++)
        put_u64(block + i * sizeof(uint64_t), value * (2 * i + 1));
}

static inline uint64_t block_value(const uint8_t *block)
{
    return get_u64(block);
}

static inline bool block_is(const uint8_t *block, uint64_t value)
{
    for (uint32_t i = 0; i < STORE_BLOCK / sizeof(uint64_t); i++) {
        if (get_u64(block + i * sizeof(uint64_t)) != value * (2 * i + 1))
            return false;
    }
    return true;
}

/* ---- A write and its memory ---- */

struct op {
    struct store_write w;
    struct store_read r;
    uint32_t crcs[STORE_BLOCKS_MAX];
    uint8_t *data;
    bool done;
    struct world *world;
};

static inline void op_on_written(struct store_write *w)
{
    struct op *op = container_of(w, struct op, w);

    assert_false(op->done);
    op->done = true;
}

static inline void op_on_read(struct store_read *r)
{
    struct op *op = container_of(r, struct op, r);

    assert_false(op->done);
    op->done = true;
}

static inline struct op *op_new(struct world *w)
{
    struct op *op = mem_zalloc(sizeof(*op));

    op->world = w;
    op->data = mem_alloc_aligned(STORE_OBJECT_MAX, STORE_BLOCK);
    return op;
}

static inline void op_free(struct op *op)
{
    free(op->data);
    free(op);
}

/* Block i of the write holds value + i. */
static inline void op_fill(struct op *op, uint64_t object, uint32_t first, uint32_t count,
                           uint64_t value)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *block = op->data + (size_t)i * STORE_BLOCK;
        block_fill(block, value + i);
        op->crcs[i] = crc32c_block(1, object, first + i, block, STORE_BLOCK);
    }
}

static inline void op_prepare(struct op *op, enum store_write_kind kind, uint64_t object,
                              uint64_t version)
{
    op->done = false;
    op->w = (struct store_write){
        .kind = kind,
        .id = {1, object},
        .pg = object % 2,
        .version = version,
        .data = op->data,
        .crcs = op->crcs,
        .done = op_on_written,
    };
}

/* Blocks first .. first + count - 1 of object (1, object). */
static inline void op_prepare_range(struct op *op, enum store_write_kind kind, uint64_t object,
                                    uint64_t version, uint32_t first, uint32_t count,
                                    uint64_t value)
{
    op_prepare(op, kind, object, version);
    op->w.offset = first * STORE_BLOCK;
    op->w.len = count * STORE_BLOCK;
    if (kind == STORE_WRITE)
        op_fill(op, object, first, count, value);
}

static inline int op_run(struct op *op)
{
    store_write_start(op->world->store, &op->w);
    assert_true(world_wait(op->world, &op->done, 60 * NS_PER_S));
    return op->w.result;
}

static inline void op_read_start(struct op *op, uint64_t object, uint32_t first, uint32_t count)
{
    op->done = false;
    memset(op->data, 0x5a, (size_t)count * STORE_BLOCK);
    op->r = (struct store_read){
        .id = {1, object},
        .offset = first * STORE_BLOCK,
        .len = count * STORE_BLOCK,
        .buf = op->data,
        .crcs = op->crcs,
        .done = op_on_read,
    };
    store_read_start(op->world->store, &op->r);
}

static inline int op_read(struct op *op, uint64_t object, uint32_t first, uint32_t count)
{
    op_read_start(op, object, first, count);
    assert_true(world_wait(op->world, &op->done, 60 * NS_PER_S));
    return op->r.result;
}

/* ---- In one line ---- */

static inline int world_write(struct world *w, uint64_t object, uint64_t version, uint32_t first,
                              uint32_t count, uint64_t value)
{
    struct op *op = op_new(w);

    op_prepare_range(op, STORE_WRITE, object, version, first, count, value);
    int result = op_run(op);
    op_free(op);
    return result;
}

static inline int world_change(struct world *w, enum store_write_kind kind, uint64_t object,
                               uint64_t version, uint32_t first, uint32_t count)
{
    struct op *op = op_new(w);

    op_prepare_range(op, kind, object, version, first, count, 0);
    int result = op_run(op);
    op_free(op);
    return result;
}

/* 0 and the value of one block, 0 for a hole; or the error. */
static inline int world_read(struct world *w, uint64_t object, uint32_t block, uint64_t *value)
{
    struct op *op = op_new(w);
    int result = op_read(op, object, block, 1);

    *value = block_value(op->data);
    if (result == 0)
        assert_true(block_is(op->data, *value));
    op_free(op);
    return result;
}

static inline struct store_status world_status(struct world *w)
{
    struct store_status st;

    store_status(w->store, &st);
    return st;
}

/* Long enough that a quiet store has said everything. */
static inline void world_settle(struct world *w)
{
    world_run(w, 400 * NS_PER_MS);
}

#endif /* TEST_STORE_WORLD_H */

#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/impl.h"

/* Making a store, opening and closing it, and the one step that takes all decisions. */

enum {
    SIZE_MIN = 64 << 20,
    TURNOVER_SLOTS_MIN = 4 * STORE_BLOCKS_MAX,
    TURNOVER_PARTS = 20,  /* one part of the slots is kept for turnover */
    RING_SLOT_BYTES = 32, /* what a slot may cost in the ring, with its part of an object */
    RING_SIZE_MIN = 512,
    RING_LIVE_TENTHS = 4, /* of the ring that live state may take; README.md says why */
};

/* ---- What fits ---- */

/* Blocks that live state, once written anew, may take of a ring. */
static uint64_t ring_live_share(uint64_t ring_blocks)
{
    uint64_t tenths = ring_blocks * RING_LIVE_TENTHS / 10;

    return tenths < ring_half(ring_blocks) ? tenths : ring_half(ring_blocks);
}

/* Ring blocks for a device of this many blocks. */
static uint64_t ring_size(uint64_t blocks, uint32_t object_size)
{
    uint64_t per_slot =
        RING_SLOT_BYTES + (OBJECT_BYTES + RECORD_DEDUP) * (uint64_t)STORE_BLOCK / object_size;
    uint64_t ring = clean_reserve(blocks * per_slot) * 10 / RING_LIVE_TENTHS;

    if (ring < RING_SIZE_MIN)
        ring = RING_SIZE_MIN;
    if (ring > blocks / 4)
        ring = blocks / 4;
    return ring < RING_BLOCKS_MAX ? ring : RING_BLOCKS_MAX;
}

/* The most bytes of records whose clean_reserve() is within the share. */
static uint64_t ring_live_limit(uint64_t ring_blocks)
{
    uint64_t share = ring_live_share(ring_blocks), fixed = clean_reserve(0);

    return share > fixed ? (share - fixed) * BLOCK_ROOM * 4 / 5 : 0;
}

void store_limits(struct store *s)
{
    const struct superblock *sb = &s->super;
    uint64_t turnover;

    slots_init(&s->slots, sb->blocks);
    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        slots_mark(&s->slots, superblock_place(sb->blocks, i), true);
    for (uint64_t i = 0; i < sb->ring_blocks; i++)
        slots_mark(&s->slots, sb->ring_first + i, true);
    turnover = s->slots.free / TURNOVER_PARTS;
    if (turnover < TURNOVER_SLOTS_MIN)
        turnover = TURNOVER_SLOTS_MIN;
    s->slots_capacity = s->slots.free > turnover ? s->slots.free - turnover : 0;
    s->live_limit = ring_live_limit(sb->ring_blocks);
}

/* ---- Making one ---- */

/* The first whole superblock. -EINVAL: none; -ENOTSUP: a newer version's. */
static int super_find(struct loop_file *file, struct superblock *out)
{
    uint64_t blocks = loop_file_size(file) / STORE_BLOCK;
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    int result = -EINVAL;

    for (uint32_t i = 0; i < SUPER_COPIES && result == -EINVAL && blocks >= SUPER_COPIES; i++) {
        int64_t got =
            loop_read_now(file, block, STORE_BLOCK, superblock_place(blocks, i) * STORE_BLOCK);
        if (got < 0)
            result = (int)got;
        else if (got == STORE_BLOCK)
            result = superblock_decode(block, out);
    }
    free(block);
    return result;
}

static int format_write(struct loop_file *file, uint8_t *block, uint64_t place)
{
    int64_t result = loop_write_now(file, block, STORE_BLOCK, place * STORE_BLOCK);

    return result < 0 ? (int)result : 0;
}

/* The log's first block before the superblocks: what has a superblock has a log. */
static int format_blocks(struct loop_file *file, struct superblock *sb)
{
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    struct block_head first = {.nonce = sb->nonce, .seq = 1, .tail = 1};

    block_seal(block, &first);
    int result = format_write(file, block, sb->ring_first + 1);
    if (result == 0)
        result = loop_flush_now(file);
    for (uint32_t i = 0; i < SUPER_COPIES && result == 0; i++) {
        sb->copy = i;
        superblock_encode(sb, block);
        result = format_write(file, block, superblock_place(sb->blocks, i));
    }
    if (result == 0)
        result = loop_flush_now(file);
    free(block);
    return result;
}

static int format_file(struct loop *loop, struct loop_file *file, const struct store_format *f,
                       bool force)
{
    struct superblock sb;

    if (f->size < SIZE_MIN || f->size / STORE_BLOCK > STORE_SLOTS_MAX || f->object_size == 0 ||
        f->object_size > STORE_OBJECT_MAX || f->object_size % STORE_BLOCK != 0)
        return -EINVAL;
    if (f->ring_blocks != 0 &&
        (f->ring_blocks < RING_BLOCKS_MIN || f->ring_blocks > f->size / STORE_BLOCK / 4))
        return -EINVAL;
    if (!force && super_find(file, &sb) != -EINVAL)
        return -EEXIST;
    if (loop_file_size(file) < f->size) {
        int result = loop_file_resize(file, f->size, false);
        if (result < 0)
            return result;
    }
    sb = (struct superblock){
        .osd = f->osd,
        .object_size = f->object_size,
        .blocks = f->size / STORE_BLOCK,
        .ring_first = 1,
        .nonce = loop_random_u64(loop),
    };
    memcpy(sb.cluster, f->cluster, sizeof(sb.cluster));
    memcpy(sb.uuid, f->uuid, sizeof(sb.uuid));
    sb.ring_blocks = f->ring_blocks != 0 ? f->ring_blocks : ring_size(sb.blocks, sb.object_size);
    return format_blocks(file, &sb);
}

int store_format(struct loop *loop, const char *path, const struct store_format *f, bool force)
{
    struct loop_file *file;
    int result = loop_file_open(
        loop, path, LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT | LOOP_FILE_LOCK, &file);

    if (result < 0)
        return result;
    result = format_file(loop, file, f, force);
    loop_file_close(file);
    return result;
}

int store_probe(struct loop *loop, const char *path, struct store_format *out)
{
    struct loop_file *file;
    struct superblock sb;
    int result = loop_file_open(loop, path, LOOP_FILE_DIRECT, &file);

    if (result < 0)
        return result;
    result = super_find(file, &sb);
    loop_file_close(file);
    if (result < 0)
        return result;
    *out = (struct store_format){
        .osd = sb.osd,
        .size = sb.blocks * STORE_BLOCK,
        .object_size = sb.object_size,
    };
    memcpy(out->cluster, sb.cluster, sizeof(out->cluster));
    memcpy(out->uuid, sb.uuid, sizeof(out->uuid));
    return 0;
}

/* ---- The step ---- */

void store_wake(struct store *s)
{
    loop_wake(s->loop, &s->task);
}

/* A completion: what follows is the step's. */
void store_fail(struct store *s, int error, const char *what)
{
    if (s->failed == 0) {
        s->failed = error;
        s->failed_what = what;
    }
    store_wake(s);
}

/* What the device still holds comes back by and by, each time with a step. */
static void store_step_failed(struct store *s)
{
    loop_timer_stop(s->loop, &s->idle_timer);
    if (!s->failed_told) {
        s->failed_told = true;
        log_error("store", "failed: %s osd=%u error=%d", s->failed_what, s->super.osd, s->failed);
        s->config.failed(s->config.arg, s->failed, s->failed_what);
    }
    writes_fail_all(s);
    reads_unblock(s);
    reads_submit_starved(s);
    writes_finish(s);
}

static void store_step(struct task *task)
{
    struct store *s = container_of(task, struct store, task);

    if (s->failed != 0) {
        store_step_failed(s);
        return;
    }
    ring_take_durable(s);
    ring_ack(s);
    ring_release_slots(s);
    writes_run_deferred(s);
    writes_submit_starved(s);
    reads_unblock(s);
    reads_submit_starved(s);
    clean_gather(s);
    compose(s);
    if ((s->queue_blocked || s->copies_blocked) && !s->cleaning)
        store_wake(s); /* cleaning begins with the next step */
    ring_flush(s);
    ring_watch_idle(s);
    writes_finish(s);
}

static void store_on_idle(struct loop_timer *t)
{
    struct store *s = container_of(t, struct store, idle_timer);

    s->idle_due = true;
    store_wake(s);
}

/* ---- Opening and closing ---- */

void store_open_start(struct store_open *o)
{
    struct store *s = mem_zalloc(sizeof(*s));

    check(o->done != NULL && o->config.failed != NULL);
    s->loop = o->config.loop;
    s->config = o->config;
    s->open = o;
    o->store = s;
    task_init(&s->task, store_step);
    loop_timer_init(&s->idle_timer, store_on_idle);
    index_init(s);
    list_init(&s->writes);
    list_init(&s->deferred);
    list_init(&s->finished);
    list_init(&s->queue);
    list_init(&s->starved);
    list_init(&s->written);
    list_init(&s->flushing);
    list_init(&s->reads);
    list_init(&s->reads_starved);
    list_init(&s->reads_blocked);
    pool_init(&s->rooms_pool, STORE_WRITES_MAX, sizeof(struct room), 64);
    pool_init(&s->ios_pool, STORE_IOS_MAX, sizeof(struct io), 64);
    ring_init(s);
    recovery_start(s);
}

void store_opened(struct store *s, int result, const char *error)
{
    struct store_open *o = s->open;

    s->open = NULL;
    recovery_free(s);
    o->result = result;
    snprintf(o->error, sizeof(o->error), "%s", error);
    o->incarnation = s->super.boot;
    if (result == 0) {
        scrub_start(s);
        discard_start(s);
        store_wake(s); /* what the last block could not say is said when it stays quiet */
    } else {
        o->store = NULL;
        store_close(s);
    }
    o->done(o);
}

void store_close(struct store *s)
{
    recovery_free(s);
    scrub_free(s);
    discard_free(s);
    loop_timer_stop(s->loop, &s->idle_timer);
    task_cancel(&s->task);
    index_deinit(s);
    slots_deinit(&s->slots);
    free(s->freed.items);
    ring_deinit(s);
    pool_deinit(&s->ios_pool);
    pool_deinit(&s->rooms_pool);
    if (s->file != NULL)
        loop_file_close(s->file);
    free(s);
}

void store_status(struct store *s, struct store_status *out)
{
    uint64_t data = s->slots.count - s->super.ring_blocks - SUPER_COPIES;

    *out = s->counters;
    out->size_bytes = s->super.blocks * STORE_BLOCK;
    out->data_bytes = s->slots_capacity * STORE_BLOCK;
    out->used_bytes = (data - s->slots.free - discard_held(s)) * STORE_BLOCK;
    out->free_bytes = s->slots_capacity > s->slots_live + s->promised_slots
                          ? (s->slots_capacity - s->slots_live - s->promised_slots) * STORE_BLOCK
                          : 0;
    out->log_bytes = write_log_limit(s);
    out->log_free_bytes = out->log_bytes > s->live_bytes + s->promised_bytes
                              ? out->log_bytes - s->live_bytes - s->promised_bytes
                              : 0;
    out->ring_blocks = s->super.ring_blocks;
    out->ring_used_blocks = ring_used(s);
    out->objects = s->objects_count;
    out->tombstones = s->tombstones_count;
    out->dedups = s->dedups_count;
    out->index_bytes = slab_bytes(&s->objects) + slab_bytes(&s->works) + s->maps_bytes +
                       s->places_bytes + (s->buckets_mask + 1) * sizeof(*s->buckets) +
                       s->dedups_count * sizeof(struct dedup);
    scrub_status(s, out);
    out->failed = s->failed != 0;
}

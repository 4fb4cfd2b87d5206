/*
 * Any disk. Each input is a list of patches over a formatted store: bytes at a place, or a block of
 * the ring with any payload behind a checksum that matches, or a superblock with any fields. Then
 * everything that inspect can do is done to it: it refuses, or it reports, in bounded memory, and
 * never crashes; and what it calls sound a start opens.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "io/sim.h"
#include "store/impl.h"
#include "store/inspect.h"

enum {
    SIZE = 64 << 20,
    PATCHES_MAX = 16,
    RING_MAX = 12, /* blocks of the ring that are written by hand */
    MEMORY_MAX = 64 << 20,
};

#define PATH "osd"

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct loop_file *file;
    struct superblock sb;
    uint32_t crc; /* of the ring block before */
    uint64_t seq, record;
    struct store_open open;
    bool done;
    uint64_t sum; /* of what was told, so that all of it is read */
};

struct input {
    const uint8_t *data;
    size_t size;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(struct input *in, void *dst, size_t len)
{
    size_t n = len < in->size ? len : in->size;

    memset(dst, 0, len);
    memcpy(dst, in->data, n);
    in->data += n;
    in->size -= n;
}

static uint64_t take_u64(struct input *in)
{
    uint8_t bytes[8];

    take(in, bytes, sizeof(bytes));
    return get_u64(bytes);
}

/* ---- The disk ---- */

static void put(struct world *w, uint64_t block, const uint8_t *bytes)
{
    check(loop_write_now(w->file, bytes, STORE_BLOCK, block * STORE_BLOCK) == STORE_BLOCK);
}

static void patch_bytes(struct world *w, struct input *in, uint8_t *block)
{
    uint64_t at = take_u64(in), place = at >> 16 & 0x3fff;
    uint8_t bytes[16];

    place = (at & 3) == 0 ? place : place % 16;
    check(loop_read_now(w->file, block, STORE_BLOCK, place * STORE_BLOCK) == STORE_BLOCK);
    take(in, bytes, sizeof(bytes));
    memcpy(block + (at >> 32) % (STORE_BLOCK - sizeof(bytes)), bytes, sizeof(bytes));
    put(w, place, block);
}

static void patch_super(struct world *w, struct input *in, uint8_t *block)
{
    uint64_t control = take_u64(in);
    uint32_t i = (uint32_t)(control % SUPER_COPIES);
    uint8_t bytes[8];

    memset(block, 0, STORE_BLOCK);
    superblock_encode(&w->sb, block);
    take(in, bytes, sizeof(bytes));
    memcpy(block + 8 + (control >> 8) % 84, bytes, control >> 16 & 1 ? 8 : 4);
    put_u32(block + STORE_BLOCK - 4, crc32c(0, block, STORE_BLOCK - 4));
    put(w, superblock_place(SIZE / STORE_BLOCK, i), block);
}

/* A record of few objects, versions and slots, that they may meet; from 8 bytes. */
static void put_made_record(struct world *w, struct block_head *h, uint8_t *block, uint64_t c)
{
    uint8_t bytes[RECORD_HEADER + 2 * RECORD_RUN + 2 * RECORD_CRC + RECORD_DEDUP + RECORD_PREPARED];
    struct record_head r = {
        .kind = (enum record_kind)(1 + c % 3),
        .flags = (uint32_t)(c >> 8 & 0x7f),
        .runs_count = (c >> 2 & 7) < 3 ? c >> 2 & 7 : 1,
        .dedups_count = c >> 5 & 1,
        .id = {1, c >> 16 & 3},
        .pg = c >> 18 & 1,
        .version = c >> 19 & 7,
    };
    bool both = (r.flags & RECORD_BOTH) != 0;

    for (uint32_t i = 0; i < r.runs_count; i++)
        r.crcs_count += (c >> (24 + 8 * i) & 0xff) != 0;
    memset(bytes, 0, sizeof(bytes));
    record_head_encode(bytes, &r);
    for (uint32_t i = 0; i < r.runs_count; i++) {
        uint64_t slot = c >> (24 + 8 * i) & 0xff;
        record_run_put(bytes, i,
                       &(struct record_run){.first = (uint32_t)(c >> 40 & 3) + 4 * i,
                                            .count = 1,
                                            .slot = slot == 0 ? 0 : 500 + slot,
                                            .settled = (c >> 42 & 1) != 0 && slot != 0,
                                            .prepared = (c >> (43 + i) & 1) != 0});
    }
    if (r.dedups_count > 0)
        record_dedup_put(bytes, &r, 0, &(struct store_dedup){1, c >> 45 & 3, r.version});
    if (both)
        record_prepared_put(bytes, &r, &(struct record_prepared){.version = c >> 47 & 7});
    uint32_t len = record_size(r.runs_count, r.crcs_count, r.dedups_count, both);
    if (h->used + piece_space(len) <= BLOCK_PAYLOAD)
        piece_put(block, h,
                  &(struct piece){.seq = ++w->record, .total = len, .len = len, .bytes = bytes});
}

/* The next block of the log, or one of any number; records that are made, or of any bytes, or
 * pieces of any. */
static void patch_ring(struct world *w, struct input *in, uint8_t *block)
{
    uint64_t control = take_u64(in), where = take_u64(in);
    struct block_head h = {
        .nonce = w->sb.nonce,
        .seq = w->seq + 1,
        .boot = 1,
        .prev_crc = w->crc,
        .mark = control >> 8 & 0xff,
        .record = w->record + 1,
    };
    size_t len = control >> 40 & 0xfff;

    if ((control & 7) == 7)
        h.seq = 1 + where % (BLOCK_NUMBERS_MAX - 1);
    h.tail = 1 + (control >> 16 & 0xff) % h.seq;
    h.durable = (control >> 24 & 0xff) % h.seq;
    memset(block, 0, STORE_BLOCK);
    for (uint32_t i = 0; (control & 0x40) != 0 && i < 1 + (control >> 52); i++) {
        if (in->size == 0)
            break;
        put_made_record(w, &h, block, take_u64(in));
        len = 0;
    }
    len = len < in->size ? len : in->size;
    len = len < BLOCK_PAYLOAD ? len & ~(size_t)7 : BLOCK_PAYLOAD;
    if (h.used == 0 && (control & 0x80) != 0) {
        take(in, block + BLOCK_HEADER, len);
        h.used = (uint32_t)len;
    } else if (h.used == 0 && len > 0 && len <= BLOCK_ROOM) {
        struct piece p = {
            .seq = ++w->record, .total = (uint32_t)len, .len = (uint32_t)len, .bytes = in->data};
        piece_put(block, &h, &p);
        in->data += len;
        in->size -= len;
    }
    block_seal(block, &h);
    w->crc = h.crc;
    w->seq = (control & 7) == 7 ? w->seq : h.seq;
    put(w, 1 + h.seq % w->sb.ring_blocks, block);
}

static void world_patch(struct world *w, struct input *in)
{
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    struct block_head head;

    check(loop_file_open(w->loop, PATH, LOOP_FILE_WRITE, &w->file) == 0);
    check(loop_read_now(w->file, block, STORE_BLOCK, 0) == STORE_BLOCK);
    check(superblock_decode(block, &w->sb) == 0);
    check(loop_read_now(w->file, block, STORE_BLOCK, 2 * STORE_BLOCK) == STORE_BLOCK);
    check(block_open(block, w->sb.nonce, &head) == 0);
    w->crc = head.crc;
    w->seq = 1;
    for (uint32_t i = 0; i < PATCHES_MAX && in->size > 0; i++) {
        uint8_t kind;
        take(in, &kind, 1);
        if (kind % 8 == 0)
            patch_bytes(w, in, block);
        else if (kind % 8 == 1)
            patch_super(w, in, block);
        else if (w->seq < RING_MAX)
            patch_ring(w, in, block);
    }
    check(loop_flush_now(w->file) == 0);
    loop_file_close(w->file);
    free(block);
}

/* ---- Everything that is told ---- */

static void on_found(void *arg, const struct inspect_finding *f)
{
    struct world *w = arg;

    check(memchr(f->text, 0, sizeof(f->text)) != NULL);
    w->sum += crc32c(0, f->text, strlen(f->text));
}

static void on_block(void *arg, const struct inspect_block *b)
{
    struct world *w = arg;

    w->sum += b->seq + (b->state == INSPECT_PLACE_VALID ? b->head.crc : 0);
    check(inspect_place_name(b->state) != NULL);
}

static void on_record(void *arg, const struct inspect_record *r)
{
    struct world *w = arg;
    struct record_run run;
    struct store_dedup dedup;
    uint32_t crcs = 0;

    w->sum += crc32c(0, r->bytes, r->len);
    if (r->is_bad)
        return;
    for (uint32_t i = 0; r->head.kind == RECORD_DROPS && i < r->head.dedups_count; i++)
        w->sum += drops_get(r->bytes, i);
    if (r->head.kind == RECORD_DROPS)
        return;
    for (uint32_t i = 0; i < r->head.runs_count; i++) {
        record_run_get(r->bytes, i, &run);
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++)
            w->sum += record_crc_get(r->bytes, &r->head, crcs++);
    }
    for (uint32_t i = 0; i < r->head.dedups_count; i++) {
        record_dedup_get(r->bytes, &r->head, i, &dedup);
        w->sum += dedup.version;
    }
}

static void on_object(void *arg, const struct inspect_object *o)
{
    struct world *w = arg;

    for (uint32_t b = 0; b < STORE_BLOCKS_MAX; b++)
        w->sum += layout_slot(o->now, b) + layout_slot(o->changes, b);
}

struct verify {
    struct inspect_verify v;
    struct world *w;
};

static void on_bad(struct inspect_verify *v, const struct inspect_bad *bad)
{
    (void)v;
    check(bad->slot < SIZE / STORE_BLOCK);
}

static void on_progress(struct inspect_verify *v)
{
    check(v->blocks_done <= v->blocks_total);
}

static void on_done(struct inspect_verify *v)
{
    container_of(v, struct verify, v)->w->done = true;
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

static void world_verify(struct world *w, struct inspect *in)
{
    struct verify k = {
        .v = {.in = in, .bad = on_bad, .progress = on_progress, .done = on_done},
        .w = w,
    };

    inspect_verify_start(&k.v);
    check(sim_run_until_true(w->sim, is_done, w, sim_now(w->sim) + 60 * NS_PER_S));
    check(k.v.blocks_done == k.v.blocks_total);
}

/* 0 and the verdict, or what it was refused for. */
static int world_inspect(struct world *w, enum inspect_verdict *verdict)
{
    struct inspect_config config = {
        .loop = w->loop, .path = PATH, .memory_max = MEMORY_MAX, .found = on_found, .arg = w};
    char error[INSPECT_ERROR_MAX];
    struct inspect_report rep;
    struct inspect *in;
    int result = inspect_open(&config, &in, error);

    if (result < 0)
        return result;
    result = inspect_check(in, &rep, error);
    if (result == 0) {
        *verdict = rep.verdict;
        inspect_walk(in, &(struct inspect_walk){
                             .from = 1, .block = on_block, .record = on_record, .arg = w});
        inspect_walk(in, &(struct inspect_walk){.block = on_block, .record = on_record, .arg = w});
        inspect_objects(in, on_object, w);
        inspect_object(in, &(struct store_id){1, 1}, on_object, w);
        if (rep.has_state)
            world_verify(w, in);
    }
    inspect_close(in);
    return result;
}

/* ---- What a start makes of it ---- */

static void on_failed(void *arg, int error, const char *what)
{
    (void)arg;
    (void)error;
    (void)what;
    never("the disk is healthy");
}

static void on_opened(struct store_open *o)
{
    container_of(o, struct world, open)->done = true;
}

static int world_open(struct world *w)
{
    w->done = false;
    w->open = (struct store_open){
        .config = {.loop = w->loop, .path = PATH, .osd = 1, .failed = on_failed},
        .done = on_opened,
    };
    store_open_start(&w->open);
    check(sim_run_until_true(w->sim, is_done, w, sim_now(w->sim) + 60 * NS_PER_S));
    return w->open.result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.sim = sim_create(&(struct sim_config){.seed = 1})};
    struct store_format f = {.osd = 1, .size = SIZE, .object_size = 128 << 10};
    struct input in = {data, size};
    enum inspect_verdict verdict = INSPECT_SOUND;

    w.host = sim_host_create(w.sim, 1);
    w.loop = sim_loop_create(w.host);
    check(store_format(w.loop, PATH, &f, false) == 0);
    check(loop_dir_sync(w.loop, ".") == 0);
    world_patch(&w, &in);
    int looked = world_inspect(&w, &verdict);
    int opened = world_open(&w);
    /* -EPERM: a superblock of another cluster or OSD. */
    if (looked == 0 && opened != -EPERM)
        check((opened == 0) == (verdict != INSPECT_DAMAGED));
    else
        check(opened < 0 || looked == -ENOMEM);
    sim_host_crash(w.host, true);
    if (w.open.store != NULL)
        store_close(w.open.store);
    loop_destroy(w.loop);
    sim_destroy(w.sim);
    return 0;
}

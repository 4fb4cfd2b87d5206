#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/replay.h"
#include "store/scan.h"

/*
 * The start of a store:
 *
 *   OPEN --> SUPERS --> BOOT_FIRST --> BOOT_FIRST_FLUSH --> BOOT_REST --> BOOT_REST_FLUSH
 *     the copies are read; the boot number is raised in one, made durable, then in the others: at
 *     any crash a whole copy is left. The last flush is also the one that S3 asks for.
 *   --> SCAN        the whole ring is read; its end is found (S5), corruption too (S12)
 *   --> REPLAY <--> VERIFY    block by block; a record beyond the mark waits for its slots (S2)
 *   --> START_BLOCK --> START_FLUSH --> (another START_BLOCK) --> open
 *
 * What can fail: any read or write of the device, and any rule about what is read. Then the store
 * is not opened, nothing is served, and nothing that was durable is changed.
 */
enum recovery_state {
    RECOVER_OPEN,
    RECOVER_SUPERS,
    RECOVER_BOOT_FIRST,
    RECOVER_BOOT_FIRST_FLUSH,
    RECOVER_BOOT_REST,
    RECOVER_BOOT_REST_FLUSH,
    RECOVER_SCAN,
    RECOVER_REPLAY,
    RECOVER_VERIFY,
    RECOVER_START_BLOCK,
    RECOVER_START_FLUSH,
};

enum { CHUNK_BLOCKS = RECORD_RUNS_MAX }; /* the slots of one record, and many ring blocks */

struct recovery_io {
    struct loop_op op;
    struct recovery *recovery;
    int64_t len;
};

struct recovery {
    struct store *s;
    struct task task;
    enum recovery_state state;
    struct recovery_io ios[RECORD_RUNS_MAX];
    uint32_t ios_left;
    int io_result;
    uint8_t *buf;    /* CHUNK_BLOCKS: superblocks, ring, start block */
    uint8_t *verify; /* CHUNK_BLOCKS: slots */

    uint32_t copy_first; /* BOOT_FIRST: this copy */
    struct scan scan;
    uint64_t place; /* SCAN: of the chunk in buf */
    uint32_t chunk; /* blocks in buf */
    struct replay replay;
    uint64_t block, block_last; /* REPLAY: at the one, up to the other */
    uint64_t chunk_first;       /* … first block in buf */
    struct piece_at at;         /* … in the block's payload */
    uint64_t drops_named;       /* START_BLOCK: in blocks so far */
};

/* Frees r: the last statement on its path. */
static void recover_fail(struct recovery *r, int result, const char *error)
{
    store_opened(r->s, result, error);
}

/* ---- Device ---- */

static void recover_on_io(struct loop_op *op)
{
    struct recovery_io *io = container_of(op, struct recovery_io, op);
    struct recovery *r = io->recovery;

    if (op->result < io->len)
        r->io_result = op->result < 0 ? (int)op->result : -EIO;
    r->ios_left--;
    if (r->ios_left == 0)
        loop_wake(r->s->loop, &r->task);
}

static struct loop_op *recover_io(struct recovery *r, int64_t len)
{
    struct recovery_io *io = &r->ios[r->ios_left++];

    io->recovery = r;
    io->len = len;
    loop_op_init(&io->op, recover_on_io);
    return &io->op;
}

static void recover_read(struct recovery *r, uint64_t block, uint32_t count, uint8_t *buf)
{
    size_t len = (size_t)count * STORE_BLOCK;

    loop_read(r->s->loop, recover_io(r, (int64_t)len), r->s->file, buf, len, block * STORE_BLOCK);
}

static void recover_write(struct recovery *r, uint64_t block, const uint8_t *buf)
{
    loop_write(r->s->loop, recover_io(r, STORE_BLOCK), r->s->file, buf, STORE_BLOCK,
               block * STORE_BLOCK);
}

static void recover_flush(struct recovery *r, enum recovery_state state)
{
    r->state = state;
    loop_flush(r->s->loop, recover_io(r, 0), r->s->file);
}

/* ---- Superblock ---- */

static void recover_open(struct recovery *r)
{
    struct store *s = r->s;
    int result = loop_file_open(s->loop, s->config.path,
                                LOOP_FILE_WRITE | LOOP_FILE_DIRECT | LOOP_FILE_LOCK, &s->file);

    if (result < 0) {
        recover_fail(r, result,
                     result == -EWOULDBLOCK || result == -EBUSY ? "is in use by another process"
                     : result == -ENOENT                        ? "is not there"
                                                                : "cannot be opened");
        return;
    }
    loop_file_info(s->file, &s->info);
    s->sync = !s->info.is_volatile ? SYNC_NONE : s->info.has_fua ? SYNC_FUA : SYNC_FLUSH;
    if (s->info.io_align > STORE_BLOCK) {
        recover_fail(r, -EINVAL, "has sectors of more than 4096 bytes");
        return;
    }
    uint64_t blocks = loop_file_size(s->file) / STORE_BLOCK;
    if (blocks < SUPER_COPIES) {
        recover_fail(r, -EINVAL, "is too small to be a store");
        return;
    }
    r->state = RECOVER_SUPERS;
    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        recover_read(r, superblock_place(blocks, i), 1, r->buf + (size_t)i * STORE_BLOCK);
}

static const char *super_refuse(const struct store *s, int *result)
{
    const struct superblock *sb = &s->super;

    *result = -EPERM;
    if (memcmp(sb->cluster, s->config.cluster, sizeof(sb->cluster)) != 0)
        return "belongs to another cluster";
    if (sb->osd != s->config.osd)
        return "is the disk of another OSD";
    *result = -ESTALE;
    if (sb->boot < s->config.boot_min)
        return "is an older copy of this OSD's disk";
    *result = -EINVAL;
    if (sb->blocks > loop_file_size(s->file) / STORE_BLOCK)
        return "is smaller than when it was made";
    if (sb->boot == UINT32_MAX)
        return "was started too often";
    return NULL;
}

/* The copy that a crash may damage now is never the one that was read. */
static void recover_supers(struct recovery *r)
{
    struct store *s = r->s;
    uint32_t copy;
    int result = scan_supers(r->buf, &s->super, &copy);

    if (result < 0) {
        recover_fail(r, result,
                     result == -ENOTSUP ? "was written by a newer version"
                                        : "holds no Skerry store");
        return;
    }
    r->copy_first = (copy + 1) % SUPER_COPIES;
    const char *error = super_refuse(s, &result);
    if (error != NULL) {
        recover_fail(r, result, error);
        return;
    }
    s->super.boot++;
    s->super.copy = r->copy_first;
    superblock_encode(&s->super, r->buf);
    r->state = RECOVER_BOOT_FIRST;
    recover_write(r, superblock_place(s->super.blocks, r->copy_first), r->buf);
}

static void recover_other_supers(struct recovery *r)
{
    struct store *s = r->s;

    r->state = RECOVER_BOOT_REST;
    for (uint32_t k = 1; k < SUPER_COPIES; k++) {
        uint8_t *block = r->buf + (size_t)k * STORE_BLOCK;
        s->super.copy = (r->copy_first + k) % SUPER_COPIES;
        superblock_encode(&s->super, block);
        recover_write(r, superblock_place(s->super.blocks, s->super.copy), block);
    }
}

/* ---- The whole ring ---- */

static void recover_scan(struct recovery *r)
{
    uint64_t left = r->s->super.ring_blocks - r->place;

    r->state = RECOVER_SCAN;
    r->chunk = left < CHUNK_BLOCKS ? (uint32_t)left : CHUNK_BLOCKS;
    recover_read(r, r->s->super.ring_first + r->place, r->chunk, r->buf);
}

static void recover_replay(struct recovery *r);

static void recover_scan_end(struct recovery *r)
{
    struct store *s = r->s;

    if (scan_end(&r->scan) < 0) { /* S12 */
        recover_fail(r, -EBADMSG, "its log is damaged: blocks that were durable are not there");
        return;
    }
    scan_adopt(&r->scan, s);
    replay_begin(&r->replay, s->tail, s->head, s->mark_durable);
    r->block = s->tail;
    r->block_last = s->head;
    r->chunk = 0;
    recover_replay(r);
}

static int recover_see(struct recovery *r, uint64_t place, const uint8_t *block)
{
    struct block_head h;
    int result = scan_see(&r->scan, place, block, &h);

    return result == 1 ? replay_note_drops(&r->replay, block, &h) : result;
}

static void recover_scanned(struct recovery *r)
{
    for (uint32_t i = 0; i < r->chunk; i++) {
        int result = recover_see(r, r->place + i, r->buf + (size_t)i * STORE_BLOCK);
        if (result < 0) {
            recover_fail(r, result,
                         result == -ENOTSUP ? "its log was written by a newer version"
                                            : "its log is damaged: a block makes no sense");
            return;
        }
    }
    r->place += r->chunk;
    if (r->place < r->s->super.ring_blocks)
        recover_scan(r);
    else
        recover_scan_end(r);
}

/* ---- Block by block ---- */

static void recover_read_chunk(struct recovery *r)
{
    uint64_t ring = r->s->super.ring_blocks, place = r->block % ring;
    uint64_t left = r->block_last - r->block + 1;

    if (left > ring - place)
        left = ring - place;
    r->state = RECOVER_REPLAY;
    r->chunk = left < CHUNK_BLOCKS ? (uint32_t)left : CHUNK_BLOCKS;
    r->chunk_first = r->block;
    recover_read(r, r->s->super.ring_first + place, r->chunk, r->buf);
}

/* True: reads are on their way. False: there is nothing to look at. */
static bool recover_verify(struct recovery *r)
{
    struct store *s = r->s;
    uint32_t n = 0;

    if (!replay_must_verify(&r->replay))
        return false;
    for (uint32_t i = 0; i < r->replay.head.runs_count; i++) {
        struct record_run run;
        record_run_get(s->scratch, i, &run);
        if (run.slot == 0)
            continue;
        if (!run.settled)
            recover_read(r, run.slot, run.count, r->verify + (size_t)n * STORE_BLOCK);
        n += run.count;
    }
    r->state = RECOVER_VERIFY;
    return r->ios_left > 0;
}

static void recover_start_block(struct recovery *r);

static void recover_replayed(struct recovery *r)
{
    struct store *s = r->s;

    if (replay_end(&r->replay) < 0) {
        recover_fail(r, -EBADMSG, "its log is damaged: its records contradict each other");
        return;
    }
    log_info("store", "read osd=%u objects=%llu log_blocks=%llu dropped=%llu boot=%u", s->super.osd,
             (unsigned long long)s->objects_count, (unsigned long long)(s->head - s->tail + 1),
             (unsigned long long)r->replay.dropped.count, s->super.boot);
    recover_start_block(r);
}

/* One block. 1: it is read to its end; 0: a record waits for its slots; -EBADMSG. */
static int recover_replay_block(struct recovery *r)
{
    const uint8_t *block = r->buf + (size_t)(r->block - r->chunk_first) * STORE_BLOCK;
    struct block_head h;
    int result = block_open(block, r->s->super.nonce, &h);

    if (result < 0 || h.seq != r->block)
        return -EBADMSG;
    while ((result = replay_next(&r->replay, block, &h, &r->at)) == 1) {
        if (recover_verify(r))
            return 0;
        result = replay_apply(&r->replay, true);
        if (result < 0)
            return result;
    }
    return result < 0 ? result : 1;
}

static void recover_replay(struct recovery *r)
{
    while (r->block <= r->block_last) {
        if (r->chunk == 0 || r->block >= r->chunk_first + r->chunk) {
            recover_read_chunk(r);
            return;
        }
        int result = recover_replay_block(r);
        if (result < 0) {
            recover_fail(r, result, "its log is damaged: a record makes no sense");
            return;
        }
        if (result == 0)
            return;
        r->block++;
        r->at = (struct piece_at){0};
    }
    recover_replayed(r);
}

static void recover_verified(struct recovery *r)
{
    if (replay_apply(&r->replay, replay_matches(&r->replay, r->verify, NULL)) < 0)
        recover_fail(r, -EBADMSG, "its log is damaged: a record makes no sense");
    else
        recover_replay(r);
}

/* ---- S3: the start block ---- */

static void recover_start_block(struct recovery *r)
{
    struct store *s = r->s;
    const struct replay_seqs *drops = &r->replay.dropped;
    uint64_t left = drops->count - r->drops_named;
    uint32_t count = left < RECORD_DROPS_MAX ? (uint32_t)left : RECORD_DROPS_MAX;

    if (left == 0 && s->mark_durable >= s->seq_last) {
        store_opened(s, 0, "");
        return;
    }
    if (store_mutated(s, STORE_MUTANT_NO_START_BLOCK)) {
        s->mark_durable = s->seq_last;
        store_opened(s, 0, "");
        return;
    }
    if (ring_used(s) >= s->super.ring_blocks) {
        recover_fail(r, -ENOSPC, "its log is full");
        return;
    }
    compose_start_block(s, r->buf, count > 0 ? drops->items + r->drops_named : NULL, count,
                        count == left);
    r->drops_named += count;
    r->state = RECOVER_START_BLOCK;
    recover_write(r, s->super.ring_first + s->head % s->super.ring_blocks, r->buf);
}

static void recover_started(struct recovery *r)
{
    struct store *s = r->s;

    s->head_durable = s->head_records = s->head;
    if (r->drops_named == r->replay.dropped.count)
        s->mark_durable = s->seq_last;
    recover_start_block(r);
}

/* ---- The machine ---- */

static void recover_step(struct task *task)
{
    struct recovery *r = container_of(task, struct recovery, task);

    if (r->io_result < 0) {
        recover_fail(r, r->io_result, "a read or write of the disk failed");
        return;
    }
    switch (r->state) {
    case RECOVER_OPEN:
        recover_open(r);
        break;
    case RECOVER_SUPERS:
        recover_supers(r);
        break;
    case RECOVER_BOOT_FIRST:
        recover_flush(r, RECOVER_BOOT_FIRST_FLUSH);
        break;
    case RECOVER_BOOT_FIRST_FLUSH:
        recover_other_supers(r);
        break;
    case RECOVER_BOOT_REST:
        recover_flush(r, RECOVER_BOOT_REST_FLUSH);
        break;
    case RECOVER_BOOT_REST_FLUSH:
        store_limits(r->s);
        index_size(r->s);
        scan_init(&r->scan, &r->s->super);
        recover_scan(r);
        break;
    case RECOVER_SCAN:
        recover_scanned(r);
        break;
    case RECOVER_REPLAY:
        recover_replay(r);
        break;
    case RECOVER_VERIFY:
        recover_verified(r);
        break;
    case RECOVER_START_BLOCK:
        recover_flush(r, RECOVER_START_FLUSH);
        break;
    case RECOVER_START_FLUSH:
        recover_started(r);
        break;
    }
}

void recovery_start(struct store *s)
{
    struct recovery *r = mem_zalloc(sizeof(*r));

    s->recovery = r;
    r->s = s;
    r->replay.s = s;
    r->state = RECOVER_OPEN;
    r->buf = mem_alloc_aligned((size_t)CHUNK_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    r->verify = mem_alloc_aligned((size_t)CHUNK_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    task_init(&r->task, recover_step);
    loop_wake(s->loop, &r->task);
}

void recovery_free(struct store *s)
{
    struct recovery *r = s->recovery;

    if (r == NULL)
        return;
    s->recovery = NULL;
    replay_deinit(&r->replay);
    scan_deinit(&r->scan);
    free(r->buf);
    free(r->verify);
    free(r);
}

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
 *   --> PROBE       of a big ring, some blocks all over it: the youngest lies near the end
 *   --> SCAN        from before it to beyond the end, or the whole of a small ring: the end (S5),
 *     corruption too (S12)
 *   --> SCAN_SURE   what would come after the end is read once more: a read that went astray must
 * not hide the youngest blocks
 *   --> REPLAY <--> VERIFY    from the tail on, block by block; a record beyond the mark waits for
 * its slots (S2)
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
    RECOVER_PROBE,
    RECOVER_SCAN,
    RECOVER_SCAN_SURE,
    RECOVER_REPLAY,
    RECOVER_VERIFY,
    RECOVER_START_BLOCK,
    RECOVER_START_FLUSH,
};

/*
 * Records that were dropped are named by a start block not far behind them, and must be known
 * before they are met: REPLAY has always read LOOK_AHEAD blocks more than it looks at.
 */
enum {
    PART_BLOCKS = 128,       /* in one read */
    BUF_BLOCKS = 4 * 512,    /* of the ring */
    LOOK_AHEAD = 512,        /* what was in flight at a crash, and many start blocks */
    SCANS_MAX = 3,           /* when reads contradict each other */
    WHOLE_RING = BUF_BLOCKS, /* a ring up to this is not probed */
    VERIFY_BLOCKS = RECORD_RUNS_MAX,
};

struct recovery_io {
    struct loop_op op;
    struct recovery *recovery;
    int64_t len;
    uint8_t *buf; /* of a read: where to, and from which block; else NULL */
    uint64_t block;
};

struct recovery {
    struct store *s;
    struct task task;
    enum recovery_state state;
    struct recovery_io ios[RECORD_RUNS_MAX];
    uint32_t ios_left;
    int io_result;
    uint8_t *buf;    /* BUF_BLOCKS: superblocks, ring, start block */
    uint8_t *verify; /* VERIFY_BLOCKS: slots */

    uint32_t copy_first; /* BOOT_FIRST: this copy */
    struct scan scan;
    uint32_t scans;       /* SCAN: so many came to nothing */
    uint64_t floor;       /* SCAN: blocks up to it are not looked at, but by REPLAY */
    uint64_t block;       /* SCAN, REPLAY: at this one */
    uint64_t block_last;  /* REPLAY: up to this one */
    uint64_t first, next; /* … in buf: blocks first .. next - 1 */
    uint64_t fresh;       /* REPLAY: of them, those that were read last begin here */
    uint32_t prev_crc;    /* REPLAY: of the block before */
    struct replay replay;
    struct piece_at at; /* … in the block's payload */
    uint64_t drops_named;
    bool verify_again; /* START_BLOCK: in blocks so far */
};

/* Frees r: the last statement on its path. */
static void recover_fail(struct recovery *r, int result, const char *error)
{
    store_opened(r->s, result, error);
}

/* ---- Device ---- */

/*
 * A sector that was being written when the power failed may be unreadable until it is written
 * again: that must not keep the store shut. Block by block, what cannot be read is no block, no
 * superblock, no data that matches; whether it was needed is decided where it is looked at. This
 * blocks the loop, at a start, for as long as the drive tries.
 */
static void recover_salvage(struct recovery *r, const struct recovery_io *io)
{
    for (int64_t at = 0; at < io->len; at += STORE_BLOCK) {
        uint64_t offset = io->block * STORE_BLOCK + (uint64_t)at;
        if (loop_read_now(r->s->file, io->buf + at, STORE_BLOCK, offset) == STORE_BLOCK)
            continue;
        log_warn("store", "a block of the disk cannot be read block=%llu",
                 (unsigned long long)(offset / STORE_BLOCK));
        memset(io->buf + at, 0, STORE_BLOCK);
    }
}

static void recover_on_io(struct loop_op *op)
{
    struct recovery_io *io = container_of(op, struct recovery_io, op);
    struct recovery *r = io->recovery;

    if (op->result == -EIO && io->buf != NULL)
        recover_salvage(r, io);
    else if (op->result < io->len)
        r->io_result = op->result < 0 ? (int)op->result : -EIO;
    r->ios_left--;
    if (r->ios_left == 0)
        loop_wake(r->s->loop, &r->task);
}

static struct recovery_io *recover_io(struct recovery *r, int64_t len)
{
    struct recovery_io *io = &r->ios[r->ios_left++];

    io->recovery = r;
    io->len = len;
    io->buf = NULL;
    loop_op_init(&io->op, recover_on_io);
    return io;
}

static void recover_read(struct recovery *r, uint64_t block, uint32_t count, uint8_t *buf)
{
    size_t len = (size_t)count * STORE_BLOCK;

    struct recovery_io *io = recover_io(r, (int64_t)len);

    io->buf = buf;
    io->block = block;
    loop_read(r->s->loop, &io->op, r->s->file, buf, len, block * STORE_BLOCK);
}

static void recover_write(struct recovery *r, uint64_t block, const uint8_t *buf)
{
    loop_write(r->s->loop, &recover_io(r, STORE_BLOCK)->op, r->s->file, buf, STORE_BLOCK,
               block * STORE_BLOCK);
}

static void recover_flush(struct recovery *r, enum recovery_state state)
{
    r->state = state;
    if (state < RECOVER_SCAN && store_mutated(r->s, STORE_MUTANT_NO_START_FLUSH)) {
        loop_wake(r->s->loop, &r->task);
        return;
    }
    loop_flush(r->s->loop, &recover_io(r, 0)->op, r->s->file);
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

/* ---- The ring ---- */

/* Read blocks r->next .. up to `last`, as many as buf takes, in parts that do not cross the ring's
 * end. */
static void recover_read_ring(struct recovery *r, uint64_t last)
{
    uint64_t ring = r->s->super.ring_blocks;

    while (r->next <= last && r->next - r->first < BUF_BLOCKS) {
        uint64_t place = r->next % ring, count = last - r->next + 1;
        uint64_t room = BUF_BLOCKS - (r->next - r->first);
        count = count < room ? count : room;
        count = count < ring - place ? count : ring - place;
        count = count < PART_BLOCKS ? count : PART_BLOCKS;
        recover_read(r, r->s->super.ring_first + place, (uint32_t)count,
                     r->buf + (size_t)(r->next - r->first) * STORE_BLOCK);
        r->next += count;
    }
}

static int recover_see(struct recovery *r, uint64_t place, const uint8_t *block)
{
    struct block_head h;
    int result = scan_see(&r->scan, place, block, &h);

    return result == 1 ? replay_note_drops(&r->replay, block, &h) : result;
}

static void recover_see_failed(struct recovery *r, int result)
{
    recover_fail(r, result,
                 result == -ENOTSUP ? "its log was written by a newer version"
                                    : "its log is damaged: a block makes no sense");
}

static void recover_probe(struct recovery *r)
{
    uint64_t spacing = scan_spacing(&r->s->super), ring = r->s->super.ring_blocks;

    r->state = RECOVER_PROBE;
    for (uint32_t i = 0; i < SCAN_PROBES && i * spacing < ring; i++)
        recover_read(r, r->s->super.ring_first + i * spacing, 1, r->buf + (size_t)i * STORE_BLOCK);
}

static void recover_scan(struct recovery *r);

/* Blocks are numbered from 1: with nothing found the log is shorter than a spacing. */
static void recover_scan_from(struct recovery *r, uint64_t block)
{
    r->floor = block - 1;
    r->block = block;
    recover_scan(r);
}

static void recover_probed(struct recovery *r)
{
    uint64_t spacing = scan_spacing(&r->s->super), ring = r->s->super.ring_blocks;

    for (uint32_t i = 0; i < SCAN_PROBES && i * spacing < ring; i++) {
        int result = recover_see(r, i * spacing, r->buf + (size_t)i * STORE_BLOCK);
        if (result < 0) {
            recover_see_failed(r, result);
            return;
        }
    }
    recover_scan_from(r, r->scan.highest > SCAN_WINDOW ? r->scan.highest - SCAN_WINDOW : 1);
}

/* Up to where the end may be, as far as is known: a place of each block, and no place twice. */
static uint64_t recover_scan_last(const struct recovery *r)
{
    uint64_t ring = r->s->super.ring_blocks;
    uint64_t last = r->scan.highest + scan_spacing(&r->s->super) + SCAN_WINDOW;

    if (ring <= WHOLE_RING || last > r->floor + ring)
        return r->floor + ring;
    return last;
}

static void recover_replay(struct recovery *r);

static void recover_scan_end(struct recovery *r)
{
    struct store *s = r->s;
    /* All of a small ring was seen: then nothing is taken on trust. */
    uint64_t floor = r->block > r->floor + s->super.ring_blocks ? 0 : r->floor;

    if (scan_end_from(&r->scan, floor) < 0) { /* S12 */
        recover_fail(r, -EBADMSG, "its log is damaged: blocks that were durable are not there");
        return;
    }
    r->state = RECOVER_SCAN_SURE;
    r->first = r->next = r->scan.end + 1;
    recover_read_ring(r, r->scan.end + PART_BLOCKS);
}

static void recover_log(struct recovery *r)
{
    struct store *s = r->s;

    scan_adopt(&r->scan, s);
    replay_begin(&r->replay, s->tail, s->head, s->mark_durable);
    r->block = s->tail;
    r->block_last = s->head;
    r->first = r->next = s->tail;
    recover_replay(r);
}

/* A part that was misread, with all that would vouch for it, is no longer than what was read now.
 */
static void recover_scan_sure(struct recovery *r)
{
    for (uint64_t n = r->first; n < r->next; n++) {
        struct block_head h;
        const uint8_t *block = r->buf + (size_t)(n - r->first) * STORE_BLOCK;
        if (block_open(block, r->s->super.nonce, &h) < 0 || h.seq != n ||
            scan_block(&r->scan, n) != NULL)
            continue;
        if (++r->scans == SCANS_MAX)
            recover_fail(r, -EIO, "answers reads of one place in different ways");
        else
            recover_scan_from(r, r->floor + 1);
        return;
    }
    recover_log(r);
}

static void recover_scan(struct recovery *r)
{
    if (r->block > recover_scan_last(r)) {
        recover_scan_end(r);
        return;
    }
    r->state = RECOVER_SCAN;
    r->first = r->next = r->block;
    recover_read_ring(r, recover_scan_last(r));
}

static void recover_scanned(struct recovery *r)
{
    for (; r->block < r->next; r->block++) {
        int result = recover_see(r, r->block % r->s->super.ring_blocks,
                                 r->buf + (size_t)(r->block - r->first) * STORE_BLOCK);
        if (result < 0) {
            recover_see_failed(r, result);
            return;
        }
    }
    recover_scan(r);
}

/* ---- Block by block ---- */

/* What was looked at makes room for more. */
static void recover_read_on(struct recovery *r)
{
    uint64_t keep = r->next - r->block;

    memmove(r->buf, r->buf + (size_t)(r->block - r->first) * STORE_BLOCK,
            (size_t)keep * STORE_BLOCK);
    r->first = r->block;
    r->state = RECOVER_REPLAY;
    r->fresh = r->next;
    recover_read_ring(r, r->block_last);
}

/* The drops that they name come too late for a record that was met already. */
static int recover_note_fresh(struct recovery *r)
{
    for (; r->fresh < r->next; r->fresh++) {
        const uint8_t *block = r->buf + (size_t)(r->fresh - r->first) * STORE_BLOCK;
        struct block_head h;
        int result = block_open(block, r->s->super.nonce, &h);
        if (result == 0)
            result = replay_note_drops(&r->replay, block, &h);
        if (result < 0)
            return -EBADMSG;
    }
    return 0;
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
    const uint8_t *block = r->buf + (size_t)(r->block - r->first) * STORE_BLOCK;
    struct block_head h;
    int result = block_open(block, r->s->super.nonce, &h);

    if (result < 0 || h.seq != r->block ||
        (r->block > r->s->tail && h.prev_crc != r->prev_crc && r->at.offset == 0))
        return -EBADMSG;
    while ((result = replay_next(&r->replay, block, &h, &r->at)) == 1) {
        if (recover_verify(r))
            return 0;
        result = replay_apply(&r->replay, true);
        if (result < 0)
            return result;
    }
    r->prev_crc = h.crc;
    return result < 0 ? result : 1;
}

static void recover_replay(struct recovery *r)
{
    while (r->block <= r->block_last) {
        uint64_t ahead = r->block + LOOK_AHEAD;
        if (r->next <= (ahead < r->block_last ? ahead : r->block_last)) {
            recover_read_on(r);
            return;
        }
        int result = recover_replay_block(r);
        if (result < 0) {
            recover_fail(r, result,
                         "its log is damaged: a block that was durable is not there, or a record "
                         "makes no sense");
            return;
        }
        if (result == 0)
            return;
        r->block++;
        r->at = (struct piece_at){0};
    }
    recover_replayed(r);
}

static void recover_read_more(struct recovery *r)
{
    if (recover_note_fresh(r) < 0)
        recover_fail(r, -EBADMSG, "its log is damaged: a list of drops makes no sense");
    else
        recover_replay(r);
}

/* A read that was wrong on its way must not cost a record: what does not match is read again. */
static void recover_verified(struct recovery *r)
{
    bool matches = replay_matches(&r->replay, r->verify, NULL);

    if (!matches && !r->verify_again) {
        r->verify_again = true;
        recover_verify(r);
        return;
    }
    r->verify_again = false;
    if (replay_apply(&r->replay, matches) < 0)
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
    bool raise_mark = count == left || store_mutated(s, STORE_MUTANT_RAISE_EARLY);
    compose_start_block(s, r->buf, count > 0 ? drops->items + r->drops_named : NULL,
                        store_mutated(s, STORE_MUTANT_NO_DROPS) ? 0 : count, raise_mark);
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
        if (store_mutated(r->s, STORE_MUTANT_SUPER_AT_ONCE))
            recover_other_supers(r);
        else
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
        r->scan.mutants = r->s->config.mutants;
        if (r->s->super.ring_blocks > WHOLE_RING)
            recover_probe(r);
        else
            recover_scan_from(r, 1);
        break;
    case RECOVER_PROBE:
        recover_probed(r);
        break;
    case RECOVER_SCAN:
        recover_scanned(r);
        break;
    case RECOVER_SCAN_SURE:
        recover_scan_sure(r);
        break;
    case RECOVER_REPLAY:
        recover_read_more(r);
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
    r->buf = mem_alloc_aligned((size_t)BUF_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    r->verify = mem_alloc_aligned((size_t)VERIFY_BLOCKS * STORE_BLOCK, STORE_BLOCK);
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

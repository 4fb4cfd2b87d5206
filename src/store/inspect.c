#include "store/inspect.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/inspect_impl.h"

/*
 * What a start would find. The order is that of recover.c: superblocks, the whole ring, its end,
 * the records. Where a start refuses, this one says why and goes on as far as what follows still
 * means something:
 *
 *   - the device shrank: nothing is read beyond the superblocks;
 *   - the log has no end: no records are read;
 *   - the log is cut (S12): its records are read up to the end that is left, and what they say is
 *     the state of that moment;
 *   - a record makes no sense: the records before it.
 */

/* ---- Findings ---- */

static const struct {
    const char *name;
    enum inspect_severity severity;
} codes[INSPECT_CODES_COUNT] = {
    [INSPECT_SUPER_DAMAGED] = {"super_damaged", INSPECT_WARN},
    [INSPECT_SUPER_OLDER] = {"super_older", INSPECT_NOTE},
    [INSPECT_SUPER_DIFFERS] = {"super_differs", INSPECT_WARN},
    [INSPECT_DEVICE_GREW] = {"device_grew", INSPECT_NOTE},
    [INSPECT_DEVICE_SHRANK] = {"device_shrank", INSPECT_DAMAGE},
    [INSPECT_BOOTS_USED_UP] = {"boots_used_up", INSPECT_DAMAGE},
    [INSPECT_LOG_UNREADABLE] = {"log_unreadable", INSPECT_DAMAGE},
    [INSPECT_LOG_NEWER] = {"log_newer", INSPECT_DAMAGE},
    [INSPECT_LOG_SCRAP] = {"log_scrap", INSPECT_NOTE},
    [INSPECT_LOG_MISPLACED] = {"log_misplaced", INSPECT_WARN},
    [INSPECT_LOG_NO_END] = {"log_no_end", INSPECT_DAMAGE},
    [INSPECT_LOG_BLOCK_LOST] = {"log_block_lost", INSPECT_DAMAGE},
    [INSPECT_LOG_CUT] = {"log_cut", INSPECT_DAMAGE},
    [INSPECT_LOG_TORN] = {"log_torn", INSPECT_NOTE},
    [INSPECT_LOG_NO_ROOM] = {"log_no_room", INSPECT_DAMAGE},
    [INSPECT_LOG_NEARLY_FULL] = {"log_nearly_full", INSPECT_WARN},
    [INSPECT_DROPS_BAD] = {"drops_bad", INSPECT_DAMAGE},
    [INSPECT_RECORD_BAD] = {"record_bad", INSPECT_DAMAGE},
    [INSPECT_RECORD_CONTRADICTS] = {"record_contradicts", INSPECT_DAMAGE},
    [INSPECT_RECORD_DROPPED] = {"record_dropped", INSPECT_NOTE},
    [INSPECT_RECORD_ROTTEN] = {"record_rotten", INSPECT_DAMAGE},
    [INSPECT_OBJECT_HEADLESS] = {"object_headless", INSPECT_DAMAGE},
    [INSPECT_SLOT_SHARED] = {"slot_shared", INSPECT_DAMAGE},
    [INSPECT_SLOT_OUTSIDE] = {"slot_outside", INSPECT_DAMAGE},
};

const char *inspect_code_name(enum inspect_code code)
{
    return codes[code].name;
}

void inspect_find(struct inspect *in, enum inspect_code code, uint64_t place, const char *fmt, ...)
{
    struct inspect_finding f = {
        .code = code,
        .severity = codes[code].severity,
        .has_place = place != INSPECT_NO_PLACE,
        .place = place,
    };
    va_list args;

    enum inspect_verdict verdict = code == INSPECT_RECORD_ROTTEN  ? INSPECT_LOSES
                                   : f.severity == INSPECT_DAMAGE ? INSPECT_DAMAGED
                                                                  : INSPECT_SOUND;
    if (verdict > in->report.verdict)
        in->report.verdict = verdict;
    if (in->report.counts[code]++ >= INSPECT_TOLD_MAX)
        return;
    va_start(args, fmt);
    vsnprintf(f.text, sizeof(f.text), fmt, args);
    va_end(args);
    in->config.found(in->config.arg, &f);
}

/* ---- Opening ---- */

static int inspect_error(char *error, int result, const char *text)
{
    snprintf(error, INSPECT_ERROR_MAX, "%s", text);
    return result;
}

static int inspect_open_file(struct inspect *in, char *error)
{
    int result = loop_file_open(in->config.loop, in->config.path, LOOP_FILE_DIRECT | LOOP_FILE_LOCK,
                                &in->file);

    if (result == -EWOULDBLOCK || result == -EBUSY)
        return inspect_error(error, result,
                             "is in use: a node serves it, or another tool reads it");
    if (result == -ENOENT)
        return inspect_error(error, result, "is not there");
    if (result == -EACCES || result == -EPERM)
        return inspect_error(error, result, "may not be read by this user");
    if (result < 0)
        return inspect_error(error, result,
                             "is neither a file nor a block device that can be read");
    in->report.device_blocks = loop_file_size(in->file) / STORE_BLOCK;
    if (in->report.device_blocks < SUPER_COPIES)
        return inspect_error(error, -EINVAL, "is too small to be a store");
    return 0;
}

static bool inspect_read(struct inspect *in, uint64_t block, uint32_t count, uint8_t *buf)
{
    size_t len = (size_t)count * STORE_BLOCK;

    return loop_read_now(in->file, buf, len, block * STORE_BLOCK) == (int64_t)len;
}

/* Why no superblock of `blocks` is taken, if one of them was written by another version. */
static bool supers_other_version(const uint8_t *blocks, char *error)
{
    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        struct block_doubt d;
        superblock_doubt(blocks + (size_t)i * STORE_BLOCK, &d);
        if (!d.has_magic || d.crc != d.crc_found || d.version == SUPER_VERSION)
            continue;
        snprintf(error, INSPECT_ERROR_MAX,
                 "was written by another version: its format is %u, this one reads %d", d.version,
                 SUPER_VERSION);
        return true;
    }
    return false;
}

/*
 * The copies lie where the size says. A start takes that of the device; where the first copy says
 * another one, the others are looked for at their old places.
 */
static void supers_read(struct inspect *in, uint64_t blocks)
{
    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        struct inspect_super *copy = &in->report.supers[i];
        uint8_t *buf = in->chunk + (size_t)i * STORE_BLOCK;
        copy->place = superblock_place(blocks, i);
        if (copy->place >= in->report.device_blocks || !inspect_read(in, copy->place, 1, buf))
            memset(buf, 0, STORE_BLOCK);
        copy->is_whole = superblock_decode(buf, &copy->super) == 0;
    }
}

static int inspect_supers(struct inspect *in, char *error)
{
    struct superblock *sb = &in->report.super;
    uint32_t copy;

    supers_read(in, in->report.device_blocks);
    int result = scan_supers(in->chunk, sb, &copy);
    if (result < 0) {
        if (supers_other_version(in->chunk, error))
            return -ENOTSUP;
        return inspect_error(error, -EINVAL, "holds no Skerry store");
    }
    if (sb->blocks < in->report.device_blocks && copy == 0)
        supers_read(in, sb->blocks);
    return 0;
}

/* Ring and slots, before the first record. */
static int inspect_memory(struct inspect *in, char *error)
{
    const struct superblock *sb = &in->report.super;
    char needs[64];

    in->memory = scan_bytes(sb) + sb->blocks / 8 + sb->blocks / 4096 * 2 +
                 sb->blocks / (sb->object_size / STORE_BLOCK + 1) * 2 * sizeof(uint32_t);
    if (in->config.memory_max == 0 || in->memory <= in->config.memory_max)
        return 0;
    snprintf(needs, sizeof(needs), "%llu", (unsigned long long)(in->memory >> 20));
    snprintf(error, INSPECT_ERROR_MAX,
             "needs %s MiB of memory to be looked at, before its objects: more than there is",
             needs);
    return -ENOMEM;
}

int inspect_open(const struct inspect_config *config, struct inspect **out,
                 char error[INSPECT_ERROR_MAX])
{
    struct inspect *in = mem_zalloc(sizeof(*in));

    in->config = *config;
    in->chunk = mem_alloc_aligned((size_t)INSPECT_CHUNK * STORE_BLOCK, STORE_BLOCK);
    in->slots = mem_alloc_aligned((size_t)RECORD_RUNS_MAX * STORE_BLOCK, STORE_BLOCK);
    int result = inspect_open_file(in, error);
    if (result == 0)
        result = inspect_supers(in, error);
    if (result == 0 && in->report.super.blocks <= in->report.device_blocks)
        result = inspect_memory(in, error);
    if (result < 0) {
        inspect_close(in);
        return result;
    }
    *out = in;
    return 0;
}

void inspect_close(struct inspect *in)
{
    replay_deinit(&in->replay);
    scan_deinit(&in->scan);
    if (in->s != NULL) {
        index_deinit(in->s);
        slots_deinit(&in->s->slots);
        free(in->s->scratch);
        free(in->s);
    }
    if (in->file != NULL)
        loop_file_close(in->file);
    free(in->images);
    free(in->chunk);
    free(in->slots);
    free(in);
}

/* What records are put into: as store_open_start() makes it, without what runs. */
static void inspect_make_index(struct inspect *in)
{
    struct store *s = mem_zalloc(sizeof(*s));

    s->loop = in->config.loop;
    s->super = in->report.super;
    s->scratch = mem_alloc_aligned(RECORD_BYTES_MAX, 64);
    index_init(s);
    store_limits(s);
    index_size(s);
    in->s = s;
    in->replay.s = s;
}

/* ---- Superblocks ---- */

static void check_super_damaged(struct inspect *in, uint32_t i)
{
    const struct inspect_super *copy = &in->report.supers[i];
    struct block_doubt d;

    if (copy->place >= in->report.device_blocks) {
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d would lie beyond the end of the device", i + 1,
                     SUPER_COPIES);
        return;
    }
    if (!inspect_read(in, copy->place, 1, in->chunk)) {
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d cannot be read: the device gives an error", i + 1,
                     SUPER_COPIES);
        return;
    }
    superblock_doubt(in->chunk, &d);
    if (d.is_zero)
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d is not there: zeros. The next start writes it again",
                     i + 1, SUPER_COPIES);
    else if (!d.has_magic)
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d is not there: other data. The next start writes it again",
                     i + 1, SUPER_COPIES);
    else if (d.crc != d.crc_found)
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d is damaged: its checksum says %08x, its bytes give %08x. "
                     "The next start writes it again",
                     i + 1, SUPER_COPIES, d.crc, d.crc_found);
    else
        inspect_find(in, INSPECT_SUPER_DAMAGED, copy->place,
                     "superblock %u of %d says what cannot be, behind a checksum that matches",
                     i + 1, SUPER_COPIES);
}

static void check_super(struct inspect *in, uint32_t i)
{
    const struct inspect_super *copy = &in->report.supers[i];
    const struct superblock *sb = &copy->super, *best = &in->report.super;

    if (!copy->is_whole) {
        check_super_damaged(in, i);
        return;
    }
    if (memcmp(sb->cluster, best->cluster, 16) != 0 || memcmp(sb->uuid, best->uuid, 16) != 0 ||
        sb->nonce != best->nonce || sb->osd != best->osd || sb->blocks != best->blocks ||
        sb->ring_blocks != best->ring_blocks)
        inspect_find(in, INSPECT_SUPER_DIFFERS, copy->place,
                     "superblock %u of %d is of another store (boot %u); that of boot %u counts, "
                     "being the youngest",
                     i + 1, SUPER_COPIES, sb->boot, best->boot);
    else if (sb->boot < best->boot)
        inspect_find(in, INSPECT_SUPER_OLDER, copy->place,
                     "superblock %u of %d is of boot %u, the youngest of boot %u: a start was cut "
                     "off between the two",
                     i + 1, SUPER_COPIES, sb->boot, best->boot);
    else if (sb->copy != i)
        inspect_find(in, INSPECT_SUPER_DIFFERS, copy->place,
                     "superblock %u of %d says that it is the one numbered %u", i + 1, SUPER_COPIES,
                     sb->copy + 1);
}

/* False: the device is not what it was made as, and nothing more can be read. */
static bool check_supers(struct inspect *in)
{
    const struct superblock *sb = &in->report.super;
    uint64_t device = in->report.device_blocks;

    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        check_super(in, i);
    if (sb->boot == UINT32_MAX)
        inspect_find(in, INSPECT_BOOTS_USED_UP, 0,
                     "it was started %u times: there is no higher number, and a start refuses it",
                     sb->boot);
    if (sb->blocks < device)
        inspect_find(in, INSPECT_DEVICE_GREW, INSPECT_NO_PLACE,
                     "the device has %llu blocks; the store was made with %llu and uses no more",
                     (unsigned long long)device, (unsigned long long)sb->blocks);
    if (sb->blocks > device)
        inspect_find(in, INSPECT_DEVICE_SHRANK, INSPECT_NO_PLACE,
                     "the device has %llu blocks and the store was made with %llu: a part of it is "
                     "missing, and a start refuses it",
                     (unsigned long long)device, (unsigned long long)sb->blocks);
    return sb->blocks <= device;
}

/* ---- The ring ---- */

static void ring_read_chunk(struct inspect *in, uint64_t place)
{
    const struct superblock *sb = &in->report.super;
    uint64_t left = sb->ring_blocks - place;

    in->chunk_place = place;
    in->chunk_count = left < INSPECT_CHUNK ? (uint32_t)left : INSPECT_CHUNK;
    memset(in->chunk_errors, 0, sizeof(in->chunk_errors));
    if (inspect_read(in, sb->ring_first + place, in->chunk_count, in->chunk))
        return;
    for (uint32_t i = 0; i < in->chunk_count; i++)
        in->chunk_errors[i] =
            !inspect_read(in, sb->ring_first + place + i, 1, in->chunk + (size_t)i * STORE_BLOCK);
}

const uint8_t *inspect_ring(struct inspect *in, uint64_t place)
{
    if (in->chunk_count == 0 || place < in->chunk_place ||
        place >= in->chunk_place + in->chunk_count)
        ring_read_chunk(in, place);
    uint64_t i = place - in->chunk_place;
    return in->chunk_errors[i] ? NULL : in->chunk + i * STORE_BLOCK;
}

enum inspect_place_state inspect_place(struct inspect *in, uint64_t place, struct block_head *h,
                                       const uint8_t **block)
{
    const struct superblock *sb = &in->report.super;
    struct block_doubt d;

    *block = inspect_ring(in, place);
    if (*block == NULL)
        return INSPECT_PLACE_UNREADABLE;
    int result = block_open(*block, sb->nonce, h);
    if (result == 0)
        return h->seq % sb->ring_blocks == place ? INSPECT_PLACE_VALID : INSPECT_PLACE_MISPLACED;
    if (result == -ENOTSUP)
        return INSPECT_PLACE_NEWER;
    block_doubt(*block, &d);
    if (d.is_zero)
        return INSPECT_PLACE_EMPTY;
    return d.has_magic && d.nonce == sb->nonce ? INSPECT_PLACE_BROKEN : INSPECT_PLACE_OTHER;
}

static void check_place(struct inspect *in, uint64_t place)
{
    uint64_t at = in->report.super.ring_first + place;
    struct block_head h;
    const uint8_t *block;

    switch (inspect_place(in, place, &h, &block)) {
    case INSPECT_PLACE_VALID:
        in->report.places_valid++;
        scan_see(&in->scan, place, block, &h);
        if (replay_note_drops(&in->replay, block, &h) < 0)
            inspect_find(in, INSPECT_DROPS_BAD, at,
                         "block %llu of the log makes no sense behind a checksum that matches; a "
                         "start refuses the disk",
                         (unsigned long long)h.seq);
        break;
    case INSPECT_PLACE_EMPTY:
        in->report.places_empty++;
        break;
    case INSPECT_PLACE_BROKEN:
        if (in->scrap_count < INSPECT_TOLD_MAX)
            in->scrap[in->scrap_count] = place;
        in->scrap_count++;
        in->report.places_other++;
        break;
    case INSPECT_PLACE_OTHER:
        in->report.places_other++;
        break;
    case INSPECT_PLACE_MISPLACED:
        in->report.places_other++;
        inspect_find(in, INSPECT_LOG_MISPLACED, at,
                     "block %llu of the log lies where block %llu belongs: a write went to the "
                     "wrong place",
                     (unsigned long long)h.seq,
                     (unsigned long long)(h.seq - h.seq % in->report.super.ring_blocks + place));
        break;
    case INSPECT_PLACE_NEWER:
        inspect_find(in, INSPECT_LOG_NEWER, at,
                     "a block of the log was written by a newer version; a start refuses the disk");
        break;
    case INSPECT_PLACE_UNREADABLE:
        inspect_find(in, INSPECT_LOG_UNREADABLE, at,
                     "the device gives an error on reading this block of the log; a start refuses "
                     "the disk");
        break;
    }
}

/* What lies where block n should be, for the end of a sentence. */
static void explain_lost(struct inspect *in, uint64_t n, char *dst, size_t dst_size)
{
    struct block_head h;
    struct block_doubt d;
    const uint8_t *block;
    enum inspect_place_state state =
        inspect_place(in, n % in->report.super.ring_blocks, &h, &block);

    if (state == INSPECT_PLACE_UNREADABLE) {
        snprintf(dst, dst_size, "the device gives an error there");
    } else if (state == INSPECT_PLACE_VALID && h.seq == n) {
        snprintf(dst, dst_size,
                 "it is whole, but does not follow block %llu: it expects one with checksum %08x",
                 (unsigned long long)(n - 1), h.prev_crc);
    } else if (state == INSPECT_PLACE_VALID) {
        snprintf(dst, dst_size, "block %llu is there: what was written later was lost",
                 (unsigned long long)h.seq);
    } else if (state == INSPECT_PLACE_EMPTY) {
        snprintf(dst, dst_size, "zeros are there");
    } else if (state == INSPECT_PLACE_BROKEN) {
        block_doubt(block, &d);
        snprintf(dst, dst_size, "it says checksum %08x, its bytes give %08x", d.crc, d.crc_found);
    } else {
        snprintf(dst, dst_size, "other data is there");
    }
}

/* Records that begin in block n, which is there. */
static uint64_t count_records(struct inspect *in, uint64_t n)
{
    uint64_t place = n % in->report.super.ring_blocks, count = 0;
    struct block_head h;
    const uint8_t *block;
    struct piece_at at = {0};
    struct piece p;

    if (inspect_place(in, place, &h, &block) != INSPECT_PLACE_VALID || h.seq != n)
        return 0;
    while (piece_next(block, &h, &at, &p) == 1)
        count += p.offset == 0;
    return count;
}

/* S12: which of the blocks that must be there are not, and what goes with them. */
static void check_cut(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    uint64_t ring = rep->super.ring_blocks, records = 0, lost = 0;
    uint64_t first = rep->end + 1, last = rep->durable;
    const struct seen *before = scan_block(&in->scan, rep->end);
    char why[160];

    if (last - first >= ring) /* so far below that nothing of it is left */
        first = last - ring + 1;
    for (uint64_t n = first; n <= last; n++) {
        const struct seen *e = scan_block(&in->scan, n);
        if (e == NULL || (before != NULL && e->prev_crc != before->crc)) {
            lost++;
            explain_lost(in, n, why, sizeof(why));
            inspect_find(
                in, INSPECT_LOG_BLOCK_LOST, inspect_ring_place(in, n),
                "block %llu of the log was durable, as a later block says, and is lost: %s",
                (unsigned long long)n, why);
        }
        before = e;
    }
    for (uint64_t n = first; n <= rep->highest && n - first < ring; n++)
        records += count_records(in, n);
    inspect_find(
        in, INSPECT_LOG_CUT, rep->end == 0 ? INSPECT_NO_PLACE : inspect_ring_place(in, rep->end),
        "the log can be followed up to block %llu only, and was durable up to block %llu: "
        "%llu of the blocks between are lost or damaged, and %llu records that are still there "
        "cannot be reached. Some of it was answered, so a start refuses the disk: its data "
        "must come from other copies",
        (unsigned long long)rep->end, (unsigned long long)rep->durable, (unsigned long long)lost,
        (unsigned long long)records);
}

/* Blocks after the end, that nobody was told of. */
static void check_torn(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    uint64_t ring = rep->super.ring_blocks, whole = 0;

    for (uint64_t n = rep->end + 1; n <= rep->highest && n - rep->end < ring; n++)
        whole += scan_block(&in->scan, n) != NULL;
    if (whole > 0)
        inspect_find(
            in, INSPECT_LOG_TORN, inspect_ring_place(in, rep->end + 1),
            "after the end of the log, block %llu, lie %llu whole blocks that do not follow "
            "it, up to %llu: writes that a crash cut off. None of them was answered",
            (unsigned long long)rep->end, (unsigned long long)whole,
            (unsigned long long)rep->highest);
}

/* What was once a block of this log, now that it is known where the log ends. */
static void check_scrap(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    struct block_head h;
    struct block_doubt d;
    const uint8_t *block;

    for (uint64_t i = 0; i < in->scrap_count && i < INSPECT_TOLD_MAX; i++) {
        if (inspect_place(in, in->scrap[i], &h, &block) != INSPECT_PLACE_BROKEN)
            continue;
        block_doubt(block, &d);
        inspect_find(in, INSPECT_LOG_SCRAP, rep->super.ring_first + in->scrap[i],
                     "a block of the log that says it is number %llu is torn or damaged (its "
                     "checksum says %08x, its bytes give %08x)%s",
                     (unsigned long long)d.seq, d.crc, d.crc_found,
                     rep->verdict == INSPECT_DAMAGED ? ""
                     : d.seq > rep->end ? "; it is after the end, and was never answered"
                                        : "; the log does not need it any more");
    }
    rep->counts[INSPECT_LOG_SCRAP] = in->scrap_count;
}

/* True: there are records to read. */
static bool check_ring(struct inspect *in)
{
    struct inspect_report *rep = &in->report;

    for (uint64_t place = 0; place < rep->super.ring_blocks; place++)
        check_place(in, place);
    bool is_cut = scan_end(&in->scan) < 0;
    rep->end = in->scan.end;
    rep->highest = in->scan.highest;
    rep->durable = in->scan.durable;
    if (rep->end == 0)
        inspect_find(in, INSPECT_LOG_NO_END, INSPECT_NO_PLACE,
                     "no run of blocks of the log is whole: there is no state to begin with, and a "
                     "start refuses the disk. Its data must come from other copies");
    if (is_cut && rep->durable > rep->end)
        check_cut(in);
    else if (rep->end != 0)
        check_torn(in);
    check_scrap(in);
    return rep->end != 0;
}

/* ---- Records ---- */

static void count_record(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    const struct record_head *h = &in->replay.head;

    switch (h->kind) {
    case RECORD_FULL:
        rep->records_full++;
        break;
    case RECORD_DELTA:
        rep->records_delta++;
        rep->records_steps += (h->flags & (RECORD_PREPARE | RECORD_COMMIT | RECORD_ROLLBACK)) != 0;
        break;
    case RECORD_PURGE:
        rep->records_purge++;
        break;
    case RECORD_DROPS:
        break;
    }
}

static void find_mismatch(struct inspect *in, uint64_t block, const struct replay_mismatch *bad)
{
    const struct replay *r = &in->replay;
    /* A durable block stands for durable data (S4). */
    bool is_rotten = block <= in->report.durable;

    inspect_find(
        in, is_rotten ? INSPECT_RECORD_ROTTEN : INSPECT_RECORD_DROPPED, bad->slot,
        "record %llu in block %llu of the log, of object %llu/%llu, is beyond the mark "
        "%llu, and its data is not on the disk: block %u should have checksum %08x and has "
        "%08x. %s",
        (unsigned long long)r->seq, (unsigned long long)block, (unsigned long long)r->head.id.image,
        (unsigned long long)r->head.id.object, (unsigned long long)r->mark, bad->block,
        bad->expected, bad->found,
        is_rotten ? "It was there, as a later block of the log says, and may have been "
                    "answered; a start drops it all the same"
                  : "It was never answered; a start drops it");
}

/* Beyond the mark: does its data match (S2)? */
static bool check_slots(struct inspect *in, uint64_t block)
{
    const struct replay *r = &in->replay;
    struct replay_mismatch bad;
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->head.runs_count; i++) {
        struct record_run run;
        record_run_get(in->s->scratch, i, &run);
        uint8_t *buf = in->slots + (size_t)n * STORE_BLOCK;
        if (run.slot == 0)
            continue;
        /* What cannot be read does not match. */
        if (!run.settled && !inspect_read(in, run.slot, run.count, buf))
            memset(buf, 0xff, (size_t)run.count * STORE_BLOCK);
        n += run.count;
    }
    if (replay_matches(r, in->slots, &bad))
        return true;
    find_mismatch(in, block, &bad);
    return false;
}

/* 1; 0: the block has no more; -EBADMSG: it makes no sense. */
static int check_record(struct inspect *in, const uint8_t *block, const struct block_head *h,
                        struct piece_at *at)
{
    struct replay *r = &in->replay;
    uint64_t place = inspect_ring_place(in, h->seq), offset = at->offset;
    bool matches = true;
    int result = replay_next(r, block, h, at);

    if (result < 0)
        inspect_find(in, INSPECT_RECORD_BAD, place,
                     "block %llu of the log, about byte %llu of it: a record makes no sense behind "
                     "a checksum that matches. A start refuses the disk; what is said below is the "
                     "state up to there",
                     (unsigned long long)h->seq, (unsigned long long)(BLOCK_HEADER + offset));
    if (result != 1)
        return result;
    count_record(in);
    if (replay_must_verify(r)) {
        in->report.records_beyond_mark++;
        matches = check_slots(in, h->seq);
    }
    if (replay_apply(r, matches) < 0)
        inspect_find(in, INSPECT_RECORD_CONTRADICTS, place,
                     "record %llu, of object %llu/%llu, commits or rolls back version %llu, which "
                     "was not prepared. A start refuses the disk",
                     (unsigned long long)r->seq, (unsigned long long)r->head.id.image,
                     (unsigned long long)r->head.id.object, (unsigned long long)r->head.version);
    return 1;
}

static bool has_memory(struct inspect *in)
{
    struct store_status status;

    if (in->config.memory_max == 0)
        return true;
    store_status(in->s, &status);
    return in->memory + status.index_bytes + in->replay.dropped.capacity * sizeof(uint64_t) <=
           in->config.memory_max;
}

static int check_records(struct inspect *in)
{
    uint64_t last = in->s->head;

    for (uint64_t n = in->s->tail; n <= last; n++) {
        struct block_head h;
        const uint8_t *block;
        struct piece_at at = {0};
        int result = 1;
        if (inspect_place(in, n % in->report.super.ring_blocks, &h, &block) !=
                INSPECT_PLACE_VALID ||
            h.seq != n)
            return -EBADMSG; /* it was there a moment ago */
        while (result == 1)
            result = check_record(in, block, &h, &at);
        if (result < 0)
            return 0; /* said; nothing after it can be put together */
        if (!has_memory(in))
            return -ENOMEM;
    }
    return 0;
}

/* ---- The end ---- */

void inspect_all(struct inspect *in, void (*each)(struct inspect *in, struct object *o))
{
    struct store *s = in->s;

    for (uint64_t i = 0; i <= s->buckets_mask; i++) {
        for (struct object *o = object_at(s, s->buckets[i]), *next; o != NULL; o = next) {
            next = object_at(s, o->by_id);
            each(in, o);
        }
    }
}

static void find_headless(struct inspect *in, struct object *o)
{
    if (o->headless)
        inspect_find(in, INSPECT_OBJECT_HEADLESS, INSPECT_NO_PLACE,
                     "object %llu/%llu has changes in the log, and no full record that they would "
                     "be changes of. A start refuses the disk",
                     (unsigned long long)o->id.image, (unsigned long long)o->id.object);
}

/* The object other than `not` that has a slot. */
static const struct object *slot_owner(struct inspect *in, uint64_t slot,
                                       const struct object * not )
{
    struct store *s = in->s;
    struct layout l;

    for (const struct object *o = object_at(s, s->age_first); o != NULL && o != not ;
         o = object_at(s, o->age_next)) {
        const struct work *x = object_work(s, o);
        object_read(o, &l);
        for (uint32_t b = 0; b < l.count; b++)
            if (l.slots[b] == slot)
                return o;
        if (x == NULL || x->prepared == NULL)
            continue;
        prepared_changes(x->prepared, &l);
        for (uint32_t b = 0; b < l.count; b++)
            if (l.slots[b] == slot)
                return o;
    }
    return NULL;
}

static bool slot_is_system(const struct superblock *sb, uint64_t slot)
{
    bool is_super = false;

    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        is_super = is_super || slot == superblock_place(sb->blocks, i);
    return is_super || (slot >= sb->ring_first && slot < sb->ring_first + sb->ring_blocks);
}

static void find_slots(struct inspect *in, const struct object *o, const struct layout *l)
{
    struct store *s = in->s;

    for (uint32_t b = 0; b < l->count; b++) {
        uint64_t slot = l->slots[b];
        if (slot == 0)
            continue;
        if (!slots_is_used(&s->slots, slot)) {
            slots_mark(&s->slots, slot, true);
        } else if (slot_is_system(&s->super, slot)) {
            inspect_find(
                in, INSPECT_SLOT_OUTSIDE, slot,
                "block %u of object %llu/%llu is said to lie here, which is a place of the "
                "log or of a superblock. A start refuses the disk",
                b, (unsigned long long)o->id.image, (unsigned long long)o->id.object);
        } else {
            const struct object *other = in->report.counts[INSPECT_SLOT_SHARED] < INSPECT_TOLD_MAX
                                             ? slot_owner(in, slot, o)
                                             : NULL;
            if (other == NULL)
                other = o;
            inspect_find(in, INSPECT_SLOT_SHARED, slot,
                         "block %u of object %llu/%llu and a block of object %llu/%llu are both "
                         "said to lie here. A start refuses the disk",
                         b, (unsigned long long)o->id.image, (unsigned long long)o->id.object,
                         (unsigned long long)other->id.image, (unsigned long long)other->id.object);
        }
    }
}

/* replay_end() refused: everything that it could have meant. */
static void explain_contradictions(struct inspect *in)
{
    struct store *s = in->s;
    struct layout l;

    inspect_all(in, find_headless);
    slots_deinit(&s->slots);
    store_limits(s);
    for (const struct object *o = object_at(s, s->age_first); o != NULL;
         o = object_at(s, o->age_next)) {
        const struct work *x = object_work(s, o);
        object_read(o, &l);
        find_slots(in, o, &l);
        if (x == NULL || x->prepared == NULL)
            continue;
        prepared_changes(x->prepared, &l);
        find_slots(in, o, &l);
    }
}

/* ---- The sum ---- */

static struct inspect_image *image_of(struct inspect *in, uint64_t id)
{
    struct inspect_report *rep = &in->report;
    uint64_t low = 0, high = rep->images_count;

    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (in->images[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < rep->images_count && in->images[low].id == id ? &in->images[low] : NULL;
}

static void image_note(struct inspect *in, struct object *o)
{
    struct inspect_report *rep = &in->report;

    if (o->gone)
        return;
    if (rep->images_count == in->images_capacity) {
        in->images_capacity = in->images_capacity == 0 ? 64 : 2 * in->images_capacity;
        in->images = mem_realloc(in->images, in->images_capacity * sizeof(*in->images));
    }
    in->images[rep->images_count++] = (struct inspect_image){.id = o->id.image};
}

static int image_compare(const void *a, const void *b)
{
    const struct inspect_image *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static void images_unique(struct inspect *in)
{
    uint64_t n = 0;

    if (in->report.images_count > 0)
        qsort(in->images, in->report.images_count, sizeof(*in->images), image_compare);
    for (uint64_t i = 0; i < in->report.images_count; i++)
        if (n == 0 || in->images[n - 1].id != in->images[i].id)
            in->images[n++] = in->images[i];
    in->report.images_count = n;
}

static void image_count(struct inspect *in, struct object *o)
{
    const struct work *x = object_work(in->s, o);

    if (o->gone)
        return;
    struct inspect_image *image = image_of(in, o->id.image);
    image->objects += !o->deleted;
    image->tombstones += o->deleted && o->version != 0;
    image->blocks += o->blocks;
    if (x != NULL && x->prepared != NULL) {
        image->prepared++;
        image->blocks += x->prepared->blocks;
        in->report.prepared++;
    }
}

static void sum_state(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    struct store *s = in->s;

    rep->has_state = true;
    rep->records_dropped = in->replay.dropped.count;
    rep->records_named = in->replay.named.count;
    rep->record_last = s->seq_last;
    inspect_all(in, image_note);
    images_unique(in);
    inspect_all(in, image_count);
    rep->images = in->images;
    store_status(s, &rep->status);
}

/* A start writes a block if it has anything to drop, or a mark to raise. */
static void check_room(struct inspect *in)
{
    struct inspect_report *rep = &in->report;
    const struct store_status *st = &rep->status;
    uint64_t starts = rep->records_dropped / RECORD_DROPS_MAX + 1;

    if ((rep->records_dropped > 0 || rep->mark < rep->record_last) &&
        st->ring_used_blocks + starts > st->ring_blocks)
        inspect_find(in, INSPECT_LOG_NO_ROOM, INSPECT_NO_PLACE,
                     "the log uses %llu of its %llu blocks, and a start has to write %llu more: it "
                     "refuses the disk",
                     (unsigned long long)st->ring_used_blocks, (unsigned long long)st->ring_blocks,
                     (unsigned long long)starts);
    if (st->log_free_bytes < st->log_bytes / 10)
        inspect_find(in, INSPECT_LOG_NEARLY_FULL, INSPECT_NO_PLACE,
                     "the objects need %llu of the %llu bytes that their records may take in the "
                     "log: new ones will be refused before the space for data is used up",
                     (unsigned long long)(st->log_bytes - st->log_free_bytes),
                     (unsigned long long)st->log_bytes);
}

static int check_state(struct inspect *in, char *error)
{
    struct inspect_report *rep = &in->report;

    scan_adopt(&in->scan, in->s);
    rep->tail = in->s->tail;
    rep->mark = in->s->mark_durable;
    rep->scrub_at = in->s->scrub_at;
    rep->scrub_since = in->s->scrub_since;
    replay_begin(&in->replay, rep->tail, rep->end, rep->mark);
    int result = check_records(in);
    if (result == -ENOMEM) {
        snprintf(error, INSPECT_ERROR_MAX,
                 "has more objects than there is memory for: %llu of them need more than %llu MiB",
                 (unsigned long long)in->s->objects_count,
                 (unsigned long long)(in->config.memory_max >> 20));
        return result;
    }
    if (result < 0) {
        inspect_find(in, INSPECT_LOG_UNREADABLE, INSPECT_NO_PLACE,
                     "the log reads differently each time: the device is not to be trusted");
        return 0;
    }
    if (replay_end(&in->replay) < 0)
        explain_contradictions(in);
    sum_state(in);
    check_room(in);
    return 0;
}

int inspect_check(struct inspect *in, struct inspect_report *out, char error[INSPECT_ERROR_MAX])
{
    struct inspect_report *rep = &in->report;
    int result = 0;

    check(in->s == NULL);
    in->chunk_count = 0;
    if (check_supers(in)) {
        inspect_make_index(in);
        in->chunk_count = 0;
        scan_init(&in->scan, &rep->super);
        if (check_ring(in))
            result = check_state(in, error);
    }
    if (rep->verdict == INSPECT_SOUND && rep->records_dropped > 0)
        rep->verdict = INSPECT_DROPS;
    *out = *rep;
    return result;
}

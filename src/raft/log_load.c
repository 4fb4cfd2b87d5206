#include "raft/log_load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"

/*
 * One segment is read whole and walked record by record. What the copy of a record says decides
 * what a bad record means; see raft/log.h.
 */

enum {
    LOAD_CHUNK = 1 << 20,
    LOAD_NAME = 16,
    LOAD_STRAY_BITS = 4,
    LOAD_SIZE_MIN = 64 << 10,
    LOAD_SIZE_MAX = 1 << 30,
};

enum load_slot { LOAD_SLOT_EMPTY, LOAD_SLOT_GOOD, LOAD_SLOT_DAMAGED };

struct load {
    struct raft_log_disk *log;
    uint64_t *numbers;
    uint32_t numbers_count, numbers_capacity;
    uint8_t *image; /* the segment being walked */
    uint32_t pages;
    struct loop_file *file;
    struct raft_log_segment *segment;
    uint32_t slots_used; /* slots up to the last one that is not empty */
    bool is_last;
    uint64_t count_expected; /* of a segment that is not the last */
    bool crc_known;          /* of the record before the next one */
    uint32_t crc_before;
    uint32_t page; /* of the next record; 0: unknown */
    bool slots_changed;
    int error;
};

/* ---- Which segments are there ---- */

static void load_on_name(void *arg, const char *name)
{
    struct load *ld = arg;
    uint64_t number = 0;

    if (strlen(name) != LOAD_NAME)
        return;
    for (const char *p = name; *p != '\0'; p++) {
        unsigned digit;
        if (*p >= '0' && *p <= '9')
            digit = (unsigned)(*p - '0');
        else if (*p >= 'a' && *p <= 'f')
            digit = (unsigned)(*p - 'a' + 10);
        else
            return;
        number = number << 4 | digit;
    }
    if (ld->numbers_count == ld->numbers_capacity) {
        ld->numbers_capacity = ld->numbers_capacity == 0 ? 16 : 2 * ld->numbers_capacity;
        ld->numbers = mem_realloc(ld->numbers, ld->numbers_capacity * sizeof(*ld->numbers));
    }
    ld->numbers[ld->numbers_count++] = number;
}

static int load_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int load_list(struct load *ld)
{
    int rv = loop_dir_list(ld->log->config.loop, ld->log->dir, load_on_name, ld);
    if (rv != 0)
        return rv;
    if (ld->numbers_count == 0)
        return -ENOENT;
    qsort(ld->numbers, ld->numbers_count, sizeof(*ld->numbers), load_compare);
    for (uint32_t i = 1; i < ld->numbers_count; i++) {
        if (ld->numbers[i] != ld->numbers[i - 1] + 1) {
            log_error("raft", "a segment of the log is missing number=%llx",
                      (unsigned long long)ld->numbers[i - 1] + 1);
            return -EBADMSG;
        }
    }
    return 0;
}

/* ---- Reading one segment ---- */

/* Pages the device cannot read become 0xff: damaged, but not empty. */
static int load_read_chunk(struct load *ld, uint64_t offset, uint32_t len)
{
    int64_t n = loop_read_now(ld->file, ld->image + offset, len, offset);

    if (n == (int64_t)len)
        return 0;
    if (n >= 0)
        return -EBADMSG; /* the file is shorter than its header says */
    if (n != -EIO)
        return (int)n;
    for (uint32_t at = 0; at < len; at += RAFT_LOG_PAGE) {
        n = loop_read_now(ld->file, ld->image + offset + at, RAFT_LOG_PAGE, offset + at);
        if (n != RAFT_LOG_PAGE)
            memset(ld->image + offset + at, 0xff, RAFT_LOG_PAGE);
    }
    return 0;
}

/* Two headers, twice the same: one good one is enough, and mends the other. */
static int load_header(struct load *ld, uint64_t number, struct log_segment_header *h)
{
    int good = -1;

    for (int i = 0; i < 2; i++) {
        int rv = log_segment_decode(ld->image + i * RAFT_LOG_PAGE, h);
        if (rv == -ENOTSUP)
            return rv;
        if (rv == 0 && h->number == number) {
            good = i;
            break;
        }
    }
    if (good < 0 || h->size != ld->log->config.segment_size)
        return -EBADMSG;

    const uint8_t *a = ld->image + good * RAFT_LOG_PAGE;
    uint8_t *b = ld->image + (1 - good) * RAFT_LOG_PAGE;
    if (memcmp(a, b, RAFT_LOG_HEADER) == 0)
        return 0;
    log_warn("raft", "a header of a log segment was bad and is written anew number=%llx",
             (unsigned long long)number);
    memcpy(b, a, RAFT_LOG_PAGE);
    int rv = log_write_pages(ld->file, b, (uint32_t)(1 - good), 1);
    return rv != 0 ? rv : loop_flush_now(ld->file);
}

static int load_read_segment(struct load *ld, uint64_t number, struct log_segment_header *h)
{
    uint64_t size = ld->log->config.segment_size;
    int rv = log_segment_open(ld->log, number, &ld->file);

    if (rv != 0)
        return rv;
    if (loop_file_size(ld->file) != size)
        return -EBADMSG;
    /* What an earlier process wrote and did not flush must not be read as durable. */
    rv = loop_flush_now(ld->file);
    for (uint64_t at = 0; rv == 0 && at < size; at += LOAD_CHUNK) {
        uint64_t len = size - at < LOAD_CHUNK ? size - at : LOAD_CHUNK;
        rv = load_read_chunk(ld, at, (uint32_t)len);
    }
    return rv != 0 ? rv : load_header(ld, number, h);
}

/* ---- Walking it ---- */

static uint8_t *load_slot_at(struct load *ld, uint64_t slot)
{
    return ld->image + 2 * (size_t)RAFT_LOG_PAGE + slot * RAFT_LOG_HEADER;
}

static bool load_page_is_possible(const struct load *ld, uint32_t page, uint32_t len)
{
    return page >= log_data_page(ld->log->config.segment_size) && page < ld->pages &&
           log_record_pages(len) <= ld->pages - page;
}

/* A copy has a hundred bits set or more. A few are an empty slot that has suffered. */
static bool load_slot_is_empty(const uint8_t *p)
{
    int bits = 0;

    for (int i = 0; i < RAFT_LOG_HEADER && bits <= LOAD_STRAY_BITS; i++)
        bits += __builtin_popcount(p[i]);
    return bits <= LOAD_STRAY_BITS;
}

static enum load_slot load_slot(struct load *ld, uint64_t slot, struct log_header *h)
{
    const uint8_t *p = load_slot_at(ld, slot);

    if (log_is_zero(p, RAFT_LOG_HEADER))
        return LOAD_SLOT_EMPTY;
    int rv = log_header_decode(p, h);
    if (rv == -ENOTSUP)
        ld->error = rv;
    if (rv != 0 || h->segment != ld->segment->number ||
        h->index != ld->segment->first_index + slot || !load_page_is_possible(ld, h->page, h->len))
        return LOAD_SLOT_DAMAGED;
    return LOAD_SLOT_GOOD;
}

static bool load_record(struct load *ld, uint64_t index, uint32_t page, struct log_header *h)
{
    const uint8_t *p = ld->image + (size_t)page * RAFT_LOG_PAGE;

    if (page == 0 || page >= ld->pages || log_header_decode(p, h) != 0)
        return false;
    if (h->index != index || h->segment != ld->segment->number || h->page != page ||
        !load_page_is_possible(ld, page, h->len))
        return false;
    if (ld->crc_known && h->crc_before != ld->crc_before)
        return false;
    return crc32c(0, p + RAFT_LOG_HEADER, h->len) == h->data_crc;
}

static void load_add(struct load *ld, const struct log_header *h, const uint8_t *data)
{
    struct raft_log_record *r = log_record_add(ld->log);

    *r = (struct raft_log_record){.term = h->term,
                                  .segment = h->segment,
                                  .page = h->page,
                                  .len = h->len,
                                  .data_crc = h->data_crc,
                                  .crc = h->crc,
                                  .crc_before = h->crc_before,
                                  .type = h->type,
                                  .is_bad = data == NULL};
    if (data != NULL) {
        r->data = raft_malloc(h->len > 0 ? h->len : 1);
        check(r->data != NULL);
        memcpy(r->data, data, h->len);
    }
    ld->crc_known = true;
    ld->crc_before = h->crc;
    ld->page = h->page + log_record_pages(h->len);
}

static void load_add_unknown(struct load *ld)
{
    struct raft_log_record *r = log_record_add(ld->log);

    *r = (struct raft_log_record){
        .segment = ld->segment->number, .is_bad = true, .is_unknown = true};
    ld->crc_known = false;
    ld->page = 0;
}

/* A copy, of this record or a later one, or a later segment, says that this record was durable. */
static bool load_was_durable(const struct load *ld, uint64_t slot)
{
    return slot < ld->slots_used || (!ld->is_last && slot < ld->count_expected);
}

/* One record. False at the end of the segment. */
static bool load_walk_one(struct load *ld, uint64_t slot)
{
    uint64_t index = ld->segment->first_index + slot;
    struct log_header copy, h;
    enum load_slot state = load_slot(ld, slot, &copy);
    uint32_t page = state == LOAD_SLOT_GOOD ? copy.page : ld->page;

    if (load_record(ld, index, page, &h) && (state != LOAD_SLOT_GOOD || h.crc == copy.crc)) {
        const uint8_t *p = ld->image + (size_t)page * RAFT_LOG_PAGE;
        load_add(ld, &h, p + RAFT_LOG_HEADER);
        if (state != LOAD_SLOT_GOOD) {
            memcpy(load_slot_at(ld, slot), p, RAFT_LOG_HEADER);
            ld->slots_changed = true;
        }
        return true;
    }
    if (!load_was_durable(ld, slot))
        return false;
    log_error("raft", "a record of the log is corrupt index=%llu segment=%llx copy=%s",
              (unsigned long long)index, (unsigned long long)ld->segment->number,
              state == LOAD_SLOT_GOOD ? "good" : "bad");
    if (state == LOAD_SLOT_GOOD)
        load_add(ld, &copy, NULL);
    else
        load_add_unknown(ld);
    return true;
}

static void load_count_slots(struct load *ld)
{
    ld->slots_used = 0;
    for (uint32_t slot = 0; slot < ld->pages; slot++) {
        uint8_t *p = load_slot_at(ld, slot);
        if (!load_slot_is_empty(p)) {
            ld->slots_used = slot + 1;
        } else if (!log_is_zero(p, RAFT_LOG_HEADER)) {
            memset(p, 0, RAFT_LOG_HEADER);
            ld->slots_changed = true;
        }
    }
}

/* Copies that a crash or a flipped bit took away, while their record is whole; stray bits. */
static int load_mend_slots(struct load *ld)
{
    if (!ld->slots_changed)
        return 0;
    int rv = log_write_pages(ld->file, ld->image + 2 * (size_t)RAFT_LOG_PAGE, 2,
                             log_slot_pages(ld->log->config.segment_size));
    return rv != 0 ? rv : loop_flush_now(ld->file);
}

/* After the last record nothing may be left that a later load could take for one. */
static int load_wipe_torn(struct load *ld)
{
    uint32_t from = ld->page, to = ld->pages;

    if (from == 0)
        return 0; /* the last record is unknown, and so is where it ends */
    while (to > from && log_is_zero(ld->image + (size_t)(to - 1) * RAFT_LOG_PAGE, RAFT_LOG_PAGE))
        to--;
    if (to == from)
        return 0;
    log_warn("raft", "the log has a torn end, which nobody was told of pages=%u", to - from);
    return log_zero_pages(ld->log, ld->file, from, to);
}

static int load_segment(struct load *ld, uint32_t i, uint64_t next_first_index)
{
    struct raft_log_disk *log = ld->log;
    struct log_segment_header h;
    int rv = load_read_segment(ld, ld->numbers[i], &h);
    if (rv != 0)
        return rv;

    ld->segment = log_segment_add(log);
    *ld->segment = (struct raft_log_segment){h.number, h.first_index, h.crc_before};
    if (i == 0)
        log->first_index = h.first_index;
    if (h.first_index != log->first_index + log->records_count)
        return -EBADMSG;
    ld->is_last = i + 1 == ld->numbers_count;
    if (!ld->is_last && next_first_index < h.first_index)
        return -EBADMSG;
    ld->count_expected = ld->is_last ? 0 : next_first_index - h.first_index;
    ld->crc_known = true;
    ld->crc_before = h.crc_before;
    ld->page = log_data_page(log->config.segment_size);
    ld->slots_changed = false;
    load_count_slots(ld);

    for (uint64_t slot = 0; slot < ld->pages; slot++) {
        if (!ld->is_last && slot == ld->count_expected)
            break;
        if (!load_walk_one(ld, slot))
            break;
    }
    if (ld->error != 0)
        return ld->error;
    rv = load_mend_slots(ld);
    if (rv == 0 && ld->is_last)
        rv = load_wipe_torn(ld);
    return rv;
}

/* The first index of segment i, read ahead of its walk. */
static int load_first_index(struct load *ld, uint32_t i, uint64_t *out)
{
    struct log_segment_header h;
    int rv = log_segment_open(ld->log, ld->numbers[i], &ld->file);

    *out = 0;
    if (rv != 0)
        return rv;
    rv = loop_file_size(ld->file) == ld->log->config.segment_size
             ? load_read_chunk(ld, 0, 2 * RAFT_LOG_PAGE)
             : -EBADMSG;
    if (rv == 0)
        rv = load_header(ld, ld->numbers[i], &h);
    loop_file_close(ld->file);
    ld->file = NULL;
    if (rv == 0)
        *out = h.first_index;
    return rv;
}

/* Segments keep the size the log was made with. */
static int load_size(struct load *ld)
{
    struct raft_log_disk *log = ld->log;
    uint8_t *pages = mem_alloc_aligned(2 * (size_t)RAFT_LOG_PAGE, RAFT_LOG_PAGE);
    struct log_segment_header h;
    struct loop_file *f;

    memset(pages, 0, 2 * (size_t)RAFT_LOG_PAGE);
    int rv = log_segment_open(log, ld->numbers[0], &f);
    if (rv == 0) {
        for (uint32_t i = 0; i < 2; i++)
            (void)loop_read_now(f, pages + i * RAFT_LOG_PAGE, RAFT_LOG_PAGE,
                                (uint64_t)i * RAFT_LOG_PAGE);
        loop_file_close(f);
        rv = log_segment_decode(pages, &h);
        if (rv == -EBADMSG)
            rv = log_segment_decode(pages + RAFT_LOG_PAGE, &h);
    }
    free(pages);
    if (rv == 0 &&
        (h.size < LOAD_SIZE_MIN || h.size > LOAD_SIZE_MAX || h.size % RAFT_LOG_PAGE != 0))
        rv = -EBADMSG;
    if (rv == 0)
        log_set_segment_size(log, h.size);
    return rv;
}

static void load_adopt_tail(struct load *ld)
{
    struct raft_log_disk *log = ld->log;

    memcpy(log->copies, ld->image + 2 * (size_t)RAFT_LOG_PAGE,
           (size_t)log_slot_pages(log->config.segment_size) * RAFT_LOG_PAGE);
    log->tail = ld->file;
    log->tail_page = ld->page != 0 ? ld->page : ld->pages;
    ld->file = NULL;
}

static int load_all(struct load *ld)
{
    for (uint32_t i = 0; i < ld->numbers_count; i++) {
        uint64_t next = 0;
        int rv = 0;
        if (i + 1 < ld->numbers_count)
            rv = load_first_index(ld, i + 1, &next);
        if (rv == 0)
            rv = load_segment(ld, i, next);
        if (rv != 0) {
            log_error("raft", "a segment of the log cannot be used number=%llx error=%d",
                      (unsigned long long)ld->numbers[i], rv);
            return rv;
        }
        if (ld->is_last)
            load_adopt_tail(ld);
        else
            loop_file_close(ld->file);
        ld->file = NULL;
    }
    return 0;
}

int log_load(struct raft_log_disk *log)
{
    struct load ld = {.log = log};
    int rv = load_list(&ld);

    if (rv == 0)
        rv = load_size(&ld);
    ld.image = mem_alloc_aligned(log->config.segment_size, RAFT_LOG_PAGE);
    ld.pages = (uint32_t)(log->config.segment_size / RAFT_LOG_PAGE);
    if (rv == 0)
        rv = load_all(&ld);
    if (ld.file != NULL)
        loop_file_close(ld.file);
    free(ld.image);
    free(ld.numbers);
    return rv;
}

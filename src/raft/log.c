#include "raft/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"
#include "raft/log_format.h"
#include "raft/log_load.h"

/*
 *     IDLE --batch--> WRITING --> FLUSHING --> COPYING --> COPY_FLUSHING --> IDLE
 *       |                 |           |            |             |
 *       +------ error ----+-----------+------------+-------------+--> FAILED
 *
 * Decisions are taken in log_step(). Truncations and resets run in IDLE, in their place in the
 * queue, when nothing is in flight.
 */

enum { LOG_STAGE = 1 << 20 };

static_assert(LOG_STAGE >= RAFT_LOG_DATA_MAX + RAFT_LOG_HEADER + RAFT_LOG_PAGE,
              "any record fits the stage");

static void log_step(struct task *task);

/* ---- Files ---- */

int log_path(const struct raft_log_disk *log, uint64_t number, char *dst)
{
    int n = snprintf(dst, LOG_PATH, "%s/%016llx", log->dir, (unsigned long long)number);
    return n > 0 && n < LOG_PATH ? 0 : -ENAMETOOLONG;
}

int log_segment_open(const struct raft_log_disk *log, uint64_t number, struct loop_file **out)
{
    char path[LOG_PATH];
    int rv = log_path(log, number, path);

    if (rv != 0)
        return rv;
    return loop_file_open(log->config.loop, path, LOOP_FILE_WRITE | LOOP_FILE_DIRECT, out);
}

int log_write_pages(struct loop_file *f, const void *buf, uint32_t page, uint32_t count)
{
    int64_t n =
        loop_write_now(f, buf, (size_t)count * RAFT_LOG_PAGE, (uint64_t)page * RAFT_LOG_PAGE);
    return n < 0 ? (int)n : 0;
}

int log_zero_pages(struct raft_log_disk *log, struct loop_file *f, uint32_t from, uint32_t to)
{
    check(log->state == RAFT_LOG_IDLE);

    memset(log->stage, 0, LOG_STAGE);
    while (from < to) {
        uint32_t count = to - from;
        if (count > LOG_STAGE / RAFT_LOG_PAGE)
            count = LOG_STAGE / RAFT_LOG_PAGE;
        int rv = log_write_pages(f, log->stage, from, count);
        if (rv != 0)
            return rv;
        from += count;
    }
    return loop_flush_now(f);
}

/* The new segment gets its name when it is whole and durable. */
static int log_segment_write_aside(struct raft_log_disk *log, const char *aside,
                                   const struct log_segment_header *h)
{
    struct loop_file *f;
    int rv = loop_unlink(log->config.loop, aside);
    if (rv != 0 && rv != -ENOENT)
        return rv;
    rv = loop_file_open(log->config.loop, aside,
                        LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT, &f);
    if (rv != 0)
        return rv;

    memset(log->stage, 0, 2 * (size_t)RAFT_LOG_PAGE);
    log_segment_encode(log->stage, h);
    log_segment_encode(log->stage + RAFT_LOG_PAGE, h);
    rv = loop_file_resize(f, h->size, true);
    if (rv == 0)
        rv = log_write_pages(f, log->stage, 0, 2);
    if (rv == 0)
        rv = loop_flush_now(f);
    loop_file_close(f);
    return rv;
}

static void log_tail_close(struct raft_log_disk *log)
{
    if (log->tail != NULL)
        loop_file_close(log->tail);
    log->tail = NULL;
}

/* Begin a new segment behind the last one; it becomes the tail. */
static int log_segment_create(struct raft_log_disk *log, uint64_t number, uint64_t first_index,
                              uint32_t crc_before)
{
    char path[LOG_PATH], aside[LOG_PATH];
    struct log_segment_header h = {.number = number,
                                   .first_index = first_index,
                                   .size = log->config.segment_size,
                                   .crc_before = crc_before};

    int n = snprintf(aside, sizeof(aside), "%s/new", log->dir);
    int rv = n > 0 && n < LOG_PATH ? log_path(log, number, path) : -ENAMETOOLONG;
    if (rv == 0)
        rv = log_segment_write_aside(log, aside, &h);
    if (rv == 0)
        rv = loop_rename(log->config.loop, aside, path);
    if (rv == 0)
        rv = loop_dir_sync(log->config.loop, log->dir);
    log_tail_close(log);
    if (rv == 0)
        rv = log_segment_open(log, number, &log->tail);
    if (rv != 0)
        return rv;

    struct raft_log_segment *s = log_segment_add(log);
    *s = (struct raft_log_segment){number, first_index, crc_before};
    memset(log->copies, 0, (size_t)log_slot_pages(h.size) * RAFT_LOG_PAGE);
    log->tail_page = log_data_page(h.size);
    return 0;
}

static int log_segment_unlink(struct raft_log_disk *log, uint64_t number)
{
    char path[LOG_PATH];
    int rv = log_path(log, number, path);

    if (rv == 0)
        rv = loop_unlink(log->config.loop, path);
    if (rv == 0)
        rv = loop_dir_sync(log->config.loop, log->dir);
    return rv;
}

/* ---- Memory ---- */

struct raft_log_record *log_record_add(struct raft_log_disk *log)
{
    if (log->records_count == log->records_capacity) {
        log->records_capacity = log->records_capacity == 0 ? 1024 : 2 * log->records_capacity;
        log->records = mem_realloc(log->records, log->records_capacity * sizeof(*log->records));
    }
    struct raft_log_record *r = &log->records[log->records_count++];
    *r = (struct raft_log_record){0};
    return r;
}

struct raft_log_segment *log_segment_add(struct raft_log_disk *log)
{
    if (log->segments_count == log->segments_capacity) {
        log->segments_capacity = log->segments_capacity == 0 ? 16 : 2 * log->segments_capacity;
        log->segments = mem_realloc(log->segments, log->segments_capacity * sizeof(*log->segments));
    }
    return &log->segments[log->segments_count++];
}

static struct raft_log_segment *log_tail_segment(struct raft_log_disk *log)
{
    check(log->segments_count > 0);
    return &log->segments[log->segments_count - 1];
}

static uint64_t log_next_index(const struct raft_log_disk *log)
{
    return log->first_index + log->records_count;
}

static void log_records_drop(struct raft_log_disk *log, uint64_t keep_count)
{
    for (uint64_t i = keep_count; i < log->records_count; i++)
        raft_free(log->records[i].data);
    if (keep_count < log->records_count)
        log->records_count = keep_count;
}

const struct raft_log_record *raft_log_get(const struct raft_log_disk *log, uint64_t index)
{
    if (index < log->first_index || index >= log_next_index(log))
        return NULL;
    return &log->records[index - log->first_index];
}

uint64_t raft_log_bad_first(const struct raft_log_disk *log, uint64_t from)
{
    if (from < log->first_index)
        from = log->first_index;
    for (uint64_t i = from; i < log_next_index(log); i++) {
        if (log->records[i - log->first_index].is_bad)
            return i;
    }
    return 0;
}

void *raft_log_take(struct raft_log_disk *log, uint64_t index)
{
    check(raft_log_get(log, index) != NULL);

    struct raft_log_record *r = &log->records[index - log->first_index];
    void *data = r->data;
    r->data = NULL;
    return data;
}

void raft_log_forget_data(struct raft_log_disk *log)
{
    for (uint64_t i = 0; i < log->records_count; i++) {
        raft_free(log->records[i].data);
        log->records[i].data = NULL;
    }
}

/* ---- Open and close ---- */

void log_set_segment_size(struct raft_log_disk *log, uint64_t size)
{
    size_t len = (size_t)log_slot_pages(size) * RAFT_LOG_PAGE;

    log->config.segment_size = size;
    free(log->copies);
    log->copies = mem_alloc_aligned(len, RAFT_LOG_PAGE);
    memset(log->copies, 0, len);
}

static int log_init(struct raft_log_disk *log, const struct raft_log_config *config)
{
    *log = (struct raft_log_disk){.config = *config};

    size_t len = strlen(config->dir) + sizeof("/log");
    log->dir = mem_zalloc(len);
    snprintf(log->dir, len, "%s/log", config->dir);
    log->stage = mem_alloc_aligned(LOG_STAGE, RAFT_LOG_PAGE);
    log_set_segment_size(log,
                         config->segment_size != 0 ? config->segment_size : RAFT_LOG_SEGMENT_SIZE);
    list_init(&log->queue);
    task_init(&log->task, log_step);
    log->state = RAFT_LOG_IDLE;
    return 0;
}

int raft_log_create(const struct raft_log_config *config, uint64_t first_index)
{
    struct raft_log_disk log;
    int rv = log_init(&log, config);

    if (rv == 0)
        rv = loop_dir_create(config->loop, log.dir);
    if (rv == 0)
        rv = loop_dir_sync(config->loop, config->dir);
    log.first_index = first_index;
    if (rv == 0)
        rv = log_segment_create(&log, 1, first_index, 0);
    raft_log_close(&log);
    return rv;
}

int raft_log_open(struct raft_log_disk *log, const struct raft_log_config *config)
{
    int rv = log_init(log, config);

    if (rv == 0)
        rv = log_load(log);
    if (rv != 0)
        raft_log_close(log);
    return rv;
}

void raft_log_close(struct raft_log_disk *log)
{
    if (log->dir == NULL)
        return;
    task_cancel(&log->task);
    log_tail_close(log);
    log_records_drop(log, 0);
    free(log->records);
    free(log->segments);
    free(log->copies);
    free(log->stage);
    free(log->dir);
    *log = (struct raft_log_disk){.state = RAFT_LOG_FAILED};
}

/* ---- Appending ---- */

static uint32_t log_room_pages(const struct raft_log_disk *log)
{
    return (uint32_t)(log->config.segment_size / RAFT_LOG_PAGE) - log->tail_page;
}

/* Put one entry behind what the stage holds, and its record into records[]. */
static void log_stage_entry(struct raft_log_disk *log, const struct raft_entry *e)
{
    struct raft_log_segment *s = log_tail_segment(log);
    uint64_t index = log_next_index(log);
    uint32_t crc_before =
        index == s->first_index ? s->crc_before : log->records[index - 1 - log->first_index].crc;
    struct log_header h = {.index = index,
                           .term = e->term,
                           .segment = s->number,
                           .page = log->tail_page,
                           .len = (uint32_t)e->buf.len,
                           .crc_before = crc_before,
                           .data_crc = crc32c(0, e->buf.base, e->buf.len),
                           .type = e->type};
    uint32_t pages = log_record_pages(h.len);
    uint8_t *dst = log->stage + log->stage_len;

    memset(dst + (size_t)(pages - 1) * RAFT_LOG_PAGE, 0, RAFT_LOG_PAGE);
    log_header_encode(dst, &h);
    if (e->buf.len > 0)
        memcpy(dst + RAFT_LOG_HEADER, e->buf.base, e->buf.len);
    memcpy(log->copies + (index - s->first_index) * RAFT_LOG_HEADER, dst, RAFT_LOG_HEADER);

    struct raft_log_record *r = log_record_add(log);
    *r = (struct raft_log_record){.term = e->term,
                                  .segment = s->number,
                                  .page = h.page,
                                  .len = h.len,
                                  .data_crc = h.data_crc,
                                  .crc = h.crc,
                                  .crc_before = crc_before,
                                  .type = e->type};
    log->stage_len += pages * RAFT_LOG_PAGE;
    log->tail_page += pages;
    log->batch_count++;
}

static bool log_entry_fits(const struct raft_log_disk *log, const struct raft_entry *e)
{
    uint32_t pages = log_record_pages((uint32_t)e->buf.len);
    return pages <= log_room_pages(log) && log->stage_len + pages * RAFT_LOG_PAGE <= LOG_STAGE;
}

/* Take from the head of the queue as many entries as go out in one write. */
static int log_batch_fill(struct raft_log_disk *log)
{
    log->stage_len = 0;
    log->batch_count = 0;

    struct raft_log_op *first = container_of(log->queue.next, struct raft_log_op, link);
    const struct raft_entry *e = &first->entries[first->entries_begun];
    if (log_record_pages((uint32_t)e->buf.len) > log_room_pages(log)) {
        uint32_t crc_before = log_next_index(log) == log_tail_segment(log)->first_index
                                  ? log_tail_segment(log)->crc_before
                                  : log->records[log->records_count - 1].crc;
        int rv = log_segment_create(log, log_tail_segment(log)->number + 1, log_next_index(log),
                                    crc_before);
        if (rv != 0)
            return rv;
    }

    log->batch_first = log->records_count;
    list_for_each (pos, &log->queue) {
        struct raft_log_op *op = container_of(pos, struct raft_log_op, link);
        if (op->kind != RAFT_LOG_APPEND)
            break;
        while (op->entries_begun < op->entries_count) {
            if (!log_entry_fits(log, &op->entries[op->entries_begun]))
                return 0;
            log_stage_entry(log, &op->entries[op->entries_begun++]);
        }
    }
    return 0;
}

/* The pages of slots that hold the copies of the batch. */
static void log_batch_slots(struct raft_log_disk *log, uint32_t *page, uint32_t *count)
{
    uint64_t first = log->first_index + log->batch_first - log_tail_segment(log)->first_index;
    uint64_t begin = first * RAFT_LOG_HEADER / RAFT_LOG_PAGE;
    uint64_t end =
        ((first + log->batch_count) * RAFT_LOG_HEADER + RAFT_LOG_PAGE - 1) / RAFT_LOG_PAGE;

    *page = (uint32_t)begin;
    *count = (uint32_t)(end - begin);
}

static void log_on_op(struct loop_op *op)
{
    struct raft_log_disk *log = container_of(op, struct raft_log_disk, op);
    loop_wake(log->config.loop, &log->task);
}

static void log_write_records(struct raft_log_disk *log)
{
    uint32_t page = log->records[log->batch_first].page;

    log->records_written_count += log->batch_count;
    loop_op_init(&log->op, log_on_op);
    loop_write(log->config.loop, &log->op, log->tail, log->stage, log->stage_len,
               (uint64_t)page * RAFT_LOG_PAGE);
}

static void log_write_copies(struct raft_log_disk *log)
{
    uint32_t page, count;

    log_batch_slots(log, &page, &count);
    loop_op_init(&log->op, log_on_op);
    loop_write(log->config.loop, &log->op, log->tail, log->copies + (size_t)page * RAFT_LOG_PAGE,
               (size_t)count * RAFT_LOG_PAGE, (uint64_t)(2 + page) * RAFT_LOG_PAGE);
}

static void log_flush(struct raft_log_disk *log)
{
    log->flushes_count++;
    loop_op_init(&log->op, log_on_op);
    loop_flush(log->config.loop, &log->op, log->tail);
}

static void log_fail(struct raft_log_disk *log, const char *what, int error)
{
    log->state = RAFT_LOG_FAILED;
    log_error("raft", "the log could not be written what=\"%s\" error=%d", what, error);
    log->config.fatal(log->config.arg, what, error);
}

/* Entries of the batch are durable, in order: answer the requests that are complete. */
static void log_batch_answer(struct raft_log_disk *log)
{
    struct list complete;
    uint32_t left = log->batch_count;

    list_init(&complete);
    while (left > 0) {
        struct raft_log_op *op = container_of(log->queue.next, struct raft_log_op, link);
        uint32_t share = op->entries_count - op->entries_done;
        if (share > left)
            share = left;
        op->entries_done += share;
        left -= share;
        if (op->entries_done == op->entries_count) {
            list_remove(&op->link);
            list_push(&complete, &op->link);
        }
    }
    log->batch_count = 0;
    for (struct list *link = list_pop(&complete); link != NULL; link = list_pop(&complete)) {
        struct raft_log_op *op = container_of(link, struct raft_log_op, link);
        op->done(op);
    }
}

/* ---- Truncation, reset, trimming ---- */

/* Read the slots of the tail back: it became the tail by a truncation. */
static int log_tail_reopen(struct raft_log_disk *log)
{
    log_tail_close(log);
    int rv = log_segment_open(log, log_tail_segment(log)->number, &log->tail);
    if (rv != 0)
        return rv;
    size_t len = (size_t)log_slot_pages(log->config.segment_size) * RAFT_LOG_PAGE;
    int64_t n = loop_read_now(log->tail, log->copies, len, 2 * (uint64_t)RAFT_LOG_PAGE);
    if (n < 0)
        return (int)n;
    log->tail_page = (uint32_t)(log->config.segment_size / RAFT_LOG_PAGE);
    return n == (int64_t)len ? 0 : -EIO;
}

/* Newest first, each durable: what is left is always a log that once was. */
static int log_drop_segments(struct raft_log_disk *log, uint64_t index)
{
    bool dropped = false;

    while (log->segments_count > 1 && log_tail_segment(log)->first_index >= index) {
        log_tail_close(log);
        int rv = log_segment_unlink(log, log_tail_segment(log)->number);
        if (rv != 0)
            return rv;
        log->segments_count--;
        dropped = true;
    }
    return dropped ? log_tail_reopen(log) : 0;
}

/* Copies first, durable, then records: a copy never outlives its record. */
static int log_wipe_tail(struct raft_log_disk *log, uint64_t index, uint32_t page)
{
    uint64_t slot = index - log_tail_segment(log)->first_index;
    uint32_t slot_pages = log_slot_pages(log->config.segment_size);
    uint32_t first = (uint32_t)(slot * RAFT_LOG_HEADER / RAFT_LOG_PAGE);
    size_t slot_bytes = (size_t)slot_pages * RAFT_LOG_PAGE;

    memset(log->copies + slot * RAFT_LOG_HEADER, 0, slot_bytes - slot * RAFT_LOG_HEADER);
    int rv = log_write_pages(log->tail, log->copies + (size_t)first * RAFT_LOG_PAGE, 2 + first,
                             slot_pages - first);
    if (rv == 0)
        rv = loop_flush_now(log->tail);
    if (rv == 0)
        rv = log_zero_pages(log, log->tail, page, log->tail_page);
    log->tail_page = page;
    return rv;
}

/* Where in the tail record `index` is, or would be: behind the one before it. 0: not known. */
static uint32_t log_page_of(struct raft_log_disk *log, uint64_t index)
{
    const struct raft_log_segment *tail = log_tail_segment(log);
    const struct raft_log_record *r = &log->records[index - log->first_index];

    if (index == tail->first_index)
        return log_data_page(log->config.segment_size);
    if (!r[-1].is_unknown)
        return r[-1].page + log_record_pages(r[-1].len);
    return r->segment == tail->number && !r->is_unknown ? r->page : 0;
}

int raft_log_truncate_now(struct raft_log_disk *log, uint64_t index)
{
    check(log->state == RAFT_LOG_IDLE);
    check(index >= log->first_index);

    if (index >= log_next_index(log))
        return 0;
    int rv = log_drop_segments(log, index);
    if (rv != 0)
        return rv;
    uint32_t page = log_page_of(log, index);
    if (page == 0)
        return -EBADMSG;
    rv = log_wipe_tail(log, index, page);
    if (rv == 0)
        log_records_drop(log, index - log->first_index);
    return rv;
}

int raft_log_reset_now(struct raft_log_disk *log, uint64_t next_index)
{
    check(log->state == RAFT_LOG_IDLE);

    uint64_t number = log_tail_segment(log)->number + 1;
    log_tail_close(log);
    while (log->segments_count > 0) {
        int rv = log_segment_unlink(log, log_tail_segment(log)->number);
        if (rv != 0)
            return rv;
        log->segments_count--;
    }
    log_records_drop(log, 0);
    log->first_index = next_index;
    return log_segment_create(log, number, next_index, 0);
}

int raft_log_trim_now(struct raft_log_disk *log, uint64_t index)
{
    uint32_t gone = 0;

    while (gone + 1 < log->segments_count && log->segments[gone + 1].first_index <= index) {
        int rv = log_segment_unlink(log, log->segments[gone].number);
        if (rv != 0)
            return rv;
        gone++;
    }
    if (gone == 0)
        return 0;

    uint64_t count = log->segments[gone].first_index - log->first_index;
    for (uint64_t i = 0; i < count; i++)
        raft_free(log->records[i].data);
    log->records_count -= count;
    log->first_index += count;
    memmove(log->records, log->records + count, log->records_count * sizeof(*log->records));
    log->batch_first -= log->batch_count > 0 ? count : 0;
    log->segments_count -= gone;
    memmove(log->segments, log->segments + gone, log->segments_count * sizeof(*log->segments));
    return 0;
}

/* ---- The machine ---- */

void raft_log_start(struct raft_log_disk *log, struct raft_log_op *op)
{
    check(op->kind != RAFT_LOG_APPEND || op->entries_count > 0);

    op->entries_begun = 0;
    op->entries_done = 0;
    list_init(&op->link);
    list_push(&log->queue, &op->link);
    if (log->state == RAFT_LOG_IDLE)
        loop_wake(log->config.loop, &log->task);
}

bool raft_log_is_idle(const struct raft_log_disk *log)
{
    return log->state == RAFT_LOG_IDLE && list_empty(&log->queue);
}

/* The head of the queue is a truncation or a reset, and nothing is in flight. */
static void log_run_blocking(struct raft_log_disk *log)
{
    struct raft_log_op *op = container_of(log->queue.next, struct raft_log_op, link);
    int rv = op->kind == RAFT_LOG_TRUNCATE ? raft_log_truncate_now(log, op->index)
                                           : raft_log_reset_now(log, op->index);

    if (rv != 0) {
        log_fail(log, op->kind == RAFT_LOG_TRUNCATE ? "truncating the log" : "restarting the log",
                 rv);
        return;
    }
    list_remove(&op->link);
    op->done(op);
}

static void log_begin(struct raft_log_disk *log)
{
    int rv = log_batch_fill(log);

    if (rv != 0) {
        log_fail(log, "a new segment of the log", rv);
        return;
    }
    log->state = RAFT_LOG_WRITING;
    log_write_records(log);
}

static bool log_next_is_append(const struct raft_log_disk *log)
{
    return container_of(log->queue.next, struct raft_log_op, link)->kind == RAFT_LOG_APPEND;
}

static void log_step(struct task *task)
{
    struct raft_log_disk *log = container_of(task, struct raft_log_disk, task);

    if (log->state != RAFT_LOG_IDLE && log->state != RAFT_LOG_FAILED && log->op.result < 0) {
        log_fail(log, "writing the log", (int)log->op.result);
        return;
    }
    switch (log->state) {
    case RAFT_LOG_IDLE:
        if (list_empty(&log->queue))
            return;
        if (log_next_is_append(log))
            log_begin(log);
        else
            log_run_blocking(log);
        break;
    case RAFT_LOG_WRITING:
        log->state = RAFT_LOG_FLUSHING;
        log_flush(log);
        return;
    case RAFT_LOG_FLUSHING:
        log->state = RAFT_LOG_COPYING;
        log_write_copies(log);
        return;
    case RAFT_LOG_COPYING:
        log->state = RAFT_LOG_COPY_FLUSHING;
        log_flush(log);
        return;
    case RAFT_LOG_COPY_FLUSHING:
        log->state = RAFT_LOG_IDLE;
        log_batch_answer(log);
        break;
    case RAFT_LOG_FAILED:
        return;
    }
    if (log->state == RAFT_LOG_IDLE && !list_empty(&log->queue))
        loop_wake(log->config.loop, &log->task);
}

/* ---- Blocking appends, reads, mending ---- */

static void log_now_done(struct raft_log_op *op)
{
    (void)op;
}

int raft_log_append_now(struct raft_log_disk *log, const struct raft_entry *entry)
{
    check(raft_log_is_idle(log));

    struct raft_log_op op = {
        .kind = RAFT_LOG_APPEND, .entries = entry, .entries_count = 1, .done = log_now_done};
    list_init(&op.link);
    list_push(&log->queue, &op.link);
    int rv = log_batch_fill(log);
    list_remove(&op.link);
    if (rv != 0)
        return rv;

    uint32_t page, count;
    log_batch_slots(log, &page, &count);
    log->batch_count = 0;
    rv = log_write_pages(log->tail, log->stage, log->records[log->batch_first].page,
                         log->stage_len / RAFT_LOG_PAGE);
    if (rv == 0)
        rv = loop_flush_now(log->tail);
    if (rv == 0)
        rv =
            log_write_pages(log->tail, log->copies + (size_t)page * RAFT_LOG_PAGE, 2 + page, count);
    if (rv == 0)
        rv = loop_flush_now(log->tail);
    return rv;
}

static int log_read_record(struct loop_file *f, const struct raft_log_record *r, uint64_t index,
                           void *data)
{
    size_t len = (size_t)log_record_pages(r->len) * RAFT_LOG_PAGE;
    uint8_t *buf = mem_alloc_aligned(len, RAFT_LOG_PAGE);
    struct log_header h;
    int64_t n = loop_read_now(f, buf, len, (uint64_t)r->page * RAFT_LOG_PAGE);
    int rv = n < 0 ? (int)n : n == (int64_t)len ? log_header_decode(buf, &h) : -EBADMSG;

    if (rv == 0 && (h.index != index || h.crc != r->crc ||
                    crc32c(0, buf + RAFT_LOG_HEADER, r->len) != r->data_crc))
        rv = -EBADMSG;
    if (rv == 0)
        memcpy(data, buf + RAFT_LOG_HEADER, r->len);
    free(buf);
    return rv;
}

int raft_log_read_now(struct raft_log_disk *log, uint64_t index, void *data)
{
    const struct raft_log_record *r = raft_log_get(log, index);
    struct loop_file *f;

    if (r == NULL || r->is_bad)
        return -ENOENT;
    int rv = log_segment_open(log, r->segment, &f);
    if (rv != 0)
        return rv;
    rv = log_read_record(f, r, index, data);
    loop_file_close(f);
    return rv;
}

/* What the record behind `index` says of the crc before it. */
static bool log_crc_by_next(const struct raft_log_disk *log, uint64_t index, uint32_t *crc)
{
    const struct raft_log_record *next = raft_log_get(log, index + 1);

    if (next != NULL && !next->is_unknown) {
        *crc = next->crc_before;
        return true;
    }
    for (uint32_t i = 0; i < log->segments_count; i++) {
        if (log->segments[i].first_index == index + 1) {
            *crc = log->segments[i].crc_before;
            return true;
        }
    }
    return false;
}

static bool log_segment_of(const struct raft_log_disk *log, uint64_t number,
                           struct raft_log_segment *out)
{
    for (uint32_t i = 0; i < log->segments_count; i++) {
        if (log->segments[i].number == number) {
            *out = log->segments[i];
            return true;
        }
    }
    return false;
}

/* Where the record must be and what must be before it, from its neighbours. */
static int log_mend_place(const struct raft_log_disk *log, uint64_t index, struct log_header *h)
{
    const struct raft_log_record *r = raft_log_get(log, index);
    struct raft_log_segment segment;

    if (!log_segment_of(log, r->segment, &segment))
        return -EINVAL;
    if (!r->is_unknown) {
        h->page = r->page;
        h->crc_before = r->crc_before;
    } else if (index == segment.first_index) {
        h->page = log_data_page(log->config.segment_size);
        h->crc_before = segment.crc_before;
    } else if (!r[-1].is_unknown) {
        h->page = r[-1].page + log_record_pages(r[-1].len);
        h->crc_before = r[-1].crc;
    } else {
        return -EINVAL;
    }
    return 0;
}

static int log_mend_write(struct raft_log_disk *log, const struct log_header *h,
                          const struct raft_entry *e)
{
    uint32_t pages = log_record_pages(h->len);
    uint64_t first = 0;
    struct raft_log_segment segment;
    struct loop_file *f;

    int rv = log_segment_open(log, h->segment, &f);
    if (rv != 0)
        return rv;
    if (log_segment_of(log, h->segment, &segment))
        first = segment.first_index;
    memcpy(log->stage + RAFT_LOG_HEADER, e->buf.base, e->buf.len);
    rv = log_write_pages(f, log->stage, h->page, pages);
    if (rv == 0)
        rv = loop_flush_now(f);
    if (rv == 0 && h->segment == log_tail_segment(log)->number) {
        memcpy(log->copies + (h->index - first) * RAFT_LOG_HEADER, log->stage, RAFT_LOG_HEADER);
        if (log->tail_page < h->page + pages || h->index + 1 == log_next_index(log))
            log->tail_page = h->page + pages;
    }
    loop_file_close(f);
    return rv; /* a copy that is bad too is mended at the next load */
}

int raft_log_mend_now(struct raft_log_disk *log, uint64_t index, const struct raft_entry *e)
{
    check(raft_log_is_idle(log));
    check(raft_log_get(log, index) != NULL);

    struct raft_log_record *r = &log->records[index - log->first_index];
    struct log_header h = {.index = index,
                           .term = e->term,
                           .segment = r->segment,
                           .len = (uint32_t)e->buf.len,
                           .data_crc = crc32c(0, e->buf.base, e->buf.len),
                           .type = e->type};
    uint32_t crc = r->crc;
    int rv = e->buf.len <= RAFT_LOG_DATA_MAX ? log_mend_place(log, index, &h) : -EINVAL;
    if (rv != 0)
        return rv;
    if (r->is_unknown && !log_crc_by_next(log, index, &crc))
        return -EINVAL;
    memset(log->stage, 0, (size_t)log_record_pages(h.len) * RAFT_LOG_PAGE);
    log_header_encode(log->stage, &h);
    if (h.crc != crc)
        return -EINVAL;

    rv = log_mend_write(log, &h, e);
    if (rv != 0)
        return rv;
    void *data = raft_malloc(e->buf.len + 1);
    if (data == NULL)
        return -ENOMEM;
    memcpy(data, e->buf.base, e->buf.len);
    raft_free(r->data);
    *r = (struct raft_log_record){.term = h.term,
                                  .segment = h.segment,
                                  .data = data,
                                  .page = h.page,
                                  .len = h.len,
                                  .data_crc = h.data_crc,
                                  .crc = h.crc,
                                  .crc_before = h.crc_before,
                                  .type = h.type};
    return 0;
}

#include "raft/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"
#include "raft/conf.h"

/*
 *   put: PUT_CONF --> PUT_DATA (a chunk at a time) --> PUT_HEADER --> PUT_FLUSH --> done
 *   get: GET_HEADER --> GET_CONF --> GET_DATA (a chunk at a time) --> done
 *
 * A state is the wait for one disk operation; snapshot_step() decides what follows.
 */
enum snapshot_state {
    SNAPSHOT_BEGIN,
    SNAPSHOT_PUT_CONF,
    SNAPSHOT_PUT_DATA,
    SNAPSHOT_PUT_HEADER,
    SNAPSHOT_PUT_FLUSH,
    SNAPSHOT_GET_HEADER,
    SNAPSHOT_GET_CONF,
    SNAPSHOT_GET_DATA,
};

enum {
    SNAPSHOT_MAGIC = 0x50414e53,
    SNAPSHOT_VERSION = 1,
    SNAPSHOT_CRC_AT = 60,
    SNAPSHOT_HEADER = 64,
    SNAPSHOT_PAGE = 4096,
    SNAPSHOT_PATH = 4096,
    SNAPSHOT_CONF_MAX = 64 << 10,
    SNAPSHOT_NAME = 16,
};

struct snapshot_header {
    uint64_t index, term, conf_index, data_len;
    uint32_t conf_len, conf_crc, data_crc;
};

static void snapshot_header_encode(uint8_t *p, const struct snapshot_header *h)
{
    memset(p, 0, SNAPSHOT_HEADER);
    put_u32(p + 0, SNAPSHOT_MAGIC);
    put_u32(p + 4, SNAPSHOT_VERSION);
    put_u64(p + 8, h->index);
    put_u64(p + 16, h->term);
    put_u64(p + 24, h->conf_index);
    put_u32(p + 32, h->conf_len);
    put_u64(p + 40, h->data_len);
    put_u32(p + 48, h->conf_crc);
    put_u32(p + 52, h->data_crc);
    put_u32(p + SNAPSHOT_CRC_AT, crc32c(0, p, SNAPSHOT_CRC_AT));
}

static int snapshot_header_decode(const uint8_t *p, struct snapshot_header *h)
{
    if (get_u32(p) != SNAPSHOT_MAGIC ||
        get_u32(p + SNAPSHOT_CRC_AT) != crc32c(0, p, SNAPSHOT_CRC_AT))
        return -EBADMSG;
    if (get_u32(p + 4) != SNAPSHOT_VERSION)
        return -ENOTSUP;
    h->index = get_u64(p + 8);
    h->term = get_u64(p + 16);
    h->conf_index = get_u64(p + 24);
    h->conf_len = get_u32(p + 32);
    h->data_len = get_u64(p + 40);
    h->conf_crc = get_u32(p + 48);
    h->data_crc = get_u32(p + 52);
    if (h->conf_len > SNAPSHOT_CONF_MAX || h->data_len > RAFT_SNAPSHOT_MAX || h->index == 0)
        return -EBADMSG;
    return 0;
}

static uint64_t snapshot_round(uint64_t len)
{
    return (len + SNAPSHOT_PAGE - 1) / SNAPSHOT_PAGE * SNAPSHOT_PAGE;
}

/* ---- Names ---- */

static int snapshot_path(const struct raft_snapshots *s, uint64_t index, char *dst)
{
    int n = snprintf(dst, SNAPSHOT_PATH, "%s/%016llx", s->dir, (unsigned long long)index);
    return n > 0 && n < SNAPSHOT_PATH ? 0 : -ENAMETOOLONG;
}

static int snapshot_path_new(const struct raft_snapshots *s, char *dst)
{
    int n = snprintf(dst, SNAPSHOT_PATH, "%s/new", s->dir);
    return n > 0 && n < SNAPSHOT_PATH ? 0 : -ENAMETOOLONG;
}

/* Put it in its place, newest first; true when one falls off the end. */
static bool snapshot_note(struct raft_snapshots *s, uint64_t index, uint64_t *dropped)
{
    uint32_t at = 0;

    while (at < s->count && s->indexes[at] > index)
        at++;
    if (at < s->count && s->indexes[at] == index)
        return false;
    memmove(&s->indexes[at + 1], &s->indexes[at], (s->count - at) * sizeof(s->indexes[0]));
    s->indexes[at] = index;
    s->count++;
    if (s->count <= RAFT_SNAPSHOT_KEPT)
        return false;
    *dropped = s->indexes[--s->count];
    return true;
}

static int snapshot_unlink(struct raft_snapshots *s, uint64_t index)
{
    char path[SNAPSHOT_PATH];
    int rv = snapshot_path(s, index, path);
    return rv != 0 ? rv : loop_unlink(s->loop, path);
}

struct snapshot_listing {
    uint64_t *indexes;
    uint32_t count, capacity;
};

static void snapshot_on_name(void *arg, const char *name)
{
    struct snapshot_listing *li = arg;
    char *end;

    if (strlen(name) != SNAPSHOT_NAME)
        return;
    uint64_t index = strtoull(name, &end, 16);
    if (*end != '\0' || index == 0)
        return;
    if (li->count == li->capacity) {
        li->capacity = li->capacity == 0 ? 8 : 2 * li->capacity;
        li->indexes = mem_realloc(li->indexes, li->capacity * sizeof(*li->indexes));
    }
    li->indexes[li->count++] = index;
}

int raft_snapshots_open(struct raft_snapshots *s, struct loop *loop, const char *dir)
{
    struct snapshot_listing li = {0};
    size_t len = strlen(dir) + sizeof("/snap");

    *s = (struct raft_snapshots){.loop = loop, .dir = mem_zalloc(len)};
    snprintf(s->dir, len, "%s/snap", dir);
    int rv = loop_dir_create(loop, s->dir);
    if (rv == 0)
        rv = loop_dir_sync(loop, dir);
    if (rv == 0)
        rv = loop_dir_list(loop, s->dir, snapshot_on_name, &li);
    for (uint32_t i = 0; rv == 0 && i < li.count; i++) {
        uint64_t dropped;
        if (snapshot_note(s, li.indexes[i], &dropped))
            rv = snapshot_unlink(s, dropped);
    }
    free(li.indexes);
    if (rv != 0)
        raft_snapshots_close(s);
    return rv;
}

void raft_snapshots_close(struct raft_snapshots *s)
{
    free(s->dir);
    *s = (struct raft_snapshots){0};
}

/* ---- In memory ---- */

void raft_snapshot_destroy(struct raft_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    raft_configuration_close(&snapshot->configuration);
    if (snapshot->bufs != NULL)
        raft_free(snapshot->bufs[0].base);
    raft_free(snapshot->bufs);
    raft_free(snapshot);
}

static struct raft_snapshot *snapshot_new(const struct snapshot_header *h)
{
    struct raft_snapshot *s = raft_calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->index = h->index;
    s->term = h->term;
    s->configuration_index = h->conf_index;
    raft_configuration_init(&s->configuration);
    s->bufs = raft_calloc(1, sizeof(*s->bufs));
    if (s->bufs != NULL) {
        s->n_bufs = 1;
        s->bufs[0].base = raft_malloc(h->data_len > 0 ? h->data_len : 1);
        s->bufs[0].len = h->data_len;
    }
    if (s->bufs == NULL || s->bufs[0].base == NULL) {
        raft_snapshot_destroy(s);
        return NULL;
    }
    return s;
}

/* ---- The machine ---- */

static void snapshot_step(struct task *task);

static void snapshot_on_op(struct loop_op *o)
{
    struct raft_snapshot_op *op = container_of(o, struct raft_snapshot_op, op);
    loop_wake(op->store->loop, &op->task);
}

static void snapshot_start(struct raft_snapshot_op *op)
{
    op->result = 0;
    op->file = NULL;
    op->chunk = NULL;
    op->conf = (struct raft_buffer){0};
    op->data_at = 0;
    op->data_crc = 0;
    op->file_at = SNAPSHOT_PAGE;
    task_init(&op->task, snapshot_step);
    loop_wake(op->store->loop, &op->task);
}

static void snapshot_op_close(struct raft_snapshot_op *op)
{
    if (op->file != NULL)
        loop_file_close(op->file);
    op->file = NULL;
}

void raft_snapshot_op_drop(struct raft_snapshot_op *op)
{
    task_cancel(&op->task);
    snapshot_op_close(op);
    free(op->chunk);
    raft_free(op->conf.base);
    op->chunk = NULL;
    op->conf = (struct raft_buffer){0};
}

static void snapshot_finish(struct raft_snapshot_op *op, int result)
{
    raft_snapshot_op_drop(op);
    op->result = result;
    op->done(op);
}

/* ---- Put ---- */

void raft_snapshot_put_start(struct raft_snapshot_op *op)
{
    check(op->snapshot->n_bufs == 1);

    snapshot_start(op);
    op->state = SNAPSHOT_BEGIN;
    op->index = 0;
    op->data_len = op->snapshot->bufs[0].len;
}

static int snapshot_put_begin(struct raft_snapshot_op *op)
{
    if (op->data_len > RAFT_SNAPSHOT_MAX)
        return -EFBIG;
    if (raft_configuration_encode(&op->snapshot->configuration, &op->conf) != 0)
        return -ENOMEM;
    if (op->conf.len > SNAPSHOT_CONF_MAX)
        return -EFBIG;
    op->chunk = mem_alloc_aligned(RAFT_SNAPSHOT_CHUNK, SNAPSHOT_PAGE);
    return raft_snapshots_adopt_begin(
        op->store, SNAPSHOT_PAGE + snapshot_round(op->conf.len) + snapshot_round(op->data_len),
        &op->file);
}

static void snapshot_write(struct raft_snapshot_op *op, const void *src, size_t len,
                           uint64_t offset)
{
    uint64_t padded = snapshot_round(len);

    if (len > 0)
        memcpy(op->chunk, src, len);
    memset(op->chunk + len, 0, padded - len);
    loop_op_init(&op->op, snapshot_on_op);
    loop_write(op->store->loop, &op->op, op->file, op->chunk, padded, offset);
}

static void snapshot_put_conf(struct raft_snapshot_op *op)
{
    op->state = SNAPSHOT_PUT_CONF;
    snapshot_write(op, op->conf.base, op->conf.len, op->file_at);
    op->file_at += snapshot_round(op->conf.len);
}

static void snapshot_put_data(struct raft_snapshot_op *op)
{
    uint64_t len = op->data_len - op->data_at;
    const uint8_t *src = (const uint8_t *)op->snapshot->bufs[0].base + op->data_at;

    if (len > RAFT_SNAPSHOT_CHUNK)
        len = RAFT_SNAPSHOT_CHUNK;
    op->state = SNAPSHOT_PUT_DATA;
    op->data_crc = crc32c(op->data_crc, src, len);
    snapshot_write(op, src, len, op->file_at);
    op->data_at += len;
    op->file_at += snapshot_round(len);
}

static void snapshot_put_header(struct raft_snapshot_op *op)
{
    struct snapshot_header h = {.index = op->snapshot->index,
                                .term = op->snapshot->term,
                                .conf_index = op->snapshot->configuration_index,
                                .data_len = op->data_len,
                                .conf_len = (uint32_t)op->conf.len,
                                .conf_crc = crc32c(0, op->conf.base, op->conf.len),
                                .data_crc = op->data_crc};

    op->state = SNAPSHOT_PUT_HEADER;
    snapshot_header_encode(op->header, &h);
    snapshot_write(op, op->header, SNAPSHOT_HEADER, 0);
}

static void snapshot_put_flush(struct raft_snapshot_op *op)
{
    op->state = SNAPSHOT_PUT_FLUSH;
    loop_op_init(&op->op, snapshot_on_op);
    loop_flush(op->store->loop, &op->op, op->file);
}

/* What was written of it would only take room. */
static void snapshot_put_give_up(struct raft_snapshot_op *op, int result)
{
    struct raft_snapshots *s = op->store;
    char path[SNAPSHOT_PATH];

    snapshot_op_close(op);
    if (snapshot_path_new(s, path) == 0)
        (void)loop_unlink(s->loop, path); /* there may be none */
    snapshot_finish(op, result);
}

/* It is whole and durable: give it its name, and drop the third. */
static int snapshot_name(struct raft_snapshots *s, uint64_t index)
{
    char from[SNAPSHOT_PATH], to[SNAPSHOT_PATH];
    uint64_t dropped;

    int rv = snapshot_path_new(s, from);
    if (rv == 0)
        rv = snapshot_path(s, index, to);
    if (rv == 0)
        rv = loop_rename(s->loop, from, to);
    if (rv == 0)
        rv = loop_dir_sync(s->loop, s->dir);
    if (rv == 0 && snapshot_note(s, index, &dropped))
        rv = snapshot_unlink(s, dropped);
    return rv;
}

/* ---- Get ---- */

void raft_snapshot_get_start(struct raft_snapshot_op *op)
{
    snapshot_start(op);
    op->state = SNAPSHOT_GET_HEADER;
    op->snapshot = NULL;
    op->index = op->store->count > 0 ? op->store->indexes[0] : 0;
    op->op.result = 0;
}

static int snapshot_get_open_path(struct raft_snapshot_op *op, const char *path)
{
    int rv = loop_file_open(op->store->loop, path, LOOP_FILE_DIRECT, &op->file);
    if (rv == 0)
        op->chunk = mem_alloc_aligned(RAFT_SNAPSHOT_CHUNK, SNAPSHOT_PAGE);
    return rv;
}

static int snapshot_get_open(struct raft_snapshot_op *op)
{
    char path[SNAPSHOT_PATH];

    if (op->index == 0)
        return -ENOENT;
    int rv = snapshot_path(op->store, op->index, path);
    return rv != 0 ? rv : snapshot_get_open_path(op, path);
}

static void snapshot_read(struct raft_snapshot_op *op, uint64_t len, uint64_t offset)
{
    op->chunk_len = (uint32_t)snapshot_round(len);
    loop_op_init(&op->op, snapshot_on_op);
    loop_read(op->store->loop, &op->op, op->file, op->chunk, op->chunk_len, offset);
}

static int snapshot_got_header(struct raft_snapshot_op *op)
{
    struct snapshot_header h;
    int rv = snapshot_header_decode(op->chunk, &h);

    if (rv != 0)
        return rv;
    if (h.index != op->index)
        return -EBADMSG;
    memcpy(op->header, op->chunk, SNAPSHOT_HEADER);
    op->snapshot = snapshot_new(&h);
    op->data_len = h.data_len;
    return op->snapshot != NULL ? 0 : -ENOMEM;
}

static int snapshot_got_conf(struct raft_snapshot_op *op)
{
    uint32_t len = get_u32(op->header + 32);

    if (crc32c(0, op->chunk, len) != get_u32(op->header + 48))
        return -EBADMSG;
    return raft_conf_decode((struct slice){op->chunk, len}, &op->snapshot->configuration);
}

static void snapshot_got_data(struct raft_snapshot_op *op)
{
    uint64_t len = op->data_len - op->data_at;

    if (len > RAFT_SNAPSHOT_CHUNK)
        len = RAFT_SNAPSHOT_CHUNK;
    memcpy((uint8_t *)op->snapshot->bufs[0].base + op->data_at, op->chunk, len);
    op->data_crc = crc32c(op->data_crc, op->chunk, len);
    op->data_at += len;
}

static void snapshot_get_data(struct raft_snapshot_op *op)
{
    uint64_t len = op->data_len - op->data_at;

    if (len > RAFT_SNAPSHOT_CHUNK)
        len = RAFT_SNAPSHOT_CHUNK;
    op->state = SNAPSHOT_GET_DATA;
    snapshot_read(op, len, op->file_at);
    op->file_at += op->chunk_len;
}

static void snapshot_get_finish(struct raft_snapshot_op *op, int result)
{
    if (result == 0 && op->data_crc != get_u32(op->header + 52))
        result = -EBADMSG;
    if (result != 0) {
        raft_snapshot_destroy(op->snapshot);
        op->snapshot = NULL;
    }
    snapshot_finish(op, result);
}

static int snapshot_op_result(const struct raft_snapshot_op *op)
{
    if (op->op.result < 0)
        return (int)op->op.result;
    bool reading = op->state >= SNAPSHOT_GET_HEADER;
    return reading && op->op.result != (int64_t)op->chunk_len ? -EBADMSG : 0;
}

static void snapshot_get_step(struct raft_snapshot_op *op)
{
    int rv = 0;

    if (op->file == NULL) {
        rv = snapshot_get_open(op);
        if (rv != 0)
            snapshot_get_finish(op, rv);
        else
            snapshot_read(op, SNAPSHOT_PAGE, 0);
        return;
    }
    rv = snapshot_op_result(op);
    if (rv == 0 && op->state == SNAPSHOT_GET_HEADER) {
        rv = snapshot_got_header(op);
        if (rv == 0) {
            op->state = SNAPSHOT_GET_CONF;
            snapshot_read(op, get_u32(op->header + 32), op->file_at);
            op->file_at += op->chunk_len;
            return;
        }
    } else if (rv == 0 && op->state == SNAPSHOT_GET_CONF) {
        rv = snapshot_got_conf(op);
    } else if (rv == 0) {
        snapshot_got_data(op);
    }
    if (rv == 0 && op->data_at < op->data_len)
        snapshot_get_data(op);
    else
        snapshot_get_finish(op, rv);
}

static void snapshot_step(struct task *task)
{
    struct raft_snapshot_op *op = container_of(task, struct raft_snapshot_op, task);
    int rv;

    if (op->state >= SNAPSHOT_GET_HEADER) {
        snapshot_get_step(op);
        return;
    }
    rv = op->state == SNAPSHOT_BEGIN ? snapshot_put_begin(op) : snapshot_op_result(op);
    if (rv != 0) {
        snapshot_put_give_up(op, rv);
        return;
    }
    switch ((enum snapshot_state)op->state) {
    case SNAPSHOT_BEGIN:
        snapshot_put_conf(op);
        return;
    case SNAPSHOT_PUT_CONF:
    case SNAPSHOT_PUT_DATA:
        if (op->data_at < op->data_len)
            snapshot_put_data(op);
        else
            snapshot_put_header(op);
        return;
    case SNAPSHOT_PUT_HEADER:
        snapshot_put_flush(op);
        return;
    case SNAPSHOT_PUT_FLUSH:
        snapshot_finish(op, snapshot_name(op->store, op->snapshot->index));
        return;
    case SNAPSHOT_GET_HEADER:
    case SNAPSHOT_GET_CONF:
    case SNAPSHOT_GET_DATA:
        never("a get is stepped elsewhere");
    }
}

/* ---- Loading, blocking ---- */

static int snapshot_read_now(struct raft_snapshot_op *op, uint64_t len)
{
    op->chunk_len = (uint32_t)snapshot_round(len);
    int64_t n = loop_read_now(op->file, op->chunk, op->chunk_len, op->file_at);
    if (n < 0)
        return (int)n;
    op->file_at += op->chunk_len;
    return n == (int64_t)op->chunk_len ? 0 : -EBADMSG;
}

static int snapshot_load_path(struct raft_snapshots *s, const char *path, uint64_t index,
                              struct raft_snapshot **out)
{
    struct raft_snapshot_op op = {.store = s, .index = index, .file_at = 0};
    task_init(&op.task, snapshot_step);

    int rv = snapshot_get_open_path(&op, path);
    if (rv == 0)
        rv = loop_flush_now(op.file);
    if (rv == 0)
        rv = snapshot_read_now(&op, SNAPSHOT_PAGE);
    if (rv == 0)
        rv = snapshot_got_header(&op);
    if (rv == 0)
        rv = snapshot_read_now(&op, get_u32(op.header + 32));
    if (rv == 0)
        rv = snapshot_got_conf(&op);
    while (rv == 0 && op.data_at < op.data_len) {
        uint64_t left = op.data_len - op.data_at;
        rv = snapshot_read_now(&op, left < RAFT_SNAPSHOT_CHUNK ? left : RAFT_SNAPSHOT_CHUNK);
        if (rv == 0)
            snapshot_got_data(&op);
    }
    if (rv == 0 && op.data_crc != get_u32(op.header + 52))
        rv = -EBADMSG;
    raft_snapshot_op_drop(&op);
    if (rv != 0)
        raft_snapshot_destroy(op.snapshot);
    else
        *out = op.snapshot;
    return rv;
}

static int snapshot_load_one(struct raft_snapshots *s, uint64_t index, struct raft_snapshot **out)
{
    char path[SNAPSHOT_PATH];
    int rv = snapshot_path(s, index, path);

    return rv != 0 ? rv : snapshot_load_path(s, path, index, out);
}

/*
 * A bad one that is newer must not be taken for the newest later on, nor, at the next start, for
 * one of the two that are kept. One that the device does not give back now may be whole.
 */
static int snapshots_forget_newest(struct raft_snapshots *s, uint32_t count, const bool *is_bad)
{
    int rv = 0;

    for (uint32_t i = 0; i < count && rv == 0; i++) {
        if (is_bad[i])
            rv = snapshot_unlink(s, s->indexes[i]);
    }
    if (rv == 0 && count > 0)
        rv = loop_dir_sync(s->loop, s->dir);
    memmove(s->indexes, s->indexes + count, (s->count - count) * sizeof(s->indexes[0]));
    s->count -= count;
    return rv;
}

int raft_snapshots_load(struct raft_snapshots *s, struct raft_snapshot **out)
{
    bool is_bad[RAFT_SNAPSHOT_KEPT + 1] = {false};

    *out = NULL;
    for (uint32_t i = 0; i < s->count; i++) {
        int rv = snapshot_load_one(s, s->indexes[i], out);
        if (rv == 0) {
            rv = snapshots_forget_newest(s, i, is_bad);
            if (rv != 0) {
                raft_snapshot_destroy(*out);
                *out = NULL;
            }
            return rv;
        }
        log_error("raft", "a snapshot cannot be used index=%llu error=%d",
                  (unsigned long long)s->indexes[i], rv);
        if (rv != -EBADMSG && rv != -EIO)
            return rv;
        is_bad[i] = rv == -EBADMSG;
    }
    return s->count > 0 ? -EBADMSG : 0;
}

/* ---- Between peers ---- */

int64_t raft_snapshots_read_now(struct raft_snapshots *s, uint64_t index, uint64_t offset,
                                void *buf, uint64_t *file_size)
{
    char path[SNAPSHOT_PATH];
    struct loop_file *f;

    if (s->count == 0 || s->indexes[0] != index)
        return -ENOENT;
    int64_t rv = snapshot_path(s, index, path);
    if (rv == 0)
        rv = loop_file_open(s->loop, path, LOOP_FILE_DIRECT, &f);
    if (rv != 0)
        return rv;
    *file_size = loop_file_size(f);
    uint64_t len = offset < *file_size ? *file_size - offset : 0;
    if (len > RAFT_SNAPSHOT_CHUNK)
        len = RAFT_SNAPSHOT_CHUNK;
    if (offset % SNAPSHOT_PAGE != 0 || len % SNAPSHOT_PAGE != 0 || len == 0)
        rv = -EINVAL;
    else
        rv = loop_read_now(f, buf, len, offset);
    loop_file_close(f);
    return rv;
}

int raft_snapshots_adopt_begin(struct raft_snapshots *s, uint64_t size, struct loop_file **out)
{
    char path[SNAPSHOT_PATH];
    int rv = snapshot_path_new(s, path);

    if (rv != 0)
        return rv;
    rv = loop_unlink(s->loop, path);
    if (rv != 0 && rv != -ENOENT)
        return rv;
    rv = loop_file_open(s->loop, path, LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT, out);
    if (rv != 0)
        return rv;
    rv = loop_file_resize(*out, size, true);
    if (rv != 0) {
        loop_file_close(*out);
        *out = NULL;
    }
    return rv;
}

int raft_snapshots_adopt_end(struct raft_snapshots *s, struct loop_file *f, uint64_t index,
                             struct raft_snapshot **out)
{
    char path[SNAPSHOT_PATH];
    int rv = loop_flush_now(f);

    loop_file_close(f);
    if (rv == 0)
        rv = snapshot_path_new(s, path);
    if (rv == 0)
        rv = snapshot_load_path(s, path, index, out);
    if (rv == 0)
        rv = snapshot_name(s, index);
    return rv;
}

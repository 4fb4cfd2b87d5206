#include "raft/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/pool.h"
#include "raft/conf.h"
#include "raft/message.h"
#include "raft/repair.h"

struct disk_append {
    struct list link;
    struct raft_disk *disk;
    struct raft_io_append *req;
    raft_io_append_cb cb;
    struct raft_log_op op;
};

struct disk_truncate {
    struct list link;
    struct raft_disk *disk;
    struct raft_log_op op;
};

struct disk_send {
    struct raft_io_send req;
    struct raft_io_send *outer;
    raft_io_send_cb cb;
};

struct disk_snapshot {
    struct list link;
    struct raft_disk *disk;
    struct raft_io_snapshot_put *put;
    raft_io_snapshot_put_cb put_cb;
    struct raft_io_snapshot_get *get;
    raft_io_snapshot_get_cb get_cb;
    unsigned trailing;
    uint64_t index;
    struct raft_snapshot_op op;
    struct raft_log_op reset;
};

static struct raft_disk *disk_of(struct raft_io *io)
{
    return container_of(io, struct raft_disk, io);
}

/* ---- Errors ---- */

static int disk_error(struct raft_io *io, int error)
{
    if (error == 0)
        return 0;
    snprintf(io->errmsg, sizeof(io->errmsg), "error %d", error);
    switch (error) {
    case -ENOMEM:
        return RAFT_NOMEM;
    case -ENOSPC:
        return RAFT_NOSPACE;
    case -EBADMSG:
        return RAFT_CORRUPT;
    case -EFBIG:
        return RAFT_TOOBIG;
    default:
        return RAFT_IOERR;
    }
}

static void disk_fatal(void *arg, const char *what, int error)
{
    struct raft_disk *d = arg;

    if (d->failed)
        return;
    d->failed = true;
    d->transport.stopped = true;
    loop_timer_stop(d->config.loop, &d->timer);
    d->config.fatal(d->config.arg, what, error);
}

/* ---- Creating ---- */

static int disk_append_first(struct raft_log_disk *log, const struct raft_configuration *conf)
{
    struct raft_entry e = {.term = 1, .type = RAFT_CHANGE};
    int rv = raft_configuration_encode(conf, &e.buf) == 0 ? 0 : -ENOMEM;

    if (rv == 0)
        rv = raft_log_append_now(log, &e);
    raft_free(e.buf.base);
    return rv;
}

/* The term file comes last: with it the directory counts as used. */
int raft_disk_create(struct loop *loop, const char *dir, uint64_t segment_size,
                     const struct raft_configuration *conf)
{
    struct raft_log_config config = {.loop = loop, .dir = dir, .segment_size = segment_size};
    struct raft_term_file term;
    struct raft_log_disk log;

    int rv = raft_term_open(&term, loop, dir);
    if (rv == 0)
        raft_term_close(&term);
    if (rv != -ENOENT)
        return rv == 0 ? -EEXIST : rv;

    /* What an earlier attempt left is an empty log, or one entry of nobody's. */
    rv = raft_log_open(&log, &config);
    if (rv == -ENOENT) {
        rv = raft_log_create(&config, 1);
        if (rv == 0)
            rv = raft_log_open(&log, &config);
    }
    if (rv != 0)
        return rv;
    if (raft_log_last_index(&log) > 1)
        rv = -EEXIST;
    if (rv == 0)
        rv = raft_log_truncate_now(&log, 1);
    if (rv == 0 && conf != NULL)
        rv = disk_append_first(&log, conf);
    raft_log_close(&log);
    if (rv == 0)
        rv = raft_term_create(loop, dir, conf != NULL ? 1 : 0);
    return rv;
}

/* ---- Opening ---- */

/* What the log and the snapshot say together; README.md, "At start". */
static int disk_fit_log(struct raft_disk *d)
{
    uint64_t index = d->snapshot_index, last = raft_log_last_index(&d->log);

    if (d->log.first_index > index + 1) {
        log_error("raft", "the log begins after the snapshot ends first=%llu snapshot=%llu",
                  (unsigned long long)d->log.first_index, (unsigned long long)index);
        return -EBADMSG;
    }
    const struct raft_log_record *r = index > 0 ? raft_log_get(&d->log, index) : NULL;
    if (r != NULL && r->is_unknown)
        return -EBADMSG;
    bool disagrees = r != NULL && r->term != d->snapshot_term;
    bool ends_before = last < index;
    if (!disagrees && !ends_before)
        return 0;
    log_warn("raft", "the log is older than the snapshot and is dropped last=%llu snapshot=%llu",
             (unsigned long long)last, (unsigned long long)index);
    return raft_log_reset_now(&d->log, index + 1);
}

uint64_t raft_disk_bad_index(const struct raft_disk *d)
{
    return raft_log_bad_first(&d->log, d->snapshot_index + 1);
}

static int disk_open_log(struct raft_disk *d)
{
    struct raft_log_config config = {.loop = d->config.loop,
                                     .dir = d->config.dir,
                                     .segment_size = d->config.segment_size,
                                     .fatal = disk_fatal,
                                     .arg = d};
    int rv = raft_log_open(&d->log, &config);

    if (rv == -ENOENT && d->snapshot != NULL) {
        /* A crash while the log was dropped for this snapshot. */
        rv = raft_log_create(&config, d->snapshot_index + 1);
        if (rv == 0)
            rv = raft_log_open(&d->log, &config);
    }
    if (rv == -ENOENT) {
        log_error("raft", "the log is missing, but this server has voted dir=%s", d->config.dir);
        rv = -EBADMSG;
    }
    return rv;
}

static int disk_open(struct raft_disk *d)
{
    int rv = raft_term_open(&d->term, d->config.loop, d->config.dir);

    if (rv == 0)
        rv = raft_snapshots_open(&d->snapshots, d->config.loop, d->config.dir);
    if (rv == 0)
        rv = raft_snapshots_load(&d->snapshots, &d->snapshot);
    if (rv == 0 && d->snapshot != NULL) {
        d->snapshot_index = d->snapshot->index;
        d->snapshot_term = d->snapshot->term;
    }
    if (rv == 0)
        rv = disk_open_log(d);
    if (rv == 0)
        rv = disk_fit_log(d);
    return rv;
}

int raft_disk_adopt(struct raft_disk *d, struct raft_snapshot *snapshot)
{
    raft_snapshot_destroy(d->snapshot);
    d->snapshot = snapshot;
    d->snapshot_index = snapshot->index;
    d->snapshot_term = snapshot->term;
    return disk_fit_log(d);
}

/* ---- Load ---- */

/* The core keeps some entries behind the snapshot, for followers that are a little late; none that
 * is bad. */
static uint64_t disk_first_loaded(const struct raft_disk *d)
{
    uint64_t first = 1, index = d->snapshot_index;

    if (index > d->config.trailing_entries)
        first = index + 1 - d->config.trailing_entries;
    if (first < d->log.first_index)
        first = d->log.first_index;
    if (first > index + 1)
        first = index + 1;
    for (uint64_t i = raft_log_bad_first(&d->log, first); i != 0 && i <= index;
         i = raft_log_bad_first(&d->log, first))
        first = i + 1;
    return first;
}

static int disk_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                     struct raft_snapshot **snapshot, raft_index *start_index,
                     struct raft_entry *entries[], size_t *n_entries)
{
    struct raft_disk *d = disk_of(io);
    check(raft_disk_bad_index(d) == 0);

    uint64_t first = disk_first_loaded(d);
    size_t count = raft_log_last_index(&d->log) + 1 - first;
    *entries = count > 0 ? raft_calloc(count, sizeof(**entries)) : NULL;
    if (count > 0 && *entries == NULL)
        return RAFT_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct raft_log_record *r = raft_log_get(&d->log, first + i);
        (*entries)[i] = (struct raft_entry){.term = r->term, .type = r->type};
        (*entries)[i].buf.len = r->len;
        (*entries)[i].buf.base = raft_log_take(&d->log, first + i);
        (*entries)[i].batch = (*entries)[i].buf.base;
    }
    raft_log_forget_data(&d->log);
    *n_entries = count;
    *start_index = first;
    *snapshot = d->snapshot;
    d->snapshot = NULL;
    *term = d->term.term;
    *voted_for = d->term.vote;
    return 0;
}

/* ---- Term, vote, configuration ---- */

static int disk_set_term(struct raft_io *io, raft_term term)
{
    struct raft_disk *d = disk_of(io);
    return d->failed ? RAFT_IOERR : disk_error(io, raft_term_set(&d->term, term));
}

static int disk_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_disk *d = disk_of(io);
    return d->failed ? RAFT_IOERR : disk_error(io, raft_term_set_vote(&d->term, id));
}

/* Servers are made by raft_disk_create() before there is a core. */
static int disk_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    (void)conf;
    return disk_error(io, -EEXIST);
}

/* Force a configuration on a log whose voters are lost; before start. */
static int disk_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_disk *d = disk_of(io);
    struct raft_entry e = {.term = d->term.term, .type = RAFT_CHANGE};
    int rv = raft_configuration_encode(conf, &e.buf) == 0 ? 0 : -ENOMEM;

    if (rv == 0)
        rv = raft_log_append_now(&d->log, &e);
    raft_free(e.buf.base);
    return disk_error(io, rv);
}

/* ---- Log ---- */

static void disk_on_append(struct raft_log_op *op)
{
    struct disk_append *a = container_of(op, struct disk_append, op);

    list_remove(&a->link);
    a->req->cb = a->cb;
    a->cb(a->req, 0);
    free(a);
}

static int disk_append(struct raft_io *io, struct raft_io_append *req,
                       const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct raft_disk *d = disk_of(io);

    if (d->failed)
        return RAFT_IOERR;
    for (unsigned i = 0; i < n; i++) {
        if (entries[i].buf.len > RAFT_LOG_DATA_MAX)
            return disk_error(io, -EFBIG);
    }
    struct disk_append *a = mem_zalloc(sizeof(*a));
    a->disk = d;
    a->req = req;
    a->cb = cb;
    a->op.kind = RAFT_LOG_APPEND;
    a->op.entries = entries;
    a->op.entries_count = n;
    a->op.done = disk_on_append;
    list_init(&a->link);
    list_push(&d->appends, &a->link);
    raft_log_start(&d->log, &a->op);
    return 0;
}

static void disk_on_truncate(struct raft_log_op *op)
{
    struct disk_truncate *t = container_of(op, struct disk_truncate, op);

    list_remove(&t->link);
    free(t);
}

/* At once when nothing is in flight; else in its turn, before any later append. */
static int disk_truncate(struct raft_io *io, raft_index index)
{
    struct raft_disk *d = disk_of(io);

    if (d->failed)
        return RAFT_IOERR;
    if (raft_log_is_idle(&d->log))
        return disk_error(io, raft_log_truncate_now(&d->log, index));
    struct disk_truncate *t = mem_zalloc(sizeof(*t));
    t->disk = d;
    t->op.kind = RAFT_LOG_TRUNCATE;
    t->op.index = index;
    t->op.done = disk_on_truncate;
    list_init(&t->link);
    list_push(&d->truncates, &t->link);
    raft_log_start(&d->log, &t->op);
    return 0;
}

/* ---- Snapshots ---- */

static struct disk_snapshot *disk_snapshot_new(struct raft_disk *d)
{
    struct disk_snapshot *s = mem_zalloc(sizeof(*s));

    s->disk = d;
    s->op.store = &d->snapshots;
    list_init(&s->link);
    list_push(&d->snapshot_ops, &s->link);
    return s;
}

static void disk_put_finish(struct disk_snapshot *s, int status)
{
    list_remove(&s->link);
    s->put->cb = s->put_cb;
    s->put_cb(s->put, status);
    free(s);
}

static void disk_on_reset(struct raft_log_op *op)
{
    struct disk_snapshot *s = container_of(op, struct disk_snapshot, reset);

    s->disk->snapshot_index = s->index;
    disk_put_finish(s, 0);
}

/* The older of the two snapshots must be enough too, with the log from it on. */
static int disk_trim(struct raft_disk *d, uint64_t index, unsigned trailing)
{
    uint64_t keep = index > trailing ? index + 1 - trailing : 1;
    uint64_t older = d->snapshots.count > 1 ? d->snapshots.indexes[1] : 0;

    if (keep > older + 1)
        keep = older + 1;
    return raft_log_trim_now(&d->log, keep);
}

/* A snapshot of our own can wait for better days. What a leader sends cannot. */
static bool disk_has_no_room(int error)
{
    return error == -ENOSPC || error == -EFBIG || error == -ENOMEM;
}

static void disk_on_put(struct raft_snapshot_op *op)
{
    struct disk_snapshot *s = container_of(op, struct disk_snapshot, op);
    struct raft_disk *d = s->disk;

    if (d->failed)
        return;
    if (op->result != 0 && s->trailing > 0 && disk_has_no_room(op->result)) {
        log_error("raft", "a snapshot finds no room, the log keeps growing error=%d", op->result);
        disk_put_finish(s, disk_error(&d->io, op->result));
        return;
    }
    if (op->result != 0) {
        disk_fatal(d, "writing a snapshot", op->result);
        return;
    }
    if (s->trailing == 0) {
        s->reset.kind = RAFT_LOG_RESET;
        s->reset.index = s->index + 1;
        s->reset.done = disk_on_reset;
        raft_log_start(&d->log, &s->reset);
        return;
    }
    d->snapshot_index = s->index;
    int rv = disk_trim(d, s->index, s->trailing);
    if (rv != 0)
        disk_fatal(d, "shortening the log", rv);
    else
        disk_put_finish(s, 0);
}

static int disk_snapshot_put(struct raft_io *io, unsigned trailing,
                             struct raft_io_snapshot_put *req, const struct raft_snapshot *snapshot,
                             raft_io_snapshot_put_cb cb)
{
    struct raft_disk *d = disk_of(io);

    if (d->failed)
        return RAFT_IOERR;
    struct disk_snapshot *s = disk_snapshot_new(d);
    s->put = req;
    s->put_cb = cb;
    s->trailing = trailing;
    s->index = snapshot->index;
    s->op.snapshot = (struct raft_snapshot *)snapshot;
    s->op.done = disk_on_put;
    raft_snapshot_put_start(&s->op);
    return 0;
}

static void disk_on_get(struct raft_snapshot_op *op)
{
    struct disk_snapshot *s = container_of(op, struct disk_snapshot, op);
    struct raft_disk *d = s->disk;

    if (d->failed) {
        raft_snapshot_destroy(op->snapshot);
        op->snapshot = NULL;
        return;
    }
    if (op->result != 0)
        log_error("raft", "the snapshot cannot be read error=%d", op->result);
    list_remove(&s->link);
    s->get->cb = s->get_cb;
    s->get_cb(s->get, op->snapshot, disk_error(&d->io, op->result));
    free(s);
}

static int disk_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                             raft_io_snapshot_get_cb cb)
{
    struct raft_disk *d = disk_of(io);

    if (d->failed)
        return RAFT_IOERR;
    struct disk_snapshot *s = disk_snapshot_new(d);
    s->get = req;
    s->get_cb = cb;
    s->op.done = disk_on_get;
    raft_snapshot_get_start(&s->op);
    return 0;
}

/* ---- Time and network ---- */

static raft_time disk_time(struct raft_io *io)
{
    return loop_now(disk_of(io)->config.loop) / NS_PER_MS;
}

static int disk_random(struct raft_io *io, int min, int max)
{
    uint64_t span = (uint64_t)(max > min ? max - min : 1);
    return min + (int)(loop_random_u64(disk_of(io)->config.loop) % span);
}

/*
 * A failed send of entries is a lost message, no more: told of it, the core would take the follower
 * for an empty one and send it a snapshot. A failed snapshot it must know of, to send it again.
 */
static void disk_send_lost(struct raft_io_send *req, int status)
{
    struct disk_send *s = container_of(req, struct disk_send, req);

    (void)status;
    s->cb(s->outer, 0);
    free(s);
}

/*
 * The core sends a follower all that it misses, however much that is: the first of it goes. The
 * answer says how far the follower has come, or it refuses what the core sends next, and so the
 * core goes on from there.
 */
static int disk_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *m,
                     raft_io_send_cb cb)
{
    struct raft_disk *d = disk_of(io);

    if (m->type != RAFT_IO_APPEND_ENTRIES) {
        raft_transport_send(&d->transport, req, m, cb);
        return 0;
    }
    struct raft_message part = *m;
    part.append_entries.n_entries = raft_message_fit(&m->append_entries);
    struct disk_send *s = mem_zalloc(sizeof(*s));
    s->outer = req;
    s->cb = cb;
    raft_transport_send(&d->transport, &s->req, &part, disk_send_lost);
    return 0;
}

static void disk_received(void *arg, struct raft_message *m)
{
    struct raft_disk *d = arg;
    d->recv(&d->io, m);
}

static void disk_on_timer(struct loop_timer *timer)
{
    struct raft_disk *d = container_of(timer, struct raft_disk, timer);

    d->tick_due = true;
    loop_wake(d->config.loop, &d->task);
}

static void disk_step(struct task *task)
{
    struct raft_disk *d = container_of(task, struct raft_disk, task);

    if (!d->tick_due || d->failed)
        return;
    d->tick_due = false;
    loop_timer_start(d->config.loop, &d->timer, loop_now(d->config.loop) + d->tick_ns);
    d->tick(&d->io);
}

static int disk_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                      raft_io_recv_cb recv)
{
    struct raft_disk *d = disk_of(io);

    d->tick = tick;
    d->recv = recv;
    d->tick_ns = msecs * NS_PER_MS;
    d->transport.received = disk_received;
    d->transport.arg = d;
    d->transport.stopped = false;
    loop_timer_start(d->config.loop, &d->timer, loop_now(d->config.loop) + d->tick_ns);
    return 0;
}

/* ---- Ending ---- */

/* Newest first, as done: told of a failure the core would cut its log, and twice. */
static void disk_end_appends(struct raft_disk *d)
{
    while (!list_empty(&d->appends)) {
        struct disk_append *a = container_of(d->appends.prev, struct disk_append, link);
        disk_on_append(&a->op);
    }
    while (!list_empty(&d->truncates))
        disk_on_truncate(&container_of(d->truncates.next, struct disk_truncate, link)->op);
}

static void disk_end_snapshots(struct raft_disk *d)
{
    while (!list_empty(&d->snapshot_ops)) {
        struct disk_snapshot *s = container_of(d->snapshot_ops.next, struct disk_snapshot, link);
        raft_snapshot_op_drop(&s->op);
        if (s->put != NULL) {
            disk_put_finish(s, RAFT_CANCELED);
            continue;
        }
        raft_snapshot_destroy(s->op.snapshot);
        list_remove(&s->link);
        s->get->cb = s->get_cb;
        s->get_cb(s->get, NULL, RAFT_CANCELED);
        free(s);
    }
}

static void disk_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_disk *d = disk_of(io);

    d->failed = true;
    disk_end_appends(d);
    disk_end_snapshots(d);
    raft_transport_deinit(&d->transport);
    cb(io);
}

static int disk_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

int raft_disk_open(struct raft_disk *d, const struct raft_disk_config *config)
{
    *d = (struct raft_disk){.config = *config};
    d->io = (struct raft_io){
        .version = 1,
        .init = disk_init,
        .close = disk_close,
        .load = disk_load,
        .start = disk_start,
        .bootstrap = disk_bootstrap,
        .recover = disk_recover,
        .set_term = disk_set_term,
        .set_vote = disk_set_vote,
        .send = disk_send,
        .append = disk_append,
        .truncate = disk_truncate,
        .snapshot_put = disk_snapshot_put,
        .snapshot_get = disk_snapshot_get,
        .time = disk_time,
        .random = disk_random,
    };
    list_init(&d->appends);
    list_init(&d->truncates);
    list_init(&d->answers);
    list_init(&d->snapshot_ops);
    loop_timer_init(&d->timer, disk_on_timer);
    task_init(&d->task, disk_step);
    raft_transport_init(&d->transport, config->loop, config->net);
    d->transport.stopped = true;
    int rv = disk_open(d);
    if (rv != 0)
        raft_disk_close(d);
    return rv;
}

void raft_disk_close(struct raft_disk *d)
{
    task_cancel(&d->task);
    loop_timer_stop(d->config.loop, &d->timer);
    raft_transport_deinit(&d->transport);
    raft_repair_forget_answers(d);
    raft_snapshot_destroy(d->snapshot);
    d->snapshot = NULL;
    raft_log_close(&d->log);
    raft_snapshots_close(&d->snapshots);
    raft_term_close(&d->term);
}

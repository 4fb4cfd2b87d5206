#include "raft/repair.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"
#include "raft/conf.h"

/*
 *            +-------------- mended, or cut -------------+
 *            v                                           |
 *   BEGIN -> ASKING --all answered--> (decide) ----------+
 *            ^  ^                        |     |
 *            |  +----- PAUSING <- later -+     +--> FETCHING --> BEGIN
 *            +--- timer --+
 *
 * No bad record left: DONE. repair_step() decides.
 */
enum repair_state {
    REPAIR_BEGIN,
    REPAIR_ASKING,   /* every peer's answer or its deadline */
    REPAIR_PAUSING,  /* the timer */
    REPAIR_FETCHING, /* a piece of a peer's snapshot */
    REPAIR_DONE,
};

enum repair_verdict { REPAIR_SILENT, REPAIR_HELD, REPAIR_NOT_HELD, REPAIR_COVERED };

enum {
    REPAIR_LOOK_BODY = 24,
    REPAIR_LOOK_ANSWER = 32,
    REPAIR_SNAPSHOT_BODY = 16,
    REPAIR_SNAPSHOT_ANSWER = 8,
    REPAIR_BUFFER = NET_BODY_MAX,
};

static_assert(REPAIR_LOOK_ANSWER + RAFT_LOG_DATA_MAX <= NET_BODY_MAX, "an entry fits an answer");
static_assert(REPAIR_SNAPSHOT_ANSWER + RAFT_SNAPSHOT_CHUNK <= NET_BODY_MAX, "a piece fits");

#define REPAIR_CALL_NS  (2 * NS_PER_S)
#define REPAIR_PAUSE_NS NS_PER_S

struct repair_peer {
    struct raft_repair *repair;
    uint64_t id;
    bool is_voter;
    struct rpc_call call;
    uint8_t body[REPAIR_LOOK_BODY];
    uint8_t *answer;
    enum repair_verdict verdict;
    uint64_t term; /* its current one */
    uint64_t snapshot_index;
    struct raft_entry entry; /* in `answer` */
};

struct raft_repair {
    struct raft_disk *disk;
    void (*done)(void *arg, int result);
    void *arg;
    enum repair_state state;
    struct task task;
    struct loop_timer timer;
    uint64_t index; /* asked about */
    struct repair_peer *peers;
    uint32_t peers_count, waiting_count;
    uint32_t voters_count; /* with us, if we are one */

    struct repair_peer *source; /* of a snapshot */
    struct loop_file *file;
    uint64_t fetched, file_size;
    void *chunk;
};

/* ---- Whom to ask ---- */

static int repair_copy_members(const struct raft_configuration *from, struct raft_configuration *to)
{
    for (unsigned i = 0; i < from->n; i++) {
        const struct raft_server *s = &from->servers[i];
        if (raft_configuration_add(to, s->id, s->address, s->role) != 0)
            return -ENOMEM;
    }
    return 0;
}

/* The newest configuration that can be read. */
static int repair_members(struct raft_disk *d, struct raft_configuration *conf)
{
    uint64_t covered = d->snapshot != NULL ? d->snapshot->configuration_index : 0;

    for (uint64_t i = raft_log_last_index(&d->log); i > covered && i >= d->log.first_index; i--) {
        const struct raft_log_record *r = raft_log_get(&d->log, i);
        if (!r->is_bad && r->type == RAFT_CHANGE)
            return raft_conf_decode((struct slice){r->data, r->len}, conf);
    }
    return d->snapshot != NULL ? repair_copy_members(&d->snapshot->configuration, conf) : -EBADMSG;
}

static void repair_add_peers(struct raft_repair *r, const struct raft_configuration *conf)
{
    r->peers = mem_zalloc((conf->n + 1) * sizeof(*r->peers));
    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].role == RAFT_VOTER)
            r->voters_count++;
        if (conf->servers[i].id == r->disk->config.id)
            continue;
        struct repair_peer *p = &r->peers[r->peers_count++];
        p->repair = r;
        p->id = conf->servers[i].id;
        p->is_voter = conf->servers[i].role == RAFT_VOTER;
        p->answer = mem_zalloc(REPAIR_BUFFER);
    }
}

/* ---- Asking ---- */

static void repair_on_look(struct rpc_call *call)
{
    struct repair_peer *p = container_of(call, struct repair_peer, call);

    check(p->repair->waiting_count > 0);
    p->repair->waiting_count--;
    loop_wake(p->repair->disk->config.loop, &p->repair->task);
}

static void repair_call(struct repair_peer *p, uint16_t kind, size_t body_len,
                        void (*done)(struct rpc_call *call))
{
    struct raft_disk *d = p->repair->disk;

    memset(&p->call, 0, sizeof(p->call));
    p->call.to = net_endpoint_make(NET_CONTROL, p->id);
    p->call.kind = kind;
    p->call.body = (struct slice){p->body, body_len};
    p->call.body_buf = p->answer;
    p->call.body_buf_size = REPAIR_BUFFER;
    p->call.deadline_ns = loop_now(d->config.loop) + REPAIR_CALL_NS;
    p->call.done = done;
    rpc_call_start(d->config.net, &p->call);
}

static void repair_ask(struct raft_repair *r)
{
    const struct raft_log_record *bad = raft_log_get(&r->disk->log, r->index);

    r->state = REPAIR_ASKING;
    r->waiting_count = r->peers_count;
    for (uint32_t i = 0; i < r->peers_count; i++) {
        struct repair_peer *p = &r->peers[i];
        memset(p->body, 0, sizeof(p->body));
        put_u64(p->body, r->index);
        put_u64(p->body + 8, bad->is_unknown ? 0 : bad->term);
        put_u32(p->body + 16, bad->is_unknown ? 0 : bad->data_crc);
        p->verdict = REPAIR_SILENT;
        repair_call(p, RAFT_RPC_LOOK, REPAIR_LOOK_BODY, repair_on_look);
    }
}

static void repair_read_answer(struct repair_peer *p)
{
    struct slice a = p->call.reply_body;
    const uint8_t *b = a.base;

    if (p->call.status != 0 || a.len < REPAIR_LOOK_ANSWER || get_u32(b) < REPAIR_HELD ||
        get_u32(b) > REPAIR_COVERED)
        return;
    p->verdict = (enum repair_verdict)get_u32(b);
    p->term = get_u64(b + 16);
    p->snapshot_index = get_u64(b + 24);
    p->entry = (struct raft_entry){.term = get_u64(b + 8), .type = (unsigned short)get_u32(b + 4)};
    p->entry.buf.base = p->answer + REPAIR_LOOK_ANSWER;
    p->entry.buf.len = a.len - REPAIR_LOOK_ANSWER;
}

/* ---- Deciding ---- */

/* 0: written anew; -EAGAIN: no answer helps; else a storage error. */
static int repair_try_mend(struct raft_repair *r)
{
    for (uint32_t i = 0; i < r->peers_count; i++) {
        struct repair_peer *p = &r->peers[i];
        if (p->verdict != REPAIR_HELD)
            continue;
        int rv = raft_log_mend_now(&r->disk->log, r->index, &p->entry);
        if (rv == 0)
            log_warn("raft", "a corrupt record was written anew index=%llu from=node.%llu",
                     (unsigned long long)r->index, (unsigned long long)p->id);
        if (rv != -EINVAL)
            return rv;
    }
    return -EAGAIN;
}

static struct repair_peer *repair_covering(struct raft_repair *r)
{
    for (uint32_t i = 0; i < r->peers_count; i++) {
        struct repair_peer *p = &r->peers[i];
        if (p->verdict == REPAIR_COVERED && p->snapshot_index >= r->index)
            return p;
    }
    return NULL;
}

/* No majority of the voters holds the entry or ever will. */
static bool repair_is_nobodys(const struct raft_repair *r)
{
    uint32_t without = 0, without_above = 0, others = 0;

    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct repair_peer *p = &r->peers[i];
        if (!p->is_voter)
            continue;
        others++;
        if (p->verdict != REPAIR_NOT_HELD)
            continue;
        without++;
        if (p->term > r->disk->term.term)
            without_above++;
    }
    uint32_t majority = r->voters_count / 2 + 1;
    return others > 0 && (without == others || r->voters_count - without_above < majority);
}

/* From the bad record on, is there a change of members, or what may be one? Then who the voters are
 * is not certain. */
static bool repair_members_may_change(const struct raft_repair *r)
{
    const struct raft_log_disk *log = &r->disk->log;

    for (uint64_t i = r->index; i <= raft_log_last_index(log); i++) {
        const struct raft_log_record *record = raft_log_get(log, i);
        if (record->is_unknown || record->type == RAFT_CHANGE)
            return true;
    }
    return false;
}

static int repair_cut(struct raft_repair *r)
{
    if (repair_members_may_change(r) || !repair_is_nobodys(r))
        return -EAGAIN;
    log_warn("raft", "no majority holds a corrupt record: the log is cut before it index=%llu",
             (unsigned long long)r->index);
    return raft_log_truncate_now(&r->disk->log, r->index);
}

/* ---- A peer's snapshot ---- */

static void repair_on_piece(struct rpc_call *call)
{
    struct repair_peer *p = container_of(call, struct repair_peer, call);
    loop_wake(p->repair->disk->config.loop, &p->repair->task);
}

static void repair_fetch_piece(struct raft_repair *r)
{
    struct repair_peer *p = r->source;

    r->state = REPAIR_FETCHING;
    put_u64(p->body, p->snapshot_index);
    put_u64(p->body + 8, r->fetched);
    repair_call(p, RAFT_RPC_SNAPSHOT, REPAIR_SNAPSHOT_BODY, repair_on_piece);
}

static void repair_fetch_begin(struct raft_repair *r, struct repair_peer *source)
{
    r->source = source;
    r->fetched = 0;
    r->file_size = 0;
    if (r->chunk == NULL)
        r->chunk = mem_alloc_aligned(RAFT_SNAPSHOT_CHUNK, RAFT_LOG_PAGE);
    repair_fetch_piece(r);
}

static int repair_write_piece(struct raft_repair *r)
{
    struct slice a = r->source->call.reply_body;
    const uint8_t *b = a.base;
    size_t len = a.len - REPAIR_SNAPSHOT_ANSWER;

    if (a.len <= REPAIR_SNAPSHOT_ANSWER || len > RAFT_SNAPSHOT_CHUNK || len % RAFT_LOG_PAGE != 0)
        return -EAGAIN;
    uint64_t size = get_u64(b);
    if (r->file == NULL) {
        if (size > RAFT_SNAPSHOT_MAX + (1u << 20) || size % RAFT_LOG_PAGE != 0)
            return -EAGAIN;
        r->file_size = size;
        int rv = raft_snapshots_adopt_begin(&r->disk->snapshots, size, &r->file);
        if (rv != 0)
            return rv;
    }
    if (size != r->file_size || len > size - r->fetched)
        return -EAGAIN;
    memcpy(r->chunk, b + REPAIR_SNAPSHOT_ANSWER, len);
    int64_t n = loop_write_now(r->file, r->chunk, len, r->fetched);
    if (n < 0)
        return (int)n;
    r->fetched += len;
    return 0;
}

/* Whole and ours now: the log is judged against it like at start. */
static int repair_adopt(struct raft_repair *r)
{
    struct raft_snapshot *snapshot = NULL;
    struct loop_file *f = r->file;

    r->file = NULL;
    int rv = raft_snapshots_adopt_end(&r->disk->snapshots, f, r->source->snapshot_index, &snapshot);
    if (rv == -EBADMSG)
        return -EAGAIN;
    if (rv != 0)
        return rv;
    log_warn("raft", "a peer's snapshot covers a corrupt record index=%llu snapshot=%llu",
             (unsigned long long)r->index, (unsigned long long)snapshot->index);
    return raft_disk_adopt(r->disk, snapshot);
}

/* 1: another piece is under way; 0: done; -EAGAIN: not this time. */
static int repair_fetch_step(struct raft_repair *r)
{
    int rv = r->source->call.status == 0 ? repair_write_piece(r) : -EAGAIN;

    if (rv == 0 && r->fetched < r->file_size) {
        repair_fetch_piece(r);
        return 1;
    }
    if (rv == 0)
        rv = repair_adopt(r);
    if (rv != 0 && r->file != NULL) {
        loop_file_close(r->file);
        r->file = NULL;
    }
    return rv;
}

/* ---- The step ---- */

static void repair_finish(struct raft_repair *r, int result)
{
    r->state = REPAIR_DONE;
    loop_timer_stop(r->disk->config.loop, &r->timer);
    r->done(r->arg, result);
}

static void repair_pause(struct raft_repair *r)
{
    log_error("raft", "the log is corrupt and the peers cannot mend it yet index=%llu",
              (unsigned long long)r->index);
    r->state = REPAIR_PAUSING;
    loop_timer_start(r->disk->config.loop, &r->timer,
                     loop_now(r->disk->config.loop) + REPAIR_PAUSE_NS);
}

static void repair_begin(struct raft_repair *r)
{
    r->index = raft_disk_bad_index(r->disk);
    if (r->index == 0)
        repair_finish(r, 0);
    else
        repair_ask(r);
}

static void repair_decide(struct raft_repair *r)
{
    for (uint32_t i = 0; i < r->peers_count; i++)
        repair_read_answer(&r->peers[i]);

    int rv = repair_try_mend(r);
    struct repair_peer *source = rv == -EAGAIN ? repair_covering(r) : NULL;
    if (source != NULL) {
        repair_fetch_begin(r, source);
        return;
    }
    if (rv == -EAGAIN)
        rv = repair_cut(r);
    if (rv == 0)
        repair_begin(r);
    else if (rv == -EAGAIN)
        repair_pause(r);
    else
        repair_finish(r, rv);
}

static void repair_step(struct task *task)
{
    struct raft_repair *r = container_of(task, struct raft_repair, task);
    int rv;

    switch (r->state) {
    case REPAIR_ASKING:
        if (r->waiting_count == 0)
            repair_decide(r);
        return;
    case REPAIR_FETCHING:
        rv = repair_fetch_step(r);
        if (rv == 0)
            repair_begin(r);
        else if (rv == -EAGAIN)
            repair_pause(r);
        else if (rv < 0)
            repair_finish(r, rv);
        return;
    case REPAIR_BEGIN:
    case REPAIR_PAUSING:
        repair_begin(r);
        return;
    case REPAIR_DONE:
        return;
    }
}

static void repair_on_timer(struct loop_timer *timer)
{
    struct raft_repair *r = container_of(timer, struct raft_repair, timer);
    loop_wake(r->disk->config.loop, &r->task);
}

int raft_repair_start(struct raft_disk *disk, void (*done)(void *arg, int result), void *arg,
                      struct raft_repair **out)
{
    struct raft_repair *r = mem_zalloc(sizeof(*r));
    struct raft_configuration conf;

    r->disk = disk;
    r->done = done;
    r->arg = arg;
    task_init(&r->task, repair_step);
    loop_timer_init(&r->timer, repair_on_timer);
    raft_configuration_init(&conf);
    int rv = repair_members(disk, &conf);
    if (rv == 0)
        repair_add_peers(r, &conf);
    raft_configuration_close(&conf);
    if (rv == 0 && (r->peers_count == 0 || disk->config.net == NULL))
        rv = -EBADMSG;
    if (rv != 0) {
        raft_repair_free(r);
        return rv;
    }
    loop_wake(disk->config.loop, &r->task);
    *out = r;
    return 0;
}

void raft_repair_free(struct raft_repair *r)
{
    task_cancel(&r->task);
    loop_timer_stop(r->disk->config.loop, &r->timer);
    if (r->file != NULL)
        loop_file_close(r->file);
    for (uint32_t i = 0; i < r->peers_count; i++)
        free(r->peers[i].answer);
    free(r->peers);
    free(r->chunk);
    free(r);
}

/* ---- Answering ---- */

struct repair_answer {
    struct list link;
    struct raft_disk *disk;
    size_t len;
    uint8_t bytes[];
};

static struct repair_answer *repair_answer_new(struct raft_disk *d, size_t len)
{
    struct repair_answer *a = mem_zalloc(sizeof(*a) + len);

    a->disk = d;
    a->len = len;
    list_init(&a->link);
    list_push(&d->answers, &a->link);
    d->answers_count++;
    return a;
}

static void repair_answer_free(struct repair_answer *a)
{
    list_remove(&a->link);
    a->disk->answers_count--;
    free(a);
}

void raft_repair_forget_answers(struct raft_disk *disk)
{
    while (!list_empty(&disk->answers))
        repair_answer_free(container_of(disk->answers.next, struct repair_answer, link));
}

static void repair_replied(struct rpc_request *req, void *arg)
{
    (void)req;
    repair_answer_free(arg);
}

static void repair_reply(struct rpc_request *req, struct repair_answer *a)
{
    req->status = 0;
    req->reply_body = (struct slice){a->bytes, a->len};
    req->replied = repair_replied;
    req->replied_arg = a;
    rpc_reply(req);
}

/* What we know of the entry, without its data. */
static enum repair_verdict repair_look(const struct raft_disk *d, uint64_t index, uint64_t term,
                                       uint32_t data_crc)
{
    const struct raft_log_record *r = raft_log_get(&d->log, index);

    if (r == NULL)
        return index <= d->snapshot_index ? REPAIR_COVERED : REPAIR_NOT_HELD;
    if (r->is_bad)
        return index <= d->snapshot_index ? REPAIR_COVERED : REPAIR_SILENT;
    if (term == 0 || (r->term == term && r->data_crc == data_crc))
        return REPAIR_HELD;
    return REPAIR_NOT_HELD;
}

static void repair_handle_look(struct raft_disk *d, struct rpc_request *req)
{
    const uint8_t *b = req->body.base;

    /* What is on its way to the disk may be just this entry. */
    if (req->body.len != REPAIR_LOOK_BODY || !raft_log_is_idle(&d->log) || d->failed) {
        rpc_reply_status(req, req->body.len != REPAIR_LOOK_BODY ? -EINVAL : -EAGAIN);
        return;
    }
    uint64_t index = get_u64(b);
    enum repair_verdict verdict = repair_look(d, index, get_u64(b + 8), get_u32(b + 16));
    const struct raft_log_record *r = raft_log_get(&d->log, index);
    size_t len = verdict == REPAIR_HELD ? r->len : 0;
    struct repair_answer *a = repair_answer_new(d, REPAIR_LOOK_ANSWER + len);
    int rv = verdict == REPAIR_SILENT ? -EAGAIN : 0;

    if (verdict == REPAIR_HELD) {
        put_u32(a->bytes + 4, r->type);
        put_u64(a->bytes + 8, r->term);
        rv = raft_log_read_now(&d->log, index, a->bytes + REPAIR_LOOK_ANSWER);
    }
    if (rv != 0) {
        repair_answer_free(a);
        rpc_reply_status(req, -EAGAIN);
        return;
    }
    put_u32(a->bytes, verdict);
    put_u64(a->bytes + 16, d->term.term);
    put_u64(a->bytes + 24, d->snapshot_index);
    repair_reply(req, a);
}

static void repair_handle_snapshot(struct raft_disk *d, struct rpc_request *req)
{
    const uint8_t *b = req->body.base;
    uint64_t size = 0;

    if (req->body.len != REPAIR_SNAPSHOT_BODY || d->failed) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    void *chunk = mem_alloc_aligned(RAFT_SNAPSHOT_CHUNK, RAFT_LOG_PAGE);
    int64_t n = raft_snapshots_read_now(&d->snapshots, get_u64(b), get_u64(b + 8), chunk, &size);
    if (n <= 0) {
        free(chunk);
        rpc_reply_status(req, n < 0 ? (int)n : -EINVAL);
        return;
    }
    struct repair_answer *a = repair_answer_new(d, REPAIR_SNAPSHOT_ANSWER + (size_t)n);
    put_u64(a->bytes, size);
    memcpy(a->bytes + REPAIR_SNAPSHOT_ANSWER, chunk, (size_t)n);
    free(chunk);
    repair_reply(req, a);
}

void raft_repair_handle(struct raft_disk *disk, struct rpc_request *req)
{
    if (net_endpoint_kind(req->from) != NET_CONTROL)
        rpc_reply_status(req, -EACCES);
    else if (disk->answers_count == RAFT_REPAIR_ANSWERS_MAX)
        rpc_reply_status(req, -EBUSY);
    else if (req->kind == RAFT_RPC_LOOK)
        repair_handle_look(disk, req);
    else
        repair_handle_snapshot(disk, req);
}

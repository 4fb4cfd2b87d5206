#include "raft/core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/prng.h"
#include "raft/conf.h"
#include "raft/guard.h"
#include "raft/io.h"
#include "raft/repair.h"

/*
 * An entry of ours in the log: u32 length, the bytes, zero to a multiple of 8. The length is inside
 * because libraft takes only whole multiples of 8 and hands them back so.
 */
enum { CORE_ENTRY_HEAD = 4 };

static_assert(CORE_ENTRY_HEAD + RAFT_ENTRY_MAX + 8 <= RAFT_LOG_DATA_MAX, "an entry fits a record");

enum {
    CORE_ELECTION_MS = 600,
    CORE_HEARTBEAT_MS = 60,
    CORE_SNAPSHOT_ENTRIES = 20000,
    CORE_SNAPSHOT_JITTER = 4096,
    CORE_TRAILING_ENTRIES = 8192,
    CORE_INSTALL_MS = 10000,
    CORE_CATCH_UP_ROUNDS = 20,
    CORE_CATCH_UP_MS = 10000,
};

/*
 * A membership change:
 *
 *   BEGIN --> ADDING --> ADDED --> ASSIGNING --> BARRIER --> IDLE
 *     +----------------------------^   +--> REMOVING --^
 *
 * A state is the wait for the core's callback of what its name says; ADDED and BARRIER wait for a
 * barrier behind the change.
 */
enum core_change_state {
    CORE_CHANGE_IDLE,
    CORE_CHANGE_BEGIN,
    CORE_CHANGE_ADDING,
    CORE_CHANGE_ADDED,
    CORE_CHANGE_ASSIGNING,
    CORE_CHANGE_REMOVING,
    CORE_CHANGE_BARRIER,
};

struct core_change {
    enum core_change_state state;
    struct raft_proposal *proposal;
    uint32_t id;
    int role; /* libraft's; -1: remove */
    bool reported;
    int status;
    struct raft_change change;
    struct raft_barrier barrier;
};

/* What the core holds of a proposal until its callback. */
struct core_request {
    struct raft_proposal *proposal;
    struct raft_apply apply;
    struct raft_barrier barrier;
};

struct raft_core {
    struct raft_core_config config;
    struct raft raft;
    struct raft_fsm fsm;
    struct raft_guard guard;
    struct raft_disk disk;
    struct task task;
    bool started, stopped, in_step;

    uint64_t snapshot_tried; /* applied index when the last one was begun */

    struct list waiting; /* struct raft_proposal */
    uint32_t waiting_count, in_flight_count;

    raft_term barrier_term; /* this term's barrier is applied */
    bool leading;           /* as last told to the state machine */
    raft_term leading_term;

    struct raft_repair *repair; /* the log is damaged and the core waits */

    struct core_change change;
    struct raft_transfer transfer;
    bool transferring;
};

static void core_step(struct task *task);

/* ---- Memory: what libraft allocates is zeroed, so that no stray byte reaches disk or wire ---- */

static void *core_malloc(void *data, size_t size)
{
    (void)data;
    return calloc(1, size > 0 ? size : 1);
}

static void core_free(void *data, void *p)
{
    (void)data;
    free(p);
}

static void *core_calloc(void *data, size_t count, size_t size)
{
    (void)data;
    return calloc(count, size);
}

static void *core_realloc(void *data, void *p, size_t size)
{
    (void)data;
    return realloc(p, size);
}

static void *core_aligned_alloc(void *data, size_t alignment, size_t size)
{
    (void)data;
    return aligned_alloc(alignment, size);
}

static void core_aligned_free(void *data, size_t alignment, void *p)
{
    (void)data;
    (void)alignment;
    free(p);
}

static void core_set_heap(void)
{
    static struct raft_heap heap = {.malloc = core_malloc,
                                    .free = core_free,
                                    .calloc = core_calloc,
                                    .realloc = core_realloc,
                                    .aligned_alloc = core_aligned_alloc,
                                    .aligned_free = core_aligned_free};
    raft_heap_set(&heap);
}

/* ---- Failure ---- */

static void core_fatal(void *arg, const char *what, int error)
{
    struct raft_core *r = arg;

    if (r->stopped)
        return;
    r->stopped = true;
    r->guard.stopped = true;
    r->config.fatal(r->config.fsm.arg, what, error);
}

static void core_guard_fatal(void *arg, const char *what, int raft_error)
{
    struct raft_core *r = arg;

    log_error("raft", "the consensus core must stop what=\"%s\" why=\"%s\" core=\"%s\"", what,
              raft_strerror(raft_error), raft_errmsg(&r->raft));
    core_fatal(r, what, raft_error == RAFT_NOSPACE ? -ENOSPC : -EIO);
}

/* 0 or the -errno of a status that ended a request: what is certain, and what is not. */
static int core_error(int status)
{
    switch (status) {
    case 0:
        return 0;
    case RAFT_NOTLEADER:
    case RAFT_BUSY:
        return -EAGAIN;
    case RAFT_CANTCHANGE:
        return -EBUSY;
    case RAFT_NOCONNECTION:
        return -ETIMEDOUT;
    case RAFT_BADID:
    case RAFT_NOTFOUND:
        return -ENOENT;
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
        return -EEXIST;
    case RAFT_NOMEM:
        return -ENOMEM;
    default:
        return -EINPROGRESS;
    }
}

/* ---- The state machine ---- */

static int core_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct raft_core *r = fsm->data;
    uint64_t index = raft_last_applied(&r->raft) + 1;

    *result = NULL;
    if (buf->len < CORE_ENTRY_HEAD || get_u32(buf->base) > buf->len - CORE_ENTRY_HEAD) {
        core_fatal(r, "an entry of the log is not ours", -EBADMSG);
        return RAFT_CORRUPT;
    }
    struct slice entry = {(const uint8_t *)buf->base + CORE_ENTRY_HEAD, get_u32(buf->base)};
    r->config.fsm.apply(r->config.fsm.arg, index, entry, result);
    return 0;
}

static int core_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct raft_core *r = fsm->data;
    void *buf = NULL;
    size_t len = 0;

    /* The core would put the members of an uncommitted change into the snapshot. */
    if (r->raft.configuration_uncommitted_index != 0)
        return RAFT_BUSY;
    /* One that failed (the disk was full) is not tried again with every entry. */
    uint64_t applied = raft_last_applied(&r->raft);
    if (r->snapshot_tried != 0 && applied < r->snapshot_tried + r->config.snapshot_entries / 8)
        return RAFT_BUSY;
    r->snapshot_tried = applied;
    int rv = r->config.fsm.snapshot(r->config.fsm.arg, &buf, &len);
    if (rv != 0) {
        log_error("raft", "no snapshot could be taken error=%d", rv);
        return RAFT_BUSY;
    }
    *bufs = raft_calloc(1, sizeof(**bufs));
    if (*bufs == NULL) {
        free(buf);
        return RAFT_NOMEM;
    }
    (*bufs)[0] = (struct raft_buffer){.base = buf, .len = len};
    *n_bufs = 1;
    return 0;
}

static int core_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct raft_core *r = fsm->data;

    int rv = r->config.fsm.restore(r->config.fsm.arg, (struct slice){buf->base, buf->len});
    if (rv != 0) {
        log_error("raft", "a snapshot is not understood error=%d", rv);
        return RAFT_MALFORMED;
    }
    raft_free(buf->base);
    return 0;
}

/* ---- Leading ---- */

static bool core_is_leading(const struct raft_core *r)
{
    return r->raft.state == RAFT_LEADER && r->barrier_term == r->raft.current_term;
}

static void core_on_barrier_applied(void *arg, raft_term term)
{
    struct raft_core *r = arg;

    r->barrier_term = term;
    loop_wake(r->config.loop, &r->task);
}

static void core_on_polled(void *arg)
{
    struct raft_core *r = arg;

    if (!r->in_step)
        loop_wake(r->config.loop, &r->task);
}

static void core_tell_leading(struct raft_core *r, bool leading)
{
    r->leading = leading;
    r->leading_term = r->raft.current_term;
    log_info("raft", "leading=%d term=%llu", leading, (unsigned long long)r->raft.current_term);
    if (r->config.fsm.leading != NULL)
        r->config.fsm.leading(r->config.fsm.arg, leading);
}

static void core_update_leading(struct raft_core *r)
{
    bool leading = core_is_leading(r);

    if (r->leading && (!leading || r->leading_term != r->raft.current_term))
        core_tell_leading(r, false);
    if (!r->leading && leading)
        core_tell_leading(r, true);
}

/* ---- Proposals ---- */

static void proposal_step(struct task *task)
{
    struct raft_proposal *p = container_of(task, struct raft_proposal, task);
    p->done(p);
}

static void proposal_init(struct raft_core *r, struct raft_proposal *p)
{
    check(p->done != NULL);

    p->core = r;
    p->result = 0;
    p->apply_result = NULL;
    p->is_barrier = false;
    task_init(&p->task, proposal_step);
    list_init(&p->link);
}

static void proposal_finish(struct raft_proposal *p, int result)
{
    p->result = result;
    loop_wake(p->core->config.loop, &p->task);
}

static void core_request_end(struct core_request *q, int status, void *result)
{
    struct raft_proposal *p = q->proposal;
    struct raft_core *r = p->core;

    r->in_flight_count--;
    p->apply_result = result;
    proposal_finish(p, core_error(status));
    free(q);
    loop_wake(r->config.loop, &r->task);
}

static void core_on_apply(struct raft_apply *apply, int status, void *result)
{
    core_request_end(apply->data, status, status == 0 ? result : NULL);
}

static void core_on_barrier(struct raft_barrier *barrier, int status)
{
    core_request_end(barrier->data, status, NULL);
}

static int core_submit_entry(struct raft_core *r, struct core_request *q)
{
    struct raft_proposal *p = q->proposal;
    struct raft_buffer buf = {.len = (CORE_ENTRY_HEAD + p->len + 7) & ~(size_t)7};

    buf.base = raft_malloc(buf.len);
    if (buf.base == NULL)
        return RAFT_NOMEM;
    memset(buf.base, 0, buf.len);
    put_u32(buf.base, (uint32_t)p->len);
    memcpy((uint8_t *)buf.base + CORE_ENTRY_HEAD, p->entry, p->len);
    int rv = raft_apply(&r->raft, &q->apply, &buf, 1, core_on_apply);
    if (rv != 0)
        raft_free(buf.base);
    return rv;
}

static void core_submit(struct raft_core *r, struct raft_proposal *p)
{
    struct core_request *q = mem_zalloc(sizeof(*q));
    int rv;

    q->proposal = p;
    q->apply.data = q;
    q->barrier.data = q;
    r->in_flight_count++;
    if (p->is_barrier)
        rv = raft_barrier(&r->raft, &q->barrier, core_on_barrier);
    else
        rv = core_submit_entry(r, q);
    if (rv == 0)
        return;
    r->in_flight_count--;
    free(q);
    proposal_finish(p, core_error(rv));
}

static void core_submit_waiting(struct raft_core *r)
{
    while (r->in_flight_count < RAFT_IN_FLIGHT_MAX && r->waiting_count > 0 && !r->stopped) {
        struct list *link = list_pop(&r->waiting);
        r->waiting_count--;
        core_submit(r, container_of(link, struct raft_proposal, link));
    }
}

static void core_enqueue(struct raft_core *r, struct raft_proposal *p)
{
    if (raft_state(&r->raft) != RAFT_LEADER || r->waiting_count == RAFT_WAITING_MAX) {
        proposal_finish(p, -EAGAIN);
        return;
    }
    list_push(&r->waiting, &p->link);
    r->waiting_count++;
    loop_wake(r->config.loop, &r->task);
}

void raft_core_barrier(struct raft_core *r, struct raft_proposal *p)
{
    proposal_init(r, p);
    p->is_barrier = true;
    core_enqueue(r, p);
}

/* ---- Membership ---- */

static const struct raft_server *core_member(const struct raft_core *r, uint32_t id)
{
    for (unsigned i = 0; i < r->raft.configuration.n; i++) {
        if (r->raft.configuration.servers[i].id == id)
            return &r->raft.configuration.servers[i];
    }
    return NULL;
}

static void change_report(struct raft_core *r, int status)
{
    r->change.reported = true;
    r->change.status = status;
    loop_wake(r->config.loop, &r->task);
}

static void change_on_change(struct raft_change *req, int status)
{
    change_report(req->data, status);
}

static void change_on_barrier(struct raft_barrier *req, int status)
{
    change_report(req->data, status);
}

static void change_finish(struct raft_core *r, int result)
{
    struct raft_proposal *p = r->change.proposal;

    r->change.state = CORE_CHANGE_IDLE;
    r->change.proposal = NULL;
    proposal_finish(p, result);
}

static void change_barrier(struct raft_core *r, enum core_change_state next)
{
    struct core_change *c = &r->change;

    c->state = next;
    c->reported = false;
    c->barrier.data = r;
    int rv = raft_barrier(&r->raft, &c->barrier, change_on_barrier);
    if (rv == RAFT_NOTLEADER)
        change_finish(r, 0); /* the change is committed; it took the lead from us */
    else if (rv != 0)
        change_finish(r, core_error(rv));
}

static void change_call(struct raft_core *r, enum core_change_state next)
{
    struct core_change *c = &r->change;
    char address[RAFT_ADDRESS_SIZE];
    int rv;

    raft_conf_address(c->id, address);
    c->state = next;
    c->reported = false;
    c->change.data = r;
    if (next == CORE_CHANGE_ADDING)
        rv = raft_add(&r->raft, &c->change, c->id, address, change_on_change);
    else if (next == CORE_CHANGE_ASSIGNING)
        rv = raft_assign(&r->raft, &c->change, c->id, c->role, change_on_change);
    else
        rv = raft_remove(&r->raft, &c->change, c->id, change_on_change);
    if (rv != 0)
        change_finish(r, core_error(rv));
}

static void change_begin(struct raft_core *r)
{
    struct core_change *c = &r->change;
    const struct raft_server *member = core_member(r, c->id);

    if (!core_is_leading(r))
        change_finish(r, -EAGAIN);
    else if (c->role < 0 && member == NULL)
        change_finish(r, -ENOENT);
    else if (c->role < 0)
        change_call(r, CORE_CHANGE_REMOVING);
    else if (member == NULL && r->raft.configuration.n >= RAFT_SERVERS_MAX)
        change_finish(r, -ENOSPC);
    else if (member == NULL)
        change_call(r, CORE_CHANGE_ADDING);
    else if (member->role != c->role)
        change_call(r, CORE_CHANGE_ASSIGNING);
    else
        change_barrier(r, CORE_CHANGE_BARRIER);
}

static void change_step(struct raft_core *r)
{
    struct core_change *c = &r->change;

    if (c->state == CORE_CHANGE_BEGIN) {
        change_begin(r);
        return;
    }
    if (c->state == CORE_CHANGE_IDLE || !c->reported)
        return;
    c->reported = false;
    if (c->status != 0) {
        change_finish(r, core_error(c->status));
        return;
    }
    switch (c->state) {
    case CORE_CHANGE_ADDING:
        change_barrier(r, c->role == RAFT_SPARE ? CORE_CHANGE_BARRIER : CORE_CHANGE_ADDED);
        return;
    case CORE_CHANGE_ADDED:
        change_call(r, CORE_CHANGE_ASSIGNING);
        return;
    case CORE_CHANGE_ASSIGNING:
    case CORE_CHANGE_REMOVING:
        change_barrier(r, CORE_CHANGE_BARRIER);
        return;
    case CORE_CHANGE_BARRIER:
        change_finish(r, 0);
        return;
    case CORE_CHANGE_IDLE:
    case CORE_CHANGE_BEGIN:
        never("handled above");
    }
}

static void change_start(struct raft_core *r, struct raft_proposal *p, uint32_t id, int role)
{
    proposal_init(r, p);
    if (!r->started || r->change.state != CORE_CHANGE_IDLE) {
        proposal_finish(p, r->started ? -EBUSY : -EAGAIN);
        return;
    }
    r->change.state = CORE_CHANGE_BEGIN;
    r->change.proposal = p;
    r->change.id = id;
    r->change.role = role;
    loop_wake(r->config.loop, &r->task);
}

static const int core_roles[] = {
    [RAFT_CORE_SPARE] = RAFT_SPARE,
    [RAFT_CORE_STANDBY] = RAFT_STANDBY,
    [RAFT_CORE_VOTER] = RAFT_VOTER,
};

void raft_core_assign(struct raft_core *r, struct raft_proposal *p, uint32_t id,
                      enum raft_core_role role)
{
    check(role < COUNT_OF(core_roles));
    change_start(r, p, id, core_roles[role]);
}

void raft_core_remove(struct raft_core *r, struct raft_proposal *p, uint32_t id)
{
    change_start(r, p, id, -1);
}

static void core_on_transfer(struct raft_transfer *req)
{
    struct raft_core *r = req->data;
    r->transferring = false;
}

int raft_core_transfer(struct raft_core *r, uint32_t id)
{
    if (r->stopped || raft_state(&r->raft) != RAFT_LEADER)
        return -EAGAIN;
    if (r->transferring)
        return -EBUSY;
    r->transferring = true;
    r->transfer = (struct raft_transfer){.data = r};
    int rv = raft_transfer(&r->raft, &r->transfer, id, core_on_transfer);
    if (rv != 0)
        r->transferring = false;
    return core_error(rv);
}

/* ---- The step, status, requests ---- */

static void core_step(struct task *task)
{
    struct raft_core *r = container_of(task, struct raft_core, task);

    if (r->stopped || !r->started)
        return;
    r->in_step = true;
    core_update_leading(r);
    change_step(r);
    core_submit_waiting(r);
    raft_guard_poll(&r->guard);
    r->in_step = false;
}

static enum raft_core_state core_state(const struct raft_core *r)
{
    switch (r->raft.state) {
    case RAFT_FOLLOWER:
        return RAFT_CORE_FOLLOWER;
    case RAFT_CANDIDATE:
        return RAFT_CORE_CANDIDATE;
    case RAFT_LEADER:
        return RAFT_CORE_LEADER;
    default:
        return RAFT_CORE_DOWN;
    }
}

static enum raft_core_role core_role(int role)
{
    return role == RAFT_VOTER     ? RAFT_CORE_VOTER
           : role == RAFT_STANDBY ? RAFT_CORE_STANDBY
                                  : RAFT_CORE_SPARE;
}

void raft_core_status(struct raft_core *r, struct raft_core_status *out)
{
    const struct raft_configuration *conf = &r->raft.configuration;
    raft_id leader = 0;
    const char *address;

    *out = (struct raft_core_status){
        .state = r->stopped ? RAFT_CORE_DOWN : core_state(r),
        .term = r->raft.current_term,
        .leading = core_is_leading(r) && !r->stopped,
        .commit_index = r->raft.commit_index,
        .applied_index = r->raft.last_applied,
        .snapshot_index = r->disk.snapshot_index,
        .guard_dropped = r->guard.dropped,
        .guard_capped = r->guard.capped,
        .guard_commit_capped = r->guard.commit_capped,
        .guard_ticks_skipped = r->guard.ticks_skipped,
    };
    if (r->started) {
        raft_leader(&r->raft, &leader, &address);
        out->leader = (uint32_t)leader;
        out->last_index = raft_last_index(&r->raft);
    }
    for (unsigned i = 0; i < conf->n && i < RAFT_SERVERS_MAX; i++)
        out->members[out->members_count++] = (struct raft_core_member){
            (uint32_t)conf->servers[i].id, core_role(conf->servers[i].role)};
}

void raft_core_handle(struct raft_core *r, struct rpc_request *req)
{
    if (req->kind == RAFT_RPC_FRAGMENT)
        raft_transport_handle(&r->disk.transport, req);
    else if (req->kind == RAFT_RPC_LOOK || req->kind == RAFT_RPC_SNAPSHOT)
        raft_repair_handle(&r->disk, req);
    else
        rpc_reply_status(req, -ENOSYS);
}

/* ---- Life ---- */

int raft_core_bootstrap(struct loop *loop, const char *dir, uint32_t id)
{
    return raft_core_bootstrap_sized(loop, dir, id, 0);
}

/* With its name durable: what is promised in there must not vanish with the folder. */
static int core_make_dir(struct loop *loop, const char *dir)
{
    const char *slash = strrchr(dir, '/');
    int rv = loop_dir_create(loop, dir);

    if (rv != 0)
        return rv;
    if (slash == NULL)
        return loop_dir_sync(loop, ".");
    char *parent = mem_strdup(dir);
    parent[slash == dir ? 1 : slash - dir] = '\0';
    rv = loop_dir_sync(loop, parent);
    free(parent);
    return rv;
}

int raft_core_bootstrap_sized(struct loop *loop, const char *dir, uint32_t id,
                              uint64_t segment_size)
{
    struct raft_configuration conf;
    char address[RAFT_ADDRESS_SIZE];

    core_set_heap();
    raft_conf_address(id, address);
    raft_configuration_init(&conf);
    int rv = raft_configuration_add(&conf, id, address, RAFT_VOTER) == 0 ? 0 : -ENOMEM;
    if (rv == 0)
        rv = core_make_dir(loop, dir);
    if (rv == 0)
        rv = raft_disk_create(loop, dir, segment_size, &conf);
    raft_configuration_close(&conf);
    return rv;
}

static int core_open_disk(struct raft_core *r)
{
    const struct raft_core_config *c = &r->config;
    struct raft_disk_config config = {.loop = c->loop,
                                      .net = c->net,
                                      .dir = c->dir,
                                      .id = c->id,
                                      .segment_size = c->segment_size,
                                      .trailing_entries = c->trailing_entries,
                                      .fatal = core_fatal,
                                      .arg = r};
    int rv = raft_disk_open(&r->disk, &config);

    if (rv == -ENOENT) {
        rv = core_make_dir(c->loop, c->dir);
        if (rv == 0)
            rv = raft_disk_create(c->loop, c->dir, c->segment_size, NULL);
        if (rv == 0)
            rv = raft_disk_open(&r->disk, &config);
    }
    return rv;
}

static void core_set_defaults(struct raft_core_config *c)
{
    if (c->election_ms == 0)
        c->election_ms = CORE_ELECTION_MS;
    if (c->heartbeat_ms == 0)
        c->heartbeat_ms = CORE_HEARTBEAT_MS;
    if (c->snapshot_entries == 0)
        c->snapshot_entries =
            CORE_SNAPSHOT_ENTRIES + (uint32_t)(mix64(c->id) % CORE_SNAPSHOT_JITTER);
    if (c->trailing_entries == 0)
        c->trailing_entries = CORE_TRAILING_ENTRIES;
}

static int core_init_raft(struct raft_core *r)
{
    char address[RAFT_ADDRESS_SIZE];

    r->fsm = (struct raft_fsm){.version = 1,
                               .data = r,
                               .apply = core_apply,
                               .snapshot = core_snapshot,
                               .restore = core_restore};
    raft_guard_init(&r->guard, &r->raft, &r->disk.io);
    r->guard.fatal = core_guard_fatal;
    r->guard.barrier_applied = core_on_barrier_applied;
    r->guard.polled = core_on_polled;
    r->guard.arg = r;
    raft_conf_address(r->config.id, address);
    if (raft_init(&r->raft, &r->guard.io, &r->fsm, r->config.id, address) != 0)
        return -ENOMEM;
    raft_set_pre_vote(&r->raft, true);
    raft_set_election_timeout(&r->raft, r->config.election_ms);
    raft_set_heartbeat_timeout(&r->raft, r->config.heartbeat_ms);
    raft_set_install_snapshot_timeout(&r->raft, CORE_INSTALL_MS);
    raft_set_snapshot_threshold(&r->raft, r->config.snapshot_entries);
    raft_set_snapshot_trailing(&r->raft, r->config.trailing_entries);
    raft_set_max_catch_up_rounds(&r->raft, CORE_CATCH_UP_ROUNDS);
    raft_set_max_catch_up_round_duration(&r->raft, CORE_CATCH_UP_MS);
    return 0;
}

static uint64_t core_change_before(const struct raft_core *r, uint64_t index)
{
    for (uint64_t i = index - 1; i > r->raft.log.offset; i--) {
        const struct raft_log_record *record = raft_log_get(&r->disk.log, i);
        if (record != NULL && record->type == RAFT_CHANGE)
            return i;
    }
    return 0;
}

/*
 * At start the core takes the last change of members in the log for committed, and could not go
 * back when a leader takes it away. Until it is known to be committed, say so.
 */
static void core_mark_uncommitted(struct raft_core *r)
{
    uint64_t index = r->raft.configuration_index;

    if (index <= r->raft.commit_index)
        return;
    uint64_t before = core_change_before(r, index);
    if (before == 0)
        return;
    r->raft.configuration_index = before;
    r->raft.configuration_uncommitted_index = index;
}

static int core_start(struct raft_core *r)
{
    int rv = raft_start(&r->raft);

    if (rv != 0) {
        log_error("raft", "the consensus core did not start why=\"%s\"", raft_errmsg(&r->raft));
        return rv == RAFT_MALFORMED ? -EINVAL : rv == RAFT_NOMEM ? -ENOMEM : -EIO;
    }
    core_mark_uncommitted(r);
    r->started = true;
    raft_guard_poll(&r->guard);
    return 0;
}

/* From repair's step, its last act. */
static void core_on_repaired(void *arg, int result)
{
    struct raft_core *r = arg;

    if (result == 0)
        result = core_start(r);
    if (result != 0)
        core_fatal(r, "mending the log with the peers", result);
}

static void core_on_closed(struct raft *raft)
{
    (void)raft;
}

void raft_core_close(struct raft_core *r)
{
    r->stopped = true;
    r->guard.closing = true;
    task_cancel(&r->task);
    if (r->repair != NULL)
        raft_repair_free(r->repair);
    raft_close(&r->raft, core_on_closed);
    raft_disk_close(&r->disk);
    free(r);
}

int raft_core_open(const struct raft_core_config *config, struct raft_core **out)
{
    struct raft_core *r = mem_zalloc(sizeof(*r));

    core_set_heap();
    r->config = *config;
    core_set_defaults(&r->config);
    list_init(&r->waiting);
    task_init(&r->task, core_step);

    int rv = core_open_disk(r);
    if (rv == 0) {
        rv = core_init_raft(r);
        if (rv != 0)
            raft_disk_close(&r->disk);
    }
    if (rv != 0) {
        free(r);
        return rv;
    }
    if (raft_disk_bad_index(&r->disk) == 0)
        rv = core_start(r);
    else
        rv = raft_repair_start(&r->disk, core_on_repaired, r, &r->repair);
    if (rv != 0) {
        raft_core_close(r);
        return rv;
    }
    *out = r;
    return 0;
}

void raft_core_propose(struct raft_core *r, struct raft_proposal *p)
{
    check(p->len > 0 && p->len <= RAFT_ENTRY_MAX);

    proposal_init(r, p);
    core_enqueue(r, p);
}

#include "raft/guard.h"

#include <assert.h>
#include <string.h>

#include "base/check.h"

/* The guard reads the public structs of exactly this library: Debian's 0.15, soname libraft.so.2.
 */
static_assert(sizeof(struct raft) == 656, "libraft 0.15 (libraft.so.2)");
static_assert(sizeof(struct raft_io) == 408, "libraft 0.15 (libraft.so.2)");
static_assert(sizeof(struct raft_message) == 88, "libraft 0.15 (libraft.so.2)");
static_assert(offsetof(struct raft_guard, io) == 0, "io is the guard");

struct guard_append {
    struct raft_io_append inner;
    struct raft_io_append *outer;
    raft_io_append_cb cb;
    struct raft_guard *guard;
};

struct guard_put {
    struct raft_io_snapshot_put inner;
    struct raft_io_snapshot_put *outer;
    raft_io_snapshot_put_cb cb;
    struct raft_guard *guard;
    struct raft_buffer *bufs; /* of an installation: the core's array of one */
    bool install;
};

static struct raft_guard *guard_of(struct raft_io *io)
{
    return container_of(io, struct raft_guard, io);
}

static struct raft_guard *guard_of_inner(struct raft_io *inner)
{
    return inner->data;
}

static void guard_fatal(struct raft_guard *g, const char *what, int error)
{
    if (g->stopped)
        return;
    g->stopped = true;
    g->fatal(g->arg, what, error);
}

/* The core shows the backend's message when a call fails. */
static int guard_result(struct raft_guard *g, int rv)
{
    if (rv != 0)
        memcpy(g->io.errmsg, g->inner->errmsg, sizeof(g->io.errmsg));
    return rv;
}

/* ---- G1 ---- */

static void guard_on_barrier(struct raft_barrier *req, int status)
{
    struct raft_guard *g = req->data;

    g->barrier_busy = false;
    if (status == 0 && g->barrier_applied != NULL)
        g->barrier_applied(g->arg, g->barrier_term);
}

static void guard_propose_barrier(struct raft_guard *g)
{
    g->led_term = g->raft->current_term;
    g->barrier_term = g->led_term;
    g->barrier.data = g;
    g->barrier_busy = true;
    g->barrier_index = raft_last_index(g->raft) + 1;

    int rv = raft_barrier(g->raft, &g->barrier, guard_on_barrier);
    if (rv != 0) {
        g->barrier_busy = false;
        guard_fatal(g, "barrier of a new leader", rv);
    }
}

void raft_guard_poll(struct raft_guard *g)
{
    if (g->stopped || g->closing)
        return;
    if (raft_state(g->raft) == RAFT_UNAVAILABLE) {
        guard_fatal(g, "the consensus core gave up", RAFT_SHUTDOWN);
        return;
    }
    if (raft_state(g->raft) == RAFT_LEADER && g->led_term != g->raft->current_term &&
        !g->barrier_busy)
        guard_propose_barrier(g);
    if (g->polled != NULL)
        g->polled(g->arg);
}

static bool guard_result_counts(const struct raft_guard *g)
{
    return g->led_term == g->raft->current_term && g->raft->last_stored >= g->barrier_index;
}

/* ---- G2, G3 ---- */

static void guard_match_term(struct raft_guard *g)
{
    if (g->match_term == g->raft->current_term)
        return;
    g->match_term = g->raft->current_term;
    g->match_index = 0;
}

/* The core has accepted the message being handled: entries up to `index` are the leader's. */
static void guard_verified(struct raft_guard *g, raft_index index)
{
    guard_match_term(g);
    if (index > g->match_index)
        g->match_index = index;
}

static void guard_cap_commit(struct raft_guard *g, struct raft_append_entries *a)
{
    raft_index cap = a->prev_log_index + a->n_entries;

    g->message_index = cap;
    if (g->match_term == a->term && g->match_index > cap)
        cap = g->match_index;
    if (a->leader_commit > cap) {
        a->leader_commit = cap;
        g->commit_capped++;
    }
}

/* ---- G6 ---- */

enum { GUARD_PROGRESS_PROBE, GUARD_PROGRESS_PIPELINE, GUARD_PROGRESS_SNAPSHOT };

/*
 * The core leaves snapshot mode when an answer raises the match index, goes on from there, and only
 * ever downwards. A follower that has cut its log further than we did, at a later snapshot of its
 * own, refuses all that, answers our snapshot with what is known already, and gets it for ever. So
 * begin at the top again: it has everything up to its own snapshot, and so have we.
 */
static void guard_leave_snapshot_mode(struct raft_guard *g, const struct raft_message *m)
{
    struct raft *r = g->raft;

    for (unsigned i = 0; i < r->configuration.n; i++) {
        struct raft_progress *p = &r->leader_state.progress[i];
        if (r->configuration.servers[i].id != m->server_id)
            continue;
        if (p->state != GUARD_PROGRESS_SNAPSHOT || p->match_index < p->snapshot_index ||
            m->append_entries_result.rejected != 0)
            return;
        p->state = GUARD_PROGRESS_PROBE;
        p->next_index = raft_last_index(r) + 1;
        p->snapshot_index = 0;
    }
}

/* ---- What comes in ---- */

static void guard_free_message(struct raft_message *m)
{
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        for (unsigned i = 0; i < m->append_entries.n_entries; i++) {
            struct raft_entry *e = &m->append_entries.entries[i];
            if (e->batch == NULL)
                raft_free(e->buf.base);
        }
        if (m->append_entries.n_entries > 0)
            raft_free(m->append_entries.entries[0].batch);
        raft_free(m->append_entries.entries);
    } else if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
}

/* There is one leader a term: a peer that claims our own term is broken, and the core would take it
 * for impossible. */
static bool guard_is_impossible(const struct raft_guard *g, raft_term term)
{
    return raft_state(g->raft) == RAFT_LEADER && term == g->raft->current_term;
}

static bool guard_admits(struct raft_guard *g, struct raft_message *m)
{
    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        if (raft_state(g->raft) == RAFT_LEADER && !guard_result_counts(g)) {
            g->dropped++;
            return false;
        }
        if (raft_state(g->raft) == RAFT_LEADER)
            guard_leave_snapshot_mode(g, m);
        return true;
    case RAFT_IO_TIMEOUT_NOW:
        return g->appends_count == 0 && g->installs_count == 0;
    case RAFT_IO_APPEND_ENTRIES:
        return !guard_is_impossible(g, m->append_entries.term);
    case RAFT_IO_INSTALL_SNAPSHOT:
        return !guard_is_impossible(g, m->install_snapshot.term);
    default:
        return true;
    }
}

static void guard_recv(struct raft_io *inner, struct raft_message *m)
{
    struct raft_guard *g = guard_of_inner(inner);

    if (g->stopped || g->closing || !guard_admits(g, m)) {
        guard_free_message(m);
        return;
    }
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        guard_cap_commit(g, &m->append_entries);
        g->in_message = true;
    } else if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        g->message_index = m->install_snapshot.last_index;
        g->in_message = true;
    }
    g->recv(&g->io, m);
    g->in_message = false;
    raft_guard_poll(g);
}

static void guard_tick(struct raft_io *inner)
{
    struct raft_guard *g = guard_of_inner(inner);

    if (g->stopped || g->closing)
        return;
    if (raft_state(g->raft) == RAFT_FOLLOWER && (g->appends_count > 0 || g->installs_count > 0)) {
        g->ticks_skipped++;
        return;
    }
    g->tick(&g->io);
    raft_guard_poll(g);
}

/* ---- What goes out ---- */

static int guard_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *m,
                      raft_io_send_cb cb)
{
    struct raft_guard *g = guard_of(io);

    if (m->type != RAFT_IO_APPEND_ENTRIES_RESULT || m->append_entries_result.rejected != 0)
        return guard_result(g, g->inner->send(g->inner, req, m, cb));

    /* A success given while the message is handled speaks about that message. */
    if (g->in_message)
        guard_verified(g, g->message_index);
    guard_match_term(g);

    struct raft_message capped = *m;
    if (capped.append_entries_result.last_log_index > g->match_index) {
        capped.append_entries_result.last_log_index = g->match_index;
        g->capped++;
    }
    return guard_result(g, g->inner->send(g->inner, req, &capped, cb));
}

static void guard_on_append(struct raft_io_append *req, int status)
{
    struct guard_append *a = req->data;
    struct raft_guard *g = a->guard;

    g->appends_count--;
    if (status != 0 && status != RAFT_CANCELED && !g->closing) {
        guard_fatal(g, "append", status);
        return; /* `a` stays with the core's request: both are freed when it closes */
    }
    a->outer->cb = a->cb;
    a->cb(a->outer, status);
    raft_free(a);
    raft_guard_poll(g);
}

static int guard_append(struct raft_io *io, struct raft_io_append *req,
                        const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct raft_guard *g = guard_of(io);
    struct guard_append *a = raft_calloc(1, sizeof(*a));

    if (a == NULL)
        return RAFT_NOMEM;
    /* What is appended while a message is handled has passed the log matching check. */
    if (g->in_message)
        guard_verified(g, g->message_index);
    *a = (struct guard_append){.outer = req, .cb = cb, .guard = g};
    a->inner.data = a;

    g->appends_count++;
    int rv = guard_result(g, g->inner->append(g->inner, &a->inner, entries, n, guard_on_append));
    if (rv != 0) {
        g->appends_count--;
        raft_free(a);
        guard_fatal(g, "append", rv);
    }
    return rv;
}

static void guard_on_put(struct raft_io_snapshot_put *req, int status)
{
    struct guard_put *p = req->data;
    struct raft_guard *g = p->guard;

    if (p->install)
        g->installs_count--;
    if (p->install && status != 0 && status != RAFT_CANCELED)
        guard_fatal(g, "installation of a snapshot", status);

    /* The core forgets the array when it is closing. */
    struct raft_buffer *bufs = g->closing && p->install ? p->bufs : NULL;
    p->outer->cb = p->cb;
    p->cb(p->outer, status);
    raft_free(bufs);
    raft_free(p);
    raft_guard_poll(g);
}

static int guard_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *req,
                              const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    struct raft_guard *g = guard_of(io);
    struct guard_put *p = raft_calloc(1, sizeof(*p));

    if (p == NULL)
        return RAFT_NOMEM;
    *p = (struct guard_put){
        .outer = req, .cb = cb, .guard = g, .bufs = snapshot->bufs, .install = trailing == 0};
    p->inner.data = p;
    if (p->install) {
        g->installs_count++;
        if (g->in_message)
            guard_verified(g, snapshot->index);
    }

    bool install = p->install;
    int rv = guard_result(
        g, g->inner->snapshot_put(g->inner, trailing, &p->inner, snapshot, guard_on_put));
    if (rv != 0) {
        raft_free(p);
        if (install) {
            g->installs_count--;
            guard_fatal(g, "installation of a snapshot", rv);
        }
    }
    return rv;
}

/* ---- G5: what is synchronous ---- */

static int guard_truncate(struct raft_io *io, raft_index index)
{
    struct raft_guard *g = guard_of(io);
    int rv = guard_result(g, g->inner->truncate(g->inner, index));

    if (rv != 0)
        guard_fatal(g, "truncate", rv);
    return rv;
}

static int guard_set_term(struct raft_io *io, raft_term term)
{
    struct raft_guard *g = guard_of(io);
    int rv = guard_result(g, g->inner->set_term(g->inner, term));

    if (rv != 0)
        guard_fatal(g, "set_term", rv);
    return rv;
}

static int guard_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_guard *g = guard_of(io);
    int rv = guard_result(g, g->inner->set_vote(g->inner, id));

    if (rv != 0)
        guard_fatal(g, "set_vote", rv);
    return rv;
}

/* ---- What only passes through ---- */

static int guard_init(struct raft_io *io, raft_id id, const char *address)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(g, g->inner->init(g->inner, id, address));
}

static void guard_on_close(struct raft_io *inner)
{
    struct raft_guard *g = guard_of_inner(inner);
    g->close(&g->io);
}

static void guard_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_guard *g = guard_of(io);

    g->closing = true;
    g->close = cb;
    g->inner->close(g->inner, guard_on_close);
}

static int guard_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                      struct raft_snapshot **snapshot, raft_index *start_index,
                      struct raft_entry *entries[], size_t *n_entries)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(
        g, g->inner->load(g->inner, term, voted_for, snapshot, start_index, entries, n_entries));
}

static int guard_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv)
{
    struct raft_guard *g = guard_of(io);

    g->tick = tick;
    g->recv = recv;
    return guard_result(g, g->inner->start(g->inner, msecs, guard_tick, guard_recv));
}

static int guard_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(g, g->inner->bootstrap(g->inner, conf));
}

static int guard_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(g, g->inner->recover(g->inner, conf));
}

static int guard_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                              raft_io_snapshot_get_cb cb)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(g, g->inner->snapshot_get(g->inner, req, cb));
}

static raft_time guard_time(struct raft_io *io)
{
    struct raft_guard *g = guard_of(io);
    return g->inner->time(g->inner);
}

static int guard_random(struct raft_io *io, int min, int max)
{
    struct raft_guard *g = guard_of(io);
    return g->inner->random(g->inner, min, max);
}

static int guard_async_work(struct raft_io *io, struct raft_io_async_work *req,
                            raft_io_async_work_cb cb)
{
    struct raft_guard *g = guard_of(io);
    return guard_result(g, g->inner->async_work(g->inner, req, cb));
}

void raft_guard_init(struct raft_guard *g, struct raft *raft, struct raft_io *inner)
{
    *g = (struct raft_guard){.raft = raft, .inner = inner};
    g->io = (struct raft_io){
        .version = inner->version,
        .impl = inner->impl,
        .init = guard_init,
        .close = guard_close,
        .load = guard_load,
        .start = guard_start,
        .bootstrap = guard_bootstrap,
        .recover = guard_recover,
        .set_term = guard_set_term,
        .set_vote = guard_set_vote,
        .send = guard_send,
        .append = guard_append,
        .truncate = guard_truncate,
        .snapshot_put = guard_snapshot_put,
        .snapshot_get = guard_snapshot_get,
        .time = guard_time,
        .random = guard_random,
        .async_work = guard_async_work,
    };
    inner->data = g;
}

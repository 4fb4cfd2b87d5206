#include "osd/pg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * The OSD as a whole. Its life:
 *
 *   open the store (the boot number becomes the incarnation)
 *     -> register the incarnation through Raft -> the map shows it: promise every PG's epoch, serve
 * (R3)
 *     -> stop: give leases back, finish; the node then tells Raft that this incarnation is gone
 *
 * A tick of 20 ms drives what waits for time: leases, legs that are late, rounds to be tried again.
 * Everything else is driven by messages and completions.
 */

enum { TICK_MS = 20, LEASE_RENEW_MS = 500, REGISTER_RETRY_MS = 500, PURGE_SCAN_MAX = 256 };
enum { WRITE_RECORD_BYTES = 512 }; /* of the log, that a write takes at most */

static const char *const mutant_names[OSD_MUTANT_COUNT] = {
    [OSD_MUTANT_NONE] = "none",
    [OSD_MUTANT_NO_LEASE_WAIT] = "no-lease-wait",
    [OSD_MUTANT_NO_BOOT_GRANT] = "no-boot-grant",
    [OSD_MUTANT_NO_LEASE_CHECK] = "no-lease-check",
    [OSD_MUTANT_READ_DURING_WRITE] = "read-during-write",
    [OSD_MUTANT_ACK_BEFORE_ALL] = "ack-before-all",
    [OSD_MUTANT_ACK_BEFORE_SHRINK] = "ack-before-shrink",
    [OSD_MUTANT_NO_INCARNATION] = "no-incarnation-check",
    [OSD_MUTANT_NO_FENCE] = "no-fence",
    [OSD_MUTANT_NO_RECONCILE] = "no-reconcile",
    [OSD_MUTANT_STABLE_TOO_HIGH] = "stable-too-high",
    [OSD_MUTANT_LEFTOVERS_STAY] = "leftovers-stay",
    [OSD_MUTANT_COPY_UNLOCKED] = "copy-unlocked",
    [OSD_MUTANT_JOINER_NOT_NEEDED] = "joiner-not-needed",
    [OSD_MUTANT_NO_DEDUP] = "no-dedup",
    [OSD_MUTANT_PURGE_JOINING] = "purge-joining",
};

const char *osd_mutant_name(enum osd_mutant m)
{
    check(m < OSD_MUTANT_COUNT);
    return mutant_names[m];
}

bool osd_mutated(const struct osd *o, enum osd_mutant m)
{
    return o->config.mutant == (uint32_t)m;
}

/* ---- Looking things up ---- */

uint32_t osd_incarnation_of(const struct osd *o, uint32_t osd)
{
    const struct map_osd *row = o->map != NULL ? map_osd(o->map, osd) : NULL;

    return row != NULL && row->up ? row->incarnation : 0;
}

bool osd_is_up(const struct osd *o, uint32_t osd)
{
    return osd_incarnation_of(o, osd) != 0;
}

bool osd_image_is_gone(const struct osd *o, uint64_t image)
{
    return image <= o->map->image_last && map_image(o->map, image) == NULL;
}

struct osd_pg *osd_pg_find(struct osd *o, uint64_t id)
{
    struct hash_link *l = hash_find(&o->pgs, id);

    return l != NULL ? container_of(l, struct osd_pg, by_id) : NULL;
}

static struct osd_floor *osd_floor_of(struct osd *o, uint64_t pg, uint64_t client)
{
    uint64_t key = mix64(pg) ^ client;
    struct osd_floor *f = NULL;

    for (struct hash_link *l = hash_find(&o->floors, key); l != NULL; l = hash_next(l)) {
        struct osd_floor *candidate = container_of(l, struct osd_floor, by_key);
        if (candidate->pg == pg && candidate->client == client)
            f = candidate;
    }
    if (f == NULL) { /* once for each client and PG */
        f = mem_zalloc(sizeof(*f));
        f->pg = pg;
        f->client = client;
        list_init(&f->link);
        list_push(&o->floors_list, &f->link);
        hash_insert(&o->floors, &f->by_key, key);
    }
    return f;
}

uint64_t osd_floor(struct osd *o, uint64_t pg, uint64_t client, uint64_t floor)
{
    struct osd_floor *f = osd_floor_of(o, pg, client);

    if (floor <= f->floor)
        return f->floor;
    if (floor - f->floor >= WIRE_OSD_WINDOW)
        memset(f->nothings, 0, sizeof(f->nothings));
    else
        for (uint64_t seq = f->floor; seq < floor; seq++)
            f->nothings[seq % WIRE_OSD_WINDOW / 64] &= ~(1ull << (seq % 64));
    f->floor = floor;
    store_dedup_floor(o->store, pg, client, floor);
    return floor;
}

void osd_note_nothing(struct osd *o, uint64_t pg, uint64_t client, uint64_t seq)
{
    osd_floor_of(o, pg, client)->nothings[seq % WIRE_OSD_WINDOW / 64] |= 1ull << (seq % 64);
}

bool osd_was_nothing(struct osd *o, uint64_t pg, uint64_t client, uint64_t seq)
{
    const struct osd_floor *f = osd_floor_of(o, pg, client);

    return (f->nothings[seq % WIRE_OSD_WINDOW / 64] >> (seq % 64) & 1) != 0;
}

/* Fenced clients: nothing of theirs can come any more, so their dedup records are of no use. */
static void osd_forget_clients(struct osd *o)
{
    for (struct list *pos = o->floors_list.next, *next; pos != &o->floors_list; pos = next) {
        struct osd_floor *f = container_of(pos, struct osd_floor, link);
        next = pos->next;
        if (!map_client_is_fenced(o->map, f->client))
            continue;
        store_dedup_floor(o->store, f->pg, f->client, UINT64_MAX);
        list_remove(&f->link);
        hash_remove(&o->floors, &f->by_key);
        free(f);
    }
}

/*
 * A twentieth of the store, at least 16 MiB, at most a quarter: for what was sent and must be
 * carried through, and half of it for recovery. Many small objects use up the log before the slots,
 * so of that an eighth is kept too.
 */
bool osd_has_room(struct osd *o, enum osd_room what)
{
    struct store_status st;

    store_status(o->store, &st);
    uint64_t data = st.data_bytes / 20, log = st.log_bytes / 8;
    if (data < 16 << 20)
        data = 16 << 20;
    if (data > st.data_bytes / 4)
        data = st.data_bytes / 4;
    if (what == OSD_ROOM_RECOVERY) {
        data /= 2;
        log -= log / 4;
    } else if (what == OSD_ROOM_IN_PLACE) {
        data = STORE_OBJECT_MAX;
        log /= 2;
    }
    uint64_t records = (uint64_t)o->writes_pool.used * WRITE_RECORD_BYTES;
    return st.free_bytes > data + o->queued_bytes && st.log_free_bytes > log + records;
}

/* ---- Registration ---- */

static void osd_on_registered(struct meta_call *c)
{
    struct osd *o = container_of(c, struct osd, register_call);

    o->registering = false;
    if (c->result.code == -ESTALE || c->result.code == -EPERM)
        osd_fail(o, c->result.code, c->result.message);
}

static void osd_register(struct osd *o)
{
    if (o->registering || o->failed || o->stopping || !o->opened)
        return;
    o->registering = true;
    o->register_call = (struct meta_call){
        .loop = o->loop,
        .command =
            {
                .kind = META_OSD_UP,
                .osd = o->config.id,
                .node = o->config.node,
                .incarnation = o->incarnation,
            },
        .deadline_ns = loop_now(o->loop) + 10 * NS_PER_S,
        .done = osd_on_registered,
    };
    struct store_status st;
    store_status(o->store, &st);
    o->register_call.command.size = st.data_bytes;
    o->config.meta->submit(o->config.meta, &o->register_call);
}

/* What the map says about ourselves. */
static void osd_look_at_self(struct osd *o)
{
    const struct map_osd *self = map_osd(o->map, o->config.id);

    if (self == NULL || o->stopping) /* told the cluster that it goes: "dead" is the answer */
        return;
    if (osd_mutated(o, OSD_MUTANT_NO_INCARNATION) && self->up && !o->registered) {
        o->incarnation = self->incarnation;
        net_set_incarnation(o->net, o->incarnation);
    }
    if (self->incarnation > o->incarnation) {
        osd_fail(o, -ESTALE, "a newer incarnation of this OSD is registered");
        return;
    }
    if (self->incarnation == o->incarnation && self->dead_incarnation >= o->incarnation) {
        osd_fail(o, -ESTALE, "this incarnation was declared dead; the OSD must be started again");
        return;
    }
    if (self->incarnation == o->incarnation && self->up && !o->registered) {
        o->registered = true;
        log_info(o->name, "serving incarnation=%u", o->incarnation);
        if (o->config.serving != NULL)
            o->config.serving(o->config.arg, o->config.id, o->incarnation);
    }
}

/* ---- Maps ---- */

static struct osd_pg *osd_pg_of_row(struct osd *o, const struct map_pg *row)
{
    struct osd_pg *pg = osd_pg_find(o, row->id);

    if (pg != NULL)
        return pg;
    pg = osd_pg_create(o, row->id);
    struct list *at = &o->pgs_list; /* kept in order of ids; rows come in that order */
    while (at->prev != &o->pgs_list && container_of(at->prev, struct osd_pg, link)->id > pg->id)
        at = at->prev;
    list_push(at, &pg->link);
    return pg;
}

void osd_want_purge(struct osd *o)
{
    o->purge_wanted = true;
    o->purge_again = true;
}

static void osd_on_map(struct map_feed *f, const struct map *map)
{
    struct osd *o = container_of(f, struct osd, feed);

    o->map = map;
    net_kick(o->net);
    osd_look_at_self(o);
    for (uint32_t i = 0; i < map->pgs_count && !o->failed; i++) {
        const struct map_pg *row = &map->pgs[i];
        const struct map_pool *pool = map_pool(map, (uint32_t)(row->id >> 32));
        if (pool == NULL)
            continue;
        struct osd_pg *pg = osd_pg_of_row(o, row);
        bool was_foreign = pg->foreign;
        osd_pg_view(pg, row, pool, map->revision);
        if (pg->foreign && !was_foreign)
            osd_want_purge(o);
    }
    if (map->image_last != o->image_last_seen || map->images_count != o->images_count_seen) {
        osd_want_purge(o);
        o->image_last_seen = map->image_last;
        o->images_count_seen = map->images_count;
    }
    osd_forget_clients(o);
    loop_wake(o->loop, &o->task);
}

/* ---- Proposals: of many PGs in one entry ---- */

static void osd_on_proposed(struct meta_call *c)
{
    struct osd *o = container_of(c, struct osd, propose_call);
    uint64_t now = loop_now(o->loop);

    o->proposing = false;
    for (uint32_t i = 0; i < o->changes_count; i++) {
        struct osd_pg *pg = osd_pg_find(o, o->changes[i].pg);
        pg->change_sent = false;
        pg->change_ns = now;
        pg->change_revision = c->result.code == 0 ? c->result.revision : 0;
        osd_pg_wake(pg);
    }
    osd_pg_wake_proposers(o);
}

static void osd_propose(struct osd *o)
{
    if (o->proposing || o->failed)
        return;
    o->changes_count = 0;
    list_for_each (pos, &o->pgs_list) {
        struct osd_pg *pg = container_of(pos, struct osd_pg, link);
        if (!pg->change_wanted || o->changes_count == META_LIST_MAX)
            continue;
        pg->change_wanted = false;
        pg->change_sent = true;
        o->changes[o->changes_count++] = pg->change;
    }
    if (o->changes_count == 0)
        return;
    o->proposing = true;
    o->propose_call = (struct meta_call){
        .loop = o->loop,
        .command =
            {
                .kind = META_PG_CHANGE,
                .list_count = o->changes_count,
                .changes = o->changes,
            },
        .deadline_ns = loop_now(o->loop) + 3 * NS_PER_S,
        .done = osd_on_proposed,
    };
    o->config.meta->submit(o->config.meta, &o->propose_call);
}

void osd_pg_wake_proposers(struct osd *o)
{
    loop_wake(o->loop, &o->task);
}

/* ---- Objects of deleted images, and of PGs that moved away ---- */

struct osd_purge {
    struct store_write write;
    struct osd *osd;
    struct osd_pg *pg;
    struct store_cursor cursor;
    bool busy;
};

static void purge_on_done(struct store_write *w)
{
    struct osd_purge *p = container_of(w, struct osd_purge, write);

    p->busy = false;
    osd_pg_store_done(p->pg);
    loop_wake(p->osd->loop, &p->osd->task);
}

static bool purge_is_due(struct osd *o, const struct osd_pg *pg, const struct store_object *object)
{
    if (!pg->foreign && !osd_image_is_gone(o, object->id.image))
        return false;
    if (osd_object_find(o, &object->id) == NULL)
        return true;
    o->purge_again = true; /* somebody still has to do with it */
    return false;
}

/* The next PG in the list, or none: then the pass is over. */
static void purge_next_pg(struct osd_purge *p)
{
    struct osd *o = p->osd;
    struct list *next = p->pg == NULL ? o->pgs_list.next : p->pg->link.next;

    p->pg = next == &o->pgs_list ? NULL : container_of(next, struct osd_pg, link);
    if (p->pg != NULL)
        p->cursor = (struct store_cursor){.pg = p->pg->id};
    else
        o->purge_wanted = o->purge_again; /* what came up behind the pass */
}

/*
 * An image that is gone from the state never comes back (ids are not reused), so each OSD drops its
 * objects by itself; a late write that brings one back is found by a later pass. Some objects a
 * turn.
 */
static void osd_purge_step(struct osd *o)
{
    struct osd_purge *p = o->purge;
    struct store_object object;

    if (!o->purge_wanted || p->busy || !o->registered)
        return;
    if (p->pg == NULL) {
        o->purge_again = false;
        purge_next_pg(p);
    }
    for (uint32_t i = 0; p->pg != NULL && i < PURGE_SCAN_MAX; i++) {
        if (store_list(o->store, p->pg->id, 0, &p->cursor, &object, 1) == 0) {
            if (p->cursor.ended)
                purge_next_pg(p);
            continue;
        }
        if (!purge_is_due(o, p->pg, &object))
            continue;
        p->busy = true;
        if (p->pg->foreign)
            p->pg->purged = p->pg->view.epoch;
        p->pg->store_busy++;
        p->write = (struct store_write){
            .kind = STORE_PURGE,
            .id = object.id,
            .pg = p->pg->id,
            .done = purge_on_done,
        };
        store_write_start(o->store, &p->write);
        return;
    }
}

/* ---- Requests ---- */

static bool osd_sender_is_old(const struct osd *o, const struct rpc_request *req)
{
    const struct map_osd *row = map_osd(o->map, (uint32_t)net_endpoint_id(req->from));

    return row != NULL && row->incarnation > req->from_incarnation;
}

static void osd_handle_member(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    if (!osd_pg_promise(pg, req->epoch)) {
        o->counters.epochs_refused_total++;
        rpc_reply_status(req, -EAGAIN);
        return;
    }
    switch (req->kind) {
    case WIRE_SUB_WRITE:
        osd_sub_handle(o, pg, req);
        return;
    case WIRE_QUERY:
        osd_query_handle(o, pg, req);
        return;
    case WIRE_LIST:
        osd_list_handle(o, pg, req);
        return;
    case WIRE_FETCH:
        osd_fetch_handle(o, pg, req);
        return;
    case WIRE_PUSH:
        osd_push_handle(o, pg, req);
        return;
    default:
        rpc_reply_status(req, -EOPNOTSUPP);
        return;
    }
}

static void osd_handle_osd(struct osd *o, struct rpc_request *req)
{
    if (net_endpoint_kind(req->from) != NET_OSD) {
        rpc_reply_status(req, -EPERM);
    } else if (osd_sender_is_old(o, req)) {
        rpc_reply_status(req, -ESTALE);
    } else if (req->kind == WIRE_LEASE) {
        osd_lease_handle(o, req);
    } else if (req->kind == WIRE_RELEASE) {
        osd_release_handle(o, req);
    } else {
        struct osd_pg *pg = osd_pg_find(o, req->pg);
        if (pg == NULL)
            rpc_reply_status(req, -EAGAIN);
        else
            osd_handle_member(o, pg, req);
    }
}

static void osd_handle_client(struct osd *o, struct rpc_request *req)
{
    struct osd_pg *pg = osd_pg_find(o, req->pg);

    if (pg == NULL)
        rpc_reply_status(req, -EAGAIN);
    else if (req->kind == WIRE_OSD_READ)
        osd_read_handle(o, pg, req);
    else if (req->kind == WIRE_OSD_WRITE || req->kind == WIRE_OSD_ZERO)
        osd_write_handle(o, pg, req);
    else
        rpc_reply_status(req, -EOPNOTSUPP);
}

void osd_handle(void *osd, struct rpc_request *req)
{
    struct osd *o = osd;

    if (!o->registered || o->failed || o->stopping || o->map == NULL)
        rpc_reply_status(req, -EAGAIN);
    else if (req->kind <= WIRE_OSD_CLIENT_LAST)
        osd_handle_client(o, req);
    else
        osd_handle_osd(o, req);
}

/* ---- Peers ---- */

static struct osd_peer *osd_peer(struct osd *o, uint32_t id)
{
    if (id >= o->peers_count) {
        uint32_t count = id + 16;
        o->peers = mem_realloc(o->peers, count * sizeof(*o->peers));
        memset(o->peers + o->peers_count, 0, (count - o->peers_count) * sizeof(*o->peers));
        o->peers_count = count;
    }
    return &o->peers[id];
}

/* The answer is by one map: the address, and the incarnation that was registered there. */
int osd_resolve(void *osd, net_endpoint e, struct loop_addr *out)
{
    struct osd *o = osd;
    const struct map_osd *row = NULL;
    const struct map_node *node = NULL;

    if (o->map != NULL && net_endpoint_kind(e) == NET_OSD)
        row = map_osd(o->map, (uint32_t)net_endpoint_id(e));
    if (row != NULL)
        node = map_node(o->map, row->node);
    if (node == NULL)
        return -ENOENT;
    osd_peer(o, row->id)->incarnation = row->incarnation;
    *out = node->addr;
    return 0;
}

/*
 * A refused connection lets the next primary skip its wait (R7), so it is reported of the
 * incarnation that was registered at the address that was tried: the newest map may already name
 * its successor.
 */
void osd_peer_lost(void *osd, net_endpoint e, uint32_t incarnation, int why)
{
    struct osd *o = osd;
    uint32_t id = (uint32_t)net_endpoint_id(e);

    if (net_endpoint_kind(e) != NET_OSD || id >= o->peers_count)
        return;
    if (why == -ECONNREFUSED)
        incarnation = o->peers[id].incarnation;
    if (incarnation != 0)
        o->config.meta->report(o->config.meta, id, incarnation, why == -ECONNREFUSED);
}

/* ---- Time ---- */

static void osd_tick_pg(struct osd_pg *pg, uint64_t now)
{
    bool busy = pg->peering != NULL || pg->recovery != NULL ||
                (pg->acting && (pg->view.set_count > pg->replicas || osd_recovery_candidate(pg)));

    if (busy)
        osd_pg_wake(pg);
    osd_writes_tick(pg, now);
}

static void osd_on_tick(struct loop_timer *t)
{
    struct osd *o = container_of(t, struct osd, tick);
    uint64_t now = loop_now(o->loop);

    if (o->failed)
        return;
    list_for_each (pos, &o->pgs_list)
        osd_tick_pg(container_of(pos, struct osd_pg, link), now);
    loop_wake(o->loop, &o->task);
    loop_timer_start(o->loop, &o->tick, now + TICK_MS * NS_PER_MS);
}

static void osd_keep_registered(struct osd *o)
{
    const struct map_osd *self = o->map != NULL ? map_osd(o->map, o->config.id) : NULL;

    if (o->opened && self != NULL && (!self->up || self->incarnation < o->incarnation))
        osd_register(o);
}

static bool osd_is_idle(struct osd *o)
{
    list_for_each (pos, &o->pgs_list) {
        struct osd_pg *pg = container_of(pos, struct osd_pg, link);
        if (pg->store_busy > 0 || !list_empty(&pg->writes) || !list_empty(&pg->reads))
            return false;
    }
    return !o->registering && !o->proposing;
}

/* Nothing of this incarnation is served any more: whoever asked for the stop may tell the cluster
 * so. */
static void osd_leave(struct osd *o)
{
    struct loop_msg *msg = o->stop_msg;

    if (msg == NULL || !osd_is_idle(o))
        return;
    o->stop_msg = NULL;
    loop_post(o->stop_to, msg);
}

static void osd_step(struct task *task)
{
    struct osd *o = container_of(task, struct osd, task);
    uint64_t now = loop_now(o->loop);

    if (o->failed || !o->opened)
        return;
    if (o->stopping) {
        osd_leave(o);
        return;
    }
    osd_keep_registered(o);
    if (o->registered && now >= o->lease_next_ns) {
        o->lease_next_ns = now + LEASE_RENEW_MS * NS_PER_MS;
        osd_leases_request(o);
    }
    osd_propose(o);
    osd_purge_step(o);
    if (o->registered)
        osd_repairs_step(o);
}

/* ---- Life ---- */

static void osd_reset_all(struct osd *o)
{
    list_for_each (pos, &o->pgs_list)
        osd_pg_reset(container_of(pos, struct osd_pg, link));
}

void osd_fail(struct osd *o, int error, const char *why)
{
    if (o->failed)
        return;
    o->failed = true;
    log_error(o->name, "failed, serves nothing any more: %s error=%d", why, error);
    osd_reset_all(o);
    if (o->config.failed != NULL)
        o->config.failed(o->config.arg, o->config.id, error, why);
}

static void osd_on_store_failed(void *arg, int error, const char *what)
{
    osd_fail(arg, error, what);
}

static void osd_on_scrub_bad(void *arg, const struct store_id *id, uint64_t pg, uint32_t block,
                             int error)
{
    (void)block, (void)error;
    osd_repair_note(arg, id, pg);
}

static void osd_on_opened(struct store_open *open)
{
    struct osd *o = container_of(open, struct osd, opening);

    if (open->result != 0) {
        osd_fail(o, open->result, open->error);
        return;
    }
    o->store = open->store;
    o->incarnation = open->incarnation;
    o->opened = true;
    net_set_incarnation(o->net, o->incarnation);
    o->feed.loop = o->loop;
    o->feed.on_map = osd_on_map;
    o->config.meta->feed_add(o->config.meta, &o->feed);
    loop_timer_start(o->loop, &o->tick, loop_now(o->loop));
}

static void osd_init_pools(struct osd *o)
{
    pool_init(&o->writes_pool, OSD_WRITES_MAX, sizeof(struct osd_write), 64);
    pool_init(&o->reads_pool, OSD_READS_MAX, sizeof(struct osd_read), 64);
    pool_init(&o->subs_pool, OSD_SUBS_MAX, sizeof(struct osd_sub), 64);
    pool_init(&o->objects_pool, OSD_OBJECTS_MAX, sizeof(struct osd_object), 64);
    pool_init(&o->copies_pool, OSD_COPIES_MAX, sizeof(struct osd_copy), 64);
    pool_init(&o->merges_pool, OSD_MERGES_MAX, STORE_OBJECT_MAX, STORE_BLOCK);
    pool_init(&o->copy_data_pool, OSD_COPIES_MAX, STORE_OBJECT_MAX, STORE_BLOCK);
    pool_init(&o->copy_body_pool, OSD_COPIES_MAX, NET_BODY_MAX, STORE_BLOCK);
    hash_init(&o->pgs, 256);
    hash_init(&o->objects, OSD_OBJECTS_MAX);
    hash_init(&o->floors, 1024);
    list_init(&o->pgs_list);
    list_init(&o->floors_list);
    list_init(&o->releases);
    list_init(&o->peerings_leaving);
    list_init(&o->recoveries_leaving);
}

int osd_open(const struct osd_config *config, struct osd **out)
{
    struct osd *o = mem_zalloc(sizeof(*o));

    o->config = *config;
    o->loop = config->loop;
    o->net = config->net;
    o->boot_ns = loop_now(o->loop);
    o->lease_ns = (config->lease_ms != 0 ? config->lease_ms : 3000) * NS_PER_MS;
    o->subwrite_ns =
        (config->subwrite_timeout_ms != 0 ? config->subwrite_timeout_ms : 1200) * NS_PER_MS;
    snprintf(o->name, sizeof(o->name), "osd.%u", config->id);
    osd_init_pools(o);
    task_init(&o->task, osd_step);
    loop_timer_init(&o->tick, osd_on_tick);
    o->changes = mem_zalloc(META_LIST_MAX * sizeof(*o->changes));
    o->purge = mem_zalloc(sizeof(*o->purge));
    o->purge->osd = o;
    o->purge_wanted = true; /* images may have been deleted while we were away */
    o->opening = (struct store_open){
        .config =
            {
                .loop = o->loop,
                .path = config->path,
                .osd = config->id,
                .failed = osd_on_store_failed,
                .arg = o,
                .scrub_period_s = config->scrub_period_s,
                .scrub_rate = config->scrub_rate,
                .scrub_bad = osd_on_scrub_bad,
                .discard = config->discard,
            },
        .done = osd_on_opened,
    };
    memcpy(o->opening.config.cluster, config->cluster, sizeof(config->cluster));
    store_open_start(&o->opening);
    *out = o;
    return 0;
}

void osd_stop(struct osd *o, struct loop *to, struct loop_msg *done_msg)
{
    o->stopping = true;
    o->stop_to = to;
    o->stop_msg = done_msg;
    if (o->failed || !o->opened) {
        o->stop_msg = NULL;
        loop_post(to, done_msg);
        return;
    }
    osd_reset_all(o);
    loop_wake(o->loop, &o->task);
}

void osd_close(struct osd *o)
{
    while (!list_empty(&o->pgs_list)) {
        struct osd_pg *pg = container_of(list_pop(&o->pgs_list), struct osd_pg, link);
        hash_remove(&o->pgs, &pg->by_id);
        osd_pg_free(pg);
    }
    osd_peerings_free(o);
    osd_recoveries_free(o);
    osd_leases_free(o);
    for (struct list *l = list_pop(&o->floors_list); l != NULL; l = list_pop(&o->floors_list))
        free(container_of(l, struct osd_floor, link));
    if (o->store == NULL)
        o->store = o->opening.store; /* its loop died before it was open */
    if (o->store != NULL)
        store_close(o->store);
    struct pool *pools[] = {&o->writes_pool,    &o->reads_pool,    &o->subs_pool,
                            &o->objects_pool,   &o->copies_pool,   &o->merges_pool,
                            &o->copy_data_pool, &o->copy_body_pool};
    for (size_t i = 0; i < COUNT_OF(pools); i++)
        pool_deinit(pools[i]);
    hash_deinit(&o->pgs);
    hash_deinit(&o->objects);
    hash_deinit(&o->floors);
    free(o->peers);
    free(o->changes);
    free(o->purge);
    free(o);
}

void osd_status(struct osd *o, struct osd_status *out)
{
    *out = o->counters;
    out->id = o->config.id;
    out->incarnation = o->incarnation;
    out->registered = o->registered;
    out->failed = o->failed;
    if (o->store != NULL)
        store_status(o->store, &out->store);
    out->full = o->store != NULL && !osd_has_room(o, OSD_ROOM_NEW);
    list_for_each (pos, &o->pgs_list) {
        struct osd_pg *pg = container_of(pos, struct osd_pg, link);
        out->pgs_primary += pg->mine;
        out->pgs_active += osd_pg_acting(pg);
        out->pgs_recovering += pg->recovery != NULL;
        out->recovery_objects_left += osd_recovery_left(pg);
    }
}

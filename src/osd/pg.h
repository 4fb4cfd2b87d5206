/*
 * Inside the OSD: the structs its files share. One file for each duty of a PG:
 *
 *   osd.c      the OSD as a whole: open, register, maps, dispatch, tick, stop
 *   pg.c       a PG as a party: promise (R3), reign, who is needed, proposals, W (R8)
 *   object.c   locks and queues of the objects that something is happening to
 *   write.c    client writes at the primary (R2, R10)
 *   read.c     client reads at the primary (R7)
 *   member.c   what a member does for a primary: sub-writes, lists, fetches, pushes
 *   lease.c    asking for leases, granting them, giving them back (R7)
 *   copy.c     one object's whole state on its way from one OSD to others
 *   peering.c  activation of a new primary (R6)
 *   recovery.c bringing one member up to date, and GROW (R8, R9)
 *   repair.c   objects that our own device does not give back
 *
 * Everything here runs on the OSD's loop.
 */

#ifndef OSD_PG_H
#define OSD_PG_H

#include "base/crc32c.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/prng.h"
#include "osd/osd.h"
#include "osd/wire.h"

enum {
    OSD_MEMBERS_MAX = META_REPLICAS_MAX + 1, /* S and one pending add */
    OSD_GRANTS_MAX = 8,
    OSD_WRITES_MAX = 512,
    OSD_READS_MAX = 512,
    OSD_SUBS_MAX = 2048,
    OSD_OBJECTS_MAX = 4096,
    OSD_COPIES_MAX = 24,   /* of these, by duty: */
    OSD_COPIES_SERVE = 8,  /* fetches and pushes answered for others */
    OSD_COPIES_PER_PG = 4, /* activation or recovery of one PG */
    OSD_MERGES_MAX = 64,   /* writes that do not cover whole blocks, at once */
    OSD_BAD_MAX = 8,       /* objects of a PG that are remembered as lost */
    OSD_ROTTEN_MAX = 256,  /* objects that scrub found, to be mended */
    OSD_SESSIONS_MAX = 8,  /* PGs in recovery at once */
    OSD_SESSIONS_MOVE = 4, /* of them moves */
    OSD_DEDUPS_MAX = 4096, /* dedup records of one object in one message */
    OSD_LIST_CHUNK = 64 << 10,
    OSD_STATE_BYTES_MAX = WIRE_STATE_SIZE + 4 * STORE_BLOCKS_MAX + WIRE_DEDUP_SIZE * OSD_DEDUPS_MAX,
};

static_assert(WIRE_PUSH_HEAD + OSD_STATE_BYTES_MAX <= NET_BODY_MAX,
              "an object's state fits a body");

static inline uint64_t osd_version(uint32_t epoch, uint32_t seq)
{
    return (uint64_t)epoch << 32 | seq;
}

struct osd_pg;
struct osd_object;
struct osd_peering;
struct osd_recovery;

/* ---- Who uses an object ---- */

/*
 * Anything that needs an object: a client's read or write, a copy of recovery.
 * Uses of one object begin in order of arrival; object.c says which may overlap.
 */
enum osd_use_kind {
    OSD_USE_READ,  /* not of a range with a write in flight */
    OSD_USE_WRITE, /* whole blocks: may be pipelined behind other writes */
    OSD_USE_MERGE, /* of part of a block, then a WRITE: it reads what it then writes */
    OSD_USE_COPY,  /* of one version: no write meanwhile */
};

struct osd_use {
    enum osd_use_kind kind;
    uint32_t offset, len;
    struct osd_object *object;
    struct list link; /* in object.waiting or object.active */
    bool begun;
    void (*begin)(struct osd_use *u);              /* its turn has come: wakes */
    void (*refuse)(struct osd_use *u, int status); /* the reign ended while it waited: wakes */
};

struct osd_object {
    struct hash_link by_id;
    struct store_id id;
    struct osd_pg *pg;
    struct list waiting;
    struct list active;
};

/* ---- Client write at the primary ---- */

enum osd_write_state {
    OSD_WRITE_QUEUED,      /* its turn at the object */
    OSD_WRITE_MERGING,     /* the blocks it covers in part, from the store */
    OSD_WRITE_REPLICATING, /* its own store and every needed member */
    OSD_WRITE_LEAVING,     /* answered: legs and store that still hold its memory */
};

struct osd_leg {
    struct osd_write *write;
    uint32_t osd;
    bool acked, in_flight, refused;
    uint64_t retry_ns; /* 0: at once */
    struct rpc_call call;
};

struct osd_write {
    struct osd *osd;
    struct osd_pg *pg;
    struct task task;
    struct osd_use use;
    struct list link; /* in pg.writes, in order of arrival; versions only grow along it */
    enum osd_write_state state;
    struct rpc_request *req; /* NULL once answered */
    struct rpc_request *retry;
    struct wire_osd_io io;
    bool zero, partial, local_started, local_done, refused;
    int refuse_status;
    int merge_result;
    uint32_t merges_left;
    uint32_t block_offset, block_len; /* io's range in whole blocks */
    uint32_t room;                    /* its part of osd.queued_bytes */
    uint8_t *data;                    /* the request's, or merge */
    uint8_t *merge;
    uint64_t version, previous;
    uint64_t started_ns, sent_ns;
    uint32_t legs_count;
    struct osd_leg legs[OSD_MEMBERS_MAX];
    struct iovec iov;
    struct store_read edge[2];
    struct store_write sw;
    uint32_t crcs[STORE_BLOCKS_MAX];
    uint32_t body_len;
    uint8_t body[WIRE_SUB_WRITE_SIZE + 4 * STORE_BLOCKS_MAX];
};

/* ---- Client read at the primary ---- */

struct osd_read {
    struct osd *osd;
    struct osd_pg *pg;
    struct task task;
    struct osd_use use;
    struct list link; /* in pg.reads */
    struct rpc_request *req;
    struct wire_osd_io io;
    uint8_t *buf;
    bool begun, refused, done;
    int refuse_status;
    struct store_read sr;
    uint32_t crcs[STORE_BLOCKS_MAX];
    uint8_t body[4 * WIRE_OSD_PIECES_MAX];
};

/* ---- Sub-write at a member ---- */

struct osd_sub {
    struct osd *osd;
    struct osd_pg *pg;
    struct task task;
    struct list link; /* in pg.subs */
    struct rpc_request *req;
    struct store_write sw;
    uint32_t crcs[STORE_BLOCKS_MAX];
};

/* ---- An object's whole state, on its way ---- */

struct osd_state {
    struct store_id id;
    uint64_t version;
    bool deleted;
    uint32_t blocks;
    uint32_t dedups_count;
    uint64_t dedup_above;
    uint64_t present[STORE_BLOCKS_MAX / 64];
    uint32_t crcs[STORE_BLOCKS_MAX];
    struct store_dedup dedups[OSD_DEDUPS_MAX];
};

enum osd_copy_state {
    OSD_COPY_LOCKING,   /* its turn at the object (recovery) */
    OSD_COPY_FETCHING,  /* the state from another OSD */
    OSD_COPY_READING,   /* the blocks from the own store */
    OSD_COPY_REPLACING, /* the own store, to hold the state */
    OSD_COPY_PUSHING,   /* every target, to hold the state */
    OSD_COPY_ANSWERING, /* the net, to be done with the answer */
    OSD_COPY_DONE,
};

struct osd_copy_leg {
    struct osd_copy *copy;
    uint32_t osd;
    int result; /* 1 while in flight */
    struct rpc_call call;
};

struct osd_copy {
    struct osd *osd;
    struct osd_pg *pg;
    struct task task;
    struct osd_use use;
    struct list link; /* in pg.copies */
    enum osd_copy_state state;
    bool serving;  /* for another OSD (a fetch or a push); else for our own peering or recovery */
    bool locked;   /* uses the object alone */
    bool replace;  /* the own store lacks it */
    bool repair;   /* the own store cannot read it (repair.c) */
    bool scrubbed; /* … as scrub found out */
    bool refused;
    uint32_t from;  /* OSD to fetch from; 0: the own store has it */
    uint32_t how;   /* WIRE_PUSH_* */
    uint32_t epoch; /* it was started in */
    int result;
    uint32_t waits;
    uint32_t legs_count;
    struct osd_copy_leg legs[OSD_MEMBERS_MAX];
    struct rpc_request *req;
    struct rpc_call fetch;
    struct store_read sr;
    struct store_write sw;
    struct iovec iov;
    void (*done)(struct osd_copy *c); /* wakes; the copy is the owner's to osd_copy_put() */
    void *owner;
    const struct store_dedup *add; /* dedup records that the state must have too (activation) */
    uint32_t add_count;
    struct osd_state st;
    uint8_t *data; /* STORE_OBJECT_MAX */
    uint8_t *body; /* NET_BODY_MAX */
};

/* ---- Leases ---- */

struct osd_grant { /* given to others (R6a) */
    uint32_t osd, incarnation;
    uint32_t epoch;
    uint64_t ns;
};

/* An object that no copy of S gave back so far (repair.c). */
struct osd_bad {
    struct store_id id;
    uint32_t tries; /* since a repair of it went well; 0: none */
};

/* An object that scrub found a bad block in, until it is mended (repair.c). */
struct osd_rotten {
    struct store_id id;
    uint64_t pg;
    uint64_t next_ns;
    uint32_t tries;
};

struct osd_lease { /* got from others (R7) */
    uint32_t osd;
    uint64_t sent_ns; /* 0: none */
    bool full;        /* its store has no room beyond its reserve */
};

/* ---- A PG ---- */

struct osd_pg {
    struct osd *osd;
    struct hash_link by_id;
    struct list link; /* in osd.pgs_list, by id */
    uint64_t id;
    struct task task;

    /* What the cluster state says: the newest view. */
    struct map_pg view;
    uint64_t view_revision;
    uint32_t replicas, min_size, object_size;

    /* As a member. */
    uint32_t promised;   /* R3: nothing of a lower epoch is started or acked */
    uint64_t stable;     /* W as heard; osd_pg_known() adds what Raft says */
    uint64_t push_last;  /* number of the last push applied, in this incarnation */
    uint32_t store_busy; /* writes of this PG in the own store, whoever they are for */
    bool foreign;        /* nothing of it belongs here any more: its objects go */
    uint32_t joins;      /* R9: highest epoch in which somebody was bringing us up to date */
    uint32_t purged;     /* highest epoch in which objects of it were dropped as foreign */
    struct list subs;
    struct list draining; /* struct osd_sub of a query or list: waits for store_busy == 0 */
    uint32_t grants_count;
    struct osd_grant grants[OSD_GRANTS_MAX];
    uint64_t grant_unknown_ns; /* of grants that may have been given before boot, or did not fit; 0:
                                  none */

    /* As primary: the reign. */
    bool mine;   /* the view names this OSD, in this incarnation */
    bool acting; /* activated by us and not deposed */
    uint32_t seq;
    uint64_t version_last;
    struct list writes; /* struct osd_write, queued ones too */
    struct list reads;
    struct list copies;
    uint32_t push_counter;
    struct osd_lease leases[OSD_MEMBERS_MAX];
    uint32_t pending_add; /* OSD that has everything and is needed from now on; 0: none (R9) */
    struct osd_peering *peering;
    struct osd_recovery *recovery;
    uint64_t recovery_retry_ns;
    uint32_t courted, courted_epoch; /* who was last begun to be brought up to date, and when */
    uint32_t repair_next;            /* whose turn it is to be asked for a good copy */
    struct osd_bad bad[OSD_BAD_MAX];
    uint32_t bad_next;

    /* One proposal at a time. */
    struct meta_pg_change change;
    bool change_wanted, change_sent;
    uint64_t change_revision; /* our view must reach it before the next */
    uint64_t change_ns;
};

/* Floors of clients (R10), for as long as this OSD reigns over or serves the PG. */
struct osd_floor {
    struct hash_link by_key;
    struct list link;
    uint64_t pg, client, floor;
    uint64_t nothings[WIRE_OSD_WINDOW / 64]; /* bit seq % WIRE_OSD_WINDOW, from the floor on */
};

static_assert(WIRE_OSD_WINDOW % 64 == 0, "a bit for each seq");

/* The incarnation an OSD had in the map that its address was last taken from. */
struct osd_peer {
    uint32_t incarnation;
};

struct osd {
    struct osd_config config;
    struct loop *loop;
    struct net *net;
    struct store *store;
    struct store_open opening;
    struct map_feed feed;
    const struct map *map;
    char name[24];
    uint32_t incarnation;
    bool opened, registering, registered, failed, stopping;
    uint64_t boot_ns;
    uint64_t lease_ns, subwrite_ns;
    uint64_t image_last_seen, images_count_seen;
    bool purge_wanted, purge_again;
    uint64_t queued_bytes; /* of writes that were let in and are not in the store yet */
    struct osd_rotten rotten[OSD_ROTTEN_MAX];
    uint32_t rotten_count, repairs; /* … of them, under way */
    struct hash pgs;
    struct list pgs_list;
    struct hash objects;
    struct hash floors;
    struct list floors_list;
    struct pool writes_pool, reads_pool, subs_pool, objects_pool, copies_pool, merges_pool;
    struct pool copy_data_pool, copy_body_pool;
    uint32_t copies_serving, sessions;
    struct osd_peer *peers; /* by OSD id */
    uint32_t peers_count;
    struct task task;
    struct loop_timer tick;
    uint64_t lease_next_ns;
    struct osd_lease_call *lease_calls;
    struct list releases;
    struct list peerings_leaving;
    struct list recoveries_leaving;
    struct meta_call register_call;
    struct meta_call propose_call;
    struct meta_pg_change *changes;
    uint32_t changes_count;
    bool proposing;
    struct osd_purge *purge;
    struct loop *stop_to;
    struct loop_msg *stop_msg;
    struct osd_status counters;
};

/* ---- osd.c ---- */

uint32_t osd_incarnation_of(const struct osd *o, uint32_t osd); /* by the map; 0: not up */
bool osd_is_up(const struct osd *o, uint32_t osd);
struct osd_pg *osd_pg_find(struct osd *o, uint64_t id);
/* It was deleted: whatever there is of it is going, and nobody will ask for it again. */
bool osd_image_is_gone(const struct osd *o, uint64_t image);
void osd_want_purge(struct osd *o);
bool osd_mutated(const struct osd *o, enum osd_mutant m);
/* The device is of no use any more: serve nothing, tell the node. */
void osd_fail(struct osd *o, int error, const char *why);
/* R13, in its simple form: room in the own store beyond a reserve. */
enum osd_room {
    OSD_ROOM_NEW,
    OSD_ROOM_RECOVERY, /* what recovery brings */
    OSD_ROOM_IN_PLACE, /* what replaces its own */
};
bool osd_has_room(struct osd *o, enum osd_room what);
/* R10. The highest floor heard; raises it to `floor`. */
uint64_t osd_floor(struct osd *o, uint64_t pg, uint64_t client, uint64_t floor);
/* R10, of what was answered without a version: there was nothing to do. Of this reign only, as is
 * any request that may come twice (I7). Not of a seq beyond the window. */
void osd_note_nothing(struct osd *o, uint64_t pg, uint64_t client, uint64_t seq);
bool osd_was_nothing(struct osd *o, uint64_t pg, uint64_t client, uint64_t seq);

/* ---- pg.c ---- */

struct osd_pg *osd_pg_create(struct osd *o, uint64_t id);
void osd_pg_free(struct osd_pg *pg);
void osd_pg_view(struct osd_pg *pg, const struct map_pg *view, const struct map_pool *pool,
                 uint64_t revision);
/* R3. False: the epoch is below the promise. True: it is promised now. */
bool osd_pg_promise(struct osd_pg *pg, uint32_t epoch);
/* We are primary, activated, and nothing newer was promised. */
bool osd_pg_acting(const struct osd_pg *pg);
/* The highest version known to be stable: W (R8). */
uint64_t osd_pg_known(const struct osd_pg *pg);
/* W as the primary knows it. */
uint64_t osd_pg_stable(const struct osd_pg *pg);
uint64_t osd_pg_tombstone_floor(const struct osd_pg *pg);
void osd_pg_hear(struct osd_pg *pg, uint64_t stable, uint64_t floor);
/* Members that writes to this object need (id NULL: that leases need), without ourselves. */
uint32_t osd_pg_need(const struct osd_pg *pg, const struct store_id *id,
                     uint32_t need[OSD_MEMBERS_MAX]);
bool osd_pg_in_set(const struct osd_pg *pg, uint32_t osd);
uint64_t osd_pg_stale_of(const struct osd_pg *pg, uint32_t osd); /* 0: no row */
/* Room for a write on every needed member, as far as their last lease answers say. */
bool osd_pg_has_room(const struct osd_pg *pg);
/* Somebody brings us up to date in this epoch: what we have counts again. */
void osd_pg_joins(struct osd_pg *pg, uint32_t epoch);
bool osd_pg_is_target(const struct osd_pg *pg, uint32_t osd);
void osd_pg_wake(struct osd_pg *pg);
void osd_pg_wake_proposers(struct osd *o);
/* The reign, or the attempt at one, is over: nothing of it is answered with success from here on.
 */
void osd_pg_reset(struct osd_pg *pg);
void osd_pg_wake_writes(struct osd_pg *pg);
/* A store write of this PG ended. */
void osd_pg_store_done(struct osd_pg *pg);
/* Ask Raft for a change; the answer is a newer view. */
void osd_pg_propose(struct osd_pg *pg, const struct meta_pg_change *change);
void osd_pg_shrink(struct osd_pg *pg, const uint32_t *out, uint32_t out_count);
void osd_pg_change_fill(const struct osd_pg *pg, enum meta_pg_change_kind kind,
                        struct meta_pg_change *c);
uint64_t osd_pg_push_number(struct osd_pg *pg);

/* ---- object.c ---- */

/* Queue a use. begin() or refuse() is called exactly once, maybe before this returns. -EBUSY: too
 * many objects in use. */
int osd_use_start(struct osd_pg *pg, const struct store_id *id, struct osd_use *u);
/* A merge that has read lets later writes in, as a write in flight. */
void osd_use_merged(struct osd_use *u);
void osd_use_end(struct osd_use *u);
/* The reign ended: refuse everything that waits. */
void osd_uses_refuse(struct osd_pg *pg, int status);
/* Is anybody using it, or waiting to? */
struct osd_object *osd_object_find(struct osd *o, const struct store_id *id);

/* ---- write.c, read.c, member.c, lease.c, copy.c, peering.c, recovery.c ---- */

void osd_write_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_writes_reset(struct osd_pg *pg);
void osd_writes_continue(struct osd_pg *pg);
void osd_writes_tick(struct osd_pg *pg, uint64_t now);
uint64_t osd_writes_lowest(const struct osd_pg *pg); /* version in flight; 0: none */
int osd_client_check(struct osd *o, struct osd_pg *pg, const struct rpc_request *req,
                     const struct wire_osd_io *io);

void osd_read_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_reads_reset(struct osd_pg *pg);

void osd_sub_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_query_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_list_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_queries_drained(struct osd_pg *pg);
/* The newest dedup records of an object above a version, at most `max`; returns how many. */
uint32_t osd_dedups_newest(struct osd *o, const struct store_id *id, uint64_t above,
                           struct store_dedup *out, uint32_t max);
/* One chunk of LIST's answer from the own store. Returns its length. */
uint32_t osd_list_encode(struct osd *o, uint64_t pg, uint64_t above, struct store_cursor *cursor,
                         uint8_t *out, uint32_t out_max, bool *more);

void osd_leases_request(struct osd *o);
void osd_lease_handle(struct osd *o, struct rpc_request *req);
void osd_release_handle(struct osd *o, struct rpc_request *req);
void osd_lease_release(struct osd_pg *pg);
bool osd_leased(const struct osd_pg *pg);
void osd_leases_free(struct osd *o);
/* When the last lease given for this PG has surely run out (R6a); 0: no wait. */
uint64_t osd_grants_end(const struct osd_pg *pg);

struct osd_copy *osd_copy_get(struct osd_pg *pg, bool serving); /* NULL: all in use */
void osd_copy_put(struct osd_copy *c);
void osd_copy_start(struct osd_copy *c); /* st.id, from, replace, how, locked, legs set */
void osd_copy_target(struct osd_copy *c, uint32_t osd);
void osd_fetch_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
void osd_push_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req);
/* What peering or recovery started; with the reign, repairs too. */
void osd_copies_reset(struct osd_pg *pg, bool reign_is_over);

void osd_peering_start(struct osd_pg *pg);
void osd_peering_step(struct osd_pg *pg);
void osd_peering_stop(struct osd_pg *pg);
void osd_peerings_free(struct osd *o); /* the loop is dead: those whose calls will not come back */
void osd_recoveries_free(struct osd *o);

bool osd_is_unreadable(int result);
/* Begin one, or go on with it. -EAGAIN: whoever wanted the object shall come again; -ENODATA: it is
 * bad on every member. */
int osd_repair_start(struct osd_pg *pg, const struct store_id *id);
/* Scrub found a bad block in it: it is repaired in the background. */
void osd_repair_note(struct osd *o, const struct store_id *id, uint64_t pg);
void osd_repairs_step(struct osd *o);

void osd_recovery_step(struct osd_pg *pg);
/* R6e: bring `member` fully up to date before the activation that includes it. 1: it is; 0: under
 * way, call again; -EAGAIN: it failed. */
int osd_recovery_for_activation(struct osd_pg *pg, uint32_t member);
void osd_recovery_stop(struct osd_pg *pg);
/* A write to this object gets a version: it differs from now on. */
void osd_recovery_written(struct osd_pg *pg, const struct store_id *id);
/* Is the object already on the member being recovered, so that writes need it? */
bool osd_recovery_has(const struct osd_pg *pg, const struct store_id *id);
uint32_t osd_recovery_member(const struct osd_pg *pg);
uint64_t
osd_recovery_bound(const struct osd_pg *pg); /* for the tombstone floor; UINT64_MAX: none */
uint64_t osd_recovery_left(const struct osd_pg *pg);
uint32_t osd_recovery_candidate(const struct osd_pg *pg); /* who is to join; 0: nobody */

#endif /* OSD_PG_H */

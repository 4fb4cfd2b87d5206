/*
 * Commands: the only way the replicated state changes. A command is data; apply
 * (meta/state.c) is a deterministic function of state and command. On the wire and in the log it is
 * a msgpack map {kind, version, args}; ids, times and random values are in it, never made by apply
 * (except ids counted up from the state). A refused command is a result, not an error of Raft.
 */

#ifndef META_COMMAND_H
#define META_COMMAND_H

#include "meta/map.h"

enum meta_kind {
    META_CLUSTER_INIT = 1, /* cluster, replicas: first command of a cluster */
    META_NODE_ADD, /* name, location, addr, join_id -> id. The same join_id again: the same id. A
                      name in use: -EEXIST, unless its node has never started: then the number is
                      this join's, and the earlier one's no more */
    META_NODE_SET, /* node, addr, location, incarnation, join_id (zero: not compared): at each start
                      of a node; clients of its older incarnations become fenced. -EEXIST: the
                      number is another join's now */
    META_OSD_ADD,  /* node, uuid, size -> id. The same uuid again: the same id */
    META_OSD_UP, /* osd, node, incarnation, size: registers an incarnation (R3, R4, S12). -ESTALE if
                    it is below the last. The last one again: up, as it was, unless it is known to
                    be dead: then -ESTALE */
    META_OSD_DOWN,    /* osds_count, osds[]: {osd, incarnation, dead}; an older incarnation than the
                         current is ignored */
    META_OSD_FAILED,  /* osd, incarnation: its device failed; as down, and it stays out */
    META_POOL_CREATE, /* name, replicas, min_size, pg_count, object_size -> id */
    META_PG_CHANGE, /* changes_count, changes[]: each by compare-and-set on the epoch; what does not
                       fit is skipped */
    META_PG_TARGET, /* targets: new placement of PGs (by the leader) */
    META_IMAGE_CREATE,  /* name, size, pool -> id */
    META_IMAGE_DELETE,  /* image by name */
    META_CLIENT_ADD,    /* node (0: none), join_id -> id */
    META_CLIENT_REMOVE, /* client: becomes fenced */
    META_STATE_HASH,    /* revision (here: an index of the log), hash: a replica that differs stops
                           with evidence */
    META_LOOK, /* changes nothing and is not remembered: a map of its result's revision shows all
                  that was answered, anywhere, before it was asked for */
    META_KIND_LAST = META_LOOK
};

enum meta_pg_change_kind {
    /*
     * Epoch unchanged. Fits if epoch and primary (and its incarnation) match, the PG is not active,
     * primary in set, set without joiners inside S, |set| >= min_size. Then: for x in S \ set:
     * stale[x] = max(version, activated << 32); rows of set go; activated = epoch; S = set; active.
     */
    META_PG_ACTIVATE = 1,
    /* R5. Fits if epoch, primary match, active, set inside S, primary in set, |set| >= min_size.
       Then as above for S \ set; epoch + 1; stays active. set == S is allowed: it kills a late
       GROW. */
    META_PG_SHRINK,
    /* R9. Fits if epoch, primary match, active, set[0] is up with osd_incarnation, not in S. Then S
       + set[0], its row goes, epoch + 1, stays active. */
    META_PG_GROW,
    /* The primary cannot activate. Fits if epoch and primary match and not active. epoch + 1,
       another primary from S that is up if there is one. */
    META_PG_ROTATE,
    /* Leader: hand the primary to set[0], which is in S and up. epoch + 1, not active. */
    META_PG_SWITCH,
    /* Leader, when the row of set[0] holds up tombstones too long: the row goes (then: full
       listing). Epoch unchanged. */
    META_PG_FORGET_STALE,
};

struct meta_pg_change {
    enum meta_pg_change_kind kind;
    uint64_t pg;
    uint32_t epoch;
    uint32_t primary, primary_incarnation;
    uint8_t set_count, joiners_count;
    uint32_t set[META_REPLICAS_MAX];
    uint32_t joiners[META_REPLICAS_MAX];
    uint32_t osd_incarnation; /* GROW */
    uint64_t version;         /* W: ACTIVATE, SHRINK */
};

struct meta_osd_state {
    uint32_t osd, incarnation;
    bool dead; /* its process is known to be gone: its leases need not be waited for */
};

struct meta_pg_target {
    uint64_t pg;
    uint8_t count;
    uint32_t osds[META_REPLICAS_MAX];
};

enum {
    META_LIST_MAX = 1024,
    META_COMMAND_MAX = 192 << 10,   /* bytes of one encoded command; fits one entry */
    META_COMMAND_ARENA = 160 << 10, /* room for what the largest decoded command points to */
    META_RESULT_MAX = 256,          /* bytes of an encoded result */
    META_BATCH_MAX = 512,           /* commands of one entry */
};

struct meta_command {
    enum meta_kind kind;
    uint8_t request_id[16]; /* idempotency: the same id again gives the recorded result (kept for
                               the last 10,000) */
    uint64_t time_ms;       /* set by meta_submit() */
    uint8_t cluster[16];
    uint8_t uuid[16];
    uint8_t join_id[16];
    const char *name;
    const char *location;
    struct loop_addr addr;
    uint32_t node, osd, incarnation, pool;
    uint32_t replicas, min_size, pg_count, object_size;
    uint64_t size, image, client, revision, hash;
    uint32_t list_count; /* of the array that the kind uses */
    const struct meta_osd_state *osds;
    const struct meta_pg_change *changes;
    const struct meta_pg_target *targets;
};

struct meta_result {
    int code;          /* 0 or -errno */
    uint64_t revision; /* state revision after it: a map of at least this shows its effect */
    uint64_t id;       /* of what was made */
    char message[160]; /* a sentence when code != 0 */
};

/* ---- Encoding (command.c): what travels to the leader and lies in the log ---- */

/* Memory for what a decoded command points to; used anew for each. */
struct meta_arena {
    uint8_t *base; /* aligned to 8 */
    size_t size, used;
};

struct pack;
struct unpack;

/* Appends {kind, version, args}. p->failed when there is no room. Lists longer than META_LIST_MAX
 * are the caller's bug. */
void meta_command_encode(struct pack *p, const struct meta_command *c);

/*
 * Reads one command. -EPROTO: not a command; -ENOTSUP: a kind or version this program does not
 * know (out->kind is then as found). Strings and lists point into the arena; absent ones are ""
 * and NULL.
 */
int meta_command_decode(struct unpack *u, struct meta_arena *arena, struct meta_command *out);

/* An entry of the log: an array of commands, filled up with zero bytes to a multiple of 8. */
void meta_entry_begin(struct pack *p);
void meta_entry_end(struct pack *p, uint32_t count);

void meta_result_encode(struct pack *p, const struct meta_result *r);
int meta_result_decode(struct slice bytes, struct meta_result *out);
void meta_result_set(struct meta_result *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

const char *meta_kind_name(enum meta_kind kind);

#endif /* META_COMMAND_H */

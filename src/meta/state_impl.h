/*
 * Inside the state machine: rows of each table as structs, for the apply functions. Getting
 * returns false when there is no such row; putting replaces the row and writes the change log.
 */

#ifndef META_STATE_IMPL_H
#define META_STATE_IMPL_H

#include <sqlite3.h>

#include "meta/state.h"

/* The one row of table `cluster`; cached while the state is open, written with each entry. */
struct state_cluster {
    uint8_t uuid[16]; /* all zero: CLUSTER_INIT has not been applied */
    uint32_t default_replicas;
    uint32_t feature_level;
    uint64_t revision, applied_index, entries;
    uint32_t node_last, osd_last, pool_last;
    uint64_t image_last, client_last, request_last;
    uint64_t change_last, change_floor; /* rows of the change log; deltas reach back to this
                                           revision */
};

struct state_node {
    struct map_node map;
    uint8_t join_id[16];
};

struct state_client {
    struct map_client map;
    uint32_t node_incarnation;
    uint8_t join_id[16];
};

/* What choosing a primary needs of each OSD; loaded when a command first asks, dropped at its end.
 */
struct state_candidate {
    uint32_t weight;
    uint32_t primaries; /* PGs it is primary of */
    bool up;
};

struct state_candidates {
    struct state_candidate *items; /* at the OSD's id; NULL: not loaded */
    uint32_t count;
};

struct state_hash_mark {
    uint64_t index, hash;
};

enum { STATE_HASH_MARKS = 8, STATE_QUERIES_MAX = 64 };

struct meta_state {
    struct meta_state_env env;
    sqlite3 *db;
    sqlite3_stmt *queries[STATE_QUERIES_MAX];
    struct state_cluster cluster;
    bool cluster_changed; /* a column that maps show */
    bool touched;         /* the command being applied changed a row: it gets a revision */
    bool stopped;         /* fatal() was called: nothing is applied any more */
    struct state_candidates candidates;
    struct state_hash_mark marks[STATE_HASH_MARKS]; /* what this replica held when */
    uint32_t marks_next;
    uint8_t *arena;
};

bool state_node_get(struct meta_state *s, uint32_t id, struct state_node *out);
bool state_node_by_name(struct meta_state *s, const char *name, struct state_node *out);
/* One that has never started. */
bool state_node_new_by_join(struct meta_state *s, const uint8_t join_id[16],
                            struct state_node *out);
void state_node_put(struct meta_state *s, const struct state_node *n);
uint32_t state_nodes_count(struct meta_state *s);

bool state_osd_get(struct meta_state *s, uint32_t id, struct map_osd *out);
bool state_osd_by_uuid(struct meta_state *s, const uint8_t uuid[16], struct map_osd *out);
void state_osd_put(struct meta_state *s, const struct map_osd *o);
/* All OSDs by id; free() it. */
struct map_osd *state_osds(struct meta_state *s, uint32_t *count);

bool state_pool_get(struct meta_state *s, uint32_t id, struct map_pool *out);
bool state_pool_by_name(struct meta_state *s, const char *name, struct map_pool *out);
void state_pool_put(struct meta_state *s, const struct map_pool *p);
uint32_t state_pools_count(struct meta_state *s);

bool state_pg_get(struct meta_state *s, uint64_t id, struct map_pg *out);
void state_pg_put(struct meta_state *s, const struct map_pg *g);
uint32_t state_pgs_count(struct meta_state *s);
/* Ids, ascending, of the PGs whose primary is `osd` (0: that have none); free() them. */
uint64_t *state_pgs_of_primary(struct meta_state *s, uint32_t osd, uint32_t *count);
struct state_candidate *state_candidates_load(struct meta_state *s, uint32_t *count);

bool state_image_by_name(struct meta_state *s, const char *name, struct map_image *out);
void state_image_put(struct meta_state *s, const struct map_image *i);
void state_image_delete(struct meta_state *s, uint64_t id);

bool state_client_get(struct meta_state *s, uint64_t id, struct state_client *out);
bool state_client_by_join(struct meta_state *s, const uint8_t join_id[16],
                          struct state_client *out);
void state_client_put(struct meta_state *s, const struct state_client *c);
void state_client_delete(struct meta_state *s, uint64_t id);
uint32_t state_clients_count(struct meta_state *s);
/* The oldest client that belongs to no node; 0: there is none. */
uint64_t state_client_oldest_tool(struct meta_state *s);
/* Ids, ascending, of clients of a node registered under an incarnation below this; free() them. */
uint64_t *state_clients_before(struct meta_state *s, uint32_t node, uint32_t incarnation,
                               uint32_t *count);

bool state_request_get(struct meta_state *s, const uint8_t id[16], struct meta_result *out);
void state_request_put(struct meta_state *s, const uint8_t id[16], const struct meta_result *r);

/* Reads one row for the change log's readers; row->present tells if it is there. */
void state_row_read(struct meta_state *s, enum meta_table table, uint64_t key,
                    struct meta_row *row);

/* Queries, prepared at first use (state_rows.c). */
int state_schema_create(struct meta_state *s);
bool state_schema_is_ours(struct meta_state *s);
void state_queries_close(struct meta_state *s);
void state_begin(struct meta_state *s);
void state_commit(struct meta_state *s);
void state_cluster_read(struct meta_state *s);
void state_cluster_write(struct meta_state *s);
void state_cluster_changed(struct meta_state *s); /* into the change log, with this command */
uint64_t state_hash_tables(struct meta_state *s);

/* Every key of every table, or the keys touched after `since`, in the order (table, key). */
void state_each_key(struct meta_state *s, bool all, uint64_t since,
                    void (*each)(struct meta_state *s, enum meta_table table, uint64_t key,
                                 void *arg),
                    void *arg);

/* ---- Apply functions, one for each kind (apply_*.c) ---- */

void apply_cluster_init(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_node_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_node_set(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_client_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_client_remove(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_osd_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_osd_up(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_osd_down(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_osd_failed(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_pool_create(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_pg_change(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_pg_target(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_image_create(struct meta_state *s, const struct meta_command *c, struct meta_result *r);
void apply_image_delete(struct meta_state *s, const struct meta_command *c, struct meta_result *r);

/* The OSD is gone as a primary: its PGs get another (apply_pg.c). */
void apply_primary_lost(struct meta_state *s, uint32_t osd);
/* The OSD came up: PGs it led get a new epoch (R4), PGs without a primary that it may lead get one.
 */
void apply_primary_found(struct meta_state *s, uint32_t osd);

/* Makes the pool `default`, unless there was a pool or too few hosts have an OSD that is up
 * (apply_pool.c). */
void apply_default_pool(struct meta_state *s);

#endif /* META_STATE_IMPL_H */

/*
 * The replicated state machine: an in-memory SQLite database that changes only
 * by applying entries of the log.
 *
 * Promise: two replicas that applied the same entries hold the same rows, whatever snapshots and
 * restarts lay between. So apply reads the state and the entry and nothing else; every query that
 * yields more than a row says ORDER BY; arithmetic is on integers; ids are counted up from the
 * state. meta/README.md has the argument.
 *
 * Each entry is one transaction. Apply never fails: a refused command is a result. What cannot be
 * understood (a kind from the future, a hash that differs) is fatal: the node stops.
 *
 * Threading: the control loop. Memory: the caller owns the state.
 */

#ifndef META_STATE_H
#define META_STATE_H

#include "meta/command.h"
#include "meta/rows.h"

struct meta_state;

enum {
    META_REQUESTS_KEPT = 10000, /* results of this many requests are remembered */
    META_CHANGES_KEPT = 65536,  /* touched rows that the change log remembers */
    META_HASH_EVERY = 1000,     /* entries */
    META_CLIENTS_MAX = 65536,
    META_NODES_MAX = 4096,
    META_OSDS_MAX = 16384,
    META_POOLS_MAX = 256,
    META_IMAGES_MAX = 1 << 20,
};

struct meta_state_env {
    /* Command `request_id` of the entry being applied has this result. */
    void (*applied)(void *arg, const uint8_t request_id[16], const struct meta_result *result);
    /* The state cannot go on: an entry from the future, or replicas that differ. */
    void (*fatal)(void *arg, const char *what, int error);
    void *arg;
};

int meta_state_open(const struct meta_state_env *env, struct meta_state **out);
void meta_state_close(struct meta_state *s);

void meta_state_apply(struct meta_state *s, uint64_t index, struct slice entry);

/* The whole database; malloc'd. */
int meta_state_serialize(struct meta_state *s, void **buf, size_t *len);
/* -EINVAL: not a database of ours, and the state is as it was. */
int meta_state_restore(struct meta_state *s, struct slice snapshot);

uint64_t meta_state_revision(const struct meta_state *s);
uint64_t meta_state_applied_index(const struct meta_state *s);

/*
 * Appends the rows touched after `since`, as they are now. False: the change log does not reach
 * back so far; then ask for all.
 */
bool meta_state_rows_since(struct meta_state *s, uint64_t since, struct pack *out);
void meta_state_rows_all(struct meta_state *s, struct pack *out);

/* A hash over all rows, equal on equal states. */
uint64_t meta_state_hash(struct meta_state *s);

/* The hash as of the newest entry whose number is a multiple of META_HASH_EVERY; false: there was
 * none since the state was opened or restored. Comparing goes by `index`, that entry's place in the
 * log. */
bool meta_state_hash_last(const struct meta_state *s, uint64_t *index, uint64_t *hash);

/* Runs a read-only query for people; each() gets columns as text. -EINVAL with a message. */
int meta_state_query(struct meta_state *s, const char *sql,
                     void (*each)(void *arg, int columns, char **values, char **names), void *arg,
                     char *message, size_t message_size);

#endif /* META_STATE_H */

/*
 * Who watches the state from afar: the serving side. Any node serves, from its map.
 *
 *     META_RPC_WATCH   body [since, all, table, key]
 *     answer           body [leader, revision, reset, more, table, key] and rows
 *
 * The asker has the state of revision `since` (or nothing: all) and wants the rows touched after
 * it, in the order (table, key), from behind (table, key) on. The answer holds at most
 * WATCH_ROWS_MAX bytes of rows as they are at `revision`; `more`: there are more, behind the
 * (table, key) given. Without news the answer waits up to WATCH_WAIT_MS and may be empty: so news
 * is pushed, and a quiet line is known to be alive.
 *
 * `reset`: nobody here remembers what was touched since then; ask for all.
 *
 * Rows of one pass may be of several revisions when the state changed between its chunks. The asker
 * then makes a second pass, from the revision of the first chunk: rows are whole, so the later
 * ones put right what the earlier ones mixed (meta/follow.h).
 *
 * Threading: the control loop. Bounds: WATCHERS_MAX requests wait; one more is answered -EBUSY.
 */

#ifndef META_WATCH_H
#define META_WATCH_H

#include "meta/meta.h"
#include "meta/replies.h"
#include "meta/rows.h"

enum {
    META_RPC_WATCH = 123,
    WATCH_ROWS_MAX = 256 << 10,
    WATCH_WAIT_MS = 1000,
    WATCHERS_MAX = 1024,
    WATCH_LOG_MAX = 16384, /* touched rows remembered */
};

struct watch_touched {
    uint64_t revision; /* of the map that first showed it */
    uint32_t table;
    uint64_t key;
};

struct watch {
    struct loop *loop;
    const struct map *map; /* the newest; not owned */
    uint32_t leader;
    struct list waiting; /* struct watcher */
    struct list free;
    struct replies replies;
    struct watcher *watchers;
    struct loop_timer timer;
    struct task task;
    struct watch_touched *log; /* a ring */
    uint64_t log_count;        /* ever written */
    uint64_t floor;            /* deltas reach back to this revision */
    uint32_t waiting_count;
    uint64_t rows_sent;
};

void watch_init(struct watch *w, struct loop *loop);
void watch_deinit(struct watch *w);

/* `rows` led from the map before to this one; `whole`: nothing is known of what changed. */
void watch_publish(struct watch *w, const struct map *map, struct slice rows, bool whole);
void watch_set_leader(struct watch *w, uint32_t leader);

/* A request of kind META_RPC_WATCH: answered now or later. */
void watch_handle(struct watch *w, struct rpc_request *req);

/* A row of a map, for any (table, key); row->present tells if it is there. */
void watch_map_row(const struct map *m, enum meta_table table, uint64_t key, struct meta_row *row);

#endif /* META_WATCH_H */

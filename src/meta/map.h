/*
 * The cluster map: an immutable picture of the replicated state at one revision,
 * what every loop and every client decides by. Made from rows, so that a snapshot and a
 * delta are the same thing: a list of rows (meta/README.md has the row encoding).
 *
 * Arrays are sorted by id; look-ups are binary searches. Nobody changes a map after it was
 * published.
 */

#ifndef META_MAP_H
#define META_MAP_H

#include "base/bytes.h"
#include "base/list.h"
#include "io/loop.h"

enum {
    META_NAME_MAX = 129, /* with the terminator */
    META_REPLICAS_MAX = 7,
    META_STALE_MAX = 8,
    META_PGS_MAX = 1 << 16,
    META_OBJECT_SIZE_MAX = 1 << 20,
};

struct map_node {
    uint32_t id;
    char name[META_NAME_MAX];
    char location[META_NAME_MAX]; /* the failure domain "host": the node's name unless configured */
    struct loop_addr addr;        /* internal port */
    uint32_t incarnation;         /* of the node process: counts its starts */
};

struct map_osd {
    uint32_t id;
    uint32_t node;
    uint32_t incarnation;      /* the last one registered; 0: never up */
    uint32_t dead_incarnation; /* the highest one known to be dead, so that its leases need not be
                                  waited for (R7) */
    bool up;
    bool failed;      /* its device failed */
    uint64_t size;    /* bytes */
    uint32_t weight;  /* GiB x 100, at least 1 */
    uint8_t uuid[16]; /* of the formatted store */
};

struct map_pool {
    uint32_t id;
    char name[META_NAME_MAX];
    uint32_t replicas, min_size, pg_count, object_size;
};

struct map_stale {
    uint32_t osd;
    uint64_t version; /* (epoch << 32 | seq): R8 */
};

struct map_pg {
    uint64_t id; /* pool << 32 | number; shown as 2.1f */
    uint32_t epoch;
    uint32_t primary;   /* OSD id; 0: none (ids start at 1) */
    uint32_t activated; /* epoch of the last ACTIVATE; 0: never */
    bool active;
    uint8_t set_count;    /* S */
    uint8_t target_count; /* where placement wants it */
    uint8_t stale_count;
    uint32_t set[META_REPLICAS_MAX];
    uint32_t target[META_REPLICAS_MAX];
    struct map_stale stale[META_STALE_MAX];
};

struct map_image {
    uint64_t id;
    uint64_t root; /* own id unless a snapshot or clone (later) */
    char name[META_NAME_MAX];
    uint64_t size;
    uint32_t pool;
    uint32_t epoch; /* image epoch (R11); 1 for now */
};

struct map_client {
    uint64_t id;
    uint32_t node;
    bool fenced;
};

struct map {
    uint64_t revision;
    uint8_t cluster[16];
    uint32_t nodes_count, osds_count, pools_count, pgs_count, images_count, clients_count;
    struct map_node *nodes;
    struct map_osd *osds;
    struct map_pool *pools;
    struct map_pg *pgs;
    struct map_image *images;
    struct map_client *clients;
    uint64_t client_last; /* highest client id ever given: an id <= this and not in clients[] is
                             gone (fenced) */
    uint64_t image_last;  /* the same for images: gone means deleted */
    uint32_t default_replicas;
    const uint64_t *images_by_name; /* ids of images[], by name */
};

const struct map_node *map_node(const struct map *m, uint32_t id);
const struct map_osd *map_osd(const struct map *m, uint32_t id);
const struct map_pool *map_pool(const struct map *m, uint32_t id);
const struct map_pg *map_pg(const struct map *m, uint64_t id);
const struct map_image *map_image(const struct map *m, uint64_t id);
const struct map_image *map_image_by_name(const struct map *m, const char *name);
const struct map_client *map_client(const struct map *m, uint64_t id);
bool map_client_is_fenced(const struct map *m, uint64_t id);

/* Locations as numbers, at the places of nodes[]: the place of the first node that has the same
 * one. free() them. */
uint32_t *map_locations(const struct map *m);

/* DESIGN.md section 6: which PG holds object number `object` of an image. */
uint64_t map_pg_of(const struct map_pool *p, uint64_t root, uint64_t object);

/*
 * A subscriber to maps, on any loop of the process. on_map() runs on that loop
 * for the current map at once and for each newer one (maps may be skipped, never go back);
 * `map` stays valid until the next on_map() has returned, or until the feed's removal has.
 */
struct map_feed {
    struct loop *loop;
    void (*on_map)(struct map_feed *f, const struct map *map);
    /* Optional, after feed_remove(): nothing refers to the feed any more. On its loop. Without it,
     * the feed must live as long as both loops do. */
    void (*removed)(struct map_feed *f);
    /* Private. */
    struct loop_msg msg_add, msg_map, msg_done, msg_remove;
    struct list link;
    void *meta;
    void *pending, *current, *released;
    bool busy, off, removing;
};

/* ---- Making maps: on one loop, the control loop of the process ---- */

/*
 * The map that follows `old` (NULL: nothing) by `rows` (meta/rows.h), at `revision`. Tables that no
 * row touches are shared with `old`, the others are copied; so a map costs what changed. The new
 * one has one reference. -EPROTO when the rows cannot be understood. Rows may repeat: the last of
 * a key counts.
 */
int map_build(const struct map *old, struct slice rows, uint64_t revision, struct map **out);
void map_ref(const struct map *m);
void map_unref(const struct map *m);

#endif /* META_MAP_H */

/*
 * Rows: how state travels from the state machine to maps, and from node to node. A row is the
 * msgpack array [table, key, fields] or [table, key, nil] for one that is gone; a list of rows is
 * rows one after the other, no frame. meta/README.md has the fields of each table.
 */

#ifndef META_ROWS_H
#define META_ROWS_H

#include "meta/map.h"
#include "meta/pack.h"

enum meta_table {
    META_TABLE_CLUSTER = 1, /* key 0 */
    META_TABLE_NODE,
    META_TABLE_OSD,
    META_TABLE_POOL,
    META_TABLE_PG,
    META_TABLE_IMAGE,
    META_TABLE_CLIENT,
    META_TABLE_LAST = META_TABLE_CLIENT
};

struct meta_row_cluster {
    uint8_t cluster[16];
    uint32_t default_replicas;
    uint64_t client_last, image_last;
};

struct meta_row {
    enum meta_table table;
    uint64_t key;
    bool present; /* else the row is gone */
    union {
        struct meta_row_cluster cluster;
        struct map_node node;
        struct map_osd osd;
        struct map_pool pool;
        struct map_pg pg;
        struct map_image image;
        struct map_client client;
    };
};

enum { META_ROW_MAX = 512 }; /* bytes of an encoded row */

void meta_row_put(struct pack *p, const struct meta_row *row);

/* -EPROTO: not a row. Never accepts what no state machine would write: keys that do not match,
 * counts beyond their limits, names without end. */
int meta_row_get(struct unpack *u, struct meta_row *out);

#endif /* META_ROWS_H */

#include "meta/state_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/prng.h"
#include "base/text.h"

/*
 * Sets of OSDs are text ("1,4,6"), stale rows too ("4:8589934607"), so that a query reads like the
 * protocol. The file is the only place that knows column names.
 */
static const char schema[] =
    "CREATE TABLE cluster(id INTEGER PRIMARY KEY, uuid BLOB NOT NULL, replicas INTEGER NOT NULL,"
    " feature_level INTEGER NOT NULL, revision INTEGER NOT NULL, applied_index INTEGER NOT NULL,"
    " entries INTEGER NOT NULL, node_last INTEGER NOT NULL, osd_last INTEGER NOT NULL,"
    " pool_last INTEGER NOT NULL, image_last INTEGER NOT NULL, client_last INTEGER NOT NULL,"
    " request_last INTEGER NOT NULL, change_last INTEGER NOT NULL, change_floor INTEGER NOT NULL);"
    "CREATE TABLE node(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, location TEXT NOT NULL,"
    " ip BLOB NOT NULL, port INTEGER NOT NULL, incarnation INTEGER NOT NULL,"
    " join_id BLOB NOT NULL);"
    "CREATE TABLE osd(id INTEGER PRIMARY KEY, node INTEGER NOT NULL, incarnation INTEGER NOT NULL,"
    " dead_incarnation INTEGER NOT NULL, up INTEGER NOT NULL, failed INTEGER NOT NULL,"
    " size INTEGER NOT NULL, weight INTEGER NOT NULL, uuid BLOB NOT NULL UNIQUE);"
    "CREATE TABLE pool(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " replicas INTEGER NOT NULL, min_size INTEGER NOT NULL, pg_count INTEGER NOT NULL,"
    " object_size INTEGER NOT NULL);"
    "CREATE TABLE pg(id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, prim INTEGER NOT NULL,"
    " activated INTEGER NOT NULL, active INTEGER NOT NULL, members TEXT NOT NULL,"
    " target TEXT NOT NULL, stale TEXT NOT NULL);"
    "CREATE INDEX pg_prim ON pg(prim);"
    "CREATE TABLE image(id INTEGER PRIMARY KEY, root INTEGER NOT NULL, name TEXT NOT NULL UNIQUE,"
    " size INTEGER NOT NULL, pool INTEGER NOT NULL, epoch INTEGER NOT NULL);"
    "CREATE TABLE client(id INTEGER PRIMARY KEY, node INTEGER NOT NULL,"
    " node_incarnation INTEGER NOT NULL, fenced INTEGER NOT NULL, join_id BLOB NOT NULL);"
    "CREATE INDEX client_node ON client(node);"
    "CREATE INDEX client_join ON client(join_id);"
    "CREATE TABLE request(n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, code INTEGER NOT NULL,"
    " revision INTEGER NOT NULL, result INTEGER NOT NULL, message TEXT NOT NULL);"
    "CREATE TABLE change(n INTEGER PRIMARY KEY, revision INTEGER NOT NULL, tbl INTEGER NOT NULL,"
    " key INTEGER NOT NULL);"
    "CREATE INDEX change_revision ON change(revision);";

enum query {
    Q_BEGIN,
    Q_COMMIT,
    Q_CLUSTER_GET,
    Q_CLUSTER_PUT,
    Q_NODE_GET,
    Q_NODE_BY_NAME,
    Q_NODE_NEW_BY_JOIN,
    Q_NODE_PUT,
    Q_NODE_COUNT,
    Q_OSD_GET,
    Q_OSD_BY_UUID,
    Q_OSD_PUT,
    Q_OSD_ALL,
    Q_POOL_GET,
    Q_POOL_BY_NAME,
    Q_POOL_PUT,
    Q_POOL_COUNT,
    Q_PG_GET,
    Q_PG_PUT,
    Q_PG_COUNT,
    Q_PG_OF_PRIMARY,
    Q_PG_PRIMARIES,
    Q_IMAGE_GET,
    Q_IMAGE_BY_NAME,
    Q_IMAGE_PUT,
    Q_IMAGE_DELETE,
    Q_CLIENT_GET,
    Q_CLIENT_BY_JOIN,
    Q_CLIENT_PUT,
    Q_CLIENT_DELETE,
    Q_CLIENT_COUNT,
    Q_CLIENT_BEFORE,
    Q_CLIENT_OLDEST,
    Q_REQUEST_GET,
    Q_REQUEST_PUT,
    Q_REQUEST_PRUNE,
    Q_CHANGE_PUT,
    Q_CHANGE_FLOOR,
    Q_CHANGE_PRUNE,
    Q_KEYS_SINCE,
    Q_KEYS_ALL,
    Q_COUNT
};
static_assert((int)Q_COUNT <= (int)STATE_QUERIES_MAX, "room for the prepared queries");

#define NODE_COLUMNS   "id, name, location, ip, port, incarnation, join_id"
#define OSD_COLUMNS    "id, node, incarnation, dead_incarnation, up, failed, size, weight, uuid"
#define POOL_COLUMNS   "id, name, replicas, min_size, pg_count, object_size"
#define PG_COLUMNS     "id, epoch, prim, activated, active, members, target, stale"
#define IMAGE_COLUMNS  "id, root, name, size, pool, epoch"
#define CLIENT_COLUMNS "id, node, node_incarnation, fenced, join_id"

static const char *const queries[Q_COUNT] = {
    [Q_BEGIN] = "BEGIN",
    [Q_COMMIT] = "COMMIT",
    [Q_CLUSTER_GET] = "SELECT uuid, replicas, feature_level, revision, applied_index, entries,"
                      " node_last, osd_last, pool_last, image_last, client_last, request_last,"
                      " change_last, change_floor FROM cluster WHERE id = 1",
    [Q_CLUSTER_PUT] = "INSERT OR REPLACE INTO cluster"
                      " VALUES(1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [Q_NODE_GET] = "SELECT " NODE_COLUMNS " FROM node WHERE id = ?",
    [Q_NODE_BY_NAME] = "SELECT " NODE_COLUMNS " FROM node WHERE name = ?",
    [Q_NODE_NEW_BY_JOIN] = "SELECT " NODE_COLUMNS " FROM node WHERE join_id = ? AND incarnation = 0"
                           " ORDER BY id LIMIT 1",
    [Q_NODE_PUT] = "INSERT OR REPLACE INTO node VALUES(?, ?, ?, ?, ?, ?, ?)",
    [Q_NODE_COUNT] = "SELECT COUNT(*) FROM node",
    [Q_OSD_GET] = "SELECT " OSD_COLUMNS " FROM osd WHERE id = ?",
    [Q_OSD_BY_UUID] = "SELECT " OSD_COLUMNS " FROM osd WHERE uuid = ?",
    [Q_OSD_PUT] = "INSERT OR REPLACE INTO osd VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [Q_OSD_ALL] = "SELECT " OSD_COLUMNS " FROM osd ORDER BY id",
    [Q_POOL_GET] = "SELECT " POOL_COLUMNS " FROM pool WHERE id = ?",
    [Q_POOL_BY_NAME] = "SELECT " POOL_COLUMNS " FROM pool WHERE name = ?",
    [Q_POOL_PUT] = "INSERT OR REPLACE INTO pool VALUES(?, ?, ?, ?, ?, ?)",
    [Q_POOL_COUNT] = "SELECT COUNT(*) FROM pool",
    [Q_PG_GET] = "SELECT " PG_COLUMNS " FROM pg WHERE id = ?",
    [Q_PG_PUT] = "INSERT OR REPLACE INTO pg VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
    [Q_PG_COUNT] = "SELECT COUNT(*) FROM pg",
    [Q_PG_OF_PRIMARY] = "SELECT id FROM pg WHERE prim = ? ORDER BY id",
    [Q_PG_PRIMARIES] = "SELECT prim, COUNT(*) FROM pg GROUP BY prim ORDER BY prim",
    [Q_IMAGE_GET] = "SELECT " IMAGE_COLUMNS " FROM image WHERE id = ?",
    [Q_IMAGE_BY_NAME] = "SELECT " IMAGE_COLUMNS " FROM image WHERE name = ?",
    [Q_IMAGE_PUT] = "INSERT OR REPLACE INTO image VALUES(?, ?, ?, ?, ?, ?)",
    [Q_IMAGE_DELETE] = "DELETE FROM image WHERE id = ?",
    [Q_CLIENT_GET] = "SELECT " CLIENT_COLUMNS " FROM client WHERE id = ?",
    [Q_CLIENT_BY_JOIN] =
        "SELECT " CLIENT_COLUMNS " FROM client WHERE join_id = ? ORDER BY id LIMIT 1",
    [Q_CLIENT_PUT] = "INSERT OR REPLACE INTO client VALUES(?, ?, ?, ?, ?)",
    [Q_CLIENT_DELETE] = "DELETE FROM client WHERE id = ?",
    [Q_CLIENT_COUNT] = "SELECT COUNT(*) FROM client",
    [Q_CLIENT_BEFORE] = "SELECT id FROM client WHERE node = ? AND node_incarnation < ?"
                        " ORDER BY id",
    [Q_CLIENT_OLDEST] = "SELECT id FROM client WHERE node = 0 ORDER BY id LIMIT 1",
    [Q_REQUEST_GET] = "SELECT code, revision, result, message FROM request WHERE id = ?",
    [Q_REQUEST_PUT] = "INSERT INTO request VALUES(?, ?, ?, ?, ?, ?)",
    [Q_REQUEST_PRUNE] = "DELETE FROM request WHERE n <= ?",
    [Q_CHANGE_PUT] = "INSERT INTO change VALUES(?, ?, ?, ?)",
    [Q_CHANGE_FLOOR] = "SELECT revision FROM change WHERE n <= ? ORDER BY n DESC LIMIT 1",
    [Q_CHANGE_PRUNE] = "DELETE FROM change WHERE n <= ?",
    [Q_KEYS_SINCE] = "SELECT DISTINCT tbl, key FROM change WHERE revision > ? ORDER BY tbl, key",
    [Q_KEYS_ALL] = "SELECT 1 AS t, 0 AS k UNION ALL SELECT 2, id FROM node"
                   " UNION ALL SELECT 3, id FROM osd UNION ALL SELECT 4, id FROM pool"
                   " UNION ALL SELECT 5, id FROM pg UNION ALL SELECT 6, id FROM image"
                   " UNION ALL SELECT 7, id FROM client ORDER BY t, k",
};

/* ---- Running queries. A failure here is a bug or no memory: neither may be survived. ---- */

static sqlite3_stmt *query(struct meta_state *s, enum query q)
{
    if (s->queries[q] == NULL) {
        int rc = sqlite3_prepare_v3(s->db, queries[q], -1, SQLITE_PREPARE_PERSISTENT,
                                    &s->queries[q], NULL);
        check(rc == SQLITE_OK);
    }
    return s->queries[q];
}

static void bind_u64(sqlite3_stmt *st, int column, uint64_t value)
{
    int rc = sqlite3_bind_int64(st, column, (sqlite3_int64)value);
    check(rc == SQLITE_OK);
}

static void bind_text(sqlite3_stmt *st, int column, const char *text)
{
    int rc = sqlite3_bind_text(st, column, text, -1, SQLITE_STATIC);
    check(rc == SQLITE_OK);
}

static void bind_blob(sqlite3_stmt *st, int column, const void *data, size_t len)
{
    int rc = sqlite3_bind_blob64(st, column, data, len, SQLITE_STATIC);
    check(rc == SQLITE_OK);
}

/* For bound memory that the caller is about to leave. */
static void finish(sqlite3_stmt *st)
{
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

static bool step(sqlite3_stmt *st)
{
    int rc = sqlite3_step(st);
    check(rc == SQLITE_ROW || rc == SQLITE_DONE);
    return rc == SQLITE_ROW;
}

static void run(sqlite3_stmt *st)
{
    bool row = step(st);
    check(!row);
    finish(st);
}

static uint64_t col_u64(sqlite3_stmt *st, int column)
{
    return (uint64_t)sqlite3_column_int64(st, column);
}

static uint32_t col_u32(sqlite3_stmt *st, int column)
{
    uint64_t value = col_u64(st, column);
    check(value <= UINT32_MAX);
    return (uint32_t)value;
}

static void col_text(sqlite3_stmt *st, int column, char *dst, size_t dst_size)
{
    bool fits = str_copy(dst, dst_size, (const char *)sqlite3_column_text(st, column));
    check(fits);
}

static void col_bin(sqlite3_stmt *st, int column, void *dst, size_t len)
{
    const void *data = sqlite3_column_blob(st, column);
    check(sqlite3_column_bytes(st, column) == (int)len);
    memcpy(dst, data, len);
}

static uint32_t count_of(struct meta_state *s, enum query q)
{
    sqlite3_stmt *st = query(s, q);
    bool row = step(st);
    check(row);
    uint32_t count = col_u32(st, 0);
    finish(st);
    return count;
}

/* The first column of all rows. */
static uint64_t *ids_of(sqlite3_stmt *st, uint32_t *count)
{
    uint64_t *ids = NULL;
    uint32_t capacity = 0;

    *count = 0;
    while (step(st)) {
        if (*count == capacity) {
            capacity = capacity == 0 ? 16 : 2 * capacity;
            ids = mem_realloc(ids, capacity * sizeof(*ids));
        }
        ids[(*count)++] = col_u64(st, 0);
    }
    finish(st);
    return ids;
}

void state_queries_close(struct meta_state *s)
{
    for (uint32_t i = 0; i < Q_COUNT; i++) {
        sqlite3_finalize(s->queries[i]);
        s->queries[i] = NULL;
    }
}

void state_begin(struct meta_state *s)
{
    run(query(s, Q_BEGIN));
}

void state_commit(struct meta_state *s)
{
    run(query(s, Q_COMMIT));
}

/* ---- Schema ---- */

int state_schema_create(struct meta_state *s)
{
    return sqlite3_exec(s->db, schema, NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

/* The definitions in the database, joined, are the text above: nothing more, nothing less. */
bool state_schema_is_ours(struct meta_state *s)
{
    sqlite3_stmt *st;
    const char *rest = schema;
    bool same = true;

    if (sqlite3_prepare_v2(s->db,
                           "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid", -1,
                           &st, NULL) != SQLITE_OK)
        return false;
    int rc;
    while (same && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *sql = (const char *)sqlite3_column_text(st, 0);
        size_t len = sql == NULL ? 0 : strlen(sql);
        same = len > 0 && strncmp(sql, rest, len) == 0 && rest[len] == ';';
        if (same)
            rest += len + 1;
    }
    sqlite3_finalize(st);
    return same && *rest == '\0' && rc == SQLITE_DONE;
}

/* ---- Change log ---- */

static void change_put(struct meta_state *s, enum meta_table table, uint64_t key)
{
    sqlite3_stmt *st = query(s, Q_CHANGE_PUT);

    if (!s->touched) {
        s->touched = true;
        s->cluster.revision++;
    }
    bind_u64(st, 1, ++s->cluster.change_last);
    bind_u64(st, 2, s->cluster.revision);
    bind_u64(st, 3, (uint64_t)table);
    bind_u64(st, 4, key);
    run(st);
}

void state_cluster_changed(struct meta_state *s)
{
    if (s->cluster_changed)
        return;
    s->cluster_changed = true;
    change_put(s, META_TABLE_CLUSTER, 0);
}

/* Once an entry, so that the cost is shared. */
static void change_prune(struct meta_state *s)
{
    if (s->cluster.change_last <= META_CHANGES_KEPT)
        return;

    uint64_t last = s->cluster.change_last - META_CHANGES_KEPT;
    sqlite3_stmt *st = query(s, Q_CHANGE_FLOOR);
    bind_u64(st, 1, last);
    if (step(st)) /* revisions rise with n */
        s->cluster.change_floor = col_u64(st, 0);
    finish(st);

    st = query(s, Q_CHANGE_PRUNE);
    bind_u64(st, 1, last);
    run(st);
}

void state_each_key(struct meta_state *s, bool all, uint64_t since,
                    void (*each)(struct meta_state *s, enum meta_table table, uint64_t key,
                                 void *arg),
                    void *arg)
{
    sqlite3_stmt *st = query(s, all ? Q_KEYS_ALL : Q_KEYS_SINCE);

    if (!all)
        bind_u64(st, 1, since);
    while (step(st))
        each(s, (enum meta_table)col_u32(st, 0), col_u64(st, 1), arg);
    finish(st);
}

/* ---- cluster ---- */

void state_cluster_read(struct meta_state *s)
{
    struct state_cluster *c = &s->cluster;
    sqlite3_stmt *st = query(s, Q_CLUSTER_GET);

    memset(c, 0, sizeof(*c));
    if (step(st)) {
        col_bin(st, 0, c->uuid, sizeof(c->uuid));
        c->default_replicas = col_u32(st, 1);
        c->feature_level = col_u32(st, 2);
        c->revision = col_u64(st, 3);
        c->applied_index = col_u64(st, 4);
        c->entries = col_u64(st, 5);
        c->node_last = col_u32(st, 6);
        c->osd_last = col_u32(st, 7);
        c->pool_last = col_u32(st, 8);
        c->image_last = col_u64(st, 9);
        c->client_last = col_u64(st, 10);
        c->request_last = col_u64(st, 11);
        c->change_last = col_u64(st, 12);
        c->change_floor = col_u64(st, 13);
    }
    finish(st);
}

void state_cluster_write(struct meta_state *s)
{
    struct state_cluster *c = &s->cluster;

    change_prune(s);
    sqlite3_stmt *st = query(s, Q_CLUSTER_PUT);
    bind_blob(st, 1, c->uuid, sizeof(c->uuid));
    bind_u64(st, 2, c->default_replicas);
    bind_u64(st, 3, c->feature_level);
    bind_u64(st, 4, c->revision);
    bind_u64(st, 5, c->applied_index);
    bind_u64(st, 6, c->entries);
    bind_u64(st, 7, c->node_last);
    bind_u64(st, 8, c->osd_last);
    bind_u64(st, 9, c->pool_last);
    bind_u64(st, 10, c->image_last);
    bind_u64(st, 11, c->client_last);
    bind_u64(st, 12, c->request_last);
    bind_u64(st, 13, c->change_last);
    bind_u64(st, 14, c->change_floor);
    run(st);
}

/* ---- node ---- */

static bool node_take(sqlite3_stmt *st, struct state_node *out)
{
    bool found = step(st);

    memset(out, 0, sizeof(*out));
    if (found) {
        out->map.id = col_u32(st, 0);
        col_text(st, 1, out->map.name, sizeof(out->map.name));
        col_text(st, 2, out->map.location, sizeof(out->map.location));
        col_bin(st, 3, out->map.addr.ip, sizeof(out->map.addr.ip));
        out->map.addr.port = (uint16_t)col_u32(st, 4);
        out->map.incarnation = col_u32(st, 5);
        col_bin(st, 6, out->join_id, sizeof(out->join_id));
    }
    finish(st);
    return found;
}

bool state_node_get(struct meta_state *s, uint32_t id, struct state_node *out)
{
    sqlite3_stmt *st = query(s, Q_NODE_GET);
    bind_u64(st, 1, id);
    return node_take(st, out);
}

bool state_node_by_name(struct meta_state *s, const char *name, struct state_node *out)
{
    sqlite3_stmt *st = query(s, Q_NODE_BY_NAME);
    bind_text(st, 1, name);
    return node_take(st, out);
}

bool state_node_new_by_join(struct meta_state *s, const uint8_t join_id[16], struct state_node *out)
{
    sqlite3_stmt *st = query(s, Q_NODE_NEW_BY_JOIN);
    bind_blob(st, 1, join_id, 16);
    return node_take(st, out);
}

void state_node_put(struct meta_state *s, const struct state_node *n)
{
    sqlite3_stmt *st = query(s, Q_NODE_PUT);

    bind_u64(st, 1, n->map.id);
    bind_text(st, 2, n->map.name);
    bind_text(st, 3, n->map.location);
    bind_blob(st, 4, n->map.addr.ip, sizeof(n->map.addr.ip));
    bind_u64(st, 5, n->map.addr.port);
    bind_u64(st, 6, n->map.incarnation);
    bind_blob(st, 7, n->join_id, sizeof(n->join_id));
    run(st);
    change_put(s, META_TABLE_NODE, n->map.id);
}

uint32_t state_nodes_count(struct meta_state *s)
{
    return count_of(s, Q_NODE_COUNT);
}

/* ---- osd ---- */

static void osd_columns(sqlite3_stmt *st, struct map_osd *out)
{
    memset(out, 0, sizeof(*out));
    out->id = col_u32(st, 0);
    out->node = col_u32(st, 1);
    out->incarnation = col_u32(st, 2);
    out->dead_incarnation = col_u32(st, 3);
    out->up = col_u32(st, 4) != 0;
    out->failed = col_u32(st, 5) != 0;
    out->size = col_u64(st, 6);
    out->weight = col_u32(st, 7);
    col_bin(st, 8, out->uuid, sizeof(out->uuid));
}

static bool osd_take(sqlite3_stmt *st, struct map_osd *out)
{
    bool found = step(st);

    memset(out, 0, sizeof(*out));
    if (found)
        osd_columns(st, out);
    finish(st);
    return found;
}

bool state_osd_get(struct meta_state *s, uint32_t id, struct map_osd *out)
{
    sqlite3_stmt *st = query(s, Q_OSD_GET);
    bind_u64(st, 1, id);
    return osd_take(st, out);
}

bool state_osd_by_uuid(struct meta_state *s, const uint8_t uuid[16], struct map_osd *out)
{
    sqlite3_stmt *st = query(s, Q_OSD_BY_UUID);
    bind_blob(st, 1, uuid, 16);
    return osd_take(st, out);
}

void state_osd_put(struct meta_state *s, const struct map_osd *o)
{
    sqlite3_stmt *st = query(s, Q_OSD_PUT);

    check(!o->up || !o->failed);
    check(o->dead_incarnation <= o->incarnation);
    bind_u64(st, 1, o->id);
    bind_u64(st, 2, o->node);
    bind_u64(st, 3, o->incarnation);
    bind_u64(st, 4, o->dead_incarnation);
    bind_u64(st, 5, o->up);
    bind_u64(st, 6, o->failed);
    bind_u64(st, 7, o->size);
    bind_u64(st, 8, o->weight);
    bind_blob(st, 9, o->uuid, sizeof(o->uuid));
    run(st);
    change_put(s, META_TABLE_OSD, o->id);
}

struct map_osd *state_osds(struct meta_state *s, uint32_t *count)
{
    sqlite3_stmt *st = query(s, Q_OSD_ALL);
    struct map_osd *osds = mem_zalloc(((size_t)s->cluster.osd_last + 1) * sizeof(*osds));

    *count = 0;
    while (step(st)) {
        check(*count < s->cluster.osd_last);
        osd_columns(st, &osds[(*count)++]);
    }
    finish(st);
    return osds;
}

/* ---- pool ---- */

static bool pool_take(sqlite3_stmt *st, struct map_pool *out)
{
    bool found = step(st);

    memset(out, 0, sizeof(*out));
    if (found) {
        out->id = col_u32(st, 0);
        col_text(st, 1, out->name, sizeof(out->name));
        out->replicas = col_u32(st, 2);
        out->min_size = col_u32(st, 3);
        out->pg_count = col_u32(st, 4);
        out->object_size = col_u32(st, 5);
    }
    finish(st);
    return found;
}

bool state_pool_get(struct meta_state *s, uint32_t id, struct map_pool *out)
{
    sqlite3_stmt *st = query(s, Q_POOL_GET);
    bind_u64(st, 1, id);
    return pool_take(st, out);
}

bool state_pool_by_name(struct meta_state *s, const char *name, struct map_pool *out)
{
    sqlite3_stmt *st = query(s, Q_POOL_BY_NAME);
    bind_text(st, 1, name);
    return pool_take(st, out);
}

void state_pool_put(struct meta_state *s, const struct map_pool *p)
{
    sqlite3_stmt *st = query(s, Q_POOL_PUT);

    bind_u64(st, 1, p->id);
    bind_text(st, 2, p->name);
    bind_u64(st, 3, p->replicas);
    bind_u64(st, 4, p->min_size);
    bind_u64(st, 5, p->pg_count);
    bind_u64(st, 6, p->object_size);
    run(st);
    change_put(s, META_TABLE_POOL, p->id);
}

uint32_t state_pools_count(struct meta_state *s)
{
    return count_of(s, Q_POOL_COUNT);
}

/* ---- pg ---- */

enum { PG_TEXT_MAX = META_STALE_MAX * 36 };

static void ids_print(const uint32_t *ids, uint8_t count, char dst[PG_TEXT_MAX])
{
    int at = 0;

    check(count <= META_REPLICAS_MAX);
    dst[0] = '\0';
    for (uint8_t i = 0; i < count; i++)
        at += snprintf(dst + at, (size_t)(PG_TEXT_MAX - at), i == 0 ? "%u" : ",%u", ids[i]);
}

static uint64_t number_scan(const char **at)
{
    char *end;
    uint64_t value = strtoull(*at, &end, 10);

    check(end != *at);
    *at = end;
    return value;
}

static uint8_t ids_scan(const char *text, uint32_t *ids)
{
    uint8_t count = 0;

    while (*text != '\0') {
        check(count < META_REPLICAS_MAX);
        ids[count++] = (uint32_t)number_scan(&text);
        if (*text == ',')
            text++;
    }
    return count;
}

static void stale_print(const struct map_pg *g, char dst[PG_TEXT_MAX])
{
    int at = 0;

    check(g->stale_count <= META_STALE_MAX);
    dst[0] = '\0';
    for (uint8_t i = 0; i < g->stale_count; i++)
        at += snprintf(dst + at, (size_t)(PG_TEXT_MAX - at), i == 0 ? "%u:%llu" : ",%u:%llu",
                       g->stale[i].osd, (unsigned long long)g->stale[i].version);
}

static void stale_scan(const char *text, struct map_pg *g)
{
    while (*text != '\0') {
        check(g->stale_count < META_STALE_MAX);
        struct map_stale *row = &g->stale[g->stale_count++];
        row->osd = (uint32_t)number_scan(&text);
        check(*text == ':');
        text++;
        row->version = number_scan(&text);
        if (*text == ',')
            text++;
    }
}

bool state_pg_get(struct meta_state *s, uint64_t id, struct map_pg *out)
{
    sqlite3_stmt *st = query(s, Q_PG_GET);

    bind_u64(st, 1, id);
    bool found = step(st);
    memset(out, 0, sizeof(*out));
    if (found) {
        out->id = col_u64(st, 0);
        out->epoch = col_u32(st, 1);
        out->primary = col_u32(st, 2);
        out->activated = col_u32(st, 3);
        out->active = col_u32(st, 4) != 0;
        out->set_count = ids_scan((const char *)sqlite3_column_text(st, 5), out->set);
        out->target_count = ids_scan((const char *)sqlite3_column_text(st, 6), out->target);
        stale_scan((const char *)sqlite3_column_text(st, 7), out);
    }
    finish(st);
    return found;
}

/* What holds of every PG after every command. */
static void pg_check(const struct map_pg *g)
{
    bool primary_in_set = g->primary == 0;

    check(g->epoch >= 1);
    check(g->set_count >= 1);
    check(!g->active || g->primary != 0);
    check(g->activated <= g->epoch);
    for (uint8_t i = 0; i < g->set_count; i++) {
        check(i == 0 || g->set[i - 1] < g->set[i]);
        primary_in_set |= g->set[i] == g->primary;
        for (uint8_t k = 0; k < g->stale_count; k++)
            check(g->stale[k].osd != g->set[i]);
    }
    check(primary_in_set);
}

void state_pg_put(struct meta_state *s, const struct map_pg *g)
{
    char members[PG_TEXT_MAX], target[PG_TEXT_MAX], stale[PG_TEXT_MAX];
    sqlite3_stmt *st = query(s, Q_PG_PUT);

    pg_check(g);
    ids_print(g->set, g->set_count, members);
    ids_print(g->target, g->target_count, target);
    stale_print(g, stale);
    bind_u64(st, 1, g->id);
    bind_u64(st, 2, g->epoch);
    bind_u64(st, 3, g->primary);
    bind_u64(st, 4, g->activated);
    bind_u64(st, 5, g->active);
    bind_text(st, 6, members);
    bind_text(st, 7, target);
    bind_text(st, 8, stale);
    run(st);
    change_put(s, META_TABLE_PG, g->id);
}

uint32_t state_pgs_count(struct meta_state *s)
{
    return count_of(s, Q_PG_COUNT);
}

uint64_t *state_pgs_of_primary(struct meta_state *s, uint32_t osd, uint32_t *count)
{
    sqlite3_stmt *st = query(s, Q_PG_OF_PRIMARY);
    bind_u64(st, 1, osd);
    return ids_of(st, count);
}

struct state_candidate *state_candidates_load(struct meta_state *s, uint32_t *count)
{
    uint32_t osds_count;
    struct map_osd *osds = state_osds(s, &osds_count);
    struct state_candidate *items = mem_zalloc(((size_t)s->cluster.osd_last + 1) * sizeof(*items));

    for (uint32_t i = 0; i < osds_count; i++) {
        items[osds[i].id].weight = osds[i].weight;
        items[osds[i].id].up = osds[i].up;
    }
    free(osds);

    sqlite3_stmt *st = query(s, Q_PG_PRIMARIES);
    while (step(st)) {
        uint32_t osd = col_u32(st, 0);
        check(osd <= s->cluster.osd_last);
        items[osd].primaries = col_u32(st, 1);
    }
    finish(st);
    *count = s->cluster.osd_last + 1;
    return items;
}

/* ---- image ---- */

static bool image_take(sqlite3_stmt *st, struct map_image *out)
{
    bool found = step(st);

    memset(out, 0, sizeof(*out));
    if (found) {
        out->id = col_u64(st, 0);
        out->root = col_u64(st, 1);
        col_text(st, 2, out->name, sizeof(out->name));
        out->size = col_u64(st, 3);
        out->pool = col_u32(st, 4);
        out->epoch = col_u32(st, 5);
    }
    finish(st);
    return found;
}

static bool image_get(struct meta_state *s, uint64_t id, struct map_image *out)
{
    sqlite3_stmt *st = query(s, Q_IMAGE_GET);
    bind_u64(st, 1, id);
    return image_take(st, out);
}

bool state_image_by_name(struct meta_state *s, const char *name, struct map_image *out)
{
    sqlite3_stmt *st = query(s, Q_IMAGE_BY_NAME);
    bind_text(st, 1, name);
    return image_take(st, out);
}

void state_image_put(struct meta_state *s, const struct map_image *i)
{
    sqlite3_stmt *st = query(s, Q_IMAGE_PUT);

    bind_u64(st, 1, i->id);
    bind_u64(st, 2, i->root);
    bind_text(st, 3, i->name);
    bind_u64(st, 4, i->size);
    bind_u64(st, 5, i->pool);
    bind_u64(st, 6, i->epoch);
    run(st);
    change_put(s, META_TABLE_IMAGE, i->id);
}

void state_image_delete(struct meta_state *s, uint64_t id)
{
    sqlite3_stmt *st = query(s, Q_IMAGE_DELETE);
    bind_u64(st, 1, id);
    run(st);
    change_put(s, META_TABLE_IMAGE, id);
}

/* ---- client ---- */

static bool client_take(sqlite3_stmt *st, struct state_client *out)
{
    bool found = step(st);

    memset(out, 0, sizeof(*out));
    if (found) {
        out->map.id = col_u64(st, 0);
        out->map.node = col_u32(st, 1);
        out->node_incarnation = col_u32(st, 2);
        out->map.fenced = col_u32(st, 3) != 0;
        col_bin(st, 4, out->join_id, sizeof(out->join_id));
    }
    finish(st);
    return found;
}

bool state_client_get(struct meta_state *s, uint64_t id, struct state_client *out)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_GET);
    bind_u64(st, 1, id);
    return client_take(st, out);
}

bool state_client_by_join(struct meta_state *s, const uint8_t join_id[16], struct state_client *out)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_BY_JOIN);
    bind_blob(st, 1, join_id, 16);
    return client_take(st, out);
}

void state_client_put(struct meta_state *s, const struct state_client *c)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_PUT);

    bind_u64(st, 1, c->map.id);
    bind_u64(st, 2, c->map.node);
    bind_u64(st, 3, c->node_incarnation);
    bind_u64(st, 4, c->map.fenced);
    bind_blob(st, 5, c->join_id, sizeof(c->join_id));
    run(st);
    change_put(s, META_TABLE_CLIENT, c->map.id);
}

void state_client_delete(struct meta_state *s, uint64_t id)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_DELETE);
    bind_u64(st, 1, id);
    run(st);
    change_put(s, META_TABLE_CLIENT, id);
}

uint32_t state_clients_count(struct meta_state *s)
{
    return count_of(s, Q_CLIENT_COUNT);
}

uint64_t *state_clients_before(struct meta_state *s, uint32_t node, uint32_t incarnation,
                               uint32_t *count)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_BEFORE);
    bind_u64(st, 1, node);
    bind_u64(st, 2, incarnation);
    return ids_of(st, count);
}

uint64_t state_client_oldest_tool(struct meta_state *s)
{
    sqlite3_stmt *st = query(s, Q_CLIENT_OLDEST);
    uint64_t id = step(st) ? col_u64(st, 0) : 0;

    finish(st);
    return id;
}

/* ---- request ---- */

bool state_request_get(struct meta_state *s, const uint8_t id[16], struct meta_result *out)
{
    sqlite3_stmt *st = query(s, Q_REQUEST_GET);

    memset(out, 0, sizeof(*out));
    bind_blob(st, 1, id, 16);
    bool found = step(st);
    if (found) {
        out->code = -(int)col_u32(st, 0);
        out->revision = col_u64(st, 1);
        out->id = col_u64(st, 2);
        col_text(st, 3, out->message, sizeof(out->message));
    }
    finish(st);
    return found;
}

void state_request_put(struct meta_state *s, const uint8_t id[16], const struct meta_result *r)
{
    sqlite3_stmt *st = query(s, Q_REQUEST_PUT);

    bind_u64(st, 1, ++s->cluster.request_last);
    bind_blob(st, 2, id, 16);
    bind_u64(st, 3, (uint64_t)-r->code);
    bind_u64(st, 4, r->revision);
    bind_u64(st, 5, r->id);
    bind_text(st, 6, r->message);
    run(st);
    if (s->cluster.request_last > META_REQUESTS_KEPT) {
        st = query(s, Q_REQUEST_PRUNE);
        bind_u64(st, 1, s->cluster.request_last - META_REQUESTS_KEPT);
        run(st);
    }
}

/* ---- Rows for readers ---- */

static void row_read_cluster(struct meta_state *s, struct meta_row *row)
{
    memcpy(row->cluster.cluster, s->cluster.uuid, sizeof(s->cluster.uuid));
    row->cluster.default_replicas = s->cluster.default_replicas;
    row->cluster.client_last = s->cluster.client_last;
    row->cluster.image_last = s->cluster.image_last;
}

void state_row_read(struct meta_state *s, enum meta_table table, uint64_t key, struct meta_row *row)
{
    struct state_node node;
    struct state_client client;

    memset(row, 0, sizeof(*row));
    row->table = table;
    row->key = key;
    switch (table) {
    case META_TABLE_CLUSTER:
        row->present = true;
        row_read_cluster(s, row);
        break;
    case META_TABLE_NODE:
        row->present = state_node_get(s, (uint32_t)key, &node);
        row->node = node.map;
        break;
    case META_TABLE_OSD:
        row->present = state_osd_get(s, (uint32_t)key, &row->osd);
        break;
    case META_TABLE_POOL:
        row->present = state_pool_get(s, (uint32_t)key, &row->pool);
        break;
    case META_TABLE_PG:
        row->present = state_pg_get(s, key, &row->pg);
        break;
    case META_TABLE_IMAGE:
        row->present = image_get(s, key, &row->image);
        break;
    case META_TABLE_CLIENT:
        row->present = state_client_get(s, key, &client);
        row->client = client.map;
        break;
    }
}

/* ---- Hash ---- */

static uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
    const uint8_t *at = data;

    h = mix64(h ^ len);
    for (; len >= 8; len -= 8, at += 8)
        h = mix64(h ^ get_u64(at));
    uint8_t last[8] = {0};
    if (len > 0)
        memcpy(last, at, len);
    return mix64(h ^ get_u64(last));
}

static uint64_t hash_column(uint64_t h, sqlite3_stmt *st, int column)
{
    int type = sqlite3_column_type(st, column);

    h = mix64(h ^ (uint64_t)type);
    if (type == SQLITE_INTEGER)
        return mix64(h ^ col_u64(st, column));
    check(type == SQLITE_TEXT || type == SQLITE_BLOB);
    const void *data = sqlite3_column_blob(st, column);
    return hash_bytes(h, data, (size_t)sqlite3_column_bytes(st, column));
}

/* Every table but the change log, which says nothing that the others do not. */
uint64_t state_hash_tables(struct meta_state *s)
{
    static const char *const all[] = {
        "SELECT * FROM cluster ORDER BY id", "SELECT * FROM node ORDER BY id",
        "SELECT * FROM osd ORDER BY id",     "SELECT * FROM pool ORDER BY id",
        "SELECT * FROM pg ORDER BY id",      "SELECT * FROM image ORDER BY id",
        "SELECT * FROM client ORDER BY id",  "SELECT * FROM request ORDER BY n",
    };
    uint64_t h = 0;

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        sqlite3_stmt *st;
        int rc = sqlite3_prepare_v2(s->db, all[i], -1, &st, NULL);
        check(rc == SQLITE_OK);
        h = mix64(h ^ i);
        while (step(st)) {
            for (int column = 0; column < sqlite3_column_count(st); column++)
                h = hash_column(h, st, column);
        }
        sqlite3_finalize(st);
    }
    return h;
}

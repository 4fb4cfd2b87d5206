#include "meta/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "meta/state_impl.h"

static const uint64_t database_bytes_max = 16ull << 30;

/* ---- The database ---- */

/*
 * The database is memory and never rolls back, so it needs no journal. Schemas of a snapshot are
 * not trusted to run anything.
 */
static int db_open(sqlite3 **out)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY |
                SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;

    *out = NULL;
    if (sqlite3_open_v2(":memory:", out, flags, NULL) != SQLITE_OK) {
        sqlite3_close(*out);
        return -ENOMEM;
    }
    sqlite3_db_config(*out, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(*out, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    return 0;
}

static int db_tune(sqlite3 *db)
{
    static const char pragmas[] = "PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY;"
                                  "PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-65536;";

    return sqlite3_exec(db, pragmas, NULL, NULL, NULL) == SQLITE_OK ? 0 : -EINVAL;
}

int meta_state_open(const struct meta_state_env *env, struct meta_state **out)
{
    struct meta_state *s = mem_zalloc(sizeof(*s));

    s->env = *env;
    s->arena = mem_zalloc(META_COMMAND_ARENA);
    if (db_open(&s->db) < 0 || db_tune(s->db) < 0 || state_schema_create(s) < 0) {
        meta_state_close(s);
        return -ENOMEM;
    }
    s->cluster.feature_level = 1;
    *out = s;
    return 0;
}

void meta_state_close(struct meta_state *s)
{
    state_queries_close(s);
    sqlite3_close(s->db);
    free(s->candidates.items);
    free(s->arena);
    free(s);
}

uint64_t meta_state_revision(const struct meta_state *s)
{
    return s->cluster.revision;
}

uint64_t meta_state_applied_index(const struct meta_state *s)
{
    return s->cluster.applied_index;
}

/* ---- Snapshots ---- */

int meta_state_serialize(struct meta_state *s, void **buf, size_t *len)
{
    sqlite3_int64 size = 0;
    unsigned char *data = sqlite3_serialize(s->db, "main", &size, 0);

    if (data == NULL)
        return -ENOMEM;
    *buf = malloc((size_t)size);
    if (*buf != NULL) {
        memcpy(*buf, data, (size_t)size);
        *len = (size_t)size;
    }
    sqlite3_free(data);
    return *buf != NULL ? 0 : -ENOMEM;
}

static bool db_is_sound(sqlite3 *db)
{
    sqlite3_stmt *st;
    bool sound = false;

    if (sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL) != SQLITE_OK)
        return false;
    if (sqlite3_step(st) == SQLITE_ROW)
        sound = strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
    sqlite3_finalize(st);
    return sound;
}

static int db_load(sqlite3 *db, struct slice bytes)
{
    sqlite3_int64 limit = (sqlite3_int64)database_bytes_max;
    unsigned char *copy = sqlite3_malloc64(bytes.len);

    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, bytes.base, bytes.len);
    /* The copy is the database's from here on, whatever comes back. */
    if (sqlite3_deserialize(db, "main", copy, (sqlite3_int64)bytes.len, (sqlite3_int64)bytes.len,
                            SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE) !=
        SQLITE_OK)
        return -EINVAL;
    sqlite3_file_control(db, "main", SQLITE_FCNTL_SIZE_LIMIT, &limit);
    return db_tune(db) == 0 && db_is_sound(db) ? 0 : -EINVAL;
}

int meta_state_restore(struct meta_state *s, struct slice snapshot)
{
    struct meta_state fresh = {.db = NULL};

    if (snapshot.len < 512 || snapshot.len > database_bytes_max)
        return -EINVAL;
    int error = db_open(&fresh.db);
    if (error < 0)
        return error;
    error = db_load(fresh.db, snapshot);
    if (error == 0 && !state_schema_is_ours(&fresh))
        error = -EINVAL;
    if (error < 0) {
        sqlite3_close(fresh.db);
        return error;
    }

    state_queries_close(s);
    sqlite3_close(s->db);
    s->db = fresh.db;
    memset(s->marks, 0, sizeof(s->marks));
    state_cluster_read(s);
    return 0;
}

/* ---- Apply ---- */

static void state_stop(struct meta_state *s, const char *what, int error)
{
    s->stopped = true;
    s->env.fatal(s->env.arg, what, error);
}

/*
 * The leader says which hash its state had after entry `revision` of the log. Who applied that
 * entry while running remembers its own; who was restored since has nothing to compare.
 */
static void apply_state_hash(struct meta_state *s, const struct meta_command *c,
                             struct meta_result *r)
{
    (void)r;
    for (uint32_t i = 0; i < STATE_HASH_MARKS; i++) {
        const struct state_hash_mark *m = &s->marks[i];
        if (m->index != c->revision || m->index == 0 || m->hash == c->hash)
            continue;
        char what[128];
        snprintf(what, sizeof(what),
                 "state differs from the leader's at log index %llu: ours %016llx, theirs %016llx",
                 (unsigned long long)m->index, (unsigned long long)m->hash,
                 (unsigned long long)c->hash);
        state_stop(s, what, -EUCLEAN);
    }
}

static void apply_look(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    (void)s;
    (void)c;
    (void)r;
}

static void (*const appliers[META_KIND_LAST + 1])(struct meta_state *s,
                                                  const struct meta_command *c,
                                                  struct meta_result *r) = {
    [META_CLUSTER_INIT] = apply_cluster_init,
    [META_NODE_ADD] = apply_node_add,
    [META_NODE_SET] = apply_node_set,
    [META_OSD_ADD] = apply_osd_add,
    [META_OSD_UP] = apply_osd_up,
    [META_OSD_DOWN] = apply_osd_down,
    [META_OSD_FAILED] = apply_osd_failed,
    [META_POOL_CREATE] = apply_pool_create,
    [META_PG_CHANGE] = apply_pg_change,
    [META_PG_TARGET] = apply_pg_target,
    [META_IMAGE_CREATE] = apply_image_create,
    [META_IMAGE_DELETE] = apply_image_delete,
    [META_CLIENT_ADD] = apply_client_add,
    [META_CLIENT_REMOVE] = apply_client_remove,
    [META_STATE_HASH] = apply_state_hash,
    [META_LOOK] = apply_look,
};

static bool is_zero(const uint8_t id[16])
{
    static const uint8_t zero[16];
    return memcmp(id, zero, 16) == 0;
}

/* -EAGAIN is the one result that is not remembered: it says "not yet", and the same request may
 * succeed later. */
static void apply_command(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    bool named = !is_zero(c->request_id) && c->kind != META_LOOK;

    memset(r, 0, sizeof(*r));
    if (named && state_request_get(s, c->request_id, r))
        return;

    s->touched = false;
    s->cluster_changed = false;
    if (is_zero(s->cluster.uuid) && c->kind != META_CLUSTER_INIT && c->kind != META_STATE_HASH)
        meta_result_set(r, -EAGAIN, "the cluster is not initialised yet");
    else
        appliers[c->kind](s, c, r);
    check(r->code == 0 || !s->touched); /* a refused command changes nothing */

    free(s->candidates.items);
    s->candidates = (struct state_candidates){0};
    r->revision = s->cluster.revision;
    if (named && r->code != -EAGAIN)
        state_request_put(s, c->request_id, r);
}

static void mark_hash(struct meta_state *s)
{
    struct state_hash_mark *m = &s->marks[s->marks_next++ % STATE_HASH_MARKS];

    m->index = s->cluster.applied_index;
    m->hash = state_hash_tables(s);
}

/* All commands of the entry; false when one cannot be understood. */
static bool apply_all(struct meta_state *s, struct unpack *u)
{
    struct meta_arena arena = {s->arena, META_COMMAND_ARENA, 0};
    struct meta_command c;
    struct meta_result r;
    uint32_t count = unpack_array(u, META_BATCH_MAX);

    for (uint32_t i = 0; i < count; i++) {
        int error = meta_command_decode(u, &arena, &c);
        if (error < 0) {
            state_stop(s,
                       error == -ENOTSUP ? "an entry of the log needs a newer program"
                                         : "an entry of the log cannot be read",
                       error);
            return false;
        }
        apply_command(s, &c, &r);
        if (s->stopped)
            return false;
        s->env.applied(s->env.arg, c.request_id, &r);
    }
    if (u->failed || unpack_left(u) >= 8) {
        state_stop(s, "an entry of the log cannot be read", -EPROTO);
        return false;
    }
    return true;
}

void meta_state_apply(struct meta_state *s, uint64_t index, struct slice entry)
{
    struct unpack u;

    if (s->stopped)
        return;
    check(index > s->cluster.applied_index);
    unpack_init(&u, entry);
    state_begin(s);
    if (!apply_all(s, &u))
        return;
    s->cluster.applied_index = index;
    s->cluster.entries++;
    state_cluster_write(s);
    state_commit(s);
    if (s->cluster.entries % META_HASH_EVERY == 0)
        mark_hash(s);
}

uint64_t meta_state_hash(struct meta_state *s)
{
    return state_hash_tables(s);
}

bool meta_state_hash_last(const struct meta_state *s, uint64_t *index, uint64_t *hash)
{
    const struct state_hash_mark *m =
        &s->marks[(s->marks_next + STATE_HASH_MARKS - 1) % STATE_HASH_MARKS];

    *index = m->index;
    *hash = m->hash;
    return m->index != 0;
}

/* ---- Rows ---- */

static void put_row(struct meta_state *s, enum meta_table table, uint64_t key, void *arg)
{
    struct pack *out = arg;
    struct meta_row row;

    state_row_read(s, table, key, &row);
    meta_row_put(out, &row);
}

bool meta_state_rows_since(struct meta_state *s, uint64_t since, struct pack *out)
{
    if (since < s->cluster.change_floor || since > s->cluster.revision)
        return false;
    state_each_key(s, false, since, put_row, out);
    return true;
}

void meta_state_rows_all(struct meta_state *s, struct pack *out)
{
    state_each_key(s, true, 0, put_row, out);
}

/* ---- Queries of people ---- */

/* Reading is all a person's query may do. */
static int authorize(void *arg, int action, const char *a, const char *b, const char *c,
                     const char *d)
{
    (void)arg, (void)a, (void)b, (void)c, (void)d;
    return action == SQLITE_SELECT || action == SQLITE_READ || action == SQLITE_FUNCTION ||
                   action == SQLITE_RECURSIVE
               ? SQLITE_OK
               : SQLITE_DENY;
}

/* The control loop waits meanwhile, so a query has a budget: some hundred milliseconds. */
enum { QUERY_STEPS_MAX = 200, QUERY_STEP_SIZE = 10000, QUERY_COLUMNS_MAX = 64 };

static int query_progress(void *arg)
{
    uint32_t *steps = arg;
    return ++*steps > QUERY_STEPS_MAX;
}

static int query_run(sqlite3 *db, const char *sql,
                     void (*each)(void *arg, int columns, char **values, char **names), void *arg)
{
    sqlite3_stmt *st;
    const char *tail;

    if (sqlite3_prepare_v2(db, sql, -1, &st, &tail) != SQLITE_OK || st == NULL)
        return SQLITE_ERROR;
    int columns = sqlite3_column_count(st);
    if (columns > QUERY_COLUMNS_MAX || *tail != '\0') {
        sqlite3_finalize(st);
        return SQLITE_MISUSE;
    }
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        char *values[QUERY_COLUMNS_MAX], *names[QUERY_COLUMNS_MAX];
        for (int i = 0; i < columns; i++) {
            values[i] = (char *)(uintptr_t)sqlite3_column_text(st, i);
            names[i] = (char *)(uintptr_t)sqlite3_column_name(st, i);
        }
        each(arg, columns, values, names);
    }
    sqlite3_finalize(st);
    return rc;
}

int meta_state_query(struct meta_state *s, const char *sql,
                     void (*each)(void *arg, int columns, char **values, char **names), void *arg,
                     char *message, size_t message_size)
{
    uint32_t steps = 0;

    sqlite3_set_authorizer(s->db, authorize, NULL);
    sqlite3_progress_handler(s->db, QUERY_STEP_SIZE, query_progress, &steps);
    int rc = query_run(s->db, sql, each, arg);
    sqlite3_progress_handler(s->db, 0, NULL, NULL);
    sqlite3_set_authorizer(s->db, NULL, NULL);
    if (rc == SQLITE_DONE)
        return 0;
    if (rc == SQLITE_MISUSE)
        snprintf(message, message_size, "one statement of at most %d columns", QUERY_COLUMNS_MAX);
    else
        snprintf(message, message_size, "%s", sqlite3_errmsg(s->db));
    return -EINVAL;
}

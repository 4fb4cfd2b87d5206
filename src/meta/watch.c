#include "meta/watch.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"

struct watcher {
    struct list link; /* waiting or free */
    struct rpc_request *req;
    uint64_t until_ns;
    uint64_t since;
    bool all;
    uint32_t table;
    uint64_t key;
};

enum { TICK_MS = 250 };

/* ---- Rows of a map ---- */

void watch_map_row(const struct map *m, enum meta_table table, uint64_t key, struct meta_row *row)
{
    memset(row, 0, sizeof(*row));
    row->table = table;
    row->key = key;
    const void *item = NULL;
    switch (table) {
    case META_TABLE_CLUSTER:
        row->present = true;
        memcpy(row->cluster.cluster, m->cluster, sizeof(m->cluster));
        row->cluster.default_replicas = m->default_replicas;
        row->cluster.client_last = m->client_last;
        row->cluster.image_last = m->image_last;
        return;
    case META_TABLE_NODE:
        if ((item = map_node(m, (uint32_t)key)) != NULL)
            row->node = *(const struct map_node *)item;
        break;
    case META_TABLE_OSD:
        if ((item = map_osd(m, (uint32_t)key)) != NULL)
            row->osd = *(const struct map_osd *)item;
        break;
    case META_TABLE_POOL:
        if ((item = map_pool(m, (uint32_t)key)) != NULL)
            row->pool = *(const struct map_pool *)item;
        break;
    case META_TABLE_PG:
        if ((item = map_pg(m, key)) != NULL)
            row->pg = *(const struct map_pg *)item;
        break;
    case META_TABLE_IMAGE:
        if ((item = map_image(m, key)) != NULL)
            row->image = *(const struct map_image *)item;
        break;
    case META_TABLE_CLIENT:
        if ((item = map_client(m, key)) != NULL)
            row->client = *(const struct map_client *)item;
        break;
    }
    row->present = item != NULL;
}

static uint32_t table_count(const struct map *m, uint32_t table)
{
    const uint32_t counts[] = {[META_TABLE_CLUSTER] = 1,
                               [META_TABLE_NODE] = m->nodes_count,
                               [META_TABLE_OSD] = m->osds_count,
                               [META_TABLE_POOL] = m->pools_count,
                               [META_TABLE_PG] = m->pgs_count,
                               [META_TABLE_IMAGE] = m->images_count,
                               [META_TABLE_CLIENT] = m->clients_count};
    return counts[table];
}

static uint64_t table_key(const struct map *m, uint32_t table, uint32_t place)
{
    switch ((enum meta_table)table) {
    case META_TABLE_CLUSTER:
        return 0;
    case META_TABLE_NODE:
        return m->nodes[place].id;
    case META_TABLE_OSD:
        return m->osds[place].id;
    case META_TABLE_POOL:
        return m->pools[place].id;
    case META_TABLE_PG:
        return m->pgs[place].id;
    case META_TABLE_IMAGE:
        return m->images[place].id;
    case META_TABLE_CLIENT:
        return m->clients[place].id;
    }
    return 0;
}

/* ---- Chunks ---- */

struct chunk {
    struct pack rows;
    uint32_t table; /* of the last row in it */
    uint64_t key;
    bool more;
};

/* False: there is no room for it. */
static bool chunk_add(struct chunk *c, const struct map *m, uint32_t table, uint64_t key)
{
    struct meta_row row;

    if (c->rows.len + META_ROW_MAX > WATCH_ROWS_MAX) {
        c->more = true;
        return false;
    }
    watch_map_row(m, (enum meta_table)table, key, &row);
    meta_row_put(&c->rows, &row);
    c->table = table;
    c->key = key;
    return true;
}

/* First place of the table behind the asker's cursor. */
static uint32_t first_place(const struct map *m, uint32_t table, const struct watcher *w)
{
    uint32_t low = 0, high = table_count(m, table);

    if (table < w->table)
        return high;
    if (table > w->table)
        return 0;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (table_key(m, table, mid) <= w->key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void chunk_all(struct chunk *c, const struct map *m, const struct watcher *w)
{
    for (uint32_t table = META_TABLE_CLUSTER; table <= META_TABLE_LAST; table++) {
        uint32_t count = table_count(m, table);
        for (uint32_t i = first_place(m, table, w); i < count; i++) {
            if (!chunk_add(c, m, table, table_key(m, table, i)))
                return;
        }
    }
}

static int touched_compare(const void *a, const void *b)
{
    const struct watch_touched *x = a, *y = b;

    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    return x->key < y->key ? -1 : x->key > y->key;
}

static void chunk_since(struct chunk *c, const struct watch *w, const struct watcher *asker)
{
    uint64_t kept = w->log_count < WATCH_LOG_MAX ? w->log_count : WATCH_LOG_MAX;
    struct watch_touched *found = mem_zalloc((kept + 1) * sizeof(*found));
    size_t count = 0;

    for (uint64_t i = w->log_count - kept; i < w->log_count; i++) {
        const struct watch_touched *t = &w->log[i % WATCH_LOG_MAX];
        bool behind = t->table > asker->table || (t->table == asker->table && t->key > asker->key);
        if (t->revision > asker->since && behind)
            found[count++] = *t;
    }
    qsort(found, count, sizeof(*found), touched_compare);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && touched_compare(&found[i - 1], &found[i]) == 0)
            continue;
        if (!chunk_add(c, w->map, found[i].table, found[i].key))
            break;
    }
    free(found);
}

/* ---- Answers ---- */

static void answer(struct watch *w, const struct watcher *asker, struct chunk *c, bool reset)
{
    struct pack p;

    pack_init_growing(&p);
    pack_array(&p, 6);
    pack_u64(&p, w->leader);
    pack_u64(&p, w->map == NULL ? 0 : w->map->revision);
    pack_bool(&p, reset);
    pack_bool(&p, c->more);
    pack_u64(&p, c->table);
    pack_u64(&p, c->key);
    pack_raw(&p, c->rows.base, c->rows.len);
    w->rows_sent += c->rows.len;
    replies_send(&w->replies, asker->req, 0, (struct slice){p.base, p.len});
    pack_deinit(&p);
}

/* Is there something to say that the asker does not know? */
static bool has_news(const struct watch *w, const struct watcher *asker)
{
    return w->map != NULL && (asker->all || w->map->revision > asker->since || asker->table != 0);
}

static void serve(struct watch *w, const struct watcher *asker)
{
    struct chunk c = {.table = 0};
    bool reset = false;

    pack_init_growing(&c.rows);
    if (has_news(w, asker)) {
        if (asker->all)
            chunk_all(&c, w->map, asker);
        else if (asker->since < w->floor)
            reset = true;
        else
            chunk_since(&c, w, asker);
    }
    answer(w, asker, &c, reset);
    pack_deinit(&c.rows);
}

static void release(struct watch *w, struct watcher *asker)
{
    asker->req = NULL;
    list_remove(&asker->link);
    list_push(&w->free, &asker->link);
    w->waiting_count--;
}

static void watch_step(struct task *task)
{
    struct watch *w = container_of(task, struct watch, task);
    uint64_t now = loop_now(w->loop);

    for (struct list *pos = w->waiting.next, *next; pos != &w->waiting; pos = next) {
        struct watcher *asker = container_of(pos, struct watcher, link);
        next = pos->next;
        if (!has_news(w, asker) && now < asker->until_ns)
            continue;
        serve(w, asker);
        release(w, asker);
    }
    if (list_empty(&w->waiting))
        loop_timer_stop(w->loop, &w->timer);
    else if (!loop_timer_is_running(&w->timer))
        loop_timer_start(w->loop, &w->timer, now + TICK_MS * NS_PER_MS);
}

static void on_tick(struct loop_timer *t)
{
    struct watch *w = container_of(t, struct watch, timer);
    loop_wake(w->loop, &w->task);
}

static bool read_request(struct rpc_request *req, struct watcher *out)
{
    struct unpack u;

    unpack_init(&u, req->body);
    unpack_array_exact(&u, 4);
    out->since = unpack_u64(&u, UINT64_MAX);
    out->all = unpack_bool(&u);
    out->table = (uint32_t)unpack_u64(&u, META_TABLE_LAST);
    out->key = unpack_u64(&u, UINT64_MAX);
    return !u.failed && unpack_left(&u) == 0;
}

void watch_handle(struct watch *w, struct rpc_request *req)
{
    struct watcher asked;

    if (!read_request(req, &asked)) {
        rpc_reply_status(req, -EPROTO);
        return;
    }
    struct list *link = list_pop(&w->free);
    if (link == NULL) {
        rpc_reply_status(req, -EBUSY);
        return;
    }
    struct watcher *asker = container_of(link, struct watcher, link);
    *asker = asked;
    list_init(&asker->link);
    asker->req = req;
    asker->until_ns = loop_now(w->loop) + WATCH_WAIT_MS * NS_PER_MS;
    list_push(&w->waiting, &asker->link);
    w->waiting_count++;
    loop_wake(w->loop, &w->task);
}

/* ---- News ---- */

static void log_add(struct watch *w, uint64_t revision, const struct meta_row *row)
{
    struct watch_touched *t = &w->log[w->log_count % WATCH_LOG_MAX];

    if (w->log_count >= WATCH_LOG_MAX)
        w->floor = t->revision;
    *t = (struct watch_touched){revision, (uint32_t)row->table, row->key};
    w->log_count++;
}

void watch_publish(struct watch *w, const struct map *map, struct slice rows, bool whole)
{
    struct unpack u;
    struct meta_row row;

    w->map = map;
    if (whole) {
        w->floor = map->revision;
        w->log_count = 0;
    } else {
        unpack_init(&u, rows);
        while (unpack_left(&u) > 0 && meta_row_get(&u, &row) == 0)
            log_add(w, map->revision, &row);
    }
    loop_wake(w->loop, &w->task);
}

void watch_set_leader(struct watch *w, uint32_t leader)
{
    w->leader = leader;
}

void watch_init(struct watch *w, struct loop *loop)
{
    memset(w, 0, sizeof(*w));
    w->loop = loop;
    list_init(&w->waiting);
    list_init(&w->free);
    replies_init(&w->replies);
    w->watchers = mem_zalloc(WATCHERS_MAX * sizeof(*w->watchers));
    for (uint32_t i = 0; i < WATCHERS_MAX; i++) {
        list_init(&w->watchers[i].link);
        list_push(&w->free, &w->watchers[i].link);
    }
    w->log = mem_zalloc(WATCH_LOG_MAX * sizeof(*w->log));
    loop_timer_init(&w->timer, on_tick);
    task_init(&w->task, watch_step);
}

void watch_deinit(struct watch *w)
{
    replies_deinit(&w->replies);
    free(w->watchers);
    free(w->log);
}

#include "meta/map.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/prng.h"
#include "meta/rows.h"

/*
 * Each table of a map is a block with a count of the maps that share it. References are counted
 * without atomics: only the control loop makes, shares and drops maps; other loops read what was
 * posted to them and hand it back (meta/feeds.c).
 */
struct block {
    uint32_t refs;
    uint32_t count;
    _Alignas(16) uint8_t items[];
};

enum { BLOCK_NAMES = 0 }; /* the blocks array: images by name here, then each table at its number */

struct map_full {
    struct map map; /* First: a map pointer is a map_full pointer. */
    uint32_t refs;
    struct block *blocks[META_TABLE_LAST + 1];
};

/* Where a table's items lie in a row, and how they are keyed. */
static const struct table {
    size_t size;
    size_t row_offset;
    bool key64;
} tables[META_TABLE_LAST + 1] = {
    [META_TABLE_NODE] = {sizeof(struct map_node), offsetof(struct meta_row, node), false},
    [META_TABLE_OSD] = {sizeof(struct map_osd), offsetof(struct meta_row, osd), false},
    [META_TABLE_POOL] = {sizeof(struct map_pool), offsetof(struct meta_row, pool), false},
    [META_TABLE_PG] = {sizeof(struct map_pg), offsetof(struct meta_row, pg), true},
    [META_TABLE_IMAGE] = {sizeof(struct map_image), offsetof(struct meta_row, image), true},
    [META_TABLE_CLIENT] = {sizeof(struct map_client), offsetof(struct meta_row, client), true},
};

static_assert(offsetof(struct map_node, id) == 0, "items begin with their key");
static_assert(offsetof(struct map_osd, id) == 0, "items begin with their key");
static_assert(offsetof(struct map_pool, id) == 0, "items begin with their key");
static_assert(offsetof(struct map_pg, id) == 0, "items begin with their key");
static_assert(offsetof(struct map_image, id) == 0, "items begin with their key");
static_assert(offsetof(struct map_client, id) == 0, "items begin with their key");

static uint64_t item_key(const struct table *t, const void *item)
{
    uint64_t wide;
    uint32_t narrow;

    if (t->key64) {
        memcpy(&wide, item, sizeof(wide));
        return wide;
    }
    memcpy(&narrow, item, sizeof(narrow));
    return narrow;
}

/* ---- Look-ups ---- */

/* The place of `key` among the items, or where it would be. */
static uint32_t find_place(const struct table *t, const void *items, uint32_t count, uint64_t key)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (item_key(t, (const char *)items + mid * t->size) < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static const void *find(enum meta_table table, const void *items, uint32_t count, uint64_t key)
{
    const struct table *t = &tables[table];
    uint32_t place = find_place(t, items, count, key);

    if (place == count)
        return NULL;
    const void *item = (const char *)items + place * t->size;
    return item_key(t, item) == key ? item : NULL;
}

const struct map_node *map_node(const struct map *m, uint32_t id)
{
    return find(META_TABLE_NODE, m->nodes, m->nodes_count, id);
}

const struct map_osd *map_osd(const struct map *m, uint32_t id)
{
    return find(META_TABLE_OSD, m->osds, m->osds_count, id);
}

const struct map_pool *map_pool(const struct map *m, uint32_t id)
{
    return find(META_TABLE_POOL, m->pools, m->pools_count, id);
}

const struct map_pg *map_pg(const struct map *m, uint64_t id)
{
    return find(META_TABLE_PG, m->pgs, m->pgs_count, id);
}

const struct map_image *map_image(const struct map *m, uint64_t id)
{
    return find(META_TABLE_IMAGE, m->images, m->images_count, id);
}

/* The place of `name` among images_by_name, or where it would be. */
static uint32_t find_name(const struct map *m, const uint64_t *ids, uint32_t count,
                          const char *name)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct map_image *image = map_image(m, ids[mid]);
        check(image != NULL);
        if (strcmp(image->name, name) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct map_image *map_image_by_name(const struct map *m, const char *name)
{
    uint32_t place = find_name(m, m->images_by_name, m->images_count, name);

    if (place == m->images_count)
        return NULL;
    const struct map_image *image = map_image(m, m->images_by_name[place]);
    return strcmp(image->name, name) == 0 ? image : NULL;
}

const struct map_client *map_client(const struct map *m, uint64_t id)
{
    return find(META_TABLE_CLIENT, m->clients, m->clients_count, id);
}

bool map_client_is_fenced(const struct map *m, uint64_t id)
{
    const struct map_client *c = map_client(m, id);

    return c != NULL ? c->fenced : id <= m->client_last;
}

static int compare_locations(const void *a, const void *b)
{
    const struct map_node *const *x = a, *const *y = b;
    int order = strcmp((*x)->location, (*y)->location);

    return order != 0 ? order : (*x > *y) - (*x < *y);
}

uint32_t *map_locations(const struct map *m)
{
    const struct map_node **sorted = mem_zalloc((m->nodes_count + 1) * sizeof(*sorted));
    uint32_t *numbers = mem_zalloc((m->nodes_count + 1) * sizeof(*numbers));
    uint32_t first = 0;

    for (uint32_t i = 0; i < m->nodes_count; i++)
        sorted[i] = &m->nodes[i];
    qsort(sorted, m->nodes_count, sizeof(*sorted), compare_locations);
    for (uint32_t i = 0; i < m->nodes_count; i++) {
        if (i == 0 || strcmp(sorted[i]->location, sorted[i - 1]->location) != 0)
            first = (uint32_t)(sorted[i] - m->nodes);
        numbers[sorted[i] - m->nodes] = first;
    }
    free(sorted);
    return numbers;
}

uint64_t map_pg_of(const struct map_pool *p, uint64_t root, uint64_t object)
{
    return (uint64_t)p->id << 32 | (mix64(root) + object) % p->pg_count;
}

/* ---- Blocks ---- */

static struct block *block_new(uint32_t capacity, size_t item_size)
{
    struct block *b = mem_zalloc(sizeof(*b) + (size_t)capacity * item_size);
    b->refs = 1;
    return b;
}

static void block_unref(struct block *b)
{
    check(b->refs > 0);
    if (--b->refs == 0)
        free(b);
}

/* Let the public pointers and counts follow the blocks. */
static void map_point(struct map_full *f)
{
    struct map *m = &f->map;

    m->nodes = (void *)f->blocks[META_TABLE_NODE]->items;
    m->nodes_count = f->blocks[META_TABLE_NODE]->count;
    m->osds = (void *)f->blocks[META_TABLE_OSD]->items;
    m->osds_count = f->blocks[META_TABLE_OSD]->count;
    m->pools = (void *)f->blocks[META_TABLE_POOL]->items;
    m->pools_count = f->blocks[META_TABLE_POOL]->count;
    m->pgs = (void *)f->blocks[META_TABLE_PG]->items;
    m->pgs_count = f->blocks[META_TABLE_PG]->count;
    m->images = (void *)f->blocks[META_TABLE_IMAGE]->items;
    m->images_count = f->blocks[META_TABLE_IMAGE]->count;
    m->clients = (void *)f->blocks[META_TABLE_CLIENT]->items;
    m->clients_count = f->blocks[META_TABLE_CLIENT]->count;
    m->images_by_name = (const void *)f->blocks[BLOCK_NAMES]->items;
}

/* ---- Building ---- */

/* Touched rows of all tables, in the order (table, key), each key once. */
struct touched {
    struct meta_row *rows;
    uint32_t count;
    uint32_t first[META_TABLE_LAST + 2]; /* of each table; the next table's is its end */
};

struct order {
    uint32_t row;
    uint32_t table;
    uint64_t key;
};

static int order_compare(const void *a, const void *b)
{
    const struct order *x = a, *y = b;

    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

/* All rows as they come, or -EPROTO. */
static int touched_read(struct slice bytes, struct meta_row **rows, uint32_t *count)
{
    struct unpack u;
    uint32_t capacity = 0;

    *rows = NULL;
    *count = 0;
    unpack_init(&u, bytes);
    while (unpack_left(&u) > 0) {
        if (*count == capacity) {
            capacity = capacity == 0 ? 16 : 2 * capacity;
            *rows = mem_realloc(*rows, capacity * sizeof(**rows));
        }
        if (meta_row_get(&u, &(*rows)[*count]) < 0) {
            free(*rows);
            *rows = NULL;
            return -EPROTO;
        }
        ++*count;
    }
    return 0;
}

static int touched_init(struct touched *t, struct slice bytes)
{
    struct meta_row *rows;
    uint32_t count;

    memset(t, 0, sizeof(*t));
    if (touched_read(bytes, &rows, &count) < 0)
        return -EPROTO;
    if (count == 0)
        return 0;

    struct order *order = mem_zalloc(count * sizeof(*order));
    for (uint32_t i = 0; i < count; i++)
        order[i] = (struct order){i, (uint32_t)rows[i].table, rows[i].key};
    qsort(order, count, sizeof(*order), order_compare);

    t->rows = mem_zalloc(count * sizeof(*t->rows));
    for (uint32_t i = 0; i < count; i++) {
        if (i + 1 < count && order[i].table == order[i + 1].table &&
            order[i].key == order[i + 1].key)
            continue; /* a later row of the same key counts */
        t->rows[t->count++] = rows[order[i].row];
    }
    free(order);
    free(rows);

    uint32_t at = 0;
    for (uint32_t table = 0; table <= META_TABLE_LAST + 1; table++) {
        while (at < t->count && (uint32_t)t->rows[at].table < table)
            at++;
        t->first[table] = at;
    }
    return 0;
}

static void block_add(struct block *b, const struct table *t, const void *items, uint32_t count)
{
    if (count > 0)
        memcpy(b->items + b->count * t->size, items, count * t->size);
    b->count += count;
}

/* The old items with the touched ones put in, replaced or left out. */
static struct block *block_merge(const struct block *old, enum meta_table table,
                                 const struct meta_row *rows, uint32_t count)
{
    const struct table *t = &tables[table];
    struct block *b = block_new(old->count + count, t->size);
    uint32_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *rest = old->items + at * t->size;
        uint32_t before = find_place(t, rest, old->count - at, rows[i].key);

        block_add(b, t, rest, before);
        at += before;
        if (at < old->count && item_key(t, old->items + at * t->size) == rows[i].key)
            at++;
        if (rows[i].present)
            block_add(b, t, (const char *)&rows[i] + t->row_offset, 1);
    }
    block_add(b, t, old->items + at * t->size, old->count - at);
    return b;
}

static int name_compare(const void *a, const void *b)
{
    const struct map_image *const *x = a, *const *y = b;
    int order = strcmp((*x)->name, (*y)->name);

    if (order != 0)
        return order;
    return (*x)->id < (*y)->id ? -1 : (*x)->id > (*y)->id;
}

static struct block *names_build(const struct map *m)
{
    struct block *b = block_new(m->images_count, sizeof(uint64_t));
    const struct map_image **images = mem_zalloc((m->images_count + 1) * sizeof(*images));
    uint64_t *ids = (void *)b->items;

    for (uint32_t i = 0; i < m->images_count; i++)
        images[i] = &m->images[i];
    qsort(images, m->images_count, sizeof(*images), name_compare);
    for (uint32_t i = 0; i < m->images_count; i++)
        ids[i] = images[i]->id;
    b->count = m->images_count;
    free(images);
    return b;
}

static void map_take_cluster(struct map *m, const struct meta_row *row)
{
    struct meta_row_cluster gone = {0};
    const struct meta_row_cluster *c = row->present ? &row->cluster : &gone;

    memcpy(m->cluster, c->cluster, sizeof(m->cluster));
    m->default_replicas = c->default_replicas;
    m->client_last = c->client_last;
    m->image_last = c->image_last;
}

int map_build(const struct map *old, struct slice rows, uint64_t revision, struct map **out)
{
    const struct map_full *o = (const void *)old;
    struct touched t;

    if (touched_init(&t, rows) < 0)
        return -EPROTO;

    struct map_full *f = mem_zalloc(sizeof(*f));
    if (old != NULL)
        f->map = *old;
    f->refs = 1;
    f->map.revision = revision;
    if (t.first[META_TABLE_CLUSTER] < t.first[META_TABLE_CLUSTER + 1])
        map_take_cluster(&f->map, &t.rows[t.first[META_TABLE_CLUSTER]]);

    struct block empty = {.refs = 1};
    for (uint32_t table = META_TABLE_NODE; table <= META_TABLE_LAST; table++) {
        struct block *before = o != NULL ? o->blocks[table] : NULL;
        uint32_t first = t.first[table], count = t.first[table + 1] - first;

        if (before != NULL && count == 0) {
            before->refs++;
            f->blocks[table] = before;
        } else {
            f->blocks[table] = block_merge(before != NULL ? before : &empty, (enum meta_table)table,
                                           count > 0 ? t.rows + first : NULL, count);
        }
    }
    f->blocks[BLOCK_NAMES] = &empty; /* until the images are in place */
    map_point(f);
    if (o != NULL && o->blocks[META_TABLE_IMAGE] == f->blocks[META_TABLE_IMAGE]) {
        f->blocks[BLOCK_NAMES] = o->blocks[BLOCK_NAMES];
        f->blocks[BLOCK_NAMES]->refs++;
    } else {
        f->blocks[BLOCK_NAMES] = names_build(&f->map);
    }
    map_point(f);
    free(t.rows);
    *out = &f->map;
    return 0;
}

void map_ref(const struct map *m)
{
    struct map_full *f = (struct map_full *)(uintptr_t)m;
    check(f->refs > 0);
    f->refs++;
}

void map_unref(const struct map *m)
{
    struct map_full *f = (struct map_full *)(uintptr_t)m;

    if (m == NULL)
        return;
    check(f->refs > 0);
    if (--f->refs > 0)
        return;
    for (uint32_t i = 0; i <= META_TABLE_LAST; i++) {
        if (f->blocks[i] != NULL)
            block_unref(f->blocks[i]);
    }
    free(f);
}

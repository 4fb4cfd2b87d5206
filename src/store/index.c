#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#include "store/impl.h"

/*
 * What the device holds, in memory: objects by id, by PG and by the age of their newest full
 * record. Nothing here decides; write.c and replay.c say what becomes of an object, and call
 * object_account() when they have changed one.
 */

static uint64_t object_key(const struct store_id *id)
{
    return mix64(id->image) ^ id->object;
}

void index_init(struct store *s)
{
    hash_init(&s->objects, 1024);
    hash_init(&s->pgs, 64);
    hash_init(&s->dedups, 1024);
    hash_init(&s->clients, 64);
    hash_init(&s->images, 64);
    list_init(&s->pgs_list);
    list_init(&s->age);
    list_init(&s->done);
    list_init(&s->wanted);
}

/* ---- PGs: objects by the order of their coming ---- */

static struct pg *pg_find(struct store *s, uint64_t id)
{
    struct hash_link *l = hash_find(&s->pgs, id);

    return l == NULL ? NULL : container_of(l, struct pg, by_id);
}

static struct pg *pg_get(struct store *s, uint64_t id)
{
    struct pg *pg = pg_find(s, id);

    if (pg == NULL) {
        pg = mem_zalloc(sizeof(*pg));
        pg->id = id;
        list_init(&pg->link);
        list_push(&s->pgs_list, &pg->link);
        hash_insert(&s->pgs, &pg->by_id, id);
    }
    return pg;
}

/* First entry with a serial >= `serial`. */
static uint64_t pg_search(const struct pg *pg, uint64_t serial)
{
    uint64_t low = 0, high = pg->entries_count;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (pg->entries[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void pg_compact(struct pg *pg)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < pg->entries_count; i++) {
        if (pg->entries[i].object != NULL)
            pg->entries[n++] = pg->entries[i];
    }
    pg->entries_count = n;
    pg->holes_count = 0;
}

static void pg_add(struct store *s, struct pg *pg, struct object *o)
{
    if (pg->entries_count == pg->entries_capacity) {
        pg->entries_capacity = pg->entries_capacity == 0 ? 16 : 2 * pg->entries_capacity;
        pg->entries = mem_realloc(pg->entries, pg->entries_capacity * sizeof(*pg->entries));
    }
    o->pg = pg;
    o->pg_serial = ++s->pg_serial_last;
    pg->entries[pg->entries_count++] = (struct pg_entry){o->pg_serial, o};
}

/* An empty PG is kept: its cursor and its trimming go on where they were. */
static void pg_remove(struct object *o)
{
    struct pg *pg = o->pg;
    uint64_t i = pg_search(pg, o->pg_serial);

    check(i < pg->entries_count && pg->entries[i].object == o);
    pg->entries[i].object = NULL;
    pg->holes_count++;
    if (pg->holes_count > 16 && pg->holes_count > pg->entries_count / 2)
        pg_compact(pg);
}

void object_set_pg(struct store *s, struct object *o, uint64_t pg)
{
    if (o->pg->id == pg)
        return;
    dedup_rekey(s, o, pg);
    pg_remove(o);
    pg_add(s, pg_get(s, pg), o);
}

/* ---- Objects ---- */

struct object *object_find(struct store *s, const struct store_id *id)
{
    for (struct hash_link *l = hash_find(&s->objects, object_key(id)); l != NULL;
         l = hash_next(l)) {
        struct object *o = container_of(l, struct object, by_id);
        if (o->id.image == id->image && o->id.object == id->object)
            return o;
    }
    return NULL;
}

struct object *object_get(struct store *s, const struct store_id *id, uint64_t pg)
{
    struct object *o = object_find(s, id);

    if (o != NULL) {
        object_set_pg(s, o, pg);
        return o;
    }
    o = mem_zalloc(sizeof(*o));
    o->id = *id;
    o->gone = true;
    o->full_needed = true;
    o->deleted = true;
    o->deleted_visible = true;
    o->gone_visible = true;
    list_init(&o->in_age);
    list_init(&o->in_done);
    list_init(&o->in_wanted);
    list_init(&o->dedups);
    list_init(&o->waiting);
    list_init(&o->records);
    list_init(&o->writing);
    hash_insert(&s->objects, &o->by_id, object_key(id));
    pg_add(s, pg_get(s, pg), o);
    return o;
}

bool object_is_hidden(const struct object *o)
{
    return o->gone_visible;
}

uint32_t object_bytes(const struct object *o)
{
    if (o->gone || o->trimmed)
        return 0;
    return (uint32_t)OBJECT_BYTES + o->blocks_count * OBJECT_BLOCK_BYTES +
           o->dedups_count * RECORD_DEDUP;
}

void object_account(struct store *s, struct object *o)
{
    uint32_t bytes = object_bytes(o);
    bool is_object = !o->gone && !o->trimmed && !o->deleted;
    bool is_tombstone = !o->gone && !o->trimmed && o->deleted && o->version != 0;

    s->live_bytes = s->live_bytes + bytes - o->bytes_counted;
    o->bytes_counted = bytes;
    s->objects_count = s->objects_count + is_object - o->counted_object;
    s->tombstones_count = s->tombstones_count + is_tombstone - o->counted_tombstone;
    o->counted_object = is_object;
    o->counted_tombstone = is_tombstone;
    if (o->deferred == 0) {
        o->version_visible = o->version;
        o->deleted_visible = o->deleted;
        o->gone_visible = o->gone || o->trimmed;
    }
    if (o->ring_blocks < o->blocks_count)
        o->ring_blocks = o->blocks_count;
    if (o->next_blocks < o->blocks_count)
        o->next_blocks = o->blocks_count;
    object_account_ring(s, o);
}

static void object_set_ring_bytes(struct store *s, struct object *o, uint32_t bytes)
{
    s->ring_bytes = s->ring_bytes + bytes - o->bytes_ring;
    o->bytes_ring = bytes;
}

void object_account_ring(struct store *s, struct object *o)
{
    object_set_ring_bytes(s, o,
                          (uint32_t)OBJECT_BYTES + o->ring_blocks * OBJECT_BLOCK_BYTES +
                              o->ring_dedups * RECORD_DEDUP);
}

static struct image *image_get(struct store *s, uint64_t id)
{
    struct hash_link *l = hash_find(&s->images, id);

    if (l != NULL)
        return container_of(l, struct image, by_id);
    struct image *image = mem_zalloc(sizeof(*image));
    image->id = id;
    hash_insert(&s->images, &image->by_id, id);
    return image;
}

static void image_count(struct store *s, uint64_t id, bool add)
{
    struct image *image = image_get(s, id);

    image->blocks = add ? image->blocks + 1 : image->blocks - 1;
    if (image->blocks == 0) {
        hash_remove(&s->images, &image->by_id);
        free(image);
    }
}

static void object_grow(struct store *s, struct object *o, uint32_t blocks)
{
    uint32_t capacity = o->blocks_capacity == 0 ? 4 : o->blocks_capacity;

    while (capacity < blocks)
        capacity *= 2;
    if (capacity == o->blocks_capacity)
        return;
    o->blocks = mem_realloc(o->blocks, capacity * sizeof(*o->blocks));
    memset(o->blocks + o->blocks_capacity, 0, (capacity - o->blocks_capacity) * sizeof(*o->blocks));
    s->blocks_capacity_total += capacity - o->blocks_capacity;
    o->blocks_capacity = capacity;
}

uint32_t object_set_block(struct store *s, struct object *o, uint32_t block, uint32_t slot,
                          uint32_t crc)
{
    check(block < STORE_BLOCKS_MAX);
    if (block >= o->blocks_capacity) {
        if (slot == 0)
            return 0;
        object_grow(s, o, block + 1);
    }

    uint32_t old = o->blocks[block].slot;
    o->blocks[block] = (struct block){slot, slot == 0 ? 0 : crc};
    if ((old != 0) != (slot != 0)) {
        o->blocks_count = slot != 0 ? o->blocks_count + 1 : o->blocks_count - 1;
        s->slots_live = slot != 0 ? s->slots_live + 1 : s->slots_live - 1;
        image_count(s, o->id.image, slot != 0);
    }
    return old;
}

void object_free(struct store *s, struct object *o)
{
    check(o->blocks_count == 0 && list_empty(&o->dedups));
    check(o->gone && o->deferred == 0);

    object_set_ring_bytes(s, o, 0);
    list_remove(&o->in_age);
    list_remove(&o->in_done);
    list_remove(&o->in_wanted);
    hash_remove(&s->objects, &o->by_id);
    pg_remove(o);
    s->blocks_capacity_total -= o->blocks_capacity;
    free(o->blocks);
    free(o);
}

/* A tombstone that was trimmed becomes a purged object, with a record that says so. */
void object_forget(struct object *o)
{
    check(o->trimmed && o->blocks_count == 0);

    o->trimmed = false;
    o->gone = true;
    o->full_needed = true;
}

/* A purged object stays while records of it are not acked or a write waits for it. */
void object_drop_if_idle(struct store *s, struct object *o)
{
    if (!o->gone || o->deferred != 0 || !list_empty(&o->waiting) || !list_empty(&o->records))
        return;
    object_free(s, o);
}

void index_deinit(struct store *s)
{
    while (!list_empty(&s->pgs_list)) {
        struct pg *pg = container_of(list_pop(&s->pgs_list), struct pg, link);
        for (uint64_t i = 0; i < pg->entries_count; i++) {
            struct object *o = pg->entries[i].object;
            if (o == NULL)
                continue;
            dedup_drop_above(s, o, 0, true);
            for (uint32_t b = 0; b < o->blocks_capacity; b++)
                object_set_block(s, o, b, 0, 0);
            free(o->blocks);
            free(o);
        }
        free(pg->entries);
        free(pg);
    }
    dedup_free_clients(s);
    hash_deinit(&s->objects);
    hash_deinit(&s->pgs);
    hash_deinit(&s->dedups);
    hash_deinit(&s->clients);
    hash_deinit(&s->images);
}

/* ---- Looking ---- */

static void object_show(const struct object *o, struct store_object *out)
{
    *out = (struct store_object){
        .id = o->id,
        .pg = o->pg->id,
        .version = o->version_visible,
        .deleted = o->deleted_visible,
    };
    for (uint32_t i = 0; i < o->blocks_capacity; i++)
        out->present[i / 64] |= (uint64_t)(o->blocks[i].slot != 0) << (i % 64);
}

bool store_lookup(struct store *s, const struct store_id *id, struct store_object *out)
{
    const struct object *o = object_find(s, id);

    if (o == NULL || object_is_hidden(o))
        return false;
    object_show(o, out);
    return true;
}

bool store_block_crc(struct store *s, const struct store_id *id, uint32_t block, uint32_t *crc)
{
    const struct object *o = object_find(s, id);

    if (o == NULL || block >= o->blocks_capacity || o->blocks[block].slot == 0)
        return false;
    *crc = o->blocks[block].crc;
    return true;
}

/* position[0]: serial of the last object given out. */
uint32_t store_list(struct store *s, uint64_t pg_id, uint64_t above, struct store_cursor *cursor,
                    struct store_object *out, uint32_t out_max)
{
    const struct pg *pg = pg_find(s, pg_id);
    uint32_t count = 0;

    if (!cursor->started) {
        *cursor = (struct store_cursor){.pg = pg_id, .started = true};
    }
    if (pg == NULL)
        return 0;
    for (uint64_t i = pg_search(pg, cursor->position[0] + 1);
         i < pg->entries_count && count < out_max; i++) {
        const struct object *o = pg->entries[i].object;
        if (o == NULL || object_is_hidden(o))
            continue;
        if (o->version_visible <= above && o->version_visible != 0)
            continue;
        object_show(o, &out[count++]);
        cursor->position[0] = pg->entries[i].serial;
    }
    return count;
}

uint64_t store_image_blocks(struct store *s, uint64_t image)
{
    struct hash_link *l = hash_find(&s->images, image);

    return l == NULL ? 0 : container_of(l, struct image, by_id)->blocks;
}

/*
 * A forgotten tombstone leaves memory when cleaning comes to it, with a purge in place of the copy:
 * it may be a delta, and the tail must not pass the full record below without another word. Until
 * then a restart may bring it back, and its place in the ring is accounted for.
 */
void store_trim(struct store *s, uint64_t pg_id, uint64_t floor)
{
    struct pg *pg = pg_find(s, pg_id);

    if (pg == NULL)
        return;
    uint64_t i = pg_search(pg, pg->trim_serial + 1);
    for (uint32_t n = 0; n < STORE_TRIM_STEP && i < pg->entries_count; n++, i++) {
        struct object *o = pg->entries[i].object;
        pg->trim_serial = pg->entries[i].serial;
        if (o == NULL || o->gone || o->trimmed || !o->deleted || o->version > floor ||
            o->deferred != 0 || o->dedups_count != 0 || !list_empty(&o->waiting) ||
            !list_empty(&o->records))
            continue;
        o->trimmed = true;
        o->version = 0;
        object_account(s, o);
    }
    if (i >= pg->entries_count)
        pg->trim_serial = 0;
}

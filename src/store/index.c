#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"
#include "store/impl.h"

/*
 * What the device holds, in memory: objects by id, by PG and by the age of their newest full
 * record. Nothing here decides; write.c and replay.c say what becomes of an object, and call
 * object_account() when they have changed one.
 *
 * Objects are named by handles. The table of buckets never grows, so that no insert ever stops the
 * store to move ten million entries: it is as long as the device has room for objects of full size,
 * and where objects are smaller a bucket holds a few.
 */
enum {
    BUCKETS_MIN = 1024,
    BUCKETS_MAX = 1 << 28,
    /* In a PG's places: free, and the place of the next free one. */
    PLACE_NONE = 0x7fffffff,
};
#define PLACE_FREE ((uint32_t)1 << 31)

static uint64_t object_key(const struct store_id *id)
{
    return mix64(mix64(id->image) ^ id->object);
}

void index_init(struct store *s)
{
    slab_init(&s->objects, sizeof(struct object));
    slab_init(&s->works, WORK_SIZE);
    hash_init(&s->pgs, 64);
    hash_init(&s->dedups, 1024);
    hash_init(&s->clients, 64);
    hash_init(&s->images, 64);
    heap_init(&s->held);
    list_init(&s->wanted);
}

void index_size(struct store *s)
{
    uint64_t objects = s->super.blocks / (s->super.object_size / STORE_BLOCK), count = BUCKETS_MIN;

    while (count < objects && count < BUCKETS_MAX)
        count *= 2;
    s->buckets = mem_zalloc(count * sizeof(*s->buckets));
    s->buckets_mask = count - 1;
}

struct object *object_at(const struct store *s, uint32_t handle)
{
    return handle == 0 ? NULL : slab_at(&s->objects, handle);
}

static uint32_t object_handle(const struct store *s, const struct object *o)
{
    return slab_handle(&s->objects, o);
}

/* ---- PGs: objects by place ---- */

static struct pg *pg_find(struct store *s, uint64_t id)
{
    struct hash_link *l = hash_find(&s->pgs, id);

    return l == NULL ? NULL : container_of(l, struct pg, by_id);
}

static struct pg *pg_get(struct store *s, uint64_t id)
{
    struct pg *pg = pg_find(s, id);
    uint32_t index = s->pgs_free; /* none below is */

    if (pg != NULL)
        return pg;
    while (index < s->pgs_count && s->pgs_by_index[index] != NULL)
        index++;
    if (index == s->pgs_count) {
        s->pgs_count = s->pgs_count == 0 ? 64 : 2 * s->pgs_count;
        s->pgs_by_index = mem_realloc(s->pgs_by_index, s->pgs_count * sizeof(*s->pgs_by_index));
        memset(s->pgs_by_index + index, 0, (s->pgs_count - index) * sizeof(*s->pgs_by_index));
    }
    pg = mem_zalloc(sizeof(*pg));
    pg->id = id;
    pg->index = index;
    pg->places_free = PLACE_NONE;
    s->pgs_by_index[index] = pg;
    s->pgs_free = index + 1;
    hash_insert(&s->pgs, &pg->by_id, id);
    return pg;
}

static void pg_free(struct store *s, struct pg *pg)
{
    hash_remove(&s->pgs, &pg->by_id);
    s->pgs_by_index[pg->index] = NULL;
    if (pg->index < s->pgs_free)
        s->pgs_free = pg->index;
    s->places_bytes -= pg->places_capacity * sizeof(*pg->places);
    free(pg->places);
    free(pg);
}

static uint32_t pg_take_place(struct store *s, struct pg *pg)
{
    uint32_t place = pg->places_free;

    if (place != PLACE_NONE) {
        pg->places_free = pg->places[place] & ~PLACE_FREE;
        return place;
    }
    if (pg->places_count == pg->places_capacity) {
        uint32_t capacity = pg->places_capacity + pg->places_capacity / 4 + 16;
        pg->places = mem_realloc(pg->places, capacity * sizeof(*pg->places));
        s->places_bytes += (capacity - pg->places_capacity) * sizeof(*pg->places);
        pg->places_capacity = capacity;
    }
    return pg->places_count++;
}

static void pg_add(struct store *s, struct pg *pg, struct object *o)
{
    o->pg = pg->index;
    o->pg_place = pg_take_place(s, pg);
    pg->places[o->pg_place] = object_handle(s, o);
    pg->objects++;
}

static void pg_remove(struct store *s, struct object *o)
{
    struct pg *pg = s->pgs_by_index[o->pg];

    check(pg->places[o->pg_place] == object_handle(s, o));
    pg->places[o->pg_place] = PLACE_FREE | pg->places_free;
    pg->places_free = o->pg_place;
    pg->objects--;
    if (pg->objects == 0)
        pg_free(s, pg);
}

static struct object *pg_object(const struct store *s, const struct pg *pg, uint32_t place)
{
    return (pg->places[place] & PLACE_FREE) != 0 ? NULL : object_at(s, pg->places[place]);
}

uint64_t object_pg(const struct store *s, const struct object *o)
{
    return s->pgs_by_index[o->pg]->id;
}

void object_set_pg(struct store *s, struct object *o, uint64_t pg)
{
    if (object_pg(s, o) == pg)
        return;
    dedup_rekey(s, o, pg);
    pg_remove(s, o);
    pg_add(s, pg_get(s, pg), o);
}

/* ---- Objects ---- */

static uint32_t *object_bucket(struct store *s, const struct store_id *id)
{
    return &s->buckets[object_key(id) & s->buckets_mask];
}

struct object *object_find(struct store *s, const struct store_id *id)
{
    struct object *o = object_at(s, *object_bucket(s, id));

    while (o != NULL && (o->id.object != id->object || o->id.image != id->image))
        o = object_at(s, o->by_id);
    return o;
}

struct object *object_get(struct store *s, const struct store_id *id, uint64_t pg)
{
    struct object *o = object_find(s, id);

    if (o != NULL) {
        object_set_pg(s, o, pg);
        return o;
    }
    o = slab_take(&s->objects);
    check(o != NULL); /* write_admit() and the log's size see to it */
    uint32_t *bucket = object_bucket(s, id);
    o->id = *id;
    o->gone = true;
    o->full_needed = true;
    o->deleted = true;
    o->full_place = FULL_NOWHERE;
    o->by_id = *bucket;
    *bucket = object_handle(s, o);
    pg_add(s, pg_get(s, pg), o);
    return o;
}

static void object_free(struct store *s, struct object *o)
{
    uint32_t *link = object_bucket(s, &o->id);

    check(o->map == NULL && o->work == 0 && o->full_place == FULL_NOWHERE);
    while (*link != object_handle(s, o))
        link = &object_at(s, *link)->by_id;
    *link = o->by_id;
    pg_remove(s, o);
    slab_put(&s->objects, o);
}

/* ---- Age ---- */

static void age_remove(struct store *s, struct object *o)
{
    struct object *prev = object_at(s, o->age_prev), *next = object_at(s, o->age_next);

    if (prev != NULL)
        prev->age_next = o->age_next;
    else
        s->age_first = o->age_next;
    if (next != NULL)
        next->age_prev = o->age_prev;
    else
        s->age_last = o->age_prev;
    o->age_prev = 0;
    o->age_next = 0;
}

static void age_push(struct store *s, struct object *o)
{
    struct object *last = object_at(s, s->age_last);

    o->age_prev = s->age_last;
    s->age_last = object_handle(s, o);
    if (last != NULL)
        last->age_next = s->age_last;
    else
        s->age_first = s->age_last;
}

void object_set_full(struct store *s, struct object *o, uint64_t block)
{
    if (o->full_place != FULL_NOWHERE)
        age_remove(s, o);
    o->full_place = FULL_NOWHERE;
    if (block == 0)
        return;
    o->full_place = (uint32_t)(block % s->super.ring_blocks);
    age_push(s, o);
}

/* It lies after the durable tail, and less than a ring further. */
uint64_t object_full(const struct store *s, const struct object *o)
{
    uint64_t ring = s->super.ring_blocks;

    if (o->full_place == FULL_NOWHERE)
        return 0;
    return s->tail_durable + (o->full_place + ring - s->tail_durable % ring) % ring;
}

/* ---- Work ---- */

struct work *object_work(const struct store *s, const struct object *o)
{
    return o->work == 0 ? NULL : slab_at(&s->works, o->work);
}

/* What an object without work stands for in the accounts. */
static bool object_is_plain(const struct object *o)
{
    return !o->gone && !o->trimmed && !o->deleted;
}

static bool object_is_tombstone(const struct object *o)
{
    return !o->gone && !o->trimmed && o->deleted && o->version != 0;
}

static uint32_t bytes_of(uint32_t blocks, uint32_t dedups)
{
    return (uint32_t)OBJECT_BYTES + blocks * OBJECT_BLOCK_BYTES + dedups * RECORD_DEDUP;
}

struct work *object_work_make(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);

    if (x != NULL)
        return x;
    x = slab_take(&s->works);
    check(x != NULL);
    o->work = slab_handle(&s->works, x);
    x->object = o;
    list_init(&x->in_wanted);
    list_init(&x->dedups);
    list_init(&x->waiting);
    list_init(&x->records);
    list_init(&x->writing);
    x->ring_blocks = o->blocks;
    x->next_blocks = o->blocks;
    x->version_visible = o->version;
    x->deleted_visible = o->deleted;
    x->gone_visible = o->gone || o->trimmed;
    x->counted_object = object_is_plain(o);
    x->counted_tombstone = object_is_tombstone(o);
    x->bytes_counted = object_bytes(s, o);
    x->bytes_ring = o->gone ? 0 : bytes_of(o->blocks, 0);
    return x;
}

static bool work_is_idle(const struct work *x)
{
    return list_empty(&x->waiting) && list_empty(&x->records) && x->deferred == 0;
}

static void work_free(struct store *s, struct object *o, struct work *x)
{
    check(list_empty(&x->writing) && !heap_has(&x->held));
    list_remove(&x->in_wanted);
    o->work = 0;
    slab_put(&s->works, x);
}

/* A purged object stays while records of it are not acked or a write waits for it. */
void object_rest(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);

    if (x != NULL) {
        if (!work_is_idle(x))
            return;
        if (o->gone) {
            check(o->blocks == 0 && x->dedups_count == 0 && x->prepared == NULL);
            s->ring_bytes -= x->bytes_ring;
            object_set_full(s, o, 0);
            heap_remove(&s->held, &x->held);
            work_free(s, o, x);
        } else if (list_empty(&x->in_wanted) && x->dedups_count == 0 && x->prepared == NULL &&
                   x->ring_blocks == o->blocks && x->next_blocks == o->blocks &&
                   x->ring_dedups == 0 && x->next_dedups == 0) {
            work_free(s, o, x);
        }
    }
    if (o->gone && !o->headless && !o->broken)
        object_free(s, o);
}

bool object_is_hidden(const struct store *s, const struct object *o)
{
    const struct work *x = object_work(s, o);

    return x != NULL ? x->gone_visible : o->gone || o->trimmed;
}

uint32_t object_blocks(const struct store *s, const struct object *o)
{
    const struct work *x = object_work(s, o);
    uint32_t blocks = o->blocks;

    if (x == NULL || x->prepared == NULL)
        return blocks;
    for (uint32_t i = 0; i < COUNT_OF(x->prepared->touched); i++)
        blocks += (uint32_t)__builtin_popcountll(x->prepared->touched[i]);
    return blocks + PREPARED_BLOCKS;
}

uint32_t object_bytes(const struct store *s, const struct object *o)
{
    const struct work *x = object_work(s, o);

    if (o->gone || o->trimmed)
        return 0;
    return bytes_of(object_blocks(s, o), x == NULL ? 0 : x->dedups_count);
}

void object_account(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);
    uint32_t bytes = object_bytes(s, o), blocks = object_blocks(s, o);
    bool is_object = object_is_plain(o), is_tombstone = object_is_tombstone(o);

    s->live_bytes = s->live_bytes + bytes - x->bytes_counted;
    x->bytes_counted = bytes;
    s->objects_count = s->objects_count + is_object - x->counted_object;
    s->tombstones_count = s->tombstones_count + is_tombstone - x->counted_tombstone;
    x->counted_object = is_object;
    x->counted_tombstone = is_tombstone;
    if (x->deferred_states == 0) {
        x->version_visible = o->version;
        x->deleted_visible = o->deleted;
    }
    if (x->deferred == 0)
        x->gone_visible = o->gone || o->trimmed;
    if (x->ring_blocks < blocks)
        x->ring_blocks = blocks;
    if (x->next_blocks < blocks)
        x->next_blocks = blocks;
    object_account_ring(s, x);
}

void object_account_ring(struct store *s, struct work *x)
{
    uint32_t bytes = bytes_of(x->ring_blocks, x->ring_dedups);

    s->ring_bytes = s->ring_bytes + bytes - x->bytes_ring;
    x->bytes_ring = bytes;
}

/* A tombstone that was trimmed becomes a purged object, with a record that says so. */
void object_forget(struct object *o)
{
    check(o->trimmed && o->blocks == 0);

    o->trimmed = false;
    o->gone = true;
    o->full_needed = true;
}

/* ---- Their blocks ---- */

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

static void blocks_count(struct store *s, uint64_t image_id, uint32_t before, uint32_t now)
{
    if (before == now)
        return;
    struct image *image = image_get(s, image_id);
    image->blocks = image->blocks + now - before;
    s->slots_live = s->slots_live + now - before;
    if (image->blocks == 0) {
        hash_remove(&s->images, &image->by_id);
        free(image);
    }
}

void object_read(const struct object *o, struct layout *out)
{
    map_spread(o->map, o->runs, out);
}

void object_write(struct store *s, struct object *o, const struct layout *l)
{
    uint32_t runs = o->runs, blocks = o->blocks;

    s->maps_bytes -= map_bytes(runs, blocks);
    o->map = map_pack(o->map, &runs, &blocks, l);
    s->maps_bytes += map_bytes(runs, blocks);
    blocks_count(s, o->id.image, o->blocks, blocks);
    o->runs = runs & 0x1ff;
    o->blocks = blocks & 0x1ff;
}

void prepared_changes(const struct prepared *p, struct layout *out)
{
    map_spread(p->map, p->runs, out);
}

void prepared_read(const struct object *o, const struct prepared *p, struct layout *out)
{
    struct layout changes;

    object_read(o, out);
    prepared_changes(p, &changes);
    uint32_t end = out->count > changes.count ? out->count : changes.count;
    for (uint32_t b = 0; b < end; b++) {
        if (p->clear || bitmap_has(p->touched, b))
            layout_set(out, b, layout_slot(&changes, b), changes.crcs[b]);
    }
}

struct prepared *prepared_make(struct store *s, struct object *o, uint64_t version,
                               const struct layout *changes, const uint64_t *touched)
{
    struct work *x = object_work(s, o);
    struct prepared *p = mem_zalloc(sizeof(*p));

    check(x->prepared == NULL);
    p->version = version;
    memcpy(p->touched, touched, sizeof(p->touched));
    p->map = map_pack(NULL, &p->runs, &p->blocks, changes);
    s->maps_bytes += map_bytes(p->runs, p->blocks) + sizeof(*p);
    blocks_count(s, o->id.image, 0, p->blocks);
    x->prepared = p;
    return p;
}

void prepared_free(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);
    struct prepared *p = x->prepared;

    s->maps_bytes -= map_bytes(p->runs, p->blocks) + sizeof(*p);
    blocks_count(s, o->id.image, p->blocks, 0);
    free(p->map);
    free(p);
    x->prepared = NULL;
}

/* ---- The end ---- */

static void object_drop(struct store *s, struct object *o)
{
    struct work *x = object_work(s, o);

    if (x != NULL) {
        dedup_drop_above(s, o, 0, true);
        if (x->prepared != NULL)
            prepared_free(s, o);
    }
    blocks_count(s, o->id.image, o->blocks, 0);
    free(o->map);
}

void index_deinit(struct store *s)
{
    for (uint32_t i = 0; i < s->pgs_count; i++) {
        struct pg *pg = s->pgs_by_index[i];
        if (pg == NULL)
            continue;
        for (uint32_t k = 0; k < pg->places_count; k++) {
            if (pg_object(s, pg, k) != NULL)
                object_drop(s, pg_object(s, pg, k));
        }
        pg_free(s, pg);
    }
    dedup_free_clients(s);
    free(s->pgs_by_index);
    free(s->buckets);
    heap_deinit(&s->held);
    slab_deinit(&s->objects);
    slab_deinit(&s->works);
    hash_deinit(&s->pgs);
    hash_deinit(&s->dedups);
    hash_deinit(&s->clients);
    hash_deinit(&s->images);
}

/* ---- Looking ---- */

static void object_show(const struct store *s, const struct object *o, struct store_object *out)
{
    const struct work *x = object_work(s, o);

    *out = (struct store_object){
        .id = o->id,
        .pg = object_pg(s, o),
        .version = x != NULL ? x->version_visible : o->version,
        .deleted = x != NULL ? x->deleted_visible : o->deleted,
        .prepared = x != NULL && x->prepared != NULL ? x->prepared->version : 0,
    };
    map_present(o->map, o->runs, out->present);
}

bool store_lookup(struct store *s, const struct store_id *id, struct store_object *out)
{
    const struct object *o = object_find(s, id);

    if (o == NULL || object_is_hidden(s, o))
        return false;
    object_show(s, o, out);
    return true;
}

bool store_block_crc(struct store *s, const struct store_id *id, uint32_t block, uint32_t *crc)
{
    const struct object *o = object_find(s, id);
    uint64_t slot = 0;

    if (o != NULL && block < STORE_BLOCKS_MAX)
        map_read(o->map, o->runs, block, 1, &slot, crc);
    return slot != 0;
}

/* position[0]: the place to look at next. */
uint32_t store_list(struct store *s, uint64_t pg_id, uint64_t above, struct store_cursor *cursor,
                    struct store_object *out, uint32_t out_max)
{
    const struct pg *pg = pg_find(s, pg_id);
    uint64_t end = pg == NULL ? 0 : pg->places_count;
    if (pg != NULL && store_mutated(s, STORE_MUTANT_LIST_SHORT))
        end = pg->objects;
    uint32_t count = 0;

    if (!cursor->started)
        *cursor = (struct store_cursor){.pg = pg_id, .started = true};
    for (uint32_t n = 0; n < STORE_LIST_STEP && count < out_max && cursor->position[0] < end; n++) {
        const struct object *o = pg_object(s, pg, (uint32_t)cursor->position[0]++);
        if (o == NULL || object_is_hidden(s, o))
            continue;
        const struct work *x = object_work(s, o);
        uint64_t version = x != NULL ? x->version_visible : o->version;
        if (version > above || version == 0 || (x != NULL && x->prepared != NULL))
            object_show(s, o, &out[count++]);
    }
    cursor->ended = cursor->position[0] >= end;
    return count;
}

uint64_t store_image_blocks(struct store *s, uint64_t image)
{
    struct hash_link *l = hash_find(&s->images, image);

    return l == NULL ? 0 : container_of(l, struct image, by_id)->blocks;
}

static bool object_is_trimmable(const struct store *s, const struct object *o, uint64_t floor)
{
    const struct work *x = object_work(s, o);

    if (o->gone || o->trimmed || !o->deleted || o->version > floor)
        return false;
    return x == NULL || (work_is_idle(x) && x->dedups_count == 0 && x->prepared == NULL);
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
    for (uint32_t n = 0; n < STORE_TRIM_STEP && pg->trim_place < pg->places_count; n++) {
        struct object *o = pg_object(s, pg, pg->trim_place++);
        if (o == NULL || !object_is_trimmable(s, o, floor))
            continue;
        object_work_make(s, o);
        o->trimmed = true;
        o->version = 0;
        object_account(s, o);
        object_rest(s, o);
    }
    if (pg->trim_place >= pg->places_count)
        pg->trim_place = 0;
}

#include <stdlib.h>

#include "base/prng.h"
#include "store/impl.h"

/*
 * Dedup records (R10), three ways: by request, for the retry that comes; by object, for the record
 * that carries them; by client and PG, for the floor below which nobody asks any more.
 */

static uint64_t request_key(uint64_t pg, uint64_t client, uint64_t seq)
{
    return mix64(mix64(pg) ^ client) ^ seq;
}

static uint64_t client_key(uint64_t pg, uint64_t id)
{
    return mix64(pg) ^ id;
}

static struct client *client_find(struct store *s, uint64_t pg, uint64_t id)
{
    for (struct hash_link *l = hash_find(&s->clients, client_key(pg, id)); l != NULL;
         l = hash_next(l)) {
        struct client *c = container_of(l, struct client, by_id);
        if (c->pg == pg && c->id == id)
            return c;
    }
    return NULL;
}

static struct client *client_get(struct store *s, uint64_t pg, uint64_t id)
{
    struct client *c = client_find(s, pg, id);

    if (c == NULL) {
        c = mem_zalloc(sizeof(*c));
        c->pg = pg;
        c->id = id;
        list_init(&c->dedups);
        hash_insert(&s->clients, &c->by_id, client_key(pg, id));
    }
    return c;
}

static void client_put(struct store *s, struct client *c)
{
    if (!list_empty(&c->dedups))
        return;
    hash_remove(&s->clients, &c->by_id);
    free(c);
}

void dedup_free_clients(struct store *s)
{
    check(s->dedups_count == 0 && s->clients.count == 0);
}

/* Requests come nearly in order: the place is near the end. */
static void dedup_link(struct store *s, struct dedup *d, uint64_t pg, uint64_t client)
{
    struct client *c = client_get(s, pg, client);
    struct list *after = c->dedups.prev;

    while (after != &c->dedups && container_of(after, struct dedup, in_client)->seq > d->seq)
        after = after->prev;
    d->client = c;
    list_push_front(after, &d->in_client);
    hash_insert(&s->dedups, &d->by_request, request_key(pg, client, d->seq));
}

static void dedup_unlink(struct store *s, struct dedup *d)
{
    hash_remove(&s->dedups, &d->by_request);
    list_remove(&d->in_client);
    client_put(s, d->client);
}

struct dedup *dedup_find_in(struct store *s, const struct object *o, uint64_t client, uint64_t seq)
{
    struct hash_link *l = hash_find(&s->dedups, request_key(object_pg(s, o), client, seq));

    for (; l != NULL; l = hash_next(l)) {
        struct dedup *d = container_of(l, struct dedup, by_request);
        if (d->object == o && d->seq == seq && d->client->id == client)
            return d;
    }
    return NULL;
}

struct dedup *dedup_add(struct store *s, struct object *o, const struct store_dedup *add)
{
    struct dedup *d = dedup_find_in(s, o, add->client, add->seq);

    if (d != NULL) {
        d->version = add->version;
        return d;
    }
    d = mem_zalloc(sizeof(*d));
    d->object = o;
    d->seq = add->seq;
    d->version = add->version;
    list_init(&d->in_object);
    list_init(&d->in_client);
    struct work *x = object_work_make(s, o);
    list_push(&x->dedups, &d->in_object);
    dedup_link(s, d, object_pg(s, o), add->client);
    x->dedups_count++;
    s->dedups_count++;
    return d;
}

static void dedup_remove(struct store *s, struct dedup *d)
{
    dedup_unlink(s, d);
    list_remove(&d->in_object);
    object_work(s, d->object)->dedups_count--;
    s->dedups_count--;
    free(d);
}

/* The write that was to take it was refused after all. */
void dedup_undo(struct store *s, struct object *o, uint64_t client, uint64_t seq)
{
    struct dedup *d = dedup_find_in(s, o, client, seq);

    if (d != NULL && d->deferred)
        dedup_remove(s, d);
}

void dedup_drop_above(struct store *s, struct object *o, uint64_t above, bool all)
{
    struct work *x = object_work(s, o);

    if (x == NULL)
        return;
    for (struct list *l = x->dedups.next, *next; l != &x->dedups; l = next) {
        struct dedup *d = container_of(l, struct dedup, in_object);
        next = l->next;
        if (all || d->version > above)
            dedup_remove(s, d);
    }
}

/* The request was not answered, and what it did is undone: as if it had never come. */
void dedup_drop_version(struct store *s, struct object *o, uint64_t version)
{
    struct work *x = object_work(s, o);

    for (struct list *l = x->dedups.next, *next; l != &x->dedups; l = next) {
        struct dedup *d = container_of(l, struct dedup, in_object);
        next = l->next;
        if (d->version == version)
            dedup_remove(s, d);
    }
}

/* The object moves to another PG (R14): its records go with it. */
void dedup_rekey(struct store *s, struct object *o, uint64_t pg)
{
    const struct work *x = object_work(s, o);

    if (x == NULL)
        return;
    list_for_each (l, &x->dedups) {
        struct dedup *d = container_of(l, struct dedup, in_object);
        uint64_t client = d->client->id;
        dedup_unlink(s, d);
        dedup_link(s, d, pg, client);
    }
}

uint32_t store_dedup_list(struct store *s, const struct store_id *id, uint64_t above,
                          struct store_dedup *out, uint32_t out_max)
{
    const struct object *o = object_find(s, id);
    const struct work *x = o == NULL ? NULL : object_work(s, o);
    uint32_t count = 0;

    if (x == NULL)
        return 0;
    list_for_each (l, &x->dedups) {
        const struct dedup *d = container_of(l, struct dedup, in_object);
        if (d->version <= above)
            continue;
        if (count < out_max)
            out[count] = (struct store_dedup){d->client->id, d->seq, d->version};
        count++;
    }
    return count;
}

bool store_dedup_find(struct store *s, uint64_t pg, uint64_t client, uint64_t seq,
                      uint64_t *version)
{
    struct hash_link *l = hash_find(&s->dedups, request_key(pg, client, seq));

    for (; l != NULL; l = hash_next(l)) {
        const struct dedup *d = container_of(l, struct dedup, by_request);
        if (d->seq == seq && d->client->id == client && d->client->pg == pg) {
            *version = d->version;
            return true;
        }
    }
    return false;
}

uint64_t dedup_floor_of(struct store *s, uint64_t pg, uint64_t client, uint64_t seq)
{
    const struct client *c = client_find(s, pg, client);

    return c == NULL ? seq + 1 : c->floor; /* nothing is left of it: a floor has passed it */
}

/* The record of a write that is still deferred stays: the write has yet to take it. `replay`: what
 * a restart may find again of the object is less, too, as it will meet the same floor. */
static void client_drop_below(struct store *s, struct client *c, uint64_t floor, bool replay)
{
    for (struct list *l = c->dedups.next, *next; l != NULL; l = next) {
        struct dedup *d = container_of(l, struct dedup, in_client);
        struct object *o = d->object;
        bool last = l->next == &c->dedups;
        next = last ? NULL : l->next;
        if (d->seq >= floor && floor != UINT64_MAX)
            return;
        if (d->deferred)
            continue;
        dedup_remove(s, d); /* with the last one, `c` goes */
        if (replay) {
            struct work *x = object_work(s, o);
            x->ring_dedups = x->next_dedups = x->dedups_count;
        }
        object_account(s, o);
        object_rest(s, o);
    }
}

void store_dedup_floor(struct store *s, uint64_t pg, uint64_t client, uint64_t floor)
{
    struct client *c = client_find(s, pg, client);

    if (c == NULL)
        return;
    if (floor > c->floor && floor < STORE_SEQ_MAX)
        c->floor = floor;
    client_drop_below(s, c, floor, false);
}

void dedup_replay_floor(struct store *s, uint64_t pg, uint64_t client, uint64_t floor)
{
    struct client *c = client_find(s, pg, client);

    if (c == NULL || floor <= c->floor)
        return;
    c->floor = floor;
    client_drop_below(s, c, floor, true);
}

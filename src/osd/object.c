#include "osd/pg.h"

#include <errno.h>

/*
 * Which uses of one object may be under way together:
 *
 *   READ  with anything but a WRITE or MERGE of an overlapping range: until that write is on every
 *         needed member, nobody may see it, and nobody may see it missing afterwards (R7). A
 *         merge becomes a write without waiting again, so it keeps reads away from the start;
 *   WRITE with writes (they take effect in the order of their versions, R2) and reads elsewhere;
 *   MERGE with reads elsewhere only: it reads what it then writes;
 *   COPY  with reads only: it must be of one version.
 *
 * They begin in order of arrival, so none waits for ever.
 */

static uint64_t object_key(const struct store_id *id)
{
    return mix64(id->image) ^ id->object;
}

struct osd_object *osd_object_find(struct osd *o, const struct store_id *id)
{
    struct hash_link *l = hash_find(&o->objects, object_key(id));

    for (; l != NULL; l = hash_next(l)) {
        struct osd_object *object = container_of(l, struct osd_object, by_id);
        if (object->id.image == id->image && object->id.object == id->object)
            return object;
    }
    return NULL;
}

static struct osd_object *object_get(struct osd_pg *pg, const struct store_id *id)
{
    struct osd *o = pg->osd;
    struct osd_object *object = osd_object_find(o, id);

    if (object != NULL)
        return object;

    object = pool_get(&o->objects_pool);
    if (object == NULL)
        return NULL;
    object->id = *id;
    object->pg = pg;
    list_init(&object->waiting);
    list_init(&object->active);
    hash_insert(&o->objects, &object->by_id, object_key(id));
    return object;
}

static void object_put_if_idle(struct osd_object *object)
{
    struct osd *o = object->pg->osd;

    if (!list_empty(&object->waiting) || !list_empty(&object->active))
        return;
    hash_remove(&o->objects, &object->by_id);
    pool_put(&o->objects_pool, object);
}

static bool use_conflicts(const struct osd_use *a, const struct osd_use *b)
{
    if (a->kind == OSD_USE_READ || b->kind == OSD_USE_READ) {
        const struct osd_use *other = a->kind == OSD_USE_READ ? b : a;
        bool overlap = a->offset < b->offset + b->len && b->offset < a->offset + a->len;
        return (other->kind == OSD_USE_WRITE || other->kind == OSD_USE_MERGE) && overlap;
    }
    return a->kind != OSD_USE_WRITE || b->kind != OSD_USE_WRITE;
}

static bool use_may_begin(const struct osd_object *object, const struct osd_use *u)
{
    if (u->kind == OSD_USE_READ && osd_mutated(object->pg->osd, OSD_MUTANT_READ_DURING_WRITE))
        return true;

    list_for_each (pos, &object->active) {
        if (use_conflicts(container_of(pos, struct osd_use, link), u))
            return false;
    }
    return true;
}

/* Begin from the front for as long as nothing stands in the way. */
static void object_advance(struct osd_object *object)
{
    while (!list_empty(&object->waiting)) {
        struct osd_use *u = container_of(object->waiting.next, struct osd_use, link);
        if (!use_may_begin(object, u))
            return;
        list_remove(&u->link);
        list_push(&object->active, &u->link);
        u->begun = true;
        u->begin(u);
    }
}

int osd_use_start(struct osd_pg *pg, const struct store_id *id, struct osd_use *u)
{
    struct osd_object *object = object_get(pg, id);

    if (object == NULL)
        return -EBUSY;

    u->object = object;
    u->begun = false;
    list_init(&u->link);
    list_push(&object->waiting, &u->link);
    object_advance(object);
    return 0;
}

void osd_use_merged(struct osd_use *u)
{
    check(u->begun && u->kind == OSD_USE_MERGE);

    u->kind = OSD_USE_WRITE;
    object_advance(u->object);
}

void osd_use_end(struct osd_use *u)
{
    struct osd_object *object = u->object;

    check(object != NULL);
    list_remove(&u->link);
    u->object = NULL;
    object_advance(object);
    object_put_if_idle(object);
}

/* refuse() only wakes, so the list is not changed under the loop by anybody else. */
static void object_refuse(struct osd_object *object, int status)
{
    for (struct list *l = list_pop(&object->waiting); l != NULL; l = list_pop(&object->waiting)) {
        struct osd_use *u = container_of(l, struct osd_use, link);
        u->object = NULL;
        u->refuse(u, status);
    }
    object_put_if_idle(object);
}

void osd_uses_refuse(struct osd_pg *pg, int status)
{
    list_for_each (pos, &pg->writes) {
        struct osd_write *w = container_of(pos, struct osd_write, link);
        if (w->use.object != NULL && !w->use.begun)
            object_refuse(w->use.object, status);
    }
    list_for_each (pos, &pg->reads) {
        struct osd_read *r = container_of(pos, struct osd_read, link);
        if (r->use.object != NULL && !r->use.begun)
            object_refuse(r->use.object, status);
    }
    list_for_each (pos, &pg->copies) {
        struct osd_copy *c = container_of(pos, struct osd_copy, link);
        if (c->use.object != NULL && !c->use.begun)
            object_refuse(c->use.object, status);
    }
}

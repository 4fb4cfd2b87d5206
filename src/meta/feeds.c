#include "meta/feeds.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"

static void map_drop(struct feeds_map *m)
{
    if (m == NULL)
        return;
    check(m->holders > 0);
    if (--m->holders > 0)
        return;
    list_remove(&m->link);
    map_unref(m->map);
    free(m);
}

/* ---- On the control loop ---- */

static void on_shown(struct loop_msg *msg);
static void on_map(struct loop_msg *msg);
static void on_removed(struct loop_msg *msg);

static void feed_send(struct feeds *f, struct map_feed *feed)
{
    if (feed->busy || feed->removing || f->current == NULL || feed->current == f->current)
        return;
    f->current->holders++;
    feed->pending = f->current;
    feed->busy = true;
    feed->msg_map.run = on_map;
    loop_post(feed->loop, &feed->msg_map);
}

static void feed_end(struct map_feed *feed)
{
    map_drop(feed->current);
    feed->current = NULL;
    if (feed->removed == NULL)
        return;
    feed->msg_add.run = on_removed;
    loop_post(feed->loop, &feed->msg_add);
}

static void on_add(struct loop_msg *msg)
{
    struct map_feed *feed = container_of(msg, struct map_feed, msg_add);
    struct feeds *f = feed->meta;

    list_push(&f->feeds, &feed->link);
    feed_send(f, feed);
}

static void on_shown(struct loop_msg *msg)
{
    struct map_feed *feed = container_of(msg, struct map_feed, msg_done);

    map_drop(feed->released);
    feed->released = NULL;
    feed->busy = false;
    if (feed->removing)
        feed_end(feed);
    else
        feed_send(feed->meta, feed);
}

static void on_remove(struct loop_msg *msg)
{
    struct map_feed *feed = container_of(msg, struct map_feed, msg_remove);

    list_remove(&feed->link);
    feed->removing = true;
    if (!feed->busy)
        feed_end(feed);
}

void feeds_publish(struct feeds *f, const struct map *map)
{
    struct feeds_map *m = mem_zalloc(sizeof(*m));

    check(f->current == NULL || map->revision >= f->current->map->revision);
    m->map = map;
    m->holders = 1;
    list_init(&m->link);
    list_push(&f->maps, &m->link);
    map_drop(f->current);
    f->current = m;
    list_for_each (pos, &f->feeds)
        feed_send(f, container_of(pos, struct map_feed, link));
}

const struct map *feeds_map(const struct feeds *f)
{
    return f->current == NULL ? NULL : f->current->map;
}

void feeds_init(struct feeds *f, struct loop *loop)
{
    *f = (struct feeds){.loop = loop};
    list_init(&f->feeds);
    list_init(&f->maps);
}

void feeds_deinit(struct feeds *f)
{
    struct list *link;

    while ((link = list_pop(&f->maps)) != NULL) {
        struct feeds_map *m = container_of(link, struct feeds_map, link);
        map_unref(m->map);
        free(m);
    }
}

/* ---- On the feed's loop ---- */

/* `feed->current` is shown to the owner here and read by the control loop only while no map is on
 * its way. */
static void on_map(struct loop_msg *msg)
{
    struct map_feed *feed = container_of(msg, struct map_feed, msg_map);
    struct feeds *f = feed->meta;
    struct feeds_map *m = feed->pending;

    feed->pending = NULL;
    if (feed->off) {
        feed->released = m;
    } else {
        struct feeds_map *before = feed->current;
        feed->current = m;
        feed->on_map(feed, m->map);
        feed->released = before;
    }
    feed->msg_done.run = on_shown;
    loop_post(f->loop, &feed->msg_done);
}

static void on_removed(struct loop_msg *msg)
{
    struct map_feed *feed = container_of(msg, struct map_feed, msg_add);
    feed->removed(feed);
}

void feeds_add(struct feeds *f, struct map_feed *feed)
{
    check(feed->loop != NULL && feed->on_map != NULL);
    feed->meta = f;
    feed->pending = feed->current = feed->released = NULL;
    feed->busy = feed->off = feed->removing = false;
    list_init(&feed->link);
    feed->msg_add.run = on_add;
    loop_post(f->loop, &feed->msg_add);
}

void feeds_remove(struct feeds *f, struct map_feed *feed)
{
    check(!feed->off);
    feed->off = true;
    feed->msg_remove.run = on_remove;
    loop_post(f->loop, &feed->msg_remove);
}

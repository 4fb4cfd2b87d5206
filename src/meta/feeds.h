/*
 * Maps to their subscribers on other loops, without locks: a map is posted to a feed's loop, and
 * the feed posts the one before it back. So a map has one owner, the control loop, which alone
 * counts who has it and frees it. A feed that is slow gets the newest map next, not every one.
 */

#ifndef META_FEEDS_H
#define META_FEEDS_H

#include "meta/map.h"

/* A map and how many have it: the feeds (posted, shown, or on its way back), and `current`. */
struct feeds_map {
    struct list link;
    const struct map *map;
    uint32_t holders;
};

struct feeds {
    struct loop *loop;
    struct list feeds;
    struct list maps; /* struct feeds_map */
    struct feeds_map *current;
};

void feeds_init(struct feeds *f, struct loop *loop);
void feeds_deinit(struct feeds *f); /* the loops have stopped: touches no feed */

/* Takes over the caller's reference. */
void feeds_publish(struct feeds *f, const struct map *map);
const struct map *feeds_map(const struct feeds *f); /* NULL before the first */

/* On the feed's loop. */
void feeds_add(struct feeds *f, struct map_feed *feed);
void feeds_remove(struct feeds *f, struct map_feed *feed);

#endif /* META_FEEDS_H */

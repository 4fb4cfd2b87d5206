#include "client/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/prng.h"
#include "base/text.h"

/*
 * The id of our writes.
 *
 *     ASKING --given--> VALID --fenced--> FENCED --no write of it in flight--> ASKING
 *       |  ^
 *       |  +--timer--+
 *       +--refused--> REFUSED
 *
 * A write that may have been executed under the old id is never sent under a new
 * one: it could be executed twice, with somebody else's write between. It ends
 * with -EPERM (part.c). The new id waits until all of the old are gone, so that at any
 * time all numbers are of one id, and one window serves.
 */
static void client_id_ask(struct client *c)
{
    check(c->named_count == 0);

    c->id = 0;
    c->id_state = CLIENT_ID_ASKING;
    c->id_call_is_done = false;
    memset(&c->id_call.command, 0, sizeof(c->id_call.command));
    c->id_call.command.kind = META_CLIENT_ADD;
    c->id_call.command.node = c->config.node;
    loop_random(c->loop, c->id_call.command.join_id, sizeof(c->id_call.command.join_id));
    c->config.meta->submit(c->config.meta, &c->id_call);
}

static void client_on_id(struct meta_call *call)
{
    struct client *c = container_of(call, struct client, id_call);

    c->id_call_is_done = true;
    loop_wake(c->loop, &c->id_task);
}

static void client_on_id_timer(struct loop_timer *timer)
{
    struct client *c = container_of(timer, struct client, id_timer);

    loop_wake(c->loop, &c->id_task);
}

static void client_tell_parts_of_id(struct client *c)
{
    list_for_each (pos, &c->parts_open)
        client_part_see_id(container_of(pos, struct client_part, link));
}

static void client_id_take(struct client *c)
{
    c->id = c->id_call.result.id;
    c->id_state = CLIENT_ID_VALID;
    seq_window_init(&c->window);
    client_tell_parts_of_id(c);
    client_cut_wake(c);
}

static void client_id_step(struct task *task)
{
    struct client *c = container_of(task, struct client, id_task);

    switch (c->id_state) {
    case CLIENT_ID_ASKING:
        if (!c->id_call_is_done)
            return;
        if (c->id_call.result.code == 0) {
            client_id_take(c);
            return;
        }
        log_warn("client", "no client id: %s code=%d", c->id_call.result.message,
                 c->id_call.result.code);
        c->id_state = CLIENT_ID_REFUSED;
        loop_timer_start(c->loop, &c->id_timer, loop_now(c->loop) + CLIENT_ID_RETRY_MS * NS_PER_MS);
        return;

    case CLIENT_ID_REFUSED:
        if (!loop_timer_is_running(&c->id_timer))
            client_id_ask(c);
        return;

    case CLIENT_ID_VALID:
        return;

    case CLIENT_ID_FENCED:
        if (c->named_count == 0)
            client_id_ask(c);
        return;
    }
}

void client_set_fenced(struct client *c)
{
    if (c->id_state != CLIENT_ID_VALID)
        return;

    log_warn("client", "fenced id=%llu", (unsigned long long)c->id);
    c->id_state = CLIENT_ID_FENCED;
    c->status.fenced_total++;
    client_tell_parts_of_id(c);
    loop_wake(c->loop, &c->id_task);
}

/* ---- The map ---- */

static void client_on_map(struct map_feed *feed, const struct map *map)
{
    struct client *c = container_of(feed, struct client, feed);

    c->map = map;
    loop_wake(c->loop, &c->map_task);
}

/* What connections depend on: where nodes are, and which OSDs live there. */
static uint64_t client_hash_addresses(const struct map *map)
{
    uint64_t hash = 0;

    for (uint32_t i = 0; i < map->nodes_count; i++) {
        const struct loop_addr *addr = &map->nodes[i].addr;
        hash = mix64(hash ^ map->nodes[i].id);
        hash = mix64(hash ^ get_u64(addr->ip));
        hash = mix64(hash ^ get_u64(addr->ip + 8) ^ (uint64_t)addr->port << 48);
    }
    for (uint32_t i = 0; i < map->osds_count; i++) {
        const struct map_osd *osd = &map->osds[i];
        hash = mix64(hash ^ osd->id ^ (uint64_t)osd->node << 32);
        hash = mix64(hash ^ osd->incarnation);
    }
    return hash;
}

static void client_refresh_images(struct client *c)
{
    list_for_each (pos, &c->images) {
        struct client_image *i = container_of(pos, struct client_image, link);
        const struct map_image *row = map_image(c->map, i->id);
        if (row != NULL)
            i->size = row->size;
    }
}

static void client_map_step(struct task *task)
{
    struct client *c = container_of(task, struct client, map_task);

    client_refresh_images(c);

    uint64_t hash = client_hash_addresses(c->map);
    if (hash != c->addresses_hash) {
        c->addresses_hash = hash;
        net_kick(c->config.net);
    }
    if (c->id_state == CLIENT_ID_VALID && map_client_is_fenced(c->map, c->id))
        client_set_fenced(c);

    list_for_each (pos, &c->parts_open)
        client_part_see_map(container_of(pos, struct client_part, link));
    client_cut_wake(c);
}

const struct map *client_map(struct client *c)
{
    return c->map;
}

/* ---- Peers ---- */

static struct client_peer *client_peer_find(struct client *c, uint32_t osd, uint32_t *place)
{
    uint32_t low = 0, high = c->peers_count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (c->peers[mid].osd == osd)
            return &c->peers[mid];
        if (c->peers[mid].osd < osd)
            low = mid + 1;
        else
            high = mid;
    }
    *place = low;
    return NULL;
}

static void client_peer_note(struct client *c, uint32_t osd, uint32_t incarnation)
{
    uint32_t place = 0;
    struct client_peer *peer = client_peer_find(c, osd, &place);

    if (peer == NULL) {
        c->peers = mem_realloc(c->peers, (c->peers_count + 1) * sizeof(c->peers[0]));
        peer = &c->peers[place];
        memmove(peer + 1, peer, (c->peers_count - place) * sizeof(*peer));
        c->peers_count++;
        peer->osd = osd;
    }
    peer->incarnation = incarnation;
}

static bool client_addr_is_set(const struct loop_addr *addr)
{
    return addr->port != 0;
}

/* The answer is by one map: the address and the incarnation that was registered there. */
int client_resolve(struct client *c, net_endpoint e, struct loop_addr *out)
{
    uint64_t id = net_endpoint_id(e);
    const struct map_node *node = NULL;

    if (c->map == NULL || id > UINT32_MAX)
        return -ENOENT;
    if (net_endpoint_kind(e) == NET_CONTROL) {
        node = map_node(c->map, (uint32_t)id);
    } else if (net_endpoint_kind(e) == NET_OSD) {
        const struct map_osd *osd = map_osd(c->map, (uint32_t)id);
        if (osd != NULL) {
            node = map_node(c->map, osd->node);
            client_peer_note(c, osd->id, osd->incarnation);
        }
    }
    if (node == NULL || !client_addr_is_set(&node->addr))
        return -ENOENT;
    *out = node->addr;
    return 0;
}

/*
 * A refused connection proves one thing: the incarnation that was registered at
 * the address we tried is gone (R7). That is the one of the map the address was
 * taken from. The newest map may already name its successor at another port, and
 * calling that one dead would let a new primary skip a wait it needs.
 */
void client_peer_lost(struct client *c, net_endpoint e, uint32_t incarnation, int why)
{
    if (why != -ECONNREFUSED || net_endpoint_kind(e) != NET_OSD)
        return;

    uint32_t osd = (uint32_t)net_endpoint_id(e);
    uint32_t place = 0;
    const struct client_peer *peer = client_peer_find(c, osd, &place);
    if (peer != NULL)
        incarnation = peer->incarnation;
    if (incarnation != 0)
        c->config.meta->report(c->config.meta, osd, incarnation, true);
}

/* ---- Open and close ---- */

int client_open(const struct client_config *config, struct client **out)
{
    check(config->loop != NULL && config->net != NULL && config->meta != NULL);

    struct client *c = mem_zalloc(sizeof(*c));
    uint32_t parts_max = config->parts_max != 0 ? config->parts_max : CLIENT_PARTS_DEFAULT;

    c->config = *config;
    c->loop = config->loop;
    list_init(&c->images);
    list_init(&c->ops_open);
    list_init(&c->parts_open);
    pool_init(&c->parts, parts_max, sizeof(struct client_part), 64);
    c->parts_of_max = parts_max - parts_max / 4;
    client_cut_init(c);
    task_init(&c->map_task, client_map_step);
    task_init(&c->id_task, client_id_step);
    loop_timer_init(&c->id_timer, client_on_id_timer);
    seq_window_init(&c->window);

    c->feed.loop = c->loop;
    c->feed.on_map = client_on_map;
    config->meta->feed_add(config->meta, &c->feed);

    c->id_call.loop = c->loop;
    c->id_call.done = client_on_id;
    client_id_ask(c);
    *out = c;
    return 0;
}

/* A dead loop has forgotten our tasks and timers, and the feed's maps come no more. */
void client_close(struct client *c)
{
    struct list *link;

    while ((link = list_pop(&c->images)) != NULL)
        free(container_of(link, struct client_image, link));
    pool_deinit(&c->parts);
    free(c->peers);
    free(c);
}

/* ---- Images ---- */

int client_image_open(struct client *c, const char *name, struct client_image **out)
{
    if (c->map == NULL)
        return -EAGAIN;

    const struct map_image *row = map_image_by_name(c->map, name);
    if (row == NULL)
        return -ENOENT;
    const struct map_pool *pool = map_pool(c->map, row->pool);
    if (pool == NULL || pool->object_size == 0 || pool->object_size > META_OBJECT_SIZE_MAX)
        return -ENOENT;

    struct client_image *i = mem_zalloc(sizeof(*i));
    i->client = c;
    list_init(&i->link);
    list_init(&i->writes);
    list_init(&i->flushes);
    i->id = row->id;
    i->root = row->root;
    i->size = row->size;
    i->pool = row->pool;
    i->object_size = pool->object_size;
    list_push(&c->images, &i->link);
    *out = i;
    return 0;
}

void client_image_close(struct client_image *i)
{
    check(i->ops_count == 0);

    list_remove(&i->link);
    free(i);
}

uint64_t client_image_size(const struct client_image *i)
{
    return i->size;
}

/* ---- Status ---- */

void client_status(struct client *c, struct client_status *out)
{
    uint64_t now = loop_now(c->loop);

    if (!list_empty(&c->ops_open)) {
        const struct client_op *oldest =
            container_of(c->ops_open.next, struct client_op, open_link);
        if (now - oldest->started_ns > c->status.stall_ns_max)
            c->status.stall_ns_max = now - oldest->started_ns;
    }
    *out = c->status;
    out->id = c->id_state == CLIENT_ID_VALID ? c->id : 0;
    out->parts_in_flight = c->parts.used;
    c->status.stall_ns_max = 0;
}

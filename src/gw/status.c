#include "gw/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pool.h"

enum { STATUS_LIST_MAX = 180, STATUS_NEARFULL_PERCENT = 85 };

static void say(char *dst, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(char *dst, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(dst, STATUS_TEXT_MAX, fmt, args);
    va_end(args);
}

const char *status_severity_name(enum status_severity severity)
{
    static const char *const names[] = {"ok", "warn", "error"};
    return names[severity];
}

static struct status_check *status_add(struct status_report *r, const char *code,
                                       enum status_severity severity)
{
    check(r->checks_count < STATUS_CHECKS_MAX);
    struct status_check *c = &r->checks[r->checks_count++];
    c->code = code;
    c->severity = severity;
    if (severity > r->health)
        r->health = severity;
    return c;
}

/* Adds a name to a list of at most STATUS_LIST_MAX bytes; what has no room is left out, and said
 * so. */
static void status_list(char *list, const char *name)
{
    size_t len = strlen(list);

    if (len + strlen(name) + sizeof(", ...") <= STATUS_LIST_MAX)
        snprintf(list + len, STATUS_LIST_MAX - len, "%s%s", len > 0 ? ", " : "", name);
    else if (len < 4 || strcmp(list + len - 3, "...") != 0)
        snprintf(list + len, STATUS_LIST_MAX - len, "%s...", len > 0 ? ", " : "");
}

/* ---- Where OSDs are ---- */

void status_places_init(struct status_places *p, const struct map *m)
{
    uint32_t *locations = map_locations(m);
    uint8_t *used = mem_zalloc(m->nodes_count + 1);

    *p = (struct status_places){.map = m};
    p->of_osd = mem_zalloc((m->osds_count + 1) * sizeof(*p->of_osd));
    for (uint32_t i = 0; i < m->osds_count; i++) {
        const struct map_node *n = map_node(m, m->osds[i].node);
        p->of_osd[i] = n == NULL ? UINT32_MAX : locations[n - m->nodes];
        if (n == NULL || !status_osd_is_up(&m->osds[i]) || used[p->of_osd[i]])
            continue;
        used[p->of_osd[i]] = 1;
        p->up++;
    }
    free(used);
    free(locations);
}

void status_places_deinit(struct status_places *p)
{
    free(p->of_osd);
}

/* At how many locations the members of S are. */
static uint32_t status_locations(const struct status_places *p, const struct map_pg *pg)
{
    uint32_t seen[META_REPLICAS_MAX], count = 0;

    for (uint32_t i = 0; i < pg->set_count; i++) {
        const struct map_osd *o = map_osd(p->map, pg->set[i]);
        uint32_t at = 0, location = o == NULL ? UINT32_MAX : p->of_osd[o - p->map->osds];
        while (at < count && seen[at] != location)
            at++;
        seen[at] = location;
        count += at == count;
    }
    return count;
}

void status_say_default_pool(const struct map *m, char *dst, size_t dst_size)
{
    struct status_places places;
    uint32_t wanted = m->default_replicas;

    char now[24] = "none has";

    status_places_init(&places, m);
    if (places.up > 0)
        snprintf(now, sizeof(now), "%u %s", places.up, places.up == 1 ? "has" : "have");
    snprintf(dst, dst_size, "pool \"default\" is made when %u %s a disk that is up; now %s one",
             wanted, wanted == 1 ? "host has" : "hosts have", now);
    status_places_deinit(&places);
}

/* ---- Placement groups ---- */

bool status_osd_is_up(const struct map_osd *o)
{
    return o != NULL && o->up && !o->failed;
}

/* Members of S that are up and not on node `without` (0: on any node). */
static uint32_t status_members_up(const struct map *m, const struct map_pg *pg, uint32_t without)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < pg->set_count; i++) {
        const struct map_osd *o = map_osd(m, pg->set[i]);
        if (status_osd_is_up(o) && (without == 0 || o->node != without))
            count++;
    }
    return count;
}

enum status_pg status_of_pg(const struct status_places *places, const struct map_pool *pool,
                            const struct map_pg *pg)
{
    const struct map *m = places->map;
    uint32_t up = status_members_up(m, pg, 0);

    if (up < pool->min_size)
        return STATUS_PG_BLOCKED;
    if (!pg->active || !status_osd_is_up(map_osd(m, pg->primary)))
        return STATUS_PG_ACTIVATING;
    if (up < pool->replicas || up < pg->set_count)
        return STATUS_PG_DEGRADED;
    uint32_t locations = status_locations(places, pg);
    return locations < pg->set_count && locations < places->up ? STATUS_PG_MISPLACED
                                                               : STATUS_PG_WHOLE;
}

/* The node whose loss would block this PG, 0 if there is none. */
static uint32_t status_pg_fatal_node(const struct map *m, const struct map_pool *pool,
                                     const struct map_pg *pg)
{
    for (uint32_t i = 0; i < pg->set_count; i++) {
        const struct map_osd *o = map_osd(m, pg->set[i]);
        if (status_osd_is_up(o) && status_members_up(m, pg, o->node) < pool->min_size)
            return o->node;
    }
    return 0;
}

static void status_judge_pg(const struct map *m, const struct map_pool *pool,
                            const struct map_pg *pg, struct status_report *r)
{
    uint32_t node = status_pg_fatal_node(m, pool, pg);
    const struct map_node *n = map_node(m, node);

    if (node == 0 || r->survives_why[0] != '\0')
        return;
    say(r->survives_why,
        "pg %u.%x of pool \"%s\" has %u in-sync copies up; without node %s it would be "
        "below min_size %u",
        pool->id, (unsigned)pg->id, pool->name, status_members_up(m, pg, 0),
        n != NULL ? n->name : "?", pool->min_size);
}

static void status_count_pgs(const struct map *m, struct status_report *r)
{
    struct status_places places;
    uint32_t counts[STATUS_PG_LAST + 1] = {0};

    status_places_init(&places, m);
    for (uint32_t i = 0; i < m->pgs_count; i++) {
        const struct map_pg *pg = &m->pgs[i];
        const struct map_pool *pool = map_pool(m, (uint32_t)(pg->id >> 32));
        if (pool == NULL)
            continue;
        enum status_pg state = status_of_pg(&places, pool, pg);
        counts[state]++;
        r->pgs++;
        r->pgs_active += pg->active;
        if (state < STATUS_PG_ACTIVATING)
            status_judge_pg(m, pool, pg, r);
    }
    status_places_deinit(&places);
    r->pgs_whole = counts[STATUS_PG_WHOLE];
    r->pgs_misplaced = counts[STATUS_PG_MISPLACED];
    r->pgs_degraded = counts[STATUS_PG_DEGRADED];
    r->pgs_activating = counts[STATUS_PG_ACTIVATING];
    r->pgs_blocked = counts[STATUS_PG_BLOCKED] + counts[STATUS_PG_ACTIVATING];
}

/* ---- Nodes, OSDs, voters ---- */

static void status_check_osds(const struct map *m, struct status_report *r)
{
    char down[STATUS_LIST_MAX] = "", failed[STATUS_LIST_MAX] = "", name[24];
    uint32_t failed_count = 0;

    for (uint32_t i = 0; i < m->osds_count; i++) {
        const struct map_osd *o = &m->osds[i];
        if (o->incarnation == 0) {
            r->osds_new++;
            continue;
        }
        r->osds++;
        r->size_bytes += o->size;
        r->osds_up += status_osd_is_up(o);
        failed_count += o->failed;
        snprintf(name, sizeof(name), "osd.%u", o->id);
        if (!status_osd_is_up(o))
            status_list(o->failed ? failed : down, name);
    }
    if (down[0] != '\0') {
        struct status_check *c = status_add(r, "OSD_DOWN", STATUS_WARN);
        say(c->message, "%u of %u OSDs down: %s", r->osds - r->osds_up - failed_count, r->osds,
            down);
        say(c->action, "start the node that serves it, or add another disk");
    }
    if (failed[0] != '\0') {
        struct status_check *c = status_add(r, "OSD_FAILED", STATUS_WARN);
        say(c->message, "the device failed of: %s", failed);
        say(c->action, "replace the device: skerry disk add PATH");
    }
}

/* ---- Room ---- */

static void status_check_room(const struct status_input *in, struct status_report *r)
{
    char full[STATUS_LIST_MAX] = "", nearly[STATUS_LIST_MAX] = "", name[24];

    r->local_osds = in->uses_count;
    for (uint32_t i = 0; i < in->uses_count; i++) {
        const struct status_use *u = &in->uses[i];
        uint64_t used = u->data_bytes - u->free_bytes;
        r->local_size_bytes += u->data_bytes;
        r->local_used_bytes += used;
        r->local_full += u->full;
        snprintf(name, sizeof(name), "osd.%u", u->osd);
        if (u->full)
            status_list(full, name);
        else if (used * 100 >= u->data_bytes * STATUS_NEARFULL_PERCENT)
            status_list(nearly, name);
    }
    if (full[0] != '\0') {
        struct status_check *c = status_add(r, "FULL", STATUS_ERROR);
        say(c->message, "no room on: %s; what is new there is refused, overwrites go on", full);
        say(c->action, "delete images, or add disks: skerry disk add PATH");
    }
    if (nearly[0] != '\0') {
        struct status_check *c = status_add(r, "NEARFULL", STATUS_WARN);
        say(c->message, "%d %% or more is used of: %s", STATUS_NEARFULL_PERCENT, nearly);
        say(c->action, "add disks before they are full: skerry disk add PATH; or delete images");
    }
}

static void status_check_nodes(const struct status_input *in, struct status_report *r)
{
    char down[STATUS_LIST_MAX] = "";

    for (uint32_t i = 0; i < in->map->nodes_count; i++) {
        const struct map_node *n = &in->map->nodes[i];
        if (n->incarnation == 0) {
            r->nodes_new++;
            continue;
        }
        r->nodes++;
        if (in->node_is_up(in->arg, n->id))
            r->nodes_up++;
        else
            status_list(down, n->name);
    }
    if (down[0] != '\0') {
        struct status_check *c = status_add(r, "NODE_DOWN", STATUS_WARN);
        say(c->message, "%u of %u nodes down: %s", r->nodes - r->nodes_up, r->nodes, down);
        say(c->action, "start it: skerry node --dir DIR");
    }
}

/* Counts them, and lists those that do not answer. */
static void status_count_voters(const struct status_input *in, struct status_report *r,
                                char missing[STATUS_LIST_MAX])
{
    missing[0] = '\0';
    for (uint32_t i = 0; i < in->raft->members_count; i++) {
        const struct raft_core_member *member = &in->raft->members[i];
        const struct map_node *n = map_node(in->map, member->id);
        char number[24];
        if (member->role != RAFT_CORE_VOTER)
            continue;
        r->voters++;
        if (in->node_is_up(in->arg, member->id)) {
            r->voters_up++;
            continue;
        }
        snprintf(number, sizeof(number), "node.%u", member->id);
        status_list(missing, n != NULL ? n->name : number);
    }
}

/* ---- The two questions ---- */

static void status_no_quorum(const struct map *m, const char *missing, struct status_report *r)
{
    struct status_check *c = status_add(r, "NO_QUORUM", STATUS_ERROR);

    say(r->writable_why, "this node sees no leader");
    if (r->voters_up > r->voters / 2) {
        say(c->message, "this node sees no leader, with %u of %u voters in reach", r->voters_up,
            r->voters);
        say(c->action, "wait a moment: one is being elected");
        return;
    }
    say(c->message, "this node sees no leader: %u of %u voters do not answer it: %s",
        r->voters - r->voters_up, r->voters, missing);
    say(c->action, "start nodes until a majority of the %u voters runs; %s", r->voters,
        m->revision == 0 ? "before that this one shows no nodes, disks and images"
                         : "what is shown may be old");
}

static void status_no_pool(const struct map *m, struct status_report *r)
{
    struct status_check *c = status_add(r, "NO_POOL", STATUS_WARN);
    char when[STATUS_TEXT_MAX];

    status_say_default_pool(m, when, sizeof(when));
    say(c->message, "there is no pool yet: %.200s", when);
    say(c->action, "skerry disk add PATH [--size SIZE], on %u %s in all", m->default_replicas,
        m->default_replicas == 1 ? "host" : "hosts");
    say(r->writable_why, "there is no pool yet");
}

static void status_blocked(struct status_report *r)
{
    struct status_check *c = status_add(r, "PG_BLOCKED", STATUS_ERROR);
    uint32_t stuck = r->pgs_blocked - r->pgs_activating;

    if (stuck == 0) {
        say(r->writable_why,
            "%u of %u placement groups have no active primary yet: they are being activated",
            r->pgs_blocked, r->pgs);
        say(c->action, "wait: it takes seconds");
    } else {
        say(r->writable_why, "%u of %u placement groups have too few copies up%s", stuck, r->pgs,
            r->pgs_activating > 0 ? ", and others are being activated" : "");
        say(c->action,
            "start the nodes that are down; skerry osd list shows whose copies are missing");
    }
    say(c->message, "%.200s", r->writable_why);
}

static void status_judge_writable(const struct status_input *in, const char *missing,
                                  struct status_report *r)
{
    if (in->raft->leader == 0) {
        status_no_quorum(in->map, missing, r);
    } else if (r->pgs == 0) {
        status_no_pool(in->map, r);
    } else if (r->pgs_blocked > 0) {
        status_blocked(r);
    } else {
        r->writable = true;
        say(r->writable_why, "every placement group is active%s",
            r->local_full > 0 ? ", but only overwrites go on where disks are full" : "");
    }
    if (r->pgs_degraded > 0) {
        struct status_check *c = status_add(r, "PG_DEGRADED", STATUS_WARN);
        say(c->message, "%u of %u placement groups miss a copy or are making one", r->pgs_degraded,
            r->pgs);
        say(c->action, "wait for recovery, or start the nodes that are down");
    }
    if (r->pgs_misplaced > 0) {
        struct status_check *c = status_add(r, "PG_MISPLACED", STATUS_WARN);
        say(c->message,
            "%u of %u placement groups have two copies on one host, and other hosts none",
            r->pgs_misplaced, r->pgs);
        say(c->action, "wait: copies are being moved; until then the loss of that host costs two");
    }
}

static void status_judge_survives(struct status_report *r)
{
    uint32_t majority = r->voters / 2 + 1;
    if (!r->writable) {
        say(r->survives_why, "it is not writable now");
    } else if (r->survives_why[0] != '\0') {
        return; /* a PG would be blocked, and it says which */
    } else if (r->voters_up < majority + 1) {
        say(r->survives_why,
            "%u of %u voters are up; one less is no majority, and nothing could be changed",
            r->voters_up, r->voters);
    } else {
        r->survives = true;
        say(r->survives_why,
            "whichever node fails next, every placement group keeps enough "
            "copies and %u of %u voters remain",
            r->voters_up - 1, r->voters);
    }
}

void status_make(const struct status_input *in, struct status_report *out)
{
    char missing[STATUS_LIST_MAX];

    memset(out, 0, sizeof(*out));
    out->recovery_objects_left = in->recovery_objects_left;
    status_check_nodes(in, out);
    status_count_voters(in, out, missing);
    status_check_osds(in->map, out);
    status_check_room(in, out);
    status_count_pgs(in->map, out);
    status_judge_writable(in, missing, out);
    status_judge_survives(out);
}

#include "gw/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

enum status_pg status_of_pg(const struct map *m, const struct map_pool *pool,
                            const struct map_pg *pg)
{
    uint32_t up = status_members_up(m, pg, 0);
    if (!pg->active || up < pool->min_size || !status_osd_is_up(map_osd(m, pg->primary)))
        return STATUS_PG_BLOCKED;
    return up >= pool->replicas && up == pg->set_count ? STATUS_PG_WHOLE : STATUS_PG_DEGRADED;
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

static void status_count_pgs(const struct map *m, struct status_report *r)
{
    for (uint32_t i = 0; i < m->pgs_count; i++) {
        const struct map_pg *pg = &m->pgs[i];
        const struct map_pool *pool = map_pool(m, (uint32_t)(pg->id >> 32));
        if (pool == NULL)
            continue;
        enum status_pg state = status_of_pg(m, pool, pg);
        r->pgs++;
        r->pgs_active += pg->active;
        r->pgs_whole += state == STATUS_PG_WHOLE;
        r->pgs_degraded += state == STATUS_PG_DEGRADED;
        r->pgs_blocked += state == STATUS_PG_BLOCKED;
        uint32_t node = state == STATUS_PG_BLOCKED ? 0 : status_pg_fatal_node(m, pool, pg);
        if (node != 0 && r->survives_why[0] == '\0') {
            const struct map_node *n = map_node(m, node);
            say(r->survives_why,
                "pg %u.%x of pool \"%s\" has %u in-sync copies up; without node %s it would be "
                "below min_size %u",
                pool->id, (unsigned)pg->id, pool->name, status_members_up(m, pg, 0),
                n != NULL ? n->name : "?", pool->min_size);
        }
    }
}

/* ---- Nodes, OSDs, voters ---- */

static void status_check_osds(const struct map *m, struct status_report *r)
{
    char down[STATUS_TEXT_MAX] = "", failed[STATUS_TEXT_MAX] = "";
    uint32_t failed_count = 0;

    for (uint32_t i = 0; i < m->osds_count; i++) {
        const struct map_osd *o = &m->osds[i];
        r->osds++;
        r->size_bytes += o->size;
        if (status_osd_is_up(o)) {
            r->osds_up++;
            continue;
        }
        char *list = o->failed ? failed : down;
        failed_count += o->failed;
        size_t len = strlen(list);
        if (len < STATUS_TEXT_MAX - 32)
            snprintf(list + len, STATUS_TEXT_MAX - len, "%sosd.%u", len > 0 ? ", " : "", o->id);
    }
    if (down[0] != '\0') {
        struct status_check *c = status_add(r, "OSD_DOWN", STATUS_WARN);
        say(c->message, "%u of %u OSDs down: %.180s", r->osds - r->osds_up - failed_count, r->osds,
            down);
        say(c->action, "start the node that serves it, or add another disk");
    }
    if (failed[0] != '\0') {
        struct status_check *c = status_add(r, "OSD_FAILED", STATUS_WARN);
        say(c->message, "the device failed of: %.200s", failed);
        say(c->action, "replace the device: skerry disk add PATH");
    }
}

static void status_check_nodes(const struct status_input *in, struct status_report *r)
{
    char down[STATUS_TEXT_MAX] = "";
    for (uint32_t i = 0; i < in->map->nodes_count; i++) {
        const struct map_node *n = &in->map->nodes[i];
        r->nodes++;
        if (in->node_is_up(in->arg, n->id)) {
            r->nodes_up++;
            continue;
        }
        size_t len = strlen(down);
        if (len < STATUS_TEXT_MAX - META_NAME_MAX - 4)
            snprintf(down + len, STATUS_TEXT_MAX - len, "%s%s", len > 0 ? ", " : "", n->name);
    }
    for (uint32_t i = 0; i < in->raft->members_count; i++) {
        const struct raft_core_member *member = &in->raft->members[i];
        if (member->role != RAFT_CORE_VOTER)
            continue;
        r->voters++;
        r->voters_up += in->node_is_up(in->arg, member->id);
    }
    if (down[0] != '\0') {
        struct status_check *c = status_add(r, "NODE_DOWN", STATUS_WARN);
        say(c->message, "%u of %u nodes down: %.180s", r->nodes - r->nodes_up, r->nodes, down);
        say(c->action, "start it: skerry node --dir DIR");
    }
}

/* ---- The two questions ---- */

static void status_judge_writable(const struct status_input *in, struct status_report *r)
{
    if (in->raft->leader == 0) {
        struct status_check *c = status_add(r, "NO_QUORUM", STATUS_ERROR);
        say(c->message, "this node sees no leader: what it shows may be out of date");
        say(c->action, "start nodes until a majority of the %u voters runs", r->voters);
        say(r->writable_why, "this node sees no leader");
    } else if (r->pgs == 0) {
        struct status_check *c = status_add(r, "NO_POOL", STATUS_WARN);
        say(c->message, "there is no pool yet: pool \"default\" is made when %u hosts have a disk",
            in->map->default_replicas);
        say(c->action, "skerry disk add PATH [--size SIZE] on %u nodes", in->map->default_replicas);
        say(r->writable_why, "there is no pool yet");
    } else if (r->pgs_blocked > 0) {
        struct status_check *c = status_add(r, "PG_BLOCKED", STATUS_ERROR);
        say(c->message, "%u of %u placement groups serve no writes", r->pgs_blocked, r->pgs);
        say(c->action, "start the nodes that are down");
        say(r->writable_why,
            "%u of %u placement groups have too few copies up, or are electing "
            "a primary",
            r->pgs_blocked, r->pgs);
    } else {
        r->writable = true;
        say(r->writable_why, "every placement group is active");
    }
    if (r->pgs_degraded > 0) {
        struct status_check *c = status_add(r, "PG_DEGRADED", STATUS_WARN);
        say(c->message, "%u of %u placement groups miss a copy or are making one", r->pgs_degraded,
            r->pgs);
        say(c->action, "wait for recovery, or start the nodes that are down");
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
    memset(out, 0, sizeof(*out));
    out->recovery_objects_left = in->recovery_objects_left;
    status_check_nodes(in, out);
    status_check_osds(in->map, out);
    status_count_pgs(in->map, out);
    status_judge_writable(in, out);
    status_judge_survives(out);
}

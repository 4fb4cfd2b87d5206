#include "gw/admin_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

static json_t *json_id(uint64_t id)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, id);
    return json_string(text);
}

static json_t *json_count(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *json_addr(const struct loop_addr *addr)
{
    char text[LOOP_ADDR_STR];
    loop_addr_format(addr, text, sizeof(text));
    return json_string(text);
}

static json_t *json_uuid(const uint8_t uuid[16])
{
    char hex[33], text[37];
    hex_encode(uuid, 16, hex, sizeof(hex));
    snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
             hex + 20);
    return json_string(text);
}

static const char *node_name(const struct map *m, uint32_t id)
{
    const struct map_node *n = map_node(m, id);
    return n != NULL ? n->name : "";
}

/* ---- Status ---- */

static json_t *status_checks(const struct status_report *r)
{
    json_t *checks = json_array();
    for (uint32_t i = 0; i < r->checks_count; i++) {
        const struct status_check *c = &r->checks[i];
        json_array_append_new(checks, json_pack("{s:s, s:s, s:s, s:s}", "code", c->code, "severity",
                                                status_severity_name(c->severity), "message",
                                                c->message, "action", c->action));
    }
    return checks;
}

static json_t *status_pgs(const struct status_report *r)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "total", (int)r->pgs, "active",
                     (int)r->pgs_active, "whole", (int)r->pgs_whole, "misplaced",
                     (int)r->pgs_misplaced, "degraded", (int)r->pgs_degraded, "activating",
                     (int)r->pgs_activating, "blocked", (int)r->pgs_blocked);
}

static json_t *status_raft(const struct status_report *r, const struct map *m,
                           const struct raft_core_status *raft)
{
    static const char *const states[] = {"down", "follower", "candidate", "leader"};
    json_t *object =
        json_pack("{s:s, s:i, s:i, s:i}", "state", states[raft->state], "leader", (int)raft->leader,
                  "voters", (int)r->voters, "voters_up", (int)r->voters_up);
    json_object_set_new(object, "leader_name", json_string(node_name(m, raft->leader)));
    json_object_set_new(object, "term", json_count(raft->term));
    json_object_set_new(object, "commit_index", json_count(raft->commit_index));
    json_object_set_new(object, "applied_index", json_count(raft->applied_index));
    return object;
}

json_t *admin_json_status(const struct status_report *r, const struct map *m,
                          const struct raft_core_status *raft, const char *node)
{
    json_t *object = json_object();
    json_object_set_new(object, "cluster", json_uuid(m->cluster));
    json_object_set_new(object, "node", json_string(node));
    json_object_set_new(object, "version", json_string(SKERRY_VERSION));
    json_object_set_new(object, "health", json_string(status_severity_name(r->health)));
    json_object_set_new(object, "writable", json_boolean(r->writable));
    json_object_set_new(object, "writable_why", json_string(r->writable_why));
    json_object_set_new(object, "survives_another_failure", json_boolean(r->survives));
    json_object_set_new(object, "survives_another_failure_why", json_string(r->survives_why));
    json_object_set_new(object, "checks", status_checks(r));
    json_object_set_new(object, "nodes",
                        json_pack("{s:i, s:i, s:i}", "total", (int)r->nodes, "up", (int)r->nodes_up,
                                  "never_started", (int)r->nodes_new));
    json_object_set_new(object, "osds",
                        json_pack("{s:i, s:i, s:i}", "total", (int)r->osds, "up", (int)r->osds_up,
                                  "never_started", (int)r->osds_new));
    json_object_set_new(object, "pgs", status_pgs(r));
    json_object_set_new(object, "raft", status_raft(r, m, raft));
    json_object_set_new(object, "images", json_count(m->images_count));
    json_object_set_new(object, "size_bytes", json_count(r->size_bytes));
    json_object_set_new(object, "local",
                        json_pack("{s:i, s:i, s:I, s:I}", "osds", (int)r->local_osds, "osds_full",
                                  (int)r->local_full, "size_bytes", (json_int_t)r->local_size_bytes,
                                  "used_bytes", (json_int_t)r->local_used_bytes));
    json_object_set_new(object, "recovery_objects_left", json_count(r->recovery_objects_left));
    json_object_set_new(object, "revision", json_count(m->revision));
    return object;
}

/* ---- Rows ---- */

json_t *admin_json_node(const struct map_node *n, bool up, const struct raft_core_status *raft)
{
    bool voter = false;
    for (uint32_t i = 0; i < raft->members_count; i++)
        voter |= raft->members[i].id == n->id && raft->members[i].role == RAFT_CORE_VOTER;

    json_t *object = json_object();
    json_object_set_new(object, "id", json_count(n->id));
    json_object_set_new(object, "name", json_string(n->name));
    json_object_set_new(object, "location", json_string(n->location));
    json_object_set_new(object, "address", json_addr(&n->addr));
    json_object_set_new(object, "incarnation", json_count(n->incarnation));
    json_object_set_new(object, "up", json_boolean(up));
    json_object_set_new(object, "state",
                        json_string(n->incarnation == 0 ? "never started"
                                    : up                ? "up"
                                                        : "down"));
    json_object_set_new(object, "voter", json_boolean(voter));
    json_object_set_new(object, "leader", json_boolean(raft->leader == n->id));
    return object;
}

/* Times in seconds since 1970; null: not yet, or scrub is off. */
static json_t *scrub_json(const struct admin_osd_row *row)
{
    json_t *object = json_object();
    json_object_set_new(object, "permille", json_count(row->scrub_permille));
    json_object_set_new(object, "started",
                        row->scrub_started_s ? json_count(row->scrub_started_s) : json_null());
    json_object_set_new(object, "finished",
                        row->scrub_finished_s ? json_count(row->scrub_finished_s) : json_null());
    json_object_set_new(object, "late", json_boolean(row->scrub_late));
    json_object_set_new(object, "bad_blocks", json_count(row->scrub_bad_blocks));
    return object;
}

static void osd_row(json_t *object, const struct admin_osd_row *row)
{
    json_object_set_new(object, "used_bytes", row ? json_count(row->used_bytes) : json_null());
    json_object_set_new(object, "data_bytes", row ? json_count(row->data_bytes) : json_null());
    json_object_set_new(object, "objects", row ? json_count(row->objects) : json_null());
    json_object_set_new(object, "pgs_recovering",
                        row ? json_count(row->pgs_recovering) : json_null());
    json_object_set_new(object, "recovery_objects_left",
                        row ? json_count(row->recovery_objects_left) : json_null());
    json_object_set_new(object, "crc_errors", row ? json_count(row->crc_errors) : json_null());
    json_object_set_new(object, "repaired_objects",
                        row ? json_count(row->repaired_objects) : json_null());
    json_object_set_new(object, "discarded_bytes",
                        row ? json_count(row->discarded_bytes) : json_null());
    json_object_set_new(object, "scrub", row ? scrub_json(row) : json_null());
}

static const char *osd_state(const struct map_osd *o)
{
    if (o->failed)
        return "failed";
    if (o->incarnation == 0)
        return "never started";
    return o->up ? "up" : "down";
}

json_t *admin_json_osd(const struct map *m, const struct map_osd *o,
                       const struct admin_osd_row *row)
{
    uint32_t pgs = 0, primary = 0;
    for (uint32_t i = 0; i < m->pgs_count; i++) {
        primary += m->pgs[i].primary == o->id;
        for (uint32_t k = 0; k < m->pgs[i].set_count; k++)
            pgs += m->pgs[i].set[k] == o->id;
    }
    char name[24];
    snprintf(name, sizeof(name), "osd.%u", o->id);

    json_t *object = json_object();
    json_object_set_new(object, "id", json_count(o->id));
    json_object_set_new(object, "name", json_string(name));
    json_object_set_new(object, "node", json_string(node_name(m, o->node)));
    json_object_set_new(object, "up", json_boolean(status_osd_is_up(o)));
    json_object_set_new(object, "state", json_string(osd_state(o)));
    json_object_set_new(object, "failed", json_boolean(o->failed));
    json_object_set_new(object, "incarnation", json_count(o->incarnation));
    json_object_set_new(object, "size_bytes", json_count(o->size));
    json_object_set_new(object, "pgs", json_count(pgs));
    json_object_set_new(object, "pgs_primary", json_count(primary));
    json_object_set_new(object, "uuid", json_uuid(o->uuid));
    osd_row(object, row);
    return object;
}

json_t *admin_json_pool(const struct map *m, const struct map_pool *p)
{
    uint32_t pgs[STATUS_PG_LAST + 1] = {0}, images = 0;
    struct status_places places;
    status_places_init(&places, m);
    for (uint32_t i = 0; i < m->pgs_count; i++)
        if ((uint32_t)(m->pgs[i].id >> 32) == p->id)
            pgs[status_of_pg(&places, p, &m->pgs[i])]++;
    status_places_deinit(&places);
    for (uint32_t i = 0; i < m->images_count; i++)
        images += m->images[i].pool == p->id;

    json_t *object = json_object();
    json_object_set_new(object, "id", json_count(p->id));
    json_object_set_new(object, "name", json_string(p->name));
    json_object_set_new(object, "replicas", json_count(p->replicas));
    json_object_set_new(object, "min_size", json_count(p->min_size));
    json_object_set_new(object, "domain", json_string("host"));
    json_object_set_new(object, "pg_count", json_count(p->pg_count));
    json_object_set_new(object, "object_size_bytes", json_count(p->object_size));
    json_object_set_new(object, "pgs_whole", json_count(pgs[STATUS_PG_WHOLE]));
    json_object_set_new(object, "pgs_misplaced", json_count(pgs[STATUS_PG_MISPLACED]));
    json_object_set_new(object, "pgs_degraded", json_count(pgs[STATUS_PG_DEGRADED]));
    json_object_set_new(object, "pgs_blocked",
                        json_count(pgs[STATUS_PG_BLOCKED] + pgs[STATUS_PG_ACTIVATING]));
    json_object_set_new(object, "images", json_count(images));
    return object;
}

json_t *admin_json_image(const struct map *m, const struct map_image *i, const char *nbd)
{
    const struct map_pool *pool = map_pool(m, i->pool);
    json_t *object = json_object();
    json_object_set_new(object, "id", json_id(i->id));
    json_object_set_new(object, "name", json_string(i->name));
    json_object_set_new(object, "size_bytes", json_count(i->size));
    json_object_set_new(object, "pool", json_string(pool != NULL ? pool->name : ""));
    json_object_set_new(object, "object_size_bytes",
                        json_count(pool != NULL ? pool->object_size : 0));
    if (nbd != NULL) {
        char url[META_NAME_MAX + LOOP_ADDR_STR + 16];
        snprintf(url, sizeof(url), "%s/%s", nbd, i->name);
        json_object_set_new(object, "nbd", json_string(url));
    } else {
        json_object_set_new(object, "nbd", json_null());
    }
    return object;
}

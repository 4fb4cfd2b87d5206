#include "gw/admin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/pool.h"
#include "base/text.h"
#include "gw/admin_body.h"
#include "gw/admin_json.h"

enum {
    ADMIN_COMMAND_MS = 10000,
    ADMIN_MAP_MS = 3000,
    ADMIN_LOOK_MS = 2000,
    ADMIN_SECTOR = 512,
    ADMIN_METHODS_MAX = 64,
};

/*
 * A request under way.
 *
 *   START --(reads)--------------------------------------> answered
 *   START --> OSDS (ask the local OSDs) -----------------> answered
 *   START --> DISK (the node makes an OSD) --------------> answered
 *   START --> COMMAND (Raft) --> MAP (it shows here) ----> answered
 *     also a look at images and pools, behind META_LOOK
 */
enum admin_state { ADMIN_START, ADMIN_OSDS, ADMIN_DISK, ADMIN_COMMAND, ADMIN_MAP };

struct admin_route;

struct admin_op {
    struct admin *admin;
    struct http_request *req; /* NULL once answered */
    const struct admin_route *route;
    char name[HTTP_PATH_MAX];
    enum admin_state state;
    bool looks; /* its command changes nothing */
    bool busy;  /* something below belongs to somebody else */
    struct task task;
    struct list link;
    struct loop_timer timer;
    bool timed_out;
    char image[META_NAME_MAX];
    union {
        struct meta_call call;
        struct admin_disk disk;
        struct admin_osds osds;
    } u;
};

struct admin {
    struct admin_config config;
    char nbd[LOOP_ADDR_STR + 8];
    struct http_server *http;
    struct map_feed feed;
    const struct map *map; /* NULL until the first */
    struct map no_map;     /* what status goes by until then */
    struct list ops;
    bool refusing;
};

struct admin_route {
    const char *method, *noun;
    bool has_name;
    void (*start)(struct admin_op *op);
    void (*finish)(struct admin_op *op); /* after the wait that start() began */
};

/* ---- Answers ---- */

/* The last thing done with an op whose request is answered and that nobody else holds. */
static void admin_op_free(struct admin_op *op)
{
    loop_timer_stop(op->admin->config.loop, &op->timer);
    task_cancel(&op->task);
    list_remove(&op->link);
    free(op);
}

static void admin_answer(struct admin_op *op, unsigned status, json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    check(text != NULL);
    struct http_request *req = op->req;
    op->req = NULL;
    http_reply(req, status,
               status < 300 || status == 207 ? "application/json" : "application/problem+json",
               text);
    if (!op->busy)
        admin_op_free(op);
}

static void admin_answer_problem(struct admin_op *op, const struct problem *p)
{
    unsigned status = problem_http_status(p->kind);
    if (strcmp(p->code, "method_not_allowed") == 0)
        status = 405; /* of its kind, but HTTP has a word for it */
    admin_answer(op, status, json_pack("{s:o}", "error", problem_to_json(p)));
}

static void admin_answer_not_found(struct admin_op *op, const char *noun, const char *action)
{
    struct problem p;
    char code[PROBLEM_CODE_MAX];
    snprintf(code, sizeof(code), "%s_not_found", noun);
    problem_set(&p, PROBLEM_NOT_FOUND, code, "there is no %s \"%s\"", noun, op->name);
    problem_action(&p, "%s", action);
    admin_answer_problem(op, &p);
}

/* ---- Waiting for a command, then for the map that shows it ---- */

static void admin_on_call(struct meta_call *c)
{
    struct admin_op *op = container_of(c, struct admin_op, u.call);
    op->busy = false;
    loop_wake(op->admin->config.loop, &op->task);
}

static void admin_on_timer(struct loop_timer *t)
{
    struct admin_op *op = container_of(t, struct admin_op, timer);
    op->timed_out = true;
    loop_wake(op->admin->config.loop, &op->task);
}

static void admin_submit(struct admin_op *op, uint64_t ms)
{
    struct meta_call *c = &op->u.call;
    c->loop = op->admin->config.loop;
    c->deadline_ns = loop_now(c->loop) + ms * NS_PER_MS;
    c->done = admin_on_call;
    if (!op->looks && strlen(op->req->key) == 32)
        hex_decode(op->req->key, c->command.request_id, sizeof(c->command.request_id));

    op->state = ADMIN_COMMAND;
    op->busy = true;
    struct meta_access *access = meta_access(op->admin->config.meta);
    access->submit(access, c);
}

static void admin_command_refused(struct admin_op *op)
{
    const struct meta_result *r = &op->u.call.result;
    struct raft_core_status raft;
    meta_group(op->admin->config.meta, &raft);

    struct problem p;
    enum problem_kind kind = problem_of_errno(r->code);
    if (kind == PROBLEM_NOT_FOUND && op->u.call.command.kind == META_IMAGE_CREATE) {
        char when[sizeof(p.why)];
        status_say_default_pool(op->admin->map, when, sizeof(when));
        problem_set(&p, kind, "pool_not_found", "there is no pool \"default\" yet");
        problem_why(&p, "%s", when);
        problem_action(&p, "skerry disk add PATH, on hosts that have none");
    } else if (kind == PROBLEM_TIMED_OUT && raft.leader == 0) {
        problem_set(&p, PROBLEM_UNREACHABLE, "no_quorum",
                    "the change could not be made: this node sees no leader");
        problem_why(&p, "changes need a majority of the voters; whether this one was made is not "
                        "known");
        problem_action(&p, "start nodes until a majority runs, look, and try again");
    } else if (kind == PROBLEM_TIMED_OUT) {
        problem_set(&p, kind, "timed_out", "no answer within %d s", ADMIN_COMMAND_MS / 1000);
        problem_why(&p, "whether the change was made is not known");
        problem_action(&p, "look whether it was made, and try again");
    } else if (kind == PROBLEM_EXISTS) {
        problem_set(&p, kind, "exists", "%s", r->message);
        problem_why(&p, "a name is given once in the whole cluster");
        problem_action(&p, "choose another name, or use what is there: skerry image list");
    } else {
        problem_set(&p, kind,
                    kind == PROBLEM_NOT_FOUND ? "not_found"
                    : kind == PROBLEM_USAGE   ? "invalid"
                                              : "refused",
                    "%s", r->message[0] != '\0' ? r->message : strerror(-r->code));
    }
    admin_answer_problem(op, &p);
}

/*
 * A look at the state goes behind a command that changes nothing: whatever was answered anywhere
 * before it is asked for is shown, also by a node that hears of it last. Without a majority the
 * state that this node has must do.
 */
static void admin_catch_up(struct admin_op *op)
{
    op->u.call.command = (struct meta_command){.kind = META_LOOK};
    op->looks = true;
    admin_submit(op, ADMIN_LOOK_MS);
}

static void admin_command_step(struct admin_op *op)
{
    struct admin *a = op->admin;
    if (op->u.call.result.code != 0 && op->looks) {
        op->route->finish(op);
        return;
    }
    if (op->u.call.result.code != 0) {
        admin_command_refused(op);
        return;
    }
    if (op->state == ADMIN_COMMAND) {
        op->state = ADMIN_MAP;
        loop_timer_start(a->config.loop, &op->timer,
                         loop_now(a->config.loop) + ADMIN_MAP_MS * NS_PER_MS);
    }
    /* It is made; a node that lags for seconds says so a little early rather than never. */
    if (op->timed_out || a->map->revision >= op->u.call.result.revision)
        op->route->finish(op);
}

/* ---- Status, nodes, OSDs, pools ---- */

static void admin_on_osds(struct admin_osds *q)
{
    struct admin_op *op = container_of(q, struct admin_op, u.osds);
    op->busy = false;
    loop_wake(op->admin->config.loop, &op->task);
}

static void admin_ask_osds(struct admin_op *op)
{
    op->u.osds.done = admin_on_osds;
    op->state = ADMIN_OSDS;
    op->busy = true;
    op->admin->config.osds(op->admin->config.arg, &op->u.osds);
}

static void admin_status(struct admin_op *op)
{
    struct admin *a = op->admin;
    const struct map *map = a->map != NULL ? a->map : &a->no_map;
    struct raft_core_status raft;
    meta_group(a->config.meta, &raft);

    struct status_input in = {
        .map = map, .raft = &raft, .node_is_up = a->config.node_is_up, .arg = a->config.arg};
    struct status_use uses[ADMIN_OSDS_MAX];
    for (uint32_t i = 0; i < op->u.osds.count; i++) {
        const struct admin_osd_row *row = &op->u.osds.rows[i];
        in.recovery_objects_left += row->recovery_objects_left;
        if (!row->failed && row->data_bytes > 0)
            uses[in.uses_count++] = (struct status_use){.osd = row->id,
                                                        .full = row->full,
                                                        .data_bytes = row->data_bytes,
                                                        .free_bytes = row->free_bytes};
    }
    in.uses = uses;
    struct status_report report;
    status_make(&in, &report);
    admin_answer(op, 200, admin_json_status(&report, map, &raft, a->config.node_name));
}

static void admin_nodes(struct admin_op *op)
{
    struct admin *a = op->admin;
    struct raft_core_status raft;
    meta_group(a->config.meta, &raft);

    json_t *list = json_array();
    for (uint32_t i = 0; i < a->map->nodes_count; i++) {
        const struct map_node *n = &a->map->nodes[i];
        json_array_append_new(
            list, admin_json_node(n, a->config.node_is_up(a->config.arg, n->id), &raft));
    }
    admin_answer(op, 200, list);
}

static void admin_osd_list(struct admin_op *op)
{
    const struct map *m = op->admin->map;
    json_t *list = json_array();
    for (uint32_t i = 0; i < m->osds_count; i++) {
        const struct admin_osd_row *row = NULL;
        for (uint32_t k = 0; k < op->u.osds.count; k++)
            if (op->u.osds.rows[k].id == m->osds[i].id)
                row = &op->u.osds.rows[k];
        json_array_append_new(list, admin_json_osd(m, &m->osds[i], row));
    }
    admin_answer(op, 200, list);
}

static void admin_pools(struct admin_op *op)
{
    const struct map *m = op->admin->map;
    json_t *list = json_array();
    for (uint32_t i = 0; i < m->pools_count; i++)
        json_array_append_new(list, admin_json_pool(m, &m->pools[i]));
    admin_answer(op, 200, list);
}

static const struct map_pool *admin_find_pool(const struct map *m, const char *name)
{
    for (uint32_t i = 0; i < m->pools_count; i++)
        if (strcmp(m->pools[i].name, name) == 0)
            return &m->pools[i];
    return NULL;
}

static void admin_pool(struct admin_op *op)
{
    const struct map_pool *p = admin_find_pool(op->admin->map, op->name);
    if (p == NULL)
        admin_answer_not_found(op, "pool", "skerry pool list shows what there is");
    else
        admin_answer(op, 200, admin_json_pool(op->admin->map, p));
}

static void admin_meta(struct admin_op *op)
{
    char *text = meta_dump_json(op->admin->config.meta);
    struct http_request *req = op->req;
    op->req = NULL;
    http_reply(req, 200, "application/json", text);
    admin_op_free(op);
}

/* ---- Images ---- */

static void admin_images(struct admin_op *op)
{
    const struct map *m = op->admin->map;
    json_t *list = json_array();
    for (uint32_t i = 0; i < m->images_count; i++)
        json_array_append_new(list, admin_json_image(m, &m->images[i], op->admin->config.nbd));
    admin_answer(op, 200, list);
}

static void admin_image(struct admin_op *op)
{
    const struct map_image *i = map_image_by_name(op->admin->map, op->name);
    if (i == NULL)
        admin_answer_not_found(op, "image", "skerry image list shows what there is");
    else
        admin_answer(op, 200, admin_json_image(op->admin->map, i, op->admin->config.nbd));
}

static json_t *admin_body(struct admin_op *op, struct problem *p)
{
    json_error_t error;
    json_t *body = op->req->body == NULL ? NULL
                                         : json_loadb(op->req->body, op->req->body_len,
                                                      JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(body)) {
        problem_set(p, PROBLEM_USAGE, "invalid_body", "the request's body is no JSON object");
        if (body == NULL)
            problem_why(p, "%s", op->req->body == NULL ? "there is none" : error.text);
        problem_action(p, "docs/reference/api.md shows what to send");
        json_decref(body);
        return NULL;
    }
    return body;
}

static bool admin_image_size(json_int_t size, struct problem *p)
{
    if (size > 0 && size % ADMIN_SECTOR == 0)
        return true;
    problem_set(p, PROBLEM_USAGE, "invalid_size",
                "an image's size must be a multiple of %d bytes above 0", ADMIN_SECTOR);
    problem_why(p, "its clients count in blocks of that size, and cannot have %lld",
                (long long)size);
    if (size > 0 && size < INT64_MAX - ADMIN_SECTOR)
        problem_action(p, "say %lld", (long long)(size / ADMIN_SECTOR + 1) * ADMIN_SECTOR);
    else
        problem_action(p, "say a size like 10G");
    return false;
}

static bool admin_image_parse(struct admin_op *op, json_t *body, struct problem *p)
{
    static const struct admin_key keys[] = {{"name", JSON_STRING, true},
                                            {"size_bytes", JSON_INTEGER, true},
                                            {"pool", JSON_STRING, false}};
    struct meta_command *c = &op->u.call.command;

    if (!admin_body_fits(body, keys, COUNT_OF(keys), p))
        return false;
    const char *name = json_string_value(json_object_get(body, "name"));
    const char *pool_name = json_string_value(json_object_get(body, "pool"));
    json_int_t size = json_integer_value(json_object_get(body, "size_bytes"));
    if (pool_name == NULL)
        pool_name = "default";
    if (!name_is_valid(name) || !str_copy(op->image, sizeof(op->image), name)) {
        problem_set(p, PROBLEM_USAGE, "invalid_name", "\"%.150s\" is not a name", name);
        problem_why(p, "a name is a letter or digit, then up to 127 of A-Z a-z 0-9 . _ / -");
        problem_action(p, "choose such a name");
        return false;
    }
    if (!admin_image_size(size, p))
        return false;
    const struct map_pool *pool = admin_find_pool(op->admin->map, pool_name);
    if (pool == NULL && strcmp(pool_name, "default") != 0) {
        problem_set(p, PROBLEM_NOT_FOUND, "pool_not_found", "there is no pool \"%.100s\"",
                    pool_name);
        problem_action(p, "choose one of skerry pool list");
        return false;
    }
    c->kind = META_IMAGE_CREATE;
    c->name = op->image;
    c->size = (uint64_t)size;
    c->pool =
        pool != NULL ? pool->id : 0; /* the default one may be there and not yet be heard of */
    return true;
}

static void admin_image_create(struct admin_op *op)
{
    struct problem p;
    json_t *body = admin_body(op, &p);
    if (body == NULL || !admin_image_parse(op, body, &p))
        admin_answer_problem(op, &p);
    else
        admin_submit(op, ADMIN_COMMAND_MS);
    json_decref(body);
}

static void admin_image_created(struct admin_op *op)
{
    const struct map_image *i = map_image_by_name(op->admin->map, op->image);
    if (i != NULL) {
        admin_answer(op, 201, admin_json_image(op->admin->map, i, op->admin->config.nbd));
        return;
    }
    char id[24];
    snprintf(id, sizeof(id), "%llu", (unsigned long long)op->u.call.result.id);
    admin_answer(op, 201, json_pack("{s:s, s:s}", "id", id, "name", op->image));
}

static void admin_image_delete(struct admin_op *op)
{
    if (map_image_by_name(op->admin->map, op->name) == NULL) {
        admin_answer_not_found(op, "image", "skerry image list shows what there is");
        return;
    }
    str_copy(op->image, sizeof(op->image), op->name);
    op->u.call.command.kind = META_IMAGE_DELETE;
    op->u.call.command.name = op->image;
    admin_submit(op, ADMIN_COMMAND_MS);
}

static void admin_image_deleted(struct admin_op *op)
{
    admin_answer(op, 200, json_pack("{s:s, s:b}", "name", op->image, "deleted", true));
}

/* ---- Disks ---- */

static void admin_on_disk(struct admin_disk *d)
{
    struct admin_op *op = container_of(d, struct admin_op, u.disk);
    op->busy = false;
    loop_wake(op->admin->config.loop, &op->task);
}

static bool admin_disk_parse(struct admin_op *op, json_t *body, struct problem *p)
{
    static const struct admin_key keys[] = {{"path", JSON_STRING, true},
                                            {"size_bytes", JSON_INTEGER, false},
                                            {"sparse", JSON_TRUE, false},
                                            {"force", JSON_TRUE, false}};
    if (!admin_body_fits(body, keys, COUNT_OF(keys), p))
        return false;
    const char *path = json_string_value(json_object_get(body, "path"));
    json_int_t size = json_integer_value(json_object_get(body, "size_bytes"));
    struct admin_disk *d = &op->u.disk;
    if (path[0] != '/' || !str_copy(d->path, sizeof(d->path), path) || size < 0) {
        problem_set(p, PROBLEM_USAGE, "invalid_path",
                    "a disk is named by its absolute path of at most %d bytes", HTTP_PATH_MAX - 1);
        return false;
    }
    d->size = (uint64_t)size;
    d->sparse = json_is_true(json_object_get(body, "sparse"));
    d->force = json_is_true(json_object_get(body, "force"));
    return true;
}

static void admin_disk_add(struct admin_op *op)
{
    struct problem p;
    json_t *body = admin_body(op, &p);
    if (body == NULL || !admin_disk_parse(op, body, &p)) {
        admin_answer_problem(op, &p);
    } else {
        op->u.disk.done = admin_on_disk;
        op->state = ADMIN_DISK;
        op->busy = true;
        op->admin->config.disk_add(op->admin->config.arg, &op->u.disk);
    }
    json_decref(body);
}

static void admin_disk_added(struct admin_op *op)
{
    const struct admin_disk *d = &op->u.disk;
    if (d->problem.kind != PROBLEM_NONE) {
        admin_answer_problem(op, &d->problem);
        return;
    }
    char name[24];
    snprintf(name, sizeof(name), "osd.%u", d->osd);
    admin_answer(op, 201,
                 json_pack("{s:i, s:s, s:s, s:s, s:I}", "id", (int)d->osd, "name", name, "node",
                           op->admin->config.node_name, "path", d->path, "size_bytes",
                           (json_int_t)d->size_bytes));
}

/* ---- Routes ---- */

static const struct admin_route admin_routes[] = {
    {"GET", "status", false, admin_ask_osds, admin_status},
    {"GET", "nodes", false, admin_nodes, NULL},
    {"GET", "osds", false, admin_ask_osds, admin_osd_list},
    {"GET", "pools", false, admin_catch_up, admin_pools},
    {"GET", "pools", true, admin_catch_up, admin_pool},
    {"GET", "images", false, admin_catch_up, admin_images},
    {"GET", "images", true, admin_catch_up, admin_image},
    {"POST", "images", false, admin_image_create, admin_image_created},
    {"DELETE", "images", true, admin_image_delete, admin_image_deleted},
    {"POST", "disks", false, admin_disk_add, admin_disk_added},
    {"GET", "meta", false, admin_meta, NULL},
};

/* One part of a path, percent signs decoded. False: it holds none, or what no name may hold. */
static bool admin_decode(const char *text, char *dst, size_t dst_size)
{
    size_t len = 0;
    for (; *text != '\0'; text++) {
        uint8_t c = (uint8_t)*text;
        if (c == '/' || len + 1 >= dst_size)
            return false;
        if (c == '%') {
            char digits[3] = {text[1], text[1] != '\0' ? text[2] : '\0', '\0'};
            if (!hex_decode(digits, &c, 1) || c == '\0')
                return false;
            text += 2;
        }
        dst[len++] = (char)c;
    }
    dst[len] = '\0';
    return len > 0;
}

/* PROBLEM_NONE, or why nothing serves this request; PROBLEM_USAGE: its path takes `methods`. */
static enum problem_kind admin_find_route(struct admin_op *op, char methods[ADMIN_METHODS_MAX])
{
    static const char prefix[] = "/api/v1/";
    if (strncmp(op->req->path, prefix, sizeof(prefix) - 1) != 0)
        return PROBLEM_NOT_FOUND;

    const char *noun = op->req->path + sizeof(prefix) - 1;
    size_t noun_len = strcspn(noun, "/");
    bool has_name = noun[noun_len] == '/';
    if (has_name && !admin_decode(noun + noun_len + 1, op->name, sizeof(op->name)))
        return PROBLEM_NOT_FOUND;

    enum problem_kind kind = PROBLEM_NOT_FOUND;
    size_t len = 0;
    for (size_t i = 0; i < COUNT_OF(admin_routes); i++) {
        const struct admin_route *r = &admin_routes[i];
        if (strlen(r->noun) != noun_len || memcmp(r->noun, noun, noun_len) != 0 ||
            r->has_name != has_name)
            continue;
        kind = PROBLEM_USAGE;
        len += (size_t)snprintf(methods + len, ADMIN_METHODS_MAX - len, "%s%s", len > 0 ? ", " : "",
                                r->method);
        if (strcmp(r->method, op->req->method) == 0) {
            op->route = r;
            return PROBLEM_NONE;
        }
    }
    return kind;
}

/* A node that was started alone has nobody to tell it which part of its log counts, so it shows no
 * state. It knows who the voters are, and says so rather than that it is starting. */
static bool admin_is_alone(struct admin_op *op)
{
    struct raft_core_status raft;
    meta_group(op->admin->config.meta, &raft);
    return op->admin->map == NULL && raft.members_count > 0 && raft.leader == 0 &&
           op->route->finish == admin_status;
}

static void admin_start(struct admin_op *op)
{
    struct problem p;
    char methods[ADMIN_METHODS_MAX] = "";
    enum problem_kind kind = admin_find_route(op, methods);
    if (kind != PROBLEM_NONE) {
        problem_set(&p, kind, kind == PROBLEM_USAGE ? "method_not_allowed" : "no_such_route",
                    "nothing serves %s %.300s", op->req->method, op->req->path);
        problem_why(&p, kind == PROBLEM_USAGE ? "that path takes %s" : "there is no such path%s",
                    methods);
        problem_action(&p, "docs/reference/api.md lists what there is");
    } else if (op->admin->refusing) {
        problem_set(&p, PROBLEM_UNREACHABLE, "stopping", "this node is stopping");
        problem_action(&p, "ask another node, or wait for this one to come back");
    } else if (op->admin->map == NULL && !admin_is_alone(op)) {
        problem_set(&p, PROBLEM_UNREACHABLE, "starting", "this node has no cluster state yet");
        problem_why(&p, "it has not heard from a leader since it started");
        problem_action(&p, "wait a moment; if it stays, start the other nodes");
    } else {
        op->route->start(op);
        return;
    }
    admin_answer_problem(op, &p);
}

static void admin_step(struct task *task)
{
    struct admin_op *op = container_of(task, struct admin_op, task);
    if (op->busy)
        return;
    if (op->req == NULL) { /* answered early: the node is stopping */
        admin_op_free(op);
        return;
    }
    switch (op->state) {
    case ADMIN_START:
        admin_start(op);
        break;
    case ADMIN_OSDS:
    case ADMIN_DISK:
        op->route->finish(op);
        break;
    case ADMIN_COMMAND:
    case ADMIN_MAP:
        admin_command_step(op);
        break;
    }
}

static void admin_on_request(void *arg, struct http_request *req)
{
    struct admin *a = arg;
    struct admin_op *op = mem_zalloc(sizeof(*op));
    op->admin = a;
    op->req = req;
    list_init(&op->link);
    task_init(&op->task, admin_step);
    loop_timer_init(&op->timer, admin_on_timer);
    list_push(&a->ops, &op->link);
    loop_wake(a->config.loop, &op->task);
}

static void admin_on_map(struct map_feed *feed, const struct map *map)
{
    struct admin *a = container_of(feed, struct admin, feed);
    a->map = map;
    list_for_each (link, &a->ops) {
        struct admin_op *op = container_of(link, struct admin_op, link);
        if (op->state == ADMIN_MAP)
            loop_wake(a->config.loop, &op->task);
    }
}

/* ---- For the owner ---- */

int admin_open(const struct admin_config *config, struct admin **out)
{
    struct admin *a = mem_zalloc(sizeof(*a));
    a->config = *config;
    memcpy(a->no_map.cluster, config->cluster, sizeof(a->no_map.cluster));
    list_init(&a->ops);
    if (config->nbd != NULL) {
        str_copy(a->nbd, sizeof(a->nbd), config->nbd);
        a->config.nbd = a->nbd;
    }

    struct http_config http = {
        .loop = config->loop, .unix_path = config->unix_path, .handle = admin_on_request, .arg = a};
    int result = http_open(&http, &a->http);
    if (result < 0) {
        free(a);
        return result;
    }
    a->feed.loop = config->loop;
    a->feed.on_map = admin_on_map;
    struct meta_access *access = meta_access(config->meta);
    access->feed_add(access, &a->feed);
    *out = a;
    return 0;
}

void admin_refuse(struct admin *a)
{
    struct problem p;
    problem_set(&p, PROBLEM_UNREACHABLE, "stopping", "this node is stopping");
    problem_why(&p, "whether a change asked for was made is not known");
    problem_action(&p, "ask another node, or wait for this one to come back");

    a->refusing = true;
    http_refuse(a->http);
    for (struct list *link = a->ops.next, *next; link != &a->ops; link = next) {
        next = link->next;
        struct admin_op *op = container_of(link, struct admin_op, link);
        if (op->req != NULL)
            admin_answer_problem(op, &p);
    }
}

bool admin_idle(struct admin *a)
{
    return http_idle(a->http);
}

void admin_close(struct admin *a)
{
    http_close(a->http);
    struct list *link;
    while ((link = list_pop(&a->ops)) != NULL)
        free(container_of(link, struct admin_op, link));
    free(a);
}

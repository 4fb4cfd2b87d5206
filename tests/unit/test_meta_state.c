/*
 * The state machine by hand: commands go in as the log would bring them, rows come out. The PG
 * rules are tested one condition at a time here; tests/unit/test_meta_pg_model.c holds them against
 * the executable model.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "meta/state_impl.h"

struct world {
    struct meta_state *state;
    struct meta_result result; /* of the last command */
    uint64_t index;
    uint32_t applied, fatals;
    int fatal_error;
    uint8_t request;
};

static void on_applied(void *arg, const uint8_t request_id[16], const struct meta_result *result)
{
    struct world *w = arg;
    (void)request_id;
    w->applied++;
    w->result = *result;
}

static void on_fatal(void *arg, const char *what, int error)
{
    struct world *w = arg;
    (void)what;
    w->fatals++;
    w->fatal_error = error;
}

static void world_open(struct world *w)
{
    struct meta_state_env env = {on_applied, on_fatal, w};

    memset(w, 0, sizeof(*w));
    assert_int_equal(meta_state_open(&env, &w->state), 0);
}

static void world_close(struct world *w)
{
    meta_state_close(w->state);
}

static void apply_bytes(struct world *w, const void *data, size_t len)
{
    meta_state_apply(w->state, ++w->index, (struct slice){data, len});
}

static struct meta_result *apply(struct world *w, const struct meta_command *c)
{
    static uint8_t buf[256 << 10];
    struct pack p;

    pack_init(&p, buf, sizeof(buf));
    meta_entry_begin(&p);
    meta_command_encode(&p, c);
    meta_entry_end(&p, 1);
    assert_false(p.failed);
    uint32_t applied = w->applied;
    apply_bytes(w, p.base, p.len);
    assert_int_equal(w->applied, applied + 1);
    return &w->result;
}

static void init(struct world *w, uint32_t replicas)
{
    struct meta_command c = {.kind = META_CLUSTER_INIT, .cluster = {7}, .replicas = replicas};
    assert_int_equal(apply(w, &c)->code, 0);
}

static uint32_t add_node(struct world *w, const char *name)
{
    struct meta_command c = {.kind = META_NODE_ADD, .name = name, .join_id = {(uint8_t)name[0], 9}};
    assert_int_equal(apply(w, &c)->code, 0);
    return (uint32_t)w->result.id;
}

static uint32_t add_osd(struct world *w, uint32_t node, uint8_t uuid)
{
    struct meta_command c = {
        .kind = META_OSD_ADD, .node = node, .uuid = {uuid}, .size = 10ull << 30};
    assert_int_equal(apply(w, &c)->code, 0);
    return (uint32_t)w->result.id;
}

static int osd_up(struct world *w, uint32_t osd, uint32_t node, uint32_t incarnation)
{
    struct meta_command c = {.kind = META_OSD_UP,
                             .osd = osd,
                             .node = node,
                             .incarnation = incarnation,
                             .size = 10ull << 30};
    return apply(w, &c)->code;
}

static int osd_down(struct world *w, uint32_t osd, uint32_t incarnation, bool dead)
{
    struct meta_osd_state down = {osd, incarnation, dead};
    struct meta_command c = {.kind = META_OSD_DOWN, .list_count = 1, .osds = &down};
    return apply(w, &c)->code;
}

static int create_pool(struct world *w, uint32_t replicas, uint32_t min_size, uint32_t pgs)
{
    struct meta_command c = {.kind = META_POOL_CREATE,
                             .name = "default",
                             .replicas = replicas,
                             .min_size = min_size,
                             .pg_count = pgs,
                             .object_size = 131072};
    return apply(w, &c)->code;
}

/* Nodes a, b, c, d with OSDs 1 to 4, all up as incarnation 1; a pool of one PG on three of them. */
static void world_with_pg(struct world *w)
{
    world_open(w);
    init(w, 7); /* so many hosts there are not: no pool is made by itself */
    static const char *const names[] = {"a", "b", "c", "d"};
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(add_node(w, names[i]), i + 1);
        assert_int_equal(add_osd(w, i + 1, (uint8_t)(i + 1)), i + 1);
        if (i < 3)
            assert_int_equal(osd_up(w, i + 1, i + 1, 1), 0);
    }
    assert_int_equal(create_pool(w, 3, 2, 1), 0);
    assert_int_equal(osd_up(w, 4, 4, 1), 0);
}

static const uint64_t PG = 1ull << 32;

static struct map_pg pg_now(struct world *w)
{
    struct map_pg g;
    assert_true(state_pg_get(w->state, PG, &g));
    return g;
}

static struct map_osd osd_now(struct world *w, uint32_t id)
{
    struct map_osd o;
    assert_true(state_osd_get(w->state, id, &o));
    return o;
}

/* A change as the present primary would send it. */
static struct meta_pg_change change_of(struct world *w, enum meta_pg_change_kind kind,
                                       uint8_t count, uint32_t a, uint32_t b, uint32_t c)
{
    struct map_pg g = pg_now(w);
    struct meta_pg_change change = {.kind = kind,
                                    .pg = PG,
                                    .epoch = g.epoch,
                                    .primary = g.primary,
                                    .set_count = count,
                                    .set = {a, b, c}};
    if (g.primary != 0)
        change.primary_incarnation = osd_now(w, g.primary).incarnation;
    return change;
}

/* 1 if it fitted. */
static uint64_t send_change(struct world *w, const struct meta_pg_change *change)
{
    struct meta_command c = {.kind = META_PG_CHANGE, .list_count = 1, .changes = change};
    struct map_pg before = pg_now(w);

    assert_int_equal(apply(w, &c)->code, 0);
    if (w->result.id == 0) {
        struct map_pg after = pg_now(w);
        assert_memory_equal(&before, &after, sizeof(before));
    }
    return w->result.id;
}

static uint64_t activate_all(struct world *w)
{
    struct meta_pg_change c = change_of(w, META_PG_ACTIVATE, 3, 1, 2, 3);
    return send_change(w, &c);
}

static struct map *map_now(struct world *w)
{
    struct pack p;
    struct map *m;

    pack_init_growing(&p);
    meta_state_rows_all(w->state, &p);
    assert_int_equal(
        map_build(NULL, (struct slice){p.base, p.len}, meta_state_revision(w->state), &m), 0);
    pack_deinit(&p);
    return m;
}

/* ---- Cluster, nodes, clients ---- */

static void nothing_is_accepted_before_the_cluster_is_initialised(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);

    struct meta_command c = {.kind = META_NODE_ADD, .name = "a", .request_id = {1}};
    assert_int_equal(apply(&w, &c)->code, -EAGAIN);
    init(&w, 3);
    assert_int_equal(apply(&w, &c)->code, 0); /* the same request: -EAGAIN is not remembered */
    world_close(&w);
}

static void a_cluster_is_initialised_once(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    init(&w, 3);

    struct meta_command other = {.kind = META_CLUSTER_INIT, .cluster = {8}, .replicas = 3};
    assert_int_equal(apply(&w, &other)->code, -EEXIST);
    world_close(&w);
}

static void a_node_that_joins_twice_gets_the_same_id(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    assert_int_equal(add_node(&w, "a"), 1);
    assert_int_equal(add_node(&w, "b"), 2);
    assert_int_equal(add_node(&w, "a"), 1);

    struct meta_command set = {.kind = META_NODE_SET, .node = 1, .incarnation = 1};
    assert_int_equal(apply(&w, &set)->code, 0);
    struct meta_command thief = {.kind = META_NODE_ADD, .name = "a", .join_id = {1}};
    assert_int_equal(apply(&w, &thief)->code, -EEXIST);
    assert_int_equal(add_node(&w, "a"), 1);
    struct meta_command bad = {.kind = META_NODE_ADD, .name = "a b"};
    assert_int_equal(apply(&w, &bad)->code, -EINVAL);
    world_close(&w);
}

static void start_node(struct world *w, uint32_t node, uint8_t join_id, int code)
{
    struct meta_command set = {
        .kind = META_NODE_SET, .node = node, .incarnation = 1, .join_id = {join_id}};
    assert_int_equal(apply(w, &set)->code, code);
}

/* A join was given up, and its node never started: the name is worth more than the number. */
static void a_name_that_never_started_may_be_taken_over(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    assert_int_equal(add_node(&w, "a"), 1);
    struct meta_command first = {.kind = META_NODE_ADD, .name = "four", .join_id = {4}};
    struct meta_command second = {
        .kind = META_NODE_ADD, .name = "four", .join_id = {5}, .addr = {.port = 7}};
    assert_int_equal(apply(&w, &first)->id, 2);
    assert_int_equal(apply(&w, &second)->id, 2);
    assert_int_equal(apply(&w, &second)->id, 2);
    struct map *m = map_now(&w);
    assert_int_equal(m->nodes_count, 2);
    assert_int_equal(m->nodes[1].addr.port, 7);
    map_unref(m);

    start_node(&w, 2, 4, -EEXIST); /* the first one comes after all: it is nobody now */
    assert_non_null(strstr(w.result.message, "Join again"));
    start_node(&w, 2, 5, 0);
    assert_int_equal(apply(&w, &first)->code, -EEXIST);
    assert_int_equal(apply(&w, &second)->id, 2);
    world_close(&w);
}

static void a_join_that_changes_its_name_is_the_same_join(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    assert_int_equal(add_node(&w, "a"), 1);
    struct meta_command join = {.kind = META_NODE_ADD, .name = "four", .join_id = {4}};
    assert_int_equal(apply(&w, &join)->id, 2);
    join.name = "a-longer-name";
    assert_int_equal(apply(&w, &join)->id, 2);
    join.name = "five";
    assert_int_equal(apply(&w, &join)->id, 2);
    struct map *m = map_now(&w);
    assert_int_equal(m->nodes_count, 2);
    assert_string_equal(m->nodes[1].name, "five");
    assert_string_equal(m->nodes[1].location, "five");
    map_unref(m);
    world_close(&w);
}

static void the_first_node_is_never_taken_over(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    struct meta_command founder = {.kind = META_NODE_ADD, .name = "one", .join_id = {7}};
    struct meta_command thief = {.kind = META_NODE_ADD, .name = "one", .join_id = {8}};
    assert_int_equal(apply(&w, &founder)->id, 1);
    assert_int_equal(apply(&w, &thief)->code, -EEXIST);
    world_close(&w);
}

static void a_request_is_executed_once(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);

    struct meta_command c = {.kind = META_CLIENT_ADD, .request_id = {5}};
    assert_int_equal(apply(&w, &c)->id, 1);
    uint64_t revision = w.result.revision;
    assert_int_equal(apply(&w, &c)->id, 1);
    assert_int_equal(w.result.revision, revision);
    c.request_id[0] = 6;
    assert_int_equal(apply(&w, &c)->id, 2);
    world_close(&w);
}

static void a_refused_request_is_refused_again_with_the_same_words(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);

    struct meta_command c = {.kind = META_IMAGE_DELETE, .name = "x", .request_id = {5}};
    assert_int_equal(apply(&w, &c)->code, -ENOENT);
    struct meta_result first = w.result;
    assert_int_equal(apply(&w, &c)->code, -ENOENT);
    assert_string_equal(w.result.message, first.message);
    world_close(&w);
}

static void only_the_last_results_are_kept(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);

    struct meta_command c = {.kind = META_IMAGE_DELETE, .name = "x", .request_id = {0, 0, 1}};
    for (uint32_t i = 0; i < META_REQUESTS_KEPT + 10; i++) {
        c.request_id[0] = (uint8_t)i;
        c.request_id[1] = (uint8_t)(i >> 8);
        apply(&w, &c);
    }
    uint8_t oldest[16] = {9, 0, 1}, kept[16] = {10, 0, 1};
    struct meta_result r;
    assert_false(state_request_get(w.state, oldest, &r));
    assert_true(state_request_get(w.state, kept, &r));
    world_close(&w);
}

static void clients_of_an_older_life_of_a_node_are_fenced(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    add_node(&w, "a");
    struct meta_command set = {.kind = META_NODE_SET, .node = 1, .incarnation = 1};
    assert_int_equal(apply(&w, &set)->code, 0);
    struct meta_command add = {.kind = META_CLIENT_ADD, .node = 1};
    assert_int_equal(apply(&w, &add)->id, 1);
    add.node = 0;
    assert_int_equal(apply(&w, &add)->id, 2);

    struct map *m = map_now(&w);
    assert_false(map_client_is_fenced(m, 1));
    assert_false(map_client_is_fenced(m, 2));
    assert_false(map_client_is_fenced(m, 3)); /* not given yet: whoever has it is ahead of us */
    map_unref(m);

    set.incarnation = 2;
    assert_int_equal(apply(&w, &set)->code, 0);
    m = map_now(&w);
    assert_true(map_client_is_fenced(m, 1));
    assert_false(map_client_is_fenced(m, 2));
    map_unref(m);

    set.incarnation = 1;
    assert_int_equal(apply(&w, &set)->code, -ESTALE);

    struct meta_command gone = {.kind = META_CLIENT_REMOVE, .client = 2};
    assert_int_equal(apply(&w, &gone)->code, 0);
    m = map_now(&w);
    assert_true(map_client_is_fenced(m, 2));
    map_unref(m);
    world_close(&w);
}

static void a_client_that_asks_twice_gets_one_id(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);

    struct meta_command add = {.kind = META_CLIENT_ADD, .join_id = {3}};
    assert_int_equal(apply(&w, &add)->id, 1);
    assert_int_equal(apply(&w, &add)->id, 1);
    add.join_id[0] = 4;
    assert_int_equal(apply(&w, &add)->id, 2);
    world_close(&w);
}

/* Many of them in each entry. */
static void add_clients(struct world *w, uint32_t node, uint32_t count)
{
    static uint8_t buf[256 << 10];
    struct meta_command c = {.kind = META_CLIENT_ADD, .node = node};
    struct pack p;

    while (count > 0) {
        uint32_t batch = count < META_BATCH_MAX ? count : META_BATCH_MAX;
        pack_init(&p, buf, sizeof(buf));
        meta_entry_begin(&p);
        for (uint32_t i = 0; i < batch; i++)
            meta_command_encode(&p, &c);
        meta_entry_end(&p, batch);
        assert_false(p.failed);
        apply_bytes(w, p.base, p.len);
        count -= batch;
    }
}

static void the_oldest_tool_makes_room_for_a_new_client_and_no_node_does(void **unused)
{
    (void)unused;
    struct world w;
    struct state_client client;
    world_open(&w);
    init(&w, 3);
    add_node(&w, "a");
    add_clients(&w, 1, META_CLIENTS_MAX - 2);
    add_clients(&w, 0, 2);
    assert_int_equal(w.result.code, 0);
    assert_int_equal(w.result.id, META_CLIENTS_MAX);

    for (uint32_t i = 1; i <= 2; i++) {
        struct meta_command add = {.kind = META_CLIENT_ADD, .node = 1};
        assert_int_equal(apply(&w, &add)->code, 0);
        assert_int_equal(w.result.id, META_CLIENTS_MAX + i);
        assert_false(state_client_get(w.state, META_CLIENTS_MAX - 2 + i, &client)); /* fenced */
        assert_true(state_client_get(w.state, 1, &client));
        assert_int_equal(state_clients_count(w.state), META_CLIENTS_MAX);
    }
    struct meta_command add = {.kind = META_CLIENT_ADD};
    assert_int_equal(apply(&w, &add)->code, -ENOSPC);
    world_close(&w);
}

/* ---- OSDs ---- */

static void an_incarnation_is_registered_once(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    uint64_t revision = meta_state_revision(w.state);
    assert_int_equal(osd_up(&w, 4, 4, 1), 0); /* a retry changes nothing */
    assert_int_equal(meta_state_revision(w.state), revision);
    assert_int_equal(osd_up(&w, 4, 3, 1), -ESTALE); /* the same life on another node: a lie */
    assert_int_equal(osd_up(&w, 4, 4, 0), -ESTALE);
    assert_int_equal(osd_up(&w, 4, 4, 3), 0);
    assert_int_equal(osd_up(&w, 4, 4, 2), -ESTALE);
    assert_int_equal(osd_now(&w, 4).dead_incarnation, 1);
    assert_int_equal(osd_up(&w, 9, 4, 1), -ENOENT);
    world_close(&w);
}

static void a_life_taken_for_down_may_go_on_and_one_known_dead_may_not(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    struct map_pg g = pg_now(&w);

    assert_int_equal(osd_down(&w, g.primary, 1, false), 0);
    struct map_pg moved = pg_now(&w);
    assert_int_equal(osd_up(&w, g.primary, g.primary, 1), 0);
    assert_true(osd_now(&w, g.primary).up);
    struct map_pg after = pg_now(&w); /* it is a member again, and leads nothing */
    assert_memory_equal(&moved, &after, sizeof(moved));

    assert_int_equal(osd_down(&w, g.primary, 1, true), 0);
    assert_int_equal(osd_up(&w, g.primary, g.primary, 1), -ESTALE);
    assert_false(osd_now(&w, g.primary).up);
    assert_int_equal(osd_up(&w, g.primary, g.primary, 2), 0);
    world_close(&w);
}

static void the_same_store_is_added_once(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    assert_int_equal(add_osd(&w, 2, 1), 1);
    world_close(&w);
}

static void a_new_life_of_a_primary_ends_its_reign(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    assert_int_equal(activate_all(&w), 1);
    struct map_pg g = pg_now(&w);
    assert_true(g.active);

    assert_int_equal(osd_up(&w, g.primary, g.primary, 2), 0);
    struct map_pg after = pg_now(&w);
    assert_int_equal(after.epoch, g.epoch + 1);
    assert_int_not_equal(after.primary, g.primary);
    assert_false(after.active);
    assert_int_equal(after.set_count, 3);
    world_close(&w);
}

static void a_new_life_of_a_secondary_changes_no_epoch(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    struct map_pg g = pg_now(&w);
    uint32_t secondary = g.primary == 1 ? 2 : 1;

    assert_int_equal(osd_up(&w, secondary, secondary, 2), 0);
    struct map_pg after = pg_now(&w);
    assert_memory_equal(&g, &after, sizeof(g));
    world_close(&w);
}

static void a_primary_that_goes_down_is_replaced_from_S(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    struct map_pg g = pg_now(&w);

    assert_int_equal(osd_down(&w, g.primary, 9, false), 0); /* another life: ignored */
    struct map_pg same = pg_now(&w);
    assert_memory_equal(&g, &same, sizeof(g));

    assert_int_equal(osd_down(&w, g.primary, 1, false), 0);
    struct map_pg after = pg_now(&w);
    assert_int_equal(after.epoch, g.epoch + 1);
    assert_int_not_equal(after.primary, g.primary);
    assert_int_not_equal(after.primary, 4);
    assert_false(after.active);
    assert_int_equal(after.set_count, 3);
    assert_int_equal(osd_now(&w, g.primary).dead_incarnation, 0);

    assert_int_equal(osd_down(&w, g.primary, 1, true), 0); /* and now we know more */
    assert_int_equal(osd_now(&w, g.primary).dead_incarnation, 1);
    assert_int_equal(pg_now(&w).epoch, after.epoch);
    world_close(&w);
}

static void a_pg_without_a_primary_gets_the_first_member_that_comes_up(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_osd_state all[] = {{1, 1, true}, {2, 1, true}, {3, 1, true}};
    struct meta_command down = {.kind = META_OSD_DOWN, .list_count = 3, .osds = all};
    assert_int_equal(apply(&w, &down)->id, 3);
    struct map_pg g = pg_now(&w);
    assert_int_equal(g.primary, 0);
    assert_int_equal(g.epoch, 2); /* one event, one epoch */

    assert_int_equal(osd_up(&w, 4, 4, 2), 0); /* not in S */
    assert_int_equal(pg_now(&w).primary, 0);
    assert_int_equal(osd_up(&w, 2, 2, 2), 0);
    assert_int_equal(pg_now(&w).primary, 2);
    assert_int_equal(pg_now(&w).epoch, 3);
    world_close(&w);
}

static void a_restarted_node_takes_its_osds_down_as_dead(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct map_pg g = pg_now(&w);
    struct meta_command set = {.kind = META_NODE_SET, .node = g.primary, .incarnation = 1};

    assert_int_equal(apply(&w, &set)->code, 0);
    assert_false(osd_now(&w, g.primary).up);
    assert_int_equal(osd_now(&w, g.primary).dead_incarnation, 1);
    assert_int_not_equal(pg_now(&w).primary, g.primary);

    assert_int_equal(osd_up(&w, g.primary, g.primary, 2), 0);
    assert_int_equal(apply(&w, &set)->code, 0); /* again, late: changes nothing */
    assert_true(osd_now(&w, g.primary).up);
    world_close(&w);
}

static void an_osd_that_was_silent_when_its_node_restarted_is_dead_too(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    uint32_t primary = pg_now(&w).primary;
    assert_int_equal(osd_down(&w, primary, 1, false), 0);
    uint32_t epoch = pg_now(&w).epoch;
    assert_int_equal(osd_now(&w, primary).dead_incarnation, 0);

    struct meta_command set = {.kind = META_NODE_SET, .node = primary, .incarnation = 1};
    assert_int_equal(apply(&w, &set)->code, 0);
    assert_int_equal(osd_now(&w, primary).dead_incarnation, 1);
    assert_int_equal(pg_now(&w).epoch, epoch);
    world_close(&w);
}

static void a_failed_osd_stays_out(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct map_pg g = pg_now(&w);
    struct meta_command failed = {.kind = META_OSD_FAILED, .osd = g.primary, .incarnation = 1};

    assert_int_equal(apply(&w, &failed)->code, 0);
    assert_int_not_equal(pg_now(&w).primary, g.primary);
    assert_int_equal(osd_up(&w, g.primary, g.primary, 2), -EIO);
    world_close(&w);
}

/* ---- PG rules ---- */

static void activation_is_for_the_primary_of_this_epoch_in_this_life(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_pg_change c = change_of(&w, META_PG_ACTIVATE, 3, 1, 2, 3);

    c.epoch++;
    assert_int_equal(send_change(&w, &c), 0);
    c.epoch -= 2;
    assert_int_equal(send_change(&w, &c), 0);
    c.epoch++;
    c.primary = c.primary == 1 ? 2 : 1;
    assert_int_equal(send_change(&w, &c), 0);
    c = change_of(&w, META_PG_ACTIVATE, 3, 1, 2, 3);
    c.primary_incarnation++;
    assert_int_equal(send_change(&w, &c), 0);
    c.primary_incarnation--;
    assert_int_equal(send_change(&w, &c), 1);
    assert_true(pg_now(&w).active);
    assert_int_equal(pg_now(&w).activated, 1);
    assert_int_equal(pg_now(&w).epoch, 1);
    assert_int_equal(send_change(&w, &c), 0); /* active already */
    world_close(&w);
}

static void activation_takes_only_members_of_S_and_named_joiners(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_pg_change c = change_of(&w, META_PG_ACTIVATE, 3, 1, 2, 4);
    uint32_t primary = pg_now(&w).primary;

    c.set[0] = primary;
    c.set[1] = primary == 1 ? 2 : 1;
    assert_int_equal(send_change(&w, &c), 0); /* 4 is not in S */
    c.joiners_count = 1;
    c.joiners[0] = 4;
    struct meta_pg_change twice = c;
    twice.set[1] = primary;
    assert_int_equal(send_change(&w, &twice), 0);
    struct meta_pg_change self = c;
    self.joiners[0] = primary;
    assert_int_equal(send_change(&w, &self), 0);
    struct meta_pg_change outside = c;
    outside.set_count = 2;
    assert_int_equal(send_change(&w, &outside), 0); /* the joiner is not in the set */
    assert_int_equal(send_change(&w, &c), 1);
    assert_true(pg_now(&w).active);
    world_close(&w);
}

static void activation_needs_min_size_and_the_primary_itself(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    uint32_t primary = pg_now(&w).primary, other = primary == 1 ? 2 : 1,
             third = 6 - primary - other;
    struct meta_pg_change one = change_of(&w, META_PG_ACTIVATE, 1, primary, 0, 0);
    assert_int_equal(send_change(&w, &one), 0);
    struct meta_pg_change without = change_of(&w, META_PG_ACTIVATE, 2, other, third, 0);
    assert_int_equal(send_change(&w, &without), 0);
    struct meta_pg_change two = change_of(&w, META_PG_ACTIVATE, 2, primary, other, 0);
    two.version = 77;
    assert_int_equal(send_change(&w, &two), 1);
    struct map_pg g = pg_now(&w);
    assert_int_equal(g.set_count, 2);
    assert_int_equal(g.stale_count, 1);
    assert_int_equal(g.stale[0].osd, third);
    assert_int_equal(g.stale[0].version, 77);
    world_close(&w);
}

static void who_leaves_is_stale_from_W_and_at_least_the_last_activation(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    uint32_t primary = pg_now(&w).primary, other = primary == 1 ? 2 : 1,
             third = 6 - primary - other;

    struct meta_pg_change c = change_of(&w, META_PG_SHRINK, 2, primary, other, 0);
    c.version = 3; /* below (activated, 0) */
    assert_int_equal(send_change(&w, &c), 1);
    struct map_pg g = pg_now(&w);
    assert_int_equal(g.epoch, 2);
    assert_true(g.active);
    assert_int_equal(g.primary, primary);
    assert_int_equal(g.activated, 1);
    assert_int_equal(g.stale_count, 1);
    assert_int_equal(g.stale[0].osd, third);
    assert_int_equal(g.stale[0].version, 1ull << 32);

    struct meta_pg_change grow = change_of(&w, META_PG_GROW, 1, third, 0, 0);
    assert_int_equal(send_change(&w, &grow), 0); /* of which life? */
    grow.osd_incarnation = 1;
    assert_int_equal(send_change(&w, &grow), 1);
    g = pg_now(&w);
    assert_int_equal(g.epoch, 3);
    assert_int_equal(g.set_count, 3);
    assert_int_equal(g.stale_count, 0);
    assert_true(g.active);
    world_close(&w);
}

static void shrinking_is_bounded_by_min_size_and_by_S(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    uint32_t primary = pg_now(&w).primary, other = primary == 1 ? 2 : 1;
    struct meta_pg_change early = change_of(&w, META_PG_SHRINK, 2, primary, other, 0);
    assert_int_equal(send_change(&w, &early), 0); /* not active */
    activate_all(&w);

    struct meta_pg_change one = change_of(&w, META_PG_SHRINK, 1, primary, 0, 0);
    assert_int_equal(send_change(&w, &one), 0);
    struct meta_pg_change foreign = change_of(&w, META_PG_SHRINK, 2, primary, 4, 0);
    assert_int_equal(send_change(&w, &foreign), 0);
    struct meta_pg_change without = change_of(&w, META_PG_SHRINK, 2, other, 6 - primary - other, 0);
    assert_int_equal(send_change(&w, &without), 0);
    world_close(&w);
}

static void shrinking_to_the_same_set_kills_a_late_grow(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    struct meta_pg_change grow = change_of(&w, META_PG_GROW, 1, 4, 0, 0);
    grow.osd_incarnation = 1;
    struct meta_pg_change same = change_of(&w, META_PG_SHRINK, 3, 1, 2, 3);
    assert_int_equal(send_change(&w, &same), 1);
    assert_int_equal(send_change(&w, &grow), 0);
    assert_int_equal(pg_now(&w).set_count, 3);
    world_close(&w);
}

static void growing_takes_only_who_is_up_in_the_life_that_was_brought_up_to_date(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    struct meta_pg_change grow = change_of(&w, META_PG_GROW, 1, 4, 0, 0);
    grow.osd_incarnation = 1;
    osd_up(&w, 4, 4, 2);
    assert_int_equal(send_change(&w, &grow), 0);
    grow.osd_incarnation = 2;
    osd_down(&w, 4, 2, false);
    assert_int_equal(send_change(&w, &grow), 0);
    osd_up(&w, 4, 4, 3);
    grow.osd_incarnation = 3;
    assert_int_equal(send_change(&w, &grow), 1);
    assert_int_equal(send_change(&w, &grow), 0); /* and once only */
    world_close(&w);
}

static void rotation_is_for_a_primary_that_cannot_activate(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct map_pg g = pg_now(&w);
    struct meta_pg_change c = change_of(&w, META_PG_ROTATE, 0, 0, 0, 0);
    assert_int_equal(send_change(&w, &c), 1);
    struct map_pg after = pg_now(&w);
    assert_int_equal(after.epoch, g.epoch + 1);
    assert_int_not_equal(after.primary, g.primary);
    activate_all(&w);
    c = change_of(&w, META_PG_ROTATE, 0, 0, 0, 0);
    assert_int_equal(send_change(&w, &c), 0); /* it is active */
    world_close(&w);
}

static void rotation_with_nobody_else_keeps_the_primary(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    uint32_t primary = pg_now(&w).primary;
    for (uint32_t i = 1; i <= 3; i++) {
        if (i != primary)
            osd_down(&w, i, 1, false);
    }
    struct meta_pg_change c = change_of(&w, META_PG_ROTATE, 0, 0, 0, 0);
    assert_int_equal(send_change(&w, &c), 1);
    assert_int_equal(pg_now(&w).primary, primary);
    assert_int_equal(pg_now(&w).epoch, 2);
    world_close(&w);
}

static void a_switch_hands_over_to_a_member_that_is_up(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    uint32_t primary = pg_now(&w).primary, other = primary == 1 ? 2 : 1;

    struct meta_pg_change outside = change_of(&w, META_PG_SWITCH, 1, 4, 0, 0);
    assert_int_equal(send_change(&w, &outside), 0);
    osd_down(&w, other, 1, false);
    struct meta_pg_change down = change_of(&w, META_PG_SWITCH, 1, other, 0, 0);
    assert_int_equal(send_change(&w, &down), 0);
    struct meta_pg_change c = change_of(&w, META_PG_SWITCH, 1, 6 - primary - other, 0, 0);
    assert_int_equal(send_change(&w, &c), 1);
    assert_int_equal(pg_now(&w).primary, 6 - primary - other);
    assert_false(pg_now(&w).active);
    assert_int_equal(pg_now(&w).epoch, 2);
    world_close(&w);
}

static void a_forgotten_row_is_gone_and_the_epoch_stays(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    activate_all(&w);
    uint32_t primary = pg_now(&w).primary, other = primary == 1 ? 2 : 1,
             third = 6 - primary - other;
    struct meta_pg_change c = change_of(&w, META_PG_SHRINK, 2, primary, other, 0);
    assert_int_equal(send_change(&w, &c), 1);
    struct meta_pg_change forget = change_of(&w, META_PG_FORGET_STALE, 1, third, 0, 0);
    assert_int_equal(send_change(&w, &forget), 1);
    assert_int_equal(pg_now(&w).stale_count, 0);
    assert_int_equal(pg_now(&w).epoch, 2);
    assert_int_equal(send_change(&w, &forget), 0);
    world_close(&w);
}

static void a_target_is_a_wish_that_changes_no_epoch(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_pg_target t = {PG, 3, {4, 2, 3}};
    struct meta_command c = {.kind = META_PG_TARGET, .list_count = 1, .targets = &t};

    assert_int_equal(apply(&w, &c)->id, 1);
    assert_int_equal(pg_now(&w).target[0], 4);
    assert_int_equal(pg_now(&w).epoch, 1);
    assert_int_equal(pg_now(&w).set[0], 1);
    assert_int_equal(apply(&w, &c)->id, 0); /* already so */
    t.osds[1] = 4;
    assert_int_equal(apply(&w, &c)->id, 0);
    t.osds[1] = 99;
    assert_int_equal(apply(&w, &c)->id, 0);
    world_close(&w);
}

/* ---- Pools and images ---- */

static void a_pool_needs_as_many_hosts_as_replicas(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    add_node(&w, "a");
    for (uint8_t i = 1; i <= 3; i++) {
        add_osd(&w, 1, i);
        osd_up(&w, i, 1, 1);
    }
    assert_int_equal(create_pool(&w, 3, 2, 8), -ENODEV);
    assert_non_null(strstr(w.result.message, "3 are needed"));
    assert_int_equal(create_pool(&w, 1, 1, 9), 0);
    assert_int_equal(create_pool(&w, 1, 1, 8), -EEXIST);
    struct map *m = map_now(&w);
    uint32_t led[4] = {0};
    for (uint32_t i = 0; i < m->pgs_count; i++)
        led[m->pgs[i].primary]++;
    assert_int_equal(m->pgs_count, 9);
    assert_int_equal(led[1], 3);
    assert_int_equal(led[2], 3);
    assert_int_equal(led[3], 3);
    map_unref(m);
    world_close(&w);
}

static void the_default_pool_is_there_with_the_last_osd_that_it_needs(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    static const char *const names[] = {"a", "b", "c"};
    struct meta_command image = {.kind = META_IMAGE_CREATE, .name = "disk", .size = 1 << 20};
    static const uint32_t nodes[] = {1, 2, 2, 3}; /* two on one host are one host */
    for (uint32_t i = 0; i < 3; i++)
        add_node(&w, names[i]);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(add_osd(&w, nodes[i], (uint8_t)(i + 1)), i + 1);
        assert_int_equal(apply(&w, &image)->code, -ENOENT);
        assert_int_equal(osd_up(&w, i + 1, nodes[i], 1), 0);
    }
    assert_int_equal(apply(&w, &image)->code, 0);
    struct map *m = map_now(&w);
    assert_int_equal(m->pools_count, 1);
    assert_string_equal(m->pools[0].name, "default");
    assert_int_equal(m->pools[0].replicas, 3);
    assert_int_equal(m->pools[0].min_size, 2);
    assert_int_equal(m->pgs_count, 64);
    map_unref(m);
    assert_int_equal(osd_up(&w, 1, 1, 2), 0); /* and no second one */
    m = map_now(&w);
    assert_int_equal(m->pools_count, 1);
    map_unref(m);
    world_close(&w);
}

static void images_have_names_of_their_own(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_command c = {.kind = META_IMAGE_CREATE, .name = "vm", .size = 1 << 20};
    assert_int_equal(apply(&w, &c)->id, 1);
    assert_int_equal(apply(&w, &c)->code, -EEXIST);
    struct meta_command del = {.kind = META_IMAGE_DELETE, .name = "vm"};
    assert_int_equal(apply(&w, &del)->code, 0);
    assert_int_equal(apply(&w, &c)->id, 2); /* a number is never used again */
    c.pool = 9;
    c.name = "other";
    assert_int_equal(apply(&w, &c)->code, -ENOENT);
    world_close(&w);
}

/* ---- Entries, snapshots, hashes ---- */

static void one_entry_carries_many_commands(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    uint8_t buf[4096];
    struct pack p;
    pack_init(&p, buf, sizeof(buf));
    meta_entry_begin(&p);
    for (uint8_t i = 0; i < 20; i++) {
        struct meta_command c = {.kind = META_CLIENT_ADD, .request_id = {1, i}};
        meta_command_encode(&p, &c);
    }
    meta_entry_end(&p, 20);
    assert_int_equal(p.len % 8, 0);
    apply_bytes(&w, p.base, p.len);
    assert_int_equal(w.applied, 21);
    assert_int_equal(w.result.id, 20);
    assert_int_equal(meta_state_applied_index(w.state), w.index);
    world_close(&w);
}

static void an_entry_from_the_future_stops_the_node(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w);
    init(&w, 3);
    uint8_t buf[256];
    struct pack p;
    pack_init(&p, buf, sizeof(buf));
    meta_entry_begin(&p);
    pack_map(&p, 3);
    pack_str(&p, "kind");
    pack_u64(&p, META_KIND_LAST + 1);
    pack_str(&p, "version");
    pack_u64(&p, 1);
    pack_str(&p, "args");
    pack_map(&p, 0);
    meta_entry_end(&p, 1);
    apply_bytes(&w, p.base, p.len);
    assert_int_equal(w.fatals, 1);
    assert_int_equal(w.fatal_error, -ENOTSUP);
    apply_bytes(&w, p.base, p.len); /* and it stays stopped */
    assert_int_equal(w.fatals, 1);
    world_close(&w);
}

static void a_state_survives_a_snapshot_and_goes_on_alike(void **unused)
{
    (void)unused;
    struct world a, b;
    void *snapshot;
    size_t len;

    world_with_pg(&a);
    activate_all(&a);
    world_open(&b);
    assert_int_equal(meta_state_serialize(a.state, &snapshot, &len), 0);
    assert_int_equal(meta_state_restore(b.state, (struct slice){snapshot, len}), 0);
    b.index = a.index;
    assert_int_equal(meta_state_hash(a.state), meta_state_hash(b.state));
    assert_int_equal(meta_state_revision(a.state), meta_state_revision(b.state));
    for (uint32_t i = 2; i < 50; i++) {
        osd_up(&a, 1 + i % 4, 1 + i % 4, i);
        osd_up(&b, 1 + i % 4, 1 + i % 4, i);
        assert_int_equal(a.result.revision, b.result.revision);
    }
    assert_int_equal(meta_state_hash(a.state), meta_state_hash(b.state));
    free(snapshot);
    world_close(&a);
    world_close(&b);
}

static void a_broken_snapshot_is_refused_and_the_state_stays(void **unused)
{
    (void)unused;
    struct world w;
    uint8_t *snapshot;
    size_t len;

    world_with_pg(&w);
    uint64_t hash = meta_state_hash(w.state);
    assert_int_equal(meta_state_serialize(w.state, (void **)&snapshot, &len), 0);
    assert_int_equal(meta_state_restore(w.state, (struct slice){snapshot, 100}), -EINVAL);
    assert_int_equal(meta_state_restore(w.state, (struct slice){snapshot, len / 2}), -EINVAL);
    memset(snapshot, 0x55, 4096);
    assert_int_equal(meta_state_restore(w.state, (struct slice){snapshot, len}), -EINVAL);
    assert_int_equal(meta_state_hash(w.state), hash);
    free(snapshot);

    sqlite3 *other;
    sqlite3_int64 size;
    assert_int_equal(sqlite3_open(":memory:", &other), SQLITE_OK);
    sqlite3_exec(other, "CREATE TABLE t(x)", NULL, NULL, NULL);
    uint8_t *foreign = sqlite3_serialize(other, "main", &size, 0);
    assert_int_equal(meta_state_restore(w.state, (struct slice){foreign, (size_t)size}), -EINVAL);
    sqlite3_free(foreign);
    sqlite3_close(other);
    world_close(&w);
}

static void replicas_that_differ_stop(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct meta_command c = {.kind = META_CLIENT_REMOVE, .client = 99};
    uint64_t index, hash;

    assert_false(meta_state_hash_last(w.state, &index, &hash));
    for (uint32_t i = 0; i < META_HASH_EVERY; i++)
        apply(&w, &c);
    assert_true(meta_state_hash_last(w.state, &index, &hash));
    struct meta_command same = {.kind = META_STATE_HASH, .revision = index, .hash = hash};
    assert_int_equal(apply(&w, &same)->code, 0);
    struct meta_command before_us = {.kind = META_STATE_HASH, .revision = 1, .hash = 5};
    assert_int_equal(apply(&w, &before_us)->code, 0);
    assert_int_equal(w.fatals, 0);

    uint8_t buf[256];
    struct pack p;
    struct meta_command differs = {.kind = META_STATE_HASH, .revision = index, .hash = ~hash};
    pack_init(&p, buf, sizeof(buf));
    meta_entry_begin(&p);
    meta_command_encode(&p, &differs);
    meta_entry_end(&p, 1);
    apply_bytes(&w, p.base, p.len);
    assert_int_equal(w.fatals, 1);
    assert_int_equal(w.fatal_error, -EUCLEAN);
    world_close(&w);
}

static void count_rows(void *arg, int columns, char **values, char **names)
{
    uint32_t *count = arg;
    (void)columns, (void)values, (void)names;
    ++*count;
}

static void people_may_read_the_state_and_nothing_else(void **unused)
{
    (void)unused;
    struct world w;
    uint32_t rows = 0;
    char message[128];
    world_with_pg(&w);
    uint64_t hash = meta_state_hash(w.state);

    assert_int_equal(meta_state_query(w.state, "SELECT * FROM osd WHERE up", count_rows, &rows,
                                      message, sizeof(message)),
                     0);
    assert_int_equal(rows, 4);
    static const char *const refused[] = {"DELETE FROM osd", "PRAGMA writable_schema=1", "BEGIN",
                                          "ATTACH 'x' AS y", "SELECT 1; DROP TABLE osd", "",
                                          "VACUUM INTO 'x'"};
    for (size_t i = 0; i < COUNT_OF(refused); i++)
        assert_int_equal(
            meta_state_query(w.state, refused[i], count_rows, &rows, message, sizeof(message)),
            -EINVAL);
    assert_int_equal(meta_state_query(w.state,
                                      "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
                                      "FROM n) SELECT COUNT(*) FROM n",
                                      count_rows, &rows, message, sizeof(message)),
                     -EINVAL);
    assert_int_equal(meta_state_hash(w.state), hash);
    assert_int_equal(osd_up(&w, 4, 4, 2), 0);
    world_close(&w);
}

/* ---- Deltas ---- */

static void assert_maps_equal(const struct map *a, const struct map *b)
{
    assert_int_equal(a->revision, b->revision);
    assert_memory_equal(a->cluster, b->cluster, 16);
    assert_int_equal(a->client_last, b->client_last);
    assert_int_equal(a->image_last, b->image_last);
    assert_int_equal(a->nodes_count, b->nodes_count);
    assert_int_equal(a->osds_count, b->osds_count);
    assert_int_equal(a->pgs_count, b->pgs_count);
    assert_int_equal(a->images_count, b->images_count);
    assert_int_equal(a->clients_count, b->clients_count);
    assert_memory_equal(a->nodes, b->nodes, a->nodes_count * sizeof(*a->nodes));
    assert_memory_equal(a->osds, b->osds, a->osds_count * sizeof(*a->osds));
    assert_memory_equal(a->pgs, b->pgs, a->pgs_count * sizeof(*a->pgs));
    assert_memory_equal(a->images, b->images, a->images_count * sizeof(*a->images));
    assert_memory_equal(a->clients, b->clients, a->clients_count * sizeof(*a->clients));
    assert_memory_equal(a->images_by_name, b->images_by_name,
                        a->images_count * sizeof(*a->images_by_name));
}

static struct map *map_follow(struct world *w, struct map *old)
{
    struct pack p;
    struct map *m;

    pack_init_growing(&p);
    assert_true(meta_state_rows_since(w->state, old->revision, &p));
    assert_int_equal(
        map_build(old, (struct slice){p.base, p.len}, meta_state_revision(w->state), &m), 0);
    pack_deinit(&p);
    map_unref(old);
    return m;
}

static void a_map_followed_by_deltas_equals_one_made_from_all_rows(void **unused)
{
    (void)unused;
    struct world w;
    world_with_pg(&w);
    struct map *followed = map_now(&w);
    char name[16];

    for (uint32_t i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "i%u", i * 7 % 50);
        struct meta_command create = {.kind = META_IMAGE_CREATE, .name = name, .size = i + 1};
        struct meta_command drop = {.kind = META_IMAGE_DELETE, .name = name};
        struct meta_command client = {.kind = META_CLIENT_ADD};
        struct meta_command gone = {.kind = META_CLIENT_REMOVE, .client = i / 2};
        apply(&w, i % 3 == 0 ? &drop : &create);
        apply(&w, i % 2 == 0 ? &client : &gone);
        osd_up(&w, 1 + i % 4, 1 + i % 4, i + 2);
        if (i % 5 == 0)
            continue;
        followed = map_follow(&w, followed);
        struct map *fresh = map_now(&w);
        assert_maps_equal(followed, fresh);
        map_unref(fresh);
    }
    map_unref(followed);
    world_close(&w);
}

static void a_map_may_be_made_of_no_rows(void **unused)
{
    (void)unused;
    struct map *m, *next;

    assert_int_equal(map_build(NULL, (struct slice){NULL, 0}, 1, &m), 0);
    assert_int_equal(map_build(m, (struct slice){NULL, 0}, 2, &next), 0);
    assert_int_equal(next->revision, 2);
    assert_int_equal(next->nodes_count, 0);
    assert_null(map_image_by_name(next, "x"));
    map_unref(m);
    map_unref(next);
}

static void a_delta_older_than_the_change_log_is_refused(void **unused)
{
    (void)unused;
    struct world w;
    struct pack p;
    world_with_pg(&w);
    uint64_t start = meta_state_revision(w.state);

    struct meta_command c = {.kind = META_CLIENT_ADD}; /* two rows each */
    for (uint32_t i = 0; i < META_CHANGES_KEPT / 2 + 10; i++) {
        struct meta_command gone = {.kind = META_CLIENT_REMOVE, .client = i};
        apply(&w, &c);
        apply(&w, &gone);
    }
    pack_init_growing(&p);
    assert_false(meta_state_rows_since(w.state, start, &p));
    assert_true(meta_state_rows_since(w.state, meta_state_revision(w.state) - 20000, &p));
    assert_false(meta_state_rows_since(w.state, meta_state_revision(w.state) + 1, &p));
    pack_deinit(&p);
    world_close(&w);
}

static int count_steps(void *arg)
{
    uint32_t *steps = arg;
    ++*steps;
    return 0;
}

/* In steps of SQLite's machine: a full change log must not make each entry read all of it. */
static void an_entry_costs_the_same_when_the_change_log_is_full(void **unused)
{
    (void)unused;
    struct world w;
    uint32_t empty = 0, full = 0;
    world_with_pg(&w);
    struct meta_osd_state down = {4, 1, false};
    struct meta_command c = {.kind = META_OSD_DOWN, .list_count = 1, .osds = &down};

    sqlite3_progress_handler(w.state->db, 10, count_steps, &empty);
    assert_int_equal(apply(&w, &c)->id, 1);
    sqlite3_progress_handler(w.state->db, 0, NULL, NULL);
    for (uint32_t i = 0; i <= META_CHANGES_KEPT; i++) {
        struct meta_command add = {.kind = META_CLIENT_ADD};
        struct meta_command remove = {.kind = META_CLIENT_REMOVE, .client = i};
        apply(&w, i % 2 == 0 ? &add : &remove);
    }
    assert_int_equal(osd_up(&w, 4, 4, 1), 0);
    sqlite3_progress_handler(w.state->db, 10, count_steps, &full);
    assert_int_equal(apply(&w, &c)->id, 1);
    sqlite3_progress_handler(w.state->db, 0, NULL, NULL);
    assert_true(full < empty + 100);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_accepted_before_the_cluster_is_initialised),
        cmocka_unit_test(a_cluster_is_initialised_once),
        cmocka_unit_test(a_node_that_joins_twice_gets_the_same_id),
        cmocka_unit_test(a_name_that_never_started_may_be_taken_over),
        cmocka_unit_test(a_join_that_changes_its_name_is_the_same_join),
        cmocka_unit_test(the_first_node_is_never_taken_over),
        cmocka_unit_test(a_request_is_executed_once),
        cmocka_unit_test(a_refused_request_is_refused_again_with_the_same_words),
        cmocka_unit_test(only_the_last_results_are_kept),
        cmocka_unit_test(clients_of_an_older_life_of_a_node_are_fenced),
        cmocka_unit_test(a_client_that_asks_twice_gets_one_id),
        cmocka_unit_test(the_oldest_tool_makes_room_for_a_new_client_and_no_node_does),
        cmocka_unit_test(an_incarnation_is_registered_once),
        cmocka_unit_test(a_life_taken_for_down_may_go_on_and_one_known_dead_may_not),
        cmocka_unit_test(the_same_store_is_added_once),
        cmocka_unit_test(a_new_life_of_a_primary_ends_its_reign),
        cmocka_unit_test(a_new_life_of_a_secondary_changes_no_epoch),
        cmocka_unit_test(a_primary_that_goes_down_is_replaced_from_S),
        cmocka_unit_test(a_pg_without_a_primary_gets_the_first_member_that_comes_up),
        cmocka_unit_test(a_restarted_node_takes_its_osds_down_as_dead),
        cmocka_unit_test(an_osd_that_was_silent_when_its_node_restarted_is_dead_too),
        cmocka_unit_test(a_failed_osd_stays_out),
        cmocka_unit_test(activation_is_for_the_primary_of_this_epoch_in_this_life),
        cmocka_unit_test(activation_takes_only_members_of_S_and_named_joiners),
        cmocka_unit_test(activation_needs_min_size_and_the_primary_itself),
        cmocka_unit_test(who_leaves_is_stale_from_W_and_at_least_the_last_activation),
        cmocka_unit_test(shrinking_is_bounded_by_min_size_and_by_S),
        cmocka_unit_test(shrinking_to_the_same_set_kills_a_late_grow),
        cmocka_unit_test(growing_takes_only_who_is_up_in_the_life_that_was_brought_up_to_date),
        cmocka_unit_test(rotation_is_for_a_primary_that_cannot_activate),
        cmocka_unit_test(rotation_with_nobody_else_keeps_the_primary),
        cmocka_unit_test(a_switch_hands_over_to_a_member_that_is_up),
        cmocka_unit_test(a_forgotten_row_is_gone_and_the_epoch_stays),
        cmocka_unit_test(a_target_is_a_wish_that_changes_no_epoch),
        cmocka_unit_test(a_pool_needs_as_many_hosts_as_replicas),
        cmocka_unit_test(the_default_pool_is_there_with_the_last_osd_that_it_needs),
        cmocka_unit_test(images_have_names_of_their_own),
        cmocka_unit_test(one_entry_carries_many_commands),
        cmocka_unit_test(an_entry_from_the_future_stops_the_node),
        cmocka_unit_test(a_state_survives_a_snapshot_and_goes_on_alike),
        cmocka_unit_test(a_broken_snapshot_is_refused_and_the_state_stays),
        cmocka_unit_test(replicas_that_differ_stop),
        cmocka_unit_test(people_may_read_the_state_and_nothing_else),
        cmocka_unit_test(a_map_followed_by_deltas_equals_one_made_from_all_rows),
        cmocka_unit_test(a_map_may_be_made_of_no_rows),
        cmocka_unit_test(a_delta_older_than_the_change_log_is_refused),
        cmocka_unit_test(an_entry_costs_the_same_when_the_change_log_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The state in words, over maps made by hand: who is up, what is whole, and what the next failure
 * would do. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "gw/problem.h"
#include "gw/status.h"

/* Three nodes with a disk each, one pool of three copies, two PGs, three voters. */
struct world {
    struct map map;
    struct map_node nodes[4];
    struct map_osd osds[4];
    struct map_pool pool;
    struct map_pg pgs[2];
    struct raft_core_status raft;
    struct status_use uses[2];
    uint32_t uses_count;
    bool node_up[5];
    struct status_report report;
};

static bool world_node_is_up(void *arg, uint32_t node)
{
    struct world *w = arg;
    return node <= 4 && w->node_up[node];
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    w->map = (struct map){.nodes = w->nodes, .osds = w->osds, .pools = &w->pool, .pgs = w->pgs};
    w->map.nodes_count = w->map.osds_count = 3;
    w->map.pools_count = 1;
    w->map.pgs_count = 2;
    w->map.default_replicas = 3;
    w->pool = (struct map_pool){.id = 1, .name = "default", .replicas = 3, .min_size = 2};
    w->raft.leader = 1;
    w->raft.members_count = 3;
    w->nodes[3] = (struct map_node){.id = 4, .name = "n4"};
    w->osds[3] = (struct map_osd){.id = 4, .node = 4, .size = 1 << 30};
    for (uint32_t i = 0; i < 3; i++) {
        w->nodes[i].id = i + 1;
        w->nodes[i].incarnation = 1;
        snprintf(w->nodes[i].location, sizeof(w->nodes[i].location), "host%u", i + 1);
        snprintf(w->nodes[i].name, sizeof(w->nodes[i].name), "n%u", i + 1);
        w->osds[i] = (struct map_osd){
            .id = i + 1, .node = i + 1, .incarnation = 1, .up = true, .size = 1 << 30};
        w->raft.members[i] = (struct raft_core_member){.id = i + 1, .role = RAFT_CORE_VOTER};
        w->node_up[i + 1] = true;
    }
    for (uint32_t i = 0; i < 2; i++)
        w->pgs[i] = (struct map_pg){.id = 1ull << 32 | i,
                                    .primary = i + 1,
                                    .active = true,
                                    .set_count = 3,
                                    .set = {1, 2, 3}};
}

static void world_lose_node(struct world *w, uint32_t node)
{
    w->node_up[node] = false;
    w->osds[node - 1].up = false;
}

static const struct status_check *world_judge(struct world *w, const char *code)
{
    struct status_input in = {.map = &w->map,
                              .raft = &w->raft,
                              .node_is_up = world_node_is_up,
                              .arg = w,
                              .uses = w->uses,
                              .uses_count = w->uses_count};
    status_make(&in, &w->report);
    for (uint32_t i = 0; i < w->report.checks_count; i++)
        if (code != NULL && strcmp(w->report.checks[i].code, code) == 0)
            return &w->report.checks[i];
    return NULL;
}

static void a_whole_cluster_is_writable_and_survives(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_judge(&w, NULL);
    assert_true(w.report.writable);
    assert_true(w.report.survives);
    assert_int_equal(w.report.health, STATUS_OK);
    assert_int_equal(w.report.checks_count, 0);
    assert_int_equal(w.report.pgs_whole, 2);
    assert_int_equal(w.report.size_bytes, 3ull << 30);
}

static void without_one_node_it_is_writable_and_survives_no_more(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_lose_node(&w, 3);
    assert_non_null(world_judge(&w, "OSD_DOWN"));
    assert_non_null(strstr(world_judge(&w, "OSD_DOWN")->message, "osd.3"));
    assert_non_null(strstr(world_judge(&w, "NODE_DOWN")->message, "n3"));
    assert_non_null(world_judge(&w, "PG_DEGRADED"));
    assert_true(w.report.writable);
    assert_false(w.report.survives);
    assert_non_null(strstr(w.report.survives_why, "min_size 2"));
    assert_int_equal(w.report.health, STATUS_WARN);
    assert_int_equal(w.report.pgs_degraded, 2);
}

static void disks_of_this_node_without_room_are_told(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.uses_count = 2;
    w.uses[0] = (struct status_use){.osd = 1, .data_bytes = 1000, .free_bytes = 151};
    w.uses[1] = (struct status_use){.osd = 2, .data_bytes = 1000, .free_bytes = 1000};
    world_judge(&w, NULL);
    assert_int_equal(w.report.checks_count, 0);
    assert_int_equal(w.report.local_size_bytes, 2000);
    assert_int_equal(w.report.local_used_bytes, 849);

    w.uses[0].free_bytes = 150;
    assert_non_null(strstr(world_judge(&w, "NEARFULL")->message, "osd.1"));
    assert_int_equal(w.report.health, STATUS_WARN);

    w.uses[0].full = true;
    assert_null(world_judge(&w, "NEARFULL"));
    assert_non_null(strstr(world_judge(&w, "FULL")->message, "osd.1"));
    assert_int_equal(w.report.health, STATUS_ERROR);
    assert_true(w.report.writable);
    assert_non_null(strstr(w.report.writable_why, "overwrites"));
}

static void a_member_that_is_still_in_s_but_down_leaves_the_pg_degraded(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.osds[2].up = false;
    world_judge(&w, NULL);
    assert_int_equal(w.report.pgs_degraded, 2);
    assert_int_equal(w.report.nodes_up, 3);
}

static void a_primary_that_is_down_blocks_its_pg(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.osds[0].up = false;
    assert_non_null(world_judge(&w, "PG_BLOCKED"));
    assert_int_equal(w.report.pgs_blocked, 1);
    assert_int_equal(w.report.pgs_activating, 1); /* two are there: one of them will lead */
    assert_int_equal(w.report.pgs_degraded, 1);
    assert_false(w.report.writable);
    assert_int_equal(w.report.health, STATUS_ERROR);
}

static void below_min_size_nothing_is_writable(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_lose_node(&w, 2);
    world_lose_node(&w, 3);
    world_judge(&w, NULL);
    assert_false(w.report.writable);
    assert_int_equal(w.report.pgs_blocked, 2);
    assert_int_equal(w.report.pgs_activating, 0);
    assert_false(w.report.survives);
    assert_non_null(strstr(world_judge(&w, "PG_BLOCKED")->message, "too few copies up"));
    assert_non_null(strstr(world_judge(&w, "PG_BLOCKED")->action, "start the nodes"));
}

static void pgs_that_are_being_activated_ask_nobody_to_start_anything(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.pgs[0].active = false;
    const struct status_check *c = world_judge(&w, "PG_BLOCKED");
    assert_non_null(strstr(c->message, "being activated"));
    assert_null(strstr(c->action, "start"));
    assert_false(w.report.writable);
    w.pgs[1].set_count = 1; /* and another one lacks a copy for good */
    c = world_judge(&w, "PG_BLOCKED");
    assert_non_null(strstr(c->message, "1 of 2"));
    assert_non_null(strstr(c->message, "too few copies up"));
    assert_int_equal(w.report.pgs_blocked, 2);
}

static void what_never_started_is_not_counted(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.map.nodes_count = w.map.osds_count = 4;
    world_judge(&w, NULL);
    assert_int_equal(w.report.nodes, 3);
    assert_int_equal(w.report.nodes_up, 3);
    assert_int_equal(w.report.nodes_new, 1);
    assert_int_equal(w.report.osds, 3);
    assert_int_equal(w.report.osds_new, 1);
    assert_int_equal(w.report.checks_count, 0);
    assert_int_equal(w.report.size_bytes, 3ull << 30);
}

/* Two copies at one place are two copies, and one host's loss takes both. */
static void copies_on_one_host_are_misplaced_if_there_are_more_hosts(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.pool.replicas = 2;
    w.pool.min_size = 1;
    w.nodes[1] = w.nodes[0]; /* node 2 stands where node 1 stands */
    w.nodes[1].id = 2;
    w.pgs[0].set_count = w.pgs[1].set_count = 2;
    w.pgs[1].set[1] = 3;
    assert_non_null(world_judge(&w, "PG_MISPLACED"));
    assert_int_equal(w.report.pgs_misplaced, 1);
    assert_int_equal(w.report.pgs_whole, 1);
    assert_true(w.report.writable);
    assert_int_equal(w.report.health, STATUS_WARN);
    w.osds[2].up = false; /* there is no other host */
    assert_null(world_judge(&w, "PG_MISPLACED"));
    assert_int_equal(w.report.pgs_whole, 1);
    assert_int_equal(w.report.pgs_degraded, 1);
}

static void two_voters_of_three_survive_no_loss(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.node_up[3] = false; /* its disk is still believed to be up */
    world_judge(&w, NULL);
    assert_true(w.report.writable);
    assert_false(w.report.survives);
    assert_non_null(strstr(w.report.survives_why, "2 of 3 voters"));
}

static void without_a_leader_nothing_is_promised(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.raft.leader = 0;
    assert_non_null(strstr(world_judge(&w, "NO_QUORUM")->action, "being elected"));
    assert_false(w.report.writable);
    w.node_up[2] = w.node_up[3] = false;
    const struct status_check *c = world_judge(&w, "NO_QUORUM");
    assert_non_null(strstr(c->message, "2 of 3 voters do not answer it: n2, n3"));
}

/* Its log names the voters, and nobody tells it which part of the log counts. */
static void a_node_that_was_started_alone_names_the_voters_by_number(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.raft.leader = 0;
    w.node_up[2] = w.node_up[3] = false;
    w.map = (struct map){0};
    assert_non_null(strstr(world_judge(&w, "NO_QUORUM")->message, "node.2, node.3"));
    assert_int_equal(w.report.checks_count, 1);
    assert_false(w.report.survives);
}

static void a_new_cluster_says_how_many_disks_it_waits_for(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.map.pools_count = w.map.pgs_count = w.map.osds_count = 0;
    assert_non_null(strstr(world_judge(&w, "NO_POOL")->message, "3 hosts"));
    assert_false(w.report.writable);
    assert_int_equal(w.report.health, STATUS_WARN);
    w.map.default_replicas = 1;
    assert_non_null(strstr(world_judge(&w, "NO_POOL")->message, "1 host has a disk"));
}

static void two_copies_on_one_node_do_not_survive_its_loss(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    w.osds[1].node = 1;
    world_judge(&w, NULL);
    assert_true(w.report.writable);
    assert_false(w.report.survives);
    assert_non_null(strstr(w.report.survives_why, "node n1"));
}

static void long_names_and_many_disks_are_cut_not_spilled(void **state)
{
    (void)state;
    struct world w;
    static struct map_osd osds[300];
    world_init(&w);
    for (uint32_t i = 0; i < COUNT_OF(osds); i++)
        osds[i] = (struct map_osd){
            .id = 4000000000u + i, .node = 1, .incarnation = 1, .failed = i % 2 == 0};
    w.map.osds = osds;
    w.map.osds_count = COUNT_OF(osds);
    for (uint32_t i = 0; i < 3; i++) {
        memset(w.nodes[i].name, 'n', sizeof(w.nodes[i].name) - 1);
        w.node_up[i + 1] = false;
    }
    assert_non_null(world_judge(&w, "OSD_FAILED"));
    assert_non_null(world_judge(&w, "OSD_DOWN"));
    assert_non_null(world_judge(&w, "NODE_DOWN"));
}

static void a_problem_that_quotes_strange_bytes_is_still_told(void **state)
{
    struct problem p, read;
    (void)state;
    problem_set(&p, PROBLEM_NOT_FOUND, "image_not_found", "there is no image \"caf\xe9\"");
    json_t *object = problem_to_json(&p);
    problem_of_json(&read, PROBLEM_NOT_FOUND, object);
    json_decref(object);
    assert_string_equal(read.message, "there is no image \"caf?\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_cluster_is_writable_and_survives),
        cmocka_unit_test(without_one_node_it_is_writable_and_survives_no_more),
        cmocka_unit_test(a_member_that_is_still_in_s_but_down_leaves_the_pg_degraded),
        cmocka_unit_test(a_primary_that_is_down_blocks_its_pg),
        cmocka_unit_test(below_min_size_nothing_is_writable),
        cmocka_unit_test(pgs_that_are_being_activated_ask_nobody_to_start_anything),
        cmocka_unit_test(what_never_started_is_not_counted),
        cmocka_unit_test(copies_on_one_host_are_misplaced_if_there_are_more_hosts),
        cmocka_unit_test(a_node_that_was_started_alone_names_the_voters_by_number),
        cmocka_unit_test(two_voters_of_three_survive_no_loss),
        cmocka_unit_test(without_a_leader_nothing_is_promised),
        cmocka_unit_test(a_new_cluster_says_how_many_disks_it_waits_for),
        cmocka_unit_test(two_copies_on_one_node_do_not_survive_its_loss),
        cmocka_unit_test(disks_of_this_node_without_room_are_told),
        cmocka_unit_test(long_names_and_many_disks_are_cut_not_spilled),
        cmocka_unit_test(a_problem_that_quotes_strange_bytes_is_still_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

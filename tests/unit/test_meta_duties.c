/* The leader's duties: maps, reports and times go in, decisions come out. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "meta/duties.h"

enum { NODES = 10, PGS = 12, DOWN_MS = 2500, DEAD_MS = 30000 };

/* Nodes 1 to nodes_count with one OSD each, of the same number; node 1 leads and runs the duties.
 */
struct world {
    struct duties d;
    struct duties_out out;
    struct map map;
    struct map_node nodes[NODES];
    struct map_osd osds[NODES];
    struct map_pool pool;
    struct map_pg pgs[PGS];
    struct raft_core_status raft;
    uint64_t now;
    bool silent[NODES + 1];
};

static void world_open(struct world *w, uint32_t nodes)
{
    memset(w, 0, sizeof(*w));
    w->now = 1000 * NS_PER_S;
    for (uint32_t i = 0; i < NODES; i++) {
        w->nodes[i] = (struct map_node){.id = i + 1, .incarnation = 1};
        snprintf(w->nodes[i].location, sizeof(w->nodes[i].location), "host%u", i + 1);
        w->osds[i] = (struct map_osd){.id = i + 1,
                                      .node = i + 1,
                                      .incarnation = 1,
                                      .up = true,
                                      .size = 1 << 30,
                                      .weight = 100};
    }
    w->map = (struct map){.revision = 1,
                          .nodes_count = nodes,
                          .nodes = w->nodes,
                          .osds_count = nodes,
                          .osds = w->osds,
                          .pools = &w->pool,
                          .pgs = w->pgs,
                          .default_replicas = 3};
    w->raft.members_count = 1;
    w->raft.members[0] = (struct raft_core_member){1, RAFT_CORE_VOTER};
    duties_init(&w->d, 1, DOWN_MS, DEAD_MS);
    duties_lead(&w->d, true);
}

static void world_close(struct world *w)
{
    duties_deinit(&w->d);
}

static void run(struct world *w)
{
    duties_run(&w->d, w->now, &w->map, &w->raft, &w->out);
}

static void beat(struct world *w)
{
    for (uint32_t id = 1; id <= w->map.nodes_count; id++) {
        struct meta_osd_state osd = {id, w->osds[id - 1].incarnation, false};
        if (!w->silent[id])
            duties_heartbeat(&w->d, w->now, &w->map, id, w->nodes[id - 1].incarnation, &osd, 1);
    }
}

/* Time as it passes: heartbeats and a run each 100 ms, until somebody is down. */
static uint64_t pass_ms(struct world *w, uint64_t ms)
{
    uint64_t end = w->now + ms * NS_PER_MS;

    while (w->now < end) {
        w->now += 100 * NS_PER_MS;
        beat(w);
        run(w);
        if (w->out.down_count > 0)
            break;
    }
    return ms - (end - w->now) / NS_PER_MS;
}

/* ---- Who is down ---- */

static void an_osd_that_nobody_names_is_down_after_a_while_and_not_dead(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    assert_int_equal(pass_ms(&w, 10000), 10000);
    w.silent[2] = true;
    uint64_t took = pass_ms(&w, 10000);
    assert_true(took >= DOWN_MS && took <= DOWN_MS + 200);
    assert_int_equal(w.out.down_count, 1);
    assert_int_equal(w.out.down[0].osd, 2);
    assert_int_equal(w.out.down[0].incarnation, 1);
    assert_false(w.out.down[0].dead);
    assert_false(duties_node_is_alive(&w.d, 2, w.now));
    assert_true(duties_node_is_alive(&w.d, 3, w.now));
    world_close(&w);
}

static void a_leader_that_was_paused_blames_nobody(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    w.now += 60 * NS_PER_S;
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    assert_int_equal(pass_ms(&w, 5000), 5000);
    world_close(&w);
}

static void a_new_reign_gives_everybody_a_full_period(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    w.silent[2] = true;
    pass_ms(&w, 2000);
    duties_lead(&w.d, false);
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    duties_lead(&w.d, true);
    uint64_t took = pass_ms(&w, 10000);
    assert_true(took >= DOWN_MS && took <= DOWN_MS + 200);
    world_close(&w);
}

static void a_new_life_of_an_osd_gets_a_full_period(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    w.silent[2] = true;
    pass_ms(&w, 2300);
    w.osds[1].incarnation = 2;
    uint64_t took = pass_ms(&w, 10000);
    assert_true(took >= DOWN_MS && took <= DOWN_MS + 200);
    assert_int_equal(w.out.down[0].incarnation, 2);
    world_close(&w);
}

static void the_heartbeat_of_an_older_start_counts_for_nothing(void **unused)
{
    (void)unused;
    struct world w;
    struct meta_osd_state osd = {2, 1, false};
    world_open(&w, 3);
    pass_ms(&w, 1000);
    w.nodes[1].incarnation = 2;
    w.silent[2] = true;
    for (uint32_t i = 0; i < 40 && w.out.down_count == 0; i++) {
        duties_heartbeat(&w.d, w.now, &w.map, 2, 1, &osd, 1);
        pass_ms(&w, 100);
    }
    assert_int_equal(w.out.down_count, 1);
    world_close(&w);
}

/* Refused now and again `ms` later. */
static void refuse_twice(struct world *w, uint64_t ms)
{
    duties_peer_lost(&w->d, w->now, 2, -ECONNREFUSED);
    run(w);
    w->now += ms * NS_PER_MS;
    duties_peer_lost(&w->d, w->now, 2, -ECONNREFUSED);
    run(w);
}

static void a_node_that_refuses_twice_has_no_process(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    refuse_twice(&w, 20);
    assert_int_equal(w.out.down_count, 1);
    assert_int_equal(w.out.down[0].osd, 2);
    assert_true(w.out.down[0].dead);
    world_close(&w);
}

static void an_echo_of_a_refusal_is_no_second_one(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    refuse_twice(&w, 5);
    assert_int_equal(w.out.down_count, 0);
    w.now += 20 * NS_PER_MS;
    run(&w);
    assert_true(w.out.kick); /* it asks to be told again */
    world_close(&w);
}

static void what_answered_in_between_is_alive(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    duties_peer_lost(&w.d, w.now, 2, -ECONNREFUSED);
    run(&w);
    duties_peer_up(&w.d, 2);
    w.now += 50 * NS_PER_MS;
    duties_peer_lost(&w.d, w.now, 2, -ECONNREFUSED);
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    duties_peer_up(&w.d, 2);
    w.now += 50 * NS_PER_MS;
    duties_peer_lost(&w.d, w.now, 2, -EPIPE); /* lost is not refused */
    w.now += 50 * NS_PER_MS;
    duties_peer_lost(&w.d, w.now, 2, -EPIPE);
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    world_close(&w);
}

static void a_refusal_is_about_the_life_that_was_registered_then(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    duties_peer_lost(&w.d, w.now, 2, -ECONNREFUSED);
    run(&w);
    w.osds[1].incarnation = 2; /* it has started again, elsewhere perhaps */
    w.now += 50 * NS_PER_MS;
    duties_peer_lost(&w.d, w.now, 2, -ECONNREFUSED);
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    world_close(&w);
}

static void a_refusal_that_somebody_reports_counts_at_once_for_that_life(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    pass_ms(&w, 1000);
    duties_report(&w.d, 3, 1, false); /* only lost */
    duties_report(&w.d, 99999, 1, true);
    w.osds[1].incarnation = 2;
    duties_report(&w.d, 2, 1, true); /* of the life before */
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    duties_report(&w.d, 2, 2, true);
    run(&w);
    assert_int_equal(w.out.down_count, 1);
    assert_true(w.out.down[0].dead);
    w.osds[1].up = false;
    w.osds[1].dead_incarnation = 2; /* the command had its effect */
    run(&w);
    assert_int_equal(w.out.down_count, 0);
    world_close(&w);
}

/* ---- Primaries, rows ---- */

/* PGs on the OSDs 1, 2 and 3, whole; the target wants OSD k % 3 + 1 first. */
static void add_pgs(struct world *w)
{
    w->pool = (struct map_pool){.id = 1, .replicas = 3, .min_size = 2, .pg_count = PGS};
    w->map.pools_count = 1;
    w->map.pgs_count = PGS;
    for (uint32_t k = 0; k < PGS; k++) {
        uint32_t first = k % 3;
        w->pgs[k] =
            (struct map_pg){.id = 1ull << 32 | k,
                            .epoch = 1,
                            .primary = first + 1,
                            .activated = 1,
                            .active = true,
                            .set_count = 3,
                            .set = {1, 2, 3},
                            .target_count = 3,
                            .target = {first + 1, (first + 1) % 3 + 1, (first + 2) % 3 + 1}};
    }
}

static void primaries_go_home_slowly_and_only_when_all_is_whole(void **unused)
{
    (void)unused;
    struct world w;
    uint32_t switches = 0;
    world_open(&w, 3);
    add_pgs(&w);
    for (uint32_t k = 0; k < PGS; k++)
        w.pgs[k].primary = 1; /* the others were away */
    w.pgs[0].active = false;
    pass_ms(&w, 20000);
    assert_int_equal(w.out.changes_count, 0);

    w.pgs[0].active = true;
    for (uint32_t i = 0; i < 300; i++) {
        pass_ms(&w, 100);
        assert_true(w.out.changes_count <= DUTIES_SWITCHES);
        for (uint32_t k = 0; k < w.out.changes_count; k++) {
            const struct meta_pg_change *c = &w.out.changes[k];
            struct map_pg *g = &w.pgs[(uint32_t)c->pg];
            assert_int_equal(c->kind, META_PG_SWITCH);
            assert_int_equal(c->epoch, g->epoch);
            assert_int_equal(c->set[0], g->target[0]);
            g->primary = c->set[0];
            g->epoch++;
            switches++;
        }
    }
    assert_true(switches >= 7 && switches <= 8); /* four of each, give or take one */
    world_close(&w);
}

/* Carry out what the leader asks for; the number of switches in `ms`. */
static uint32_t switch_primaries(struct world *w, uint64_t ms)
{
    uint32_t switches = 0;

    for (uint64_t i = 0; i < ms / 100; i++) {
        pass_ms(w, 100);
        for (uint32_t k = 0; k < w->out.changes_count; k++) {
            const struct meta_pg_change *c = &w->out.changes[k];
            struct map_pg *g = &w->pgs[(uint32_t)c->pg];
            assert_int_equal(c->kind, META_PG_SWITCH);
            assert_true(c->set[0] == g->set[0] || c->set[0] == g->set[1] || c->set[0] == g->set[2]);
            g->primary = c->set[0];
            g->epoch++;
            switches++;
        }
    }
    return switches;
}

static void primaries_stay_until_ten_seconds_after_the_last_change(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    add_pgs(&w);
    for (uint32_t k = 0; k < PGS; k++)
        w.pgs[k].primary = 1;
    pass_ms(&w, 9000);
    w.osds[2].incarnation = 2; /* it has started again */
    w.map.revision++;
    assert_int_equal(switch_primaries(&w, 9500), 0);
    w.pgs[3].set_count = 2; /* a copy is missing: for as long as that lasts */
    w.map.revision++;
    assert_int_equal(switch_primaries(&w, 30000), 0);
    w.pgs[3].set_count = 3;
    w.map.revision++;
    assert_int_equal(switch_primaries(&w, 9500), 0);
    assert_int_equal(switch_primaries(&w, 30000), 8);
    assert_int_equal(switch_primaries(&w, 30000), 0);
    world_close(&w);
}

/* Nobody who leads too few is the first choice of a PG of somebody who leads too many. */
static void primaries_become_even_by_detours_too(void **unused)
{
    (void)unused;
    struct world w;
    uint32_t led[4] = {0};
    world_open(&w, 3);
    add_pgs(&w);
    for (uint32_t k = 0; k < PGS; k++)
        w.pgs[k].primary = k % 3 == 1 ? 1 : k % 3 == 2 ? 2 : k < 6 ? 1 : 2;
    assert_true(switch_primaries(&w, 60000) <= PGS);
    for (uint32_t k = 0; k < PGS; k++)
        led[w.pgs[k].primary]++;
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(led[id], 4);
    world_close(&w);
}

static void a_switch_that_makes_nothing_more_even_is_not_made(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    add_pgs(&w);
    w.pgs[0].primary = 2; /* 0 and 1 have each other's */
    w.pgs[1].primary = 1;
    for (uint32_t i = 0; i < 100; i++) {
        pass_ms(&w, 100);
        assert_int_equal(w.out.changes_count, 0);
    }
    world_close(&w);
}

static void rows_of_who_will_not_come_back_are_forgotten(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 4);
    add_pgs(&w);
    w.pgs[5].stale_count = 2;
    w.pgs[5].stale[0] = (struct map_stale){4, 77};  /* up, and nobody wants it there */
    w.pgs[5].stale[1] = (struct map_stale){99, 78}; /* no such OSD */
    w.pgs[6].active = false;
    w.pgs[6].stale_count = 1;
    w.pgs[6].stale[0] = (struct map_stale){4, 77};
    pass_ms(&w, 600);
    assert_int_equal(w.out.changes_count, 2);
    assert_int_equal(w.out.changes[0].kind, META_PG_FORGET_STALE);
    assert_int_equal(w.out.changes[0].pg, 1ull << 32 | 5);
    assert_int_equal(w.out.changes[0].set[0], 4);
    assert_int_equal(w.out.changes[1].set[0], 99);
    world_close(&w);
}

/* ---- Members ---- */

/* Do what is asked, as Raft would; the number of steps. At each the group must be one that no
 * single death stops which would not have stopped it before. */
static uint32_t obey(struct world *w)
{
    struct raft_core_status *r = &w->raft;

    for (uint32_t steps = 0; steps < 50; steps++) {
        const struct members_step *step = &w->out.member;
        uint32_t at = 0;
        pass_ms(w, 100);
        while (at < r->members_count && r->members[at].id != step->id)
            at++;
        if (step->change == MEMBERS_NONE)
            return steps;
        assert_int_not_equal(step->id, w->d.self);
        if (step->change == MEMBERS_REMOVE) {
            assert_true(at < r->members_count);
            r->members[at] = r->members[--r->members_count];
            continue;
        }
        if (at == r->members_count)
            r->members_count++;
        assert_true(r->members_count <= RAFT_SERVERS_MAX);
        r->members[at] = (struct raft_core_member){step->id, step->role};
    }
    fail_msg("the members never settle");
    return 0;
}

static uint32_t count_as(const struct world *w, enum raft_core_role role)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < w->raft.members_count; i++)
        count += w->raft.members[i].role == role;
    return count;
}

static bool is_member_as(const struct world *w, uint32_t id, enum raft_core_role role)
{
    for (uint32_t i = 0; i < w->raft.members_count; i++) {
        if (w->raft.members[i].id == id)
            return w->raft.members[i].role == role;
    }
    return false;
}

static void kill(struct world *w, uint32_t node)
{
    w->silent[node] = true;
    w->osds[node - 1].up = false;
}

static void revive(struct world *w, uint32_t node)
{
    w->silent[node] = false;
    w->nodes[node - 1].incarnation++;
    w->osds[node - 1].incarnation++;
    w->osds[node - 1].up = true;
}

static void set_nodes(struct world *w, uint32_t nodes)
{
    w->map.nodes_count = w->map.osds_count = nodes;
}

static void voters_are_one_three_or_five_and_two_stand_by(void **unused)
{
    (void)unused;
    static const uint32_t voters[9] = {0, 1, 1, 3, 3, 5, 5, 5, 5};
    static const uint32_t standbys[9] = {0, 0, 1, 0, 1, 0, 1, 2, 2};
    struct world w;
    world_open(&w, 1);

    for (uint32_t nodes = 1; nodes <= 8; nodes++) {
        set_nodes(&w, nodes);
        obey(&w);
        assert_int_equal(count_as(&w, RAFT_CORE_VOTER), voters[nodes]);
        assert_int_equal(count_as(&w, RAFT_CORE_STANDBY), standbys[nodes]);
    }
    world_close(&w);
}

static void nodes_that_never_started_are_no_members_and_make_no_size(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 5);
    w.nodes[3].incarnation = w.nodes[4].incarnation = 0; /* 4 and 5 are numbers only */
    w.silent[4] = w.silent[5] = true;
    pass_ms(&w, 500);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_int_equal(w.raft.members_count, 3);
    world_close(&w);
}

static void a_voter_that_is_silent_for_long_is_replaced(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 4);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    uint32_t lost = w.raft.members[1].id;
    assert_int_equal(w.raft.members[1].role, RAFT_CORE_VOTER);

    kill(&w, lost);
    for (uint32_t i = 0; i < DEAD_MS / 100 - 10; i++) {
        pass_ms(&w, 100);
        assert_int_equal(w.out.member.change, MEMBERS_NONE);
    }
    pass_ms(&w, 3000);
    assert_int_equal(w.out.member.change, MEMBERS_REMOVE); /* the dead one goes first */
    assert_int_equal(w.out.member.id, lost);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_false(is_member_as(&w, lost, RAFT_CORE_VOTER));

    revive(&w, lost); /* it stands by, and that is all */
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_true(is_member_as(&w, lost, RAFT_CORE_STANDBY));
    world_close(&w);
}

/* One of three voters died for good, and another node took its name's place. */
static void a_dead_voter_stays_only_until_there_is_another_node(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    obey(&w);
    kill(&w, 3);
    pass_ms(&w, 3000);
    pass_ms(&w, 60000);
    assert_int_equal(obey(&w), 0); /* one alone would be less safe than two of three */
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);

    w.nodes[4].incarnation = 0; /* a fifth that never started is nobody */
    w.silent[5] = true;
    set_nodes(&w, 5);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_true(is_member_as(&w, 4, RAFT_CORE_VOTER));
    assert_int_equal(w.raft.members_count, 3);
    world_close(&w);
}

static void five_voters_become_three_when_a_node_is_gone_and_five_again(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 5);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 5);
    kill(&w, 5);
    pass_ms(&w, 3000);
    pass_ms(&w, DEAD_MS);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_int_equal(count_as(&w, RAFT_CORE_STANDBY), 1);
    revive(&w, 5);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 5);
    world_close(&w);
}

static void a_new_leader_demotes_nobody_before_it_knows_who_is_there(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 5);
    obey(&w);
    for (uint32_t id = 2; id <= 5; id++)
        w.silent[id] = true;
    duties_lead(&w.d, true);
    for (uint32_t i = 0; i < 20; i++) {
        pass_ms(&w, 100);
        assert_int_equal(w.out.member.change, MEMBERS_NONE);
    }
    world_close(&w);
}

/* The leader died between the two halves of a replacement: two voters are left. */
static void an_even_number_of_voters_is_made_odd(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    w.raft.members_count = 2;
    w.raft.members[1] = (struct raft_core_member){2, RAFT_CORE_VOTER};
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);

    w.raft.members_count = 2;
    w.raft.members[1] = (struct raft_core_member){2, RAFT_CORE_VOTER};
    kill(&w, 3); /* and the third dies before it is promoted */
    pass_ms(&w, 3000);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 2); /* it may come back at once */
    pass_ms(&w, DEAD_MS);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 1);
    assert_int_equal(count_as(&w, RAFT_CORE_STANDBY), 1);
    world_close(&w);
}

static void voters_are_spread_over_locations(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 4);
    for (uint32_t i = 1; i < 3; i++) /* 2 and 3 are where 1 is */
        memcpy(w.nodes[i].location, w.nodes[0].location, sizeof(w.nodes[i].location));
    pass_ms(&w, 100);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_true(is_member_as(&w, 4, RAFT_CORE_VOTER));

    set_nodes(&w, 5); /* in a place of its own; but five is five */
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 5);
    world_close(&w);
}

static void a_voter_moves_to_a_location_that_has_none(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3);
    memcpy(w.nodes[2].location, w.nodes[1].location, sizeof(w.nodes[2].location));
    obey(&w);
    pass_ms(&w, 2 * DEAD_MS);
    set_nodes(&w, 4);
    pass_ms(&w, 100);
    assert_int_equal(w.out.member.change, MEMBERS_ASSIGN); /* the new one comes first */
    assert_int_equal(w.out.member.id, 4);
    obey(&w);
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 3);
    assert_true(is_member_as(&w, 4, RAFT_CORE_VOTER));
    assert_int_equal(count_as(&w, RAFT_CORE_STANDBY), 1);
    world_close(&w);
}

static void a_full_group_makes_room_for_a_voter(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 8);
    for (uint32_t i = 1; i < 7; i++) /* all but 8 are at one place */
        memcpy(w.nodes[i].location, w.nodes[0].location, sizeof(w.nodes[i].location));
    kill(&w, 8);
    obey(&w);
    assert_int_equal(w.raft.members_count, RAFT_SERVERS_MAX);
    pass_ms(&w, 2 * DEAD_MS);
    revive(&w, 8);
    obey(&w);
    assert_true(is_member_as(&w, 8, RAFT_CORE_VOTER));
    assert_int_equal(count_as(&w, RAFT_CORE_VOTER), 5);
    assert_int_equal(count_as(&w, RAFT_CORE_STANDBY), 2);
    world_close(&w);
}

/* ---- Never started ---- */

static void an_osd_that_never_started_is_no_target(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 4);
    add_pgs(&w);
    w.osds[3] = (struct map_osd){.id = 4, .node = 4, .weight = 100};
    for (uint32_t i = 0; i < 100; i++) {
        pass_ms(&w, 100);
        assert_int_equal(w.out.targets_count, 0);
        assert_int_equal(w.out.down_count, 0);
    }
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_osd_that_nobody_names_is_down_after_a_while_and_not_dead),
        cmocka_unit_test(a_leader_that_was_paused_blames_nobody),
        cmocka_unit_test(a_new_reign_gives_everybody_a_full_period),
        cmocka_unit_test(a_new_life_of_an_osd_gets_a_full_period),
        cmocka_unit_test(the_heartbeat_of_an_older_start_counts_for_nothing),
        cmocka_unit_test(a_node_that_refuses_twice_has_no_process),
        cmocka_unit_test(an_echo_of_a_refusal_is_no_second_one),
        cmocka_unit_test(what_answered_in_between_is_alive),
        cmocka_unit_test(a_refusal_is_about_the_life_that_was_registered_then),
        cmocka_unit_test(a_refusal_that_somebody_reports_counts_at_once_for_that_life),
        cmocka_unit_test(primaries_go_home_slowly_and_only_when_all_is_whole),
        cmocka_unit_test(primaries_stay_until_ten_seconds_after_the_last_change),
        cmocka_unit_test(primaries_become_even_by_detours_too),
        cmocka_unit_test(a_switch_that_makes_nothing_more_even_is_not_made),
        cmocka_unit_test(rows_of_who_will_not_come_back_are_forgotten),
        cmocka_unit_test(voters_are_one_three_or_five_and_two_stand_by),
        cmocka_unit_test(nodes_that_never_started_are_no_members_and_make_no_size),
        cmocka_unit_test(a_voter_that_is_silent_for_long_is_replaced),
        cmocka_unit_test(a_dead_voter_stays_only_until_there_is_another_node),
        cmocka_unit_test(five_voters_become_three_when_a_node_is_gone_and_five_again),
        cmocka_unit_test(a_new_leader_demotes_nobody_before_it_knows_who_is_there),
        cmocka_unit_test(an_even_number_of_voters_is_made_odd),
        cmocka_unit_test(voters_are_spread_over_locations),
        cmocka_unit_test(a_voter_moves_to_a_location_that_has_none),
        cmocka_unit_test(a_full_group_makes_room_for_a_voter),
        cmocka_unit_test(an_osd_that_never_started_is_no_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Several servers in the simulator: membership, failover, snapshots, faults, and random runs. */

#include "tests/unit/raft_cluster.h"

#include "base/check.h"
#include "raft/log.h"
#include "raft/message.h"

static void three_voters_agree_and_survive_the_loss_of_one(void **state)
{
    struct cluster c;
    int result;
    (void)state;

    cluster_init(&c, 1, 3);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    for (int i = 0; i < 20; i++)
        node_propose(cluster_leader(&c), NULL);
    cluster_await_even(&c);
    node_propose(cluster_leader(&c), &result);
    assert_int_equal(cluster_wait(&c, &result, 5), 0);
    cluster_await_even(&c);
    assert_int_equal(c.history_count, 21);

    node_crash(cluster_leader(&c), true);
    node_propose(cluster_await_leader(&c), &result);
    assert_int_equal(cluster_wait(&c, &result, 5), 0);
    for (uint32_t id = 1; id <= 3; id++) {
        if (c.nodes[id].loop == NULL)
            assert_int_equal(node_start(&c.nodes[id]), 0);
    }
    cluster_await_even(&c);
    cluster_check_acked(&c);
    cluster_deinit(&c);
}

static void a_follower_refuses_proposals_at_once(void **state)
{
    struct cluster c;
    int result;
    (void)state;

    cluster_init(&c, 2, 2);
    cluster_bootstrap(&c);
    cluster_grow(&c, 2);
    struct node *follower = cluster_leader(&c) == &c.nodes[1] ? &c.nodes[2] : &c.nodes[1];
    node_propose(follower, &result);
    assert_int_equal(cluster_wait(&c, &result, 1), -EAGAIN);
    cluster_deinit(&c);
}

static void members_come_change_their_role_and_go(void **state)
{
    struct cluster c;
    struct raft_core_status status;
    int result;
    (void)state;

    cluster_init(&c, 3, 4);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    assert_int_equal(node_start(&c.nodes[4]), 0);
    struct node *leader = cluster_leader(&c);
    assert_int_equal(node_assign(leader, 4, RAFT_CORE_STANDBY), 0);
    assert_int_equal(node_assign(leader, 4, RAFT_CORE_STANDBY), 0); /* it is one already */
    raft_core_status(leader->core, &status);
    assert_int_equal(status.members_count, 4);
    assert_int_equal(status.members[3].id, 4);
    assert_int_equal(status.members[3].role, RAFT_CORE_STANDBY);
    assert_int_equal(node_assign(leader, 4, RAFT_CORE_VOTER), 0);

    int first, second;
    raft_core_remove(leader->core, &proposal_new(leader, &first)->raft, 4);
    raft_core_remove(leader->core, &proposal_new(leader, &second)->raft, 3);
    assert_int_equal(cluster_wait(&c, &second, 5), -EBUSY);
    assert_int_equal(cluster_wait(&c, &first, 5), 0);
    raft_core_remove(leader->core, &proposal_new(leader, &result)->raft, 4);
    assert_int_equal(cluster_wait(&c, &result, 5), -ENOENT);
    node_crash(&c.nodes[4], false);
    node_propose(leader, &result);
    assert_int_equal(cluster_wait(&c, &result, 5), 0);
    cluster_await_even(&c);
    cluster_deinit(&c);
}

static void a_leader_can_remove_itself(void **state)
{
    struct cluster c;
    int result;
    (void)state;

    cluster_init(&c, 4, 3);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    struct node *leader = cluster_leader(&c);
    raft_core_remove(leader->core, &proposal_new(leader, &result)->raft, leader->id);
    assert_int_equal(cluster_wait(&c, &result, 5), 0);
    node_crash(leader, false);
    node_propose(cluster_await_leader(&c), &result);
    assert_int_equal(cluster_wait(&c, &result, 5), 0);
    cluster_deinit(&c);
}

struct transferred {
    struct cluster *cluster;
    uint32_t to;
};

static bool leads_now(void *arg)
{
    struct transferred *t = arg;
    return cluster_leader(t->cluster) == &t->cluster->nodes[t->to];
}

static void the_lead_can_be_handed_over(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 5, 3);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    struct node *leader = cluster_leader(&c);
    struct transferred t = {&c, leader->id == 3 ? 2 : 3};
    assert_int_equal(raft_core_transfer(leader->core, t.to), 0);
    assert_true(sim_run_until_true(c.sim, leads_now, &t, sim_now(c.sim) + 5 * NS_PER_S));
    assert_false(leader->leading);
    cluster_deinit(&c);
}

static void propose_and_wait(struct cluster *c, int count)
{
    int result;

    for (int i = 0; i < count; i++) {
        node_propose(cluster_await_leader(c), &result);
        if (cluster_wait(c, &result, 5) != 0)
            i--;
    }
}

static void a_new_member_is_brought_up_by_a_snapshot(void **state)
{
    struct cluster c;
    struct raft_core_status status;
    (void)state;

    cluster_init(&c, 6, 3);
    c.snapshot_entries = 40;
    c.trailing_entries = 10;
    cluster_bootstrap(&c);
    cluster_await_leader(&c);
    propose_and_wait(&c, 200);
    cluster_grow(&c, 3);
    propose_and_wait(&c, 5);
    cluster_await_even(&c);
    raft_core_status(c.nodes[3].core, &status);
    assert_true(status.snapshot_index > 100);

    /* And it has it on disk. */
    node_crash(&c.nodes[3], true);
    assert_int_equal(node_start(&c.nodes[3]), 0);
    assert_true(c.nodes[3].count > 100);
    cluster_await_even(&c);
    cluster_deinit(&c);
}

static void entries_and_snapshots_larger_than_a_frame_arrive(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 7, 3);
    c.value_bytes = 200 << 10;
    cluster_bootstrap(&c);
    cluster_await_leader(&c);
    propose_and_wait(&c, 12);
    cluster_grow(&c, 2); /* one message of more than 2 MiB brings it level */
    cluster_await_even(&c);
    cluster_deinit(&c);
}

/* The core sends all that is missing in one message. */
static void a_member_that_misses_more_than_a_message_holds_catches_up(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 7, 2);
    c.value_bytes = RAFT_ENTRY_MAX;
    cluster_bootstrap(&c);
    cluster_await_leader(&c);
    propose_and_wait(&c, RAFT_MESSAGE_MAX / RAFT_ENTRY_MAX + 10);
    cluster_grow(&c, 2);
    cluster_await_even(&c);
    cluster_deinit(&c);
}

static void a_node_whose_disk_fails_stops_and_the_others_go_on(void **state)
{
    static const int errors[] = {EIO, ENOSPC};
    (void)state;

    for (uint32_t i = 0; i < 2; i++) {
        for (int op = SIM_DISK_WRITE; op <= SIM_DISK_FLUSH; op++) {
            struct cluster c;
            int result;
            cluster_init(&c, 8 + i, 3);
            cluster_bootstrap(&c);
            cluster_grow(&c, 3);
            struct node *leader = cluster_leader(&c);
            sim_disk_fail(leader->host, "raft/log", (enum sim_disk_op)op, 3, errors[i], false);
            for (int k = 0; k < 6; k++)
                node_propose(leader, NULL);
            sim_run_until(c.sim, sim_now(c.sim) + 2 * NS_PER_S);
            assert_int_equal(leader->fatal, -errors[i]);
            node_crash(leader, false);
            sim_disk_clear_faults(leader->host);
            node_propose(cluster_await_leader(&c), &result);
            assert_int_equal(cluster_wait(&c, &result, 5), 0);
            assert_int_equal(node_start(leader), 0);
            cluster_await_even(&c);
            cluster_check_acked(&c);
            cluster_deinit(&c);
        }
    }
}

static void a_snapshot_that_finds_no_room_is_tried_again_later(void **state)
{
    struct cluster c;
    struct raft_core_status s;
    (void)state;

    cluster_init(&c, 21, 1);
    c.snapshot_entries = 40;
    c.trailing_entries = 5;
    cluster_bootstrap(&c);
    struct node *n = &c.nodes[1];
    sim_disk_fail(n->host, "raft/snap", SIM_DISK_WRITE, 0, ENOSPC, false);
    propose_and_wait(&c, 100);
    raft_core_status(n->core, &s);
    assert_int_equal(s.snapshot_index, 0);
    assert_int_equal(n->fatal, 0);
    sim_disk_clear_faults(n->host);
    propose_and_wait(&c, 20);
    raft_core_status(n->core, &s);
    assert_true(s.snapshot_index > 100);
    sim_disk_fail(n->host, "raft/snap", SIM_DISK_FLUSH, 0, EIO, false);
    for (int i = 0; i < 60; i++)
        node_propose(n, NULL);
    sim_run_until(c.sim, sim_now(c.sim) + NS_PER_S);
    assert_int_equal(n->fatal, -EIO);
    cluster_deinit(&c);
}

/* The core alone takes it for committed after a restart. */
static void a_change_that_was_not_committed_is_forgotten_also_after_a_restart(void **state)
{
    struct cluster c;
    struct raft_core_status s;
    int result;
    (void)state;

    cluster_init(&c, 20, 4);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    propose_and_wait(&c, 5);
    cluster_await_even(&c);
    struct node *old = cluster_leader(&c);
    for (uint32_t id = 1; id <= 3; id++) {
        sim_net_cut(c.sim, old->id, id, id != old->id);
        sim_net_cut(c.sim, id, old->id, id != old->id);
    }
    raft_core_assign(old->core, &proposal_new(old, &result)->raft, 4, RAFT_CORE_STANDBY);
    sim_run_until(c.sim, sim_now(c.sim) + 200 * NS_PER_MS);
    raft_core_status(old->core, &s);
    assert_int_equal(s.members_count, 4);
    node_crash(old, true);
    assert_int_equal(node_start(old), 0);
    raft_core_status(old->core, &s);
    assert_int_equal(s.members_count, 4); /* in its log, and on its disk */
    sim_net_heal_all(c.sim);
    node_crash(old, true);
    propose_and_wait(&c, 3);
    assert_int_equal(node_start(old), 0);
    propose_and_wait(&c, 3);
    cluster_await_even(&c);
    raft_core_status(old->core, &s);
    assert_int_equal(s.members_count, 3);
    cluster_deinit(&c);
}

/* ---- A damaged log ---- */

/* A dead node's log, looked at. */
static void damage(struct node *n, uint64_t index, bool copy_too)
{
    struct raft_log_disk log;
    struct loop *l = sim_loop_create(n->host);
    struct raft_log_config config = {.loop = l, .dir = "raft", .segment_size = CLUSTER_SEGMENT};
    char path[64];

    assert_int_equal(raft_log_open(&log, &config), 0);
    const struct raft_log_record *r = raft_log_get(&log, index);
    assert_non_null(r);
    uint64_t first = 0;
    for (uint32_t i = 0; i < log.segments_count; i++) {
        if (log.segments[i].number == r->segment)
            first = log.segments[i].first_index;
    }
    uint64_t at = (uint64_t)r->page * RAFT_LOG_PAGE + RAFT_LOG_HEADER + 2;
    uint64_t slot = 2 * RAFT_LOG_PAGE + (index - first) * RAFT_LOG_HEADER + 20;
    snprintf(path, sizeof(path), "raft/log/%016llx", (unsigned long long)r->segment);
    sim_host_crash(n->host, true);
    raft_log_close(&log);
    loop_destroy(l);
    assert_int_equal(sim_disk_flip(n->host, path, at * 8), 0);
    if (copy_too)
        assert_int_equal(sim_disk_flip(n->host, path, slot * 8), 0);
}

static struct node *a_follower(struct cluster *c)
{
    struct node *leader = cluster_leader(c);
    return &c->nodes[leader->id % c->nodes_count + 1];
}

static uint64_t last_index(struct node *n)
{
    struct raft_core_status s;
    raft_core_status(n->core, &s);
    return s.last_index;
}

static bool is_up(void *arg)
{
    struct node *n = arg;
    struct raft_core_status s;
    raft_core_status(n->core, &s);
    return s.state != RAFT_CORE_DOWN;
}

static void a_corrupt_entry_is_fetched_from_a_peer(void **state)
{
    (void)state;
    for (uint64_t back = 0; back < 20; back++) {
        for (int copy_too = 0; copy_too <= (back > 0); copy_too++) {
            struct cluster c;
            struct raft_core_status s;
            cluster_init(&c, 30 + back, 3);
            cluster_bootstrap(&c);
            cluster_grow(&c, 3);
            propose_and_wait(&c, 15);
            cluster_await_even(&c);
            struct node *n = a_follower(&c);
            uint64_t index = last_index(n) - back;
            node_crash(n, true);
            damage(n, index, copy_too);
            assert_int_equal(node_start(n), 0);
            raft_core_status(n->core, &s);
            assert_int_equal(s.state, RAFT_CORE_DOWN); /* it does not vote */
            assert_true(sim_run_until_true(c.sim, is_up, n, sim_now(c.sim) + 20 * NS_PER_S));
            cluster_await_even(&c);
            node_crash(n, true);
            assert_int_equal(node_start(n), 0);
            raft_core_status(n->core, &s);
            assert_int_not_equal(s.state, RAFT_CORE_DOWN);
            cluster_await_even(&c);
            cluster_check_acked(&c);
            cluster_deinit(&c);
        }
    }
}

/* The peers have only a snapshot of it any more. */
static void a_corrupt_entry_is_covered_by_a_peers_snapshot(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 60, 3);
    c.value_bytes = 60000; /* so that logs are really shortened */
    c.snapshot_entries = 20;
    c.trailing_entries = 2;
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    propose_and_wait(&c, 5);
    cluster_await_even(&c);
    struct node *n = a_follower(&c);
    uint64_t index = last_index(n) - 1;
    node_crash(n, true);
    propose_and_wait(&c, 150);
    damage(n, index, false);
    assert_int_equal(node_start(n), 0);
    assert_true(sim_run_until_true(c.sim, is_up, n, sim_now(c.sim) + 20 * NS_PER_S));
    assert_true(n->count > 100);
    cluster_await_even(&c);
    cluster_check_acked(&c);
    cluster_deinit(&c);
}

/* A leader's own entry, which it could give to nobody, goes bad; the others have gone on. */
static void a_corrupt_entry_that_no_majority_holds_is_cut_away(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 61, 3);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    propose_and_wait(&c, 5);
    cluster_await_even(&c);
    struct node *old = cluster_leader(&c);
    for (uint32_t id = 1; id <= 3; id++) {
        sim_net_cut(c.sim, old->id, id, id != old->id);
        sim_net_cut(c.sim, id, old->id, id != old->id);
    }
    for (int i = 0; i < 4; i++)
        node_propose(old, NULL);
    sim_run_until(c.sim, sim_now(c.sim) + NS_PER_S);
    uint64_t index = last_index(old) - 1;
    node_crash(old, true);
    sim_net_heal_all(c.sim);
    damage(old, index, false);
    propose_and_wait(&c, 1);
    assert_int_equal(node_start(old), 0);
    assert_true(sim_run_until_true(c.sim, is_up, old, sim_now(c.sim) + 20 * NS_PER_S));
    propose_and_wait(&c, 3);
    cluster_await_even(&c);
    cluster_check_acked(&c);
    cluster_deinit(&c);
}

/* The peer that may hold it is away: nothing is decided without it. */
static void a_server_with_a_corrupt_log_waits_for_those_who_know(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 62, 3);
    cluster_bootstrap(&c);
    cluster_grow(&c, 3);
    propose_and_wait(&c, 5);
    cluster_await_even(&c);
    /* An entry on two of three, one of which goes bad; the third never heard of it. */
    struct node *leader = cluster_leader(&c), *n = a_follower(&c);
    struct node *third = &c.nodes[6 - leader->id - n->id];
    node_crash(third, true);
    propose_and_wait(&c, 1);
    uint64_t index = last_index(leader);
    sim_run_until(c.sim, sim_now(c.sim) + NS_PER_S);
    node_crash(n, true);
    node_crash(leader, true);
    damage(n, index, false);
    assert_int_equal(node_start(n), 0);
    assert_int_equal(node_start(third), 0);
    assert_false(sim_run_until_true(c.sim, is_up, n, sim_now(c.sim) + 30 * NS_PER_S));
    assert_null(cluster_leader(&c));
    assert_int_equal(node_start(leader), 0);
    assert_true(sim_run_until_true(c.sim, is_up, n, sim_now(c.sim) + 30 * NS_PER_S));
    cluster_await_even(&c);
    cluster_check_acked(&c);
    cluster_deinit(&c);
}

static void a_single_server_with_a_corrupt_log_does_not_start(void **state)
{
    struct cluster c;
    (void)state;

    cluster_init(&c, 63, 1);
    cluster_bootstrap(&c);
    cluster_await_leader(&c);
    propose_and_wait(&c, 5);
    struct node *n = &c.nodes[1];
    node_crash(n, true);
    damage(n, 4, false);
    assert_int_equal(node_start(n), -EBADMSG);
    cluster_deinit(&c);
}

/* ---- Random runs ---- */

static void random_cut(struct cluster *c)
{
    struct prng *p = sim_prng(c->sim);
    uint32_t a = 1 + (uint32_t)prng_below(p, c->nodes_count);
    uint32_t b = 1 + (uint32_t)prng_below(p, c->nodes_count);

    if (prng_chance(p, 1, 3)) {
        for (uint32_t id = 1; id <= c->nodes_count; id++) {
            sim_net_cut(c->sim, a, id, id != a);
            sim_net_cut(c->sim, id, a, id != a);
        }
    } else if (a != b) {
        sim_net_cut(c->sim, a, b, true);
        if (prng_chance(p, 1, 2))
            sim_net_cut(c->sim, b, a, true);
    }
}

static void pick_name(void *arg, const char *name)
{
    char *picked = arg;
    if (strlen(name) == 16 && strcmp(name, picked) > 0)
        snprintf(picked, 17, "%s", name);
}

/* A bit of the newest segment of a dead node's log; one node at a time, or nobody may know. */
static void random_flip(struct cluster *c, struct node *n)
{
    struct prng *p = sim_prng(c->sim);
    char name[17] = "", path[64];
    struct loop *l;

    for (uint32_t id = 1; id <= c->nodes_count; id++) {
        if (c->damaged[id] && c->nodes[id].core != NULL && is_up(&c->nodes[id]))
            c->damaged[id] = false;
        if (c->damaged[id])
            return;
    }
    l = sim_loop_create(n->host);
    assert_int_equal(loop_dir_list(l, "raft/log", pick_name, name), 0);
    sim_host_crash(n->host, false);
    loop_destroy(l);
    if (name[0] == '\0')
        return;
    snprintf(path, sizeof(path), "raft/log/%s", name);
    uint64_t pages = prng_chance(p, 1, 2) ? 100 : 10;
    assert_int_equal(sim_disk_flip(n->host, path, prng_below(p, pages * 4096 * 8)), 0);
    c->damaged[n->id] = true;
}

static void random_start(struct node *n)
{
    if (node_start(n) != 0)
        fail_msg("node %u does not start: %d", n->id, n->open_result);
}

static void random_event(struct cluster *c)
{
    struct prng *p = sim_prng(c->sim);
    struct node *n = &c->nodes[1 + prng_below(p, c->nodes_count)];

    switch (prng_below(p, 10)) {
    case 0:
        random_cut(c);
        break;
    case 1:
    case 2:
        sim_net_heal_all(c->sim);
        break;
    case 3:
        if (n->loop == NULL)
            break;
        node_crash(n, prng_chance(p, 2, 3));
        if (prng_chance(p, 1, 3))
            random_flip(c, n);
        break;
    case 4:
        if (n->loop != NULL)
            sim_host_pause(n->host, prng_below(p, NS_PER_S));
        break;
    case 5:
    case 6:
        for (uint32_t id = 1; id <= c->nodes_count; id++) {
            if (c->nodes[id].loop == NULL && prng_chance(p, 2, 3))
                random_start(&c->nodes[id]);
        }
        break;
    default:
        for (uint32_t id = 1; id <= c->nodes_count; id++) {
            for (uint64_t k = prng_below(p, 4); c->nodes[id].leading && k > 0; k--)
                node_propose(&c->nodes[id], NULL);
        }
        break;
    }
    sim_run_until(c->sim, sim_now(c->sim) + 1 +
                              prng_below(p, prng_chance(p, 1, 4) ? 2 * NS_PER_S : 50 * NS_PER_MS));
    for (uint32_t id = 1; id <= c->nodes_count; id++)
        assert_int_equal(c->nodes[id].fatal, 0);
}

static uint64_t random_run(uint64_t seed, int events)
{
    struct cluster c;
    int result;

    cluster_init(&c, seed, seed % 5 == 0 ? 5 : 3);
    c.snapshot_entries = seed % 2 == 0 ? 30 : 0;
    c.trailing_entries = seed % 2 == 0 ? 8 : 0;
    cluster_bootstrap(&c);
    cluster_grow(&c, c.nodes_count);
    sim_net_set_slow(c.sim, 1, 20, 100 * NS_PER_MS);
    for (uint32_t id = 1; id <= c.nodes_count; id++)
        sim_disk_set_slow(c.nodes[id].host, 1, 20, 50 * NS_PER_MS);
    for (int i = 0; i < events; i++)
        random_event(&c);

    sim_net_heal_all(c.sim);
    for (uint32_t id = 1; id <= c.nodes_count; id++) {
        if (c.nodes[id].loop == NULL)
            random_start(&c.nodes[id]);
    }
    sim_run_until(c.sim, sim_now(c.sim) + 5 * NS_PER_S);
    do {
        node_propose(cluster_await_leader(&c), &result);
    } while (cluster_wait(&c, &result, 20) != 0);
    cluster_await_even(&c);
    cluster_check_acked(&c);
    uint64_t hash = sim_trace_hash(c.sim);
    cluster_deinit(&c);
    return hash;
}

static uint32_t seeds_first(void)
{
    const char *s = getenv("SKERRY_TEST_SEED");
    return s != NULL ? (uint32_t)strtoul(s, NULL, 10) : 1;
}

static uint32_t seeds_count(uint32_t usual)
{
    const char *s = getenv("SKERRY_TEST_SEEDS");
    return s != NULL ? (uint32_t)strtoul(s, NULL, 10) : usual;
}

static void whatever_happens_histories_are_one_and_the_acknowledged_is_in_it(void **state)
{
    uint32_t first = seeds_first(), count = seeds_count(12);
    (void)state;

    for (uint32_t seed = first; seed < first + count; seed++) {
        fprintf(stderr, "seed %u\n", seed);
        random_run(seed, 150);
    }
}

static void a_seed_gives_the_same_run_twice(void **state)
{
    (void)state;
    assert_int_equal(random_run(1000, 60), random_run(1000, 60));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_voters_agree_and_survive_the_loss_of_one),
        cmocka_unit_test(a_follower_refuses_proposals_at_once),
        cmocka_unit_test(members_come_change_their_role_and_go),
        cmocka_unit_test(a_leader_can_remove_itself),
        cmocka_unit_test(the_lead_can_be_handed_over),
        cmocka_unit_test(a_new_member_is_brought_up_by_a_snapshot),
        cmocka_unit_test(entries_and_snapshots_larger_than_a_frame_arrive),
        cmocka_unit_test(a_member_that_misses_more_than_a_message_holds_catches_up),
        cmocka_unit_test(a_node_whose_disk_fails_stops_and_the_others_go_on),
        cmocka_unit_test(a_snapshot_that_finds_no_room_is_tried_again_later),
        cmocka_unit_test(a_change_that_was_not_committed_is_forgotten_also_after_a_restart),
        cmocka_unit_test(a_corrupt_entry_is_fetched_from_a_peer),
        cmocka_unit_test(a_corrupt_entry_is_covered_by_a_peers_snapshot),
        cmocka_unit_test(a_corrupt_entry_that_no_majority_holds_is_cut_away),
        cmocka_unit_test(a_server_with_a_corrupt_log_waits_for_those_who_know),
        cmocka_unit_test(a_single_server_with_a_corrupt_log_does_not_start),
        cmocka_unit_test(whatever_happens_histories_are_one_and_the_acknowledged_is_in_it),
        cmocka_unit_test(a_seed_gives_the_same_run_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The guard: a filter between libraft's core and any struct raft_io, which closes from outside the
 * holes through which the core of 0.15 loses committed entries. README.md has the argument; the
 * rules:
 *
 *   G1  On election a barrier is proposed at once, and no append result counts before that barrier
 *       is on our own disk: so nothing of an old term is ever committed by counting.
 *   G2  A follower's acknowledgement never goes beyond what the leader of this term has verified.
 *   G3  A follower's commit index never goes beyond that either.
 *   G4  No candidacy and no TimeoutNow while appends or the installation of a snapshot are in
 *       flight.
 *   G5  A failed append, truncate, set_term, set_vote or installation stops the node before the
 *       core sees it.
 *   G6  A follower that was sent a snapshot it does not need is asked for its log again.
 *
 * The core is given guard.io; the guard calls `inner`. Threading: the core's loop. Memory: the
 * guard is its owner's; it allocates one small struct per append and snapshot in flight.
 */

#ifndef RAFT_GUARD_H
#define RAFT_GUARD_H

#include <raft.h>
#include <stdbool.h>
#include <stdint.h>

struct raft_guard {
    struct raft_io io; /* what the core sees; first, so that io is the guard */
    struct raft_io *inner;
    struct raft *raft;

    /* Storage failed, or the core gave up: nothing may be answered any more. */
    void (*fatal)(void *arg, const char *what, int raft_error);
    /* Optional: this term's barrier is committed and applied here. */
    void (*barrier_applied)(void *arg, raft_term term);
    /* Optional: the core has just run, its state may be another. Records and wakes. */
    void (*polled)(void *arg);
    void *arg;
    bool stopped; /* fatal was called: the core is not run any more */
    bool closing;

    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    raft_io_close_cb close;

    /* G1: the term in which our barrier was proposed, its index, its request. */
    raft_term led_term;
    raft_index barrier_index;
    struct raft_barrier barrier;
    raft_term barrier_term;
    bool barrier_busy;

    /* G2: in match_term, entries up to match_index are known equal to the leader's. */
    raft_term match_term;
    raft_index match_index;
    raft_index message_index; /* last entry the message being handled speaks of */
    bool in_message;

    /* G4 */
    uint32_t appends_count;
    uint32_t installs_count;

    uint64_t dropped, capped, commit_capped, ticks_skipped;
};

/* Build guard.io over `inner`; before raft_init(raft, &guard.io, ...). */
void raft_guard_init(struct raft_guard *g, struct raft *raft, struct raft_io *inner);

/* After raft_start() returned, and after anything else that may have changed the core's state. */
void raft_guard_poll(struct raft_guard *g);

#endif /* RAFT_GUARD_H */

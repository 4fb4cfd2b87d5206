/*
 * The current term and the vote given in it: what a server must never forget.
 *
 * File DIR/term, two slots of 4 KiB, all numbers little-endian:
 *
 *   0  u32  magic 0x4d524554 ("TERM")
 *   4  u32  format version, 1
 *   8  u64  generation: one more for each change
 *  16  u64  term
 *  24  u64  vote: the id voted for in this term, 0 for none
 *  32  u64  0
 *  40  u32  0
 *  44  u32  crc32c of bytes 0..43
 *  48  ...  zero to 4096
 *
 * A change is written to slot 0 and flushed, then to slot 1 and flushed, and only then acted upon.
 * So a change that was acted upon is in both slots, and one damaged slot takes nothing away; a
 * crash between the two leaves a change nobody has acted upon in slot 0 alone, which is completed
 * at load. Both slots bad: the node does not know what it promised and must not run.
 *
 * Threading: the control loop; everything here blocks. Memory: the struct is the caller's.
 */

#ifndef RAFT_TERM_H
#define RAFT_TERM_H

#include <stdint.h>

#include "io/loop.h"

enum { RAFT_TERM_SLOT = 4096 };

struct raft_term_file {
    struct loop_file *file;
    void *slot; /* aligned staging */
    uint64_t generation;
    uint64_t term;
    uint64_t vote;
};

/* Make the file, durable, with this term and no vote. -EEXIST if there is one. */
int raft_term_create(struct loop *l, const char *dir, uint64_t term);

/* -ENOENT: there is none; -EBADMSG: both slots are bad; -ENOTSUP: written by a newer version. */
int raft_term_open(struct raft_term_file *t, struct loop *l, const char *dir);
void raft_term_close(struct raft_term_file *t);

/* Durable when it returns 0. A new term clears the vote. */
int raft_term_set(struct raft_term_file *t, uint64_t term);
int raft_term_set_vote(struct raft_term_file *t, uint64_t vote);

#endif /* RAFT_TERM_H */

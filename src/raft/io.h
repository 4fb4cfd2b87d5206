/*
 * Our struct raft_io: term.c, log.c, snapshot.c and transport.c as libraft's core wants them.
 *
 * raft_disk_open() reads and checks the whole directory before the core exists, so that what is
 * wrong with it can be said, or mended with the peers, first. libraft's own load() then hands over
 * what was read.
 *
 * Any failure of storage calls fatal() once; after it no callback of the core is called any more.
 */

#ifndef RAFT_IO_H
#define RAFT_IO_H

#include <raft.h>

#include "raft/log.h"
#include "raft/snapshot.h"
#include "raft/term.h"
#include "raft/transport.h"

struct raft_disk_config {
    struct loop *loop;
    struct net *net;
    const char *dir;
    uint32_t id;
    uint64_t segment_size;     /* 0: the default */
    uint32_t trailing_entries; /* given to the core at load, behind the snapshot */
    void (*fatal)(void *arg, const char *what, int error);
    void *arg;
};

struct raft_disk {
    struct raft_io io; /* first: container_of */
    struct raft_disk_config config;
    struct raft_term_file term;
    struct raft_log_disk log;
    struct raft_snapshots snapshots;
    struct raft_transport transport;
    struct raft_snapshot *snapshot; /* read at open, until load() */
    uint64_t snapshot_index, snapshot_term;

    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    struct loop_timer timer;
    struct task task;
    uint64_t tick_ns;
    bool tick_due;
    bool failed;

    struct list appends;   /* struct disk_append */
    struct list truncates; /* struct disk_truncate */
    struct list answers;   /* struct repair_answer: replies that have not left yet */
    uint32_t answers_count;
    struct list snapshot_ops; /* struct disk_snapshot */
};

/* A server that has nothing yet: term 0, an empty log; or, with a configuration, the first member
 * of a cluster. -EEXIST when the directory has been used. Blocking. */
int raft_disk_create(struct loop *loop, const char *dir, uint64_t segment_size,
                     const struct raft_configuration *conf);

/*
 * Blocking. -ENOENT: never created; -EBADMSG: damaged beyond what peers can mend; -ENOTSUP: written
 * by a newer version. When the log has bad records that peers may hold it returns 0 and
 * raft_disk_bad_index() is not 0: the core must not be started before it is.
 */
int raft_disk_open(struct raft_disk *d, const struct raft_disk_config *config);
uint64_t raft_disk_bad_index(const struct raft_disk *d);

/* Before the core is started: a peer's snapshot, durable here, takes the place of ours; the log is
 * judged against it as at start. Takes `snapshot`. Blocking. */
int raft_disk_adopt(struct raft_disk *d, struct raft_snapshot *snapshot);

/* After the core was closed (io.close), or when it never was started. */
void raft_disk_close(struct raft_disk *d);

#endif /* RAFT_IO_H */

/*
 * Snapshots on disk: the state machine as of one index, with the raft configuration of that index.
 *
 * DIR/snap/INDEX (16 hex digits), all integers little-endian, in pages of 4 KiB:
 *
 *   page 0     0  u32 magic 0x50414e53 ("SNAP")    36  u32  0
 *              4  u32 format version, 1            40  u64  length of the state
 *              8  u64 index of the last entry      48  u32  crc32c of the configuration
 *             16  u64 its term                     52  u32  crc32c of the state
 *             24  u64 index of the configuration   56  u32  0
 *             32  u32 length of the configuration  60  u32  crc32c of bytes 0..59
 *   page 1 ..  the configuration (raft/conf.h), zero to a page; then the state, zero to a page
 *
 * Written to DIR/snap/new in chunks, page 0 last, flushed, renamed, the directory synced; only then
 * done() is called and the log may lose its prefix. The two newest are kept.
 *
 * Threading: the control loop. Opening blocks, putting and getting do not.
 */

#ifndef RAFT_SNAPSHOT_H
#define RAFT_SNAPSHOT_H

#include <raft.h>

#include "base/task.h"
#include "io/loop.h"

enum {
    RAFT_SNAPSHOT_KEPT = 2,
    RAFT_SNAPSHOT_MAX = 256 << 20,
    RAFT_SNAPSHOT_CHUNK = 256 << 10,
};

struct raft_snapshots {
    struct loop *loop;
    char *dir;
    uint64_t indexes[RAFT_SNAPSHOT_KEPT + 1]; /* newest first */
    uint32_t count;
};

/* DIR/snap is made if it is missing. */
int raft_snapshots_open(struct raft_snapshots *s, struct loop *loop, const char *dir);
void raft_snapshots_close(struct raft_snapshots *s);

/*
 * The newest snapshot that is whole, in memory of raft_malloc; *out is NULL when there is none at
 * all. -EBADMSG when there are some and none is whole.
 */
int raft_snapshots_load(struct raft_snapshots *s, struct raft_snapshot **out);
void raft_snapshot_destroy(struct raft_snapshot *snapshot);

struct raft_snapshot_op {
    /* Set by the caller. */
    struct raft_snapshots *store;
    struct raft_snapshot *snapshot; /* put: the caller's; get: set on success, the caller's then */
    void (*done)(struct raft_snapshot_op *op);
    int result; /* 0 or -errno */

    /* Private. */
    int state;
    struct task task;
    struct loop_op op;
    struct loop_file *file;
    uint8_t *chunk;
    struct raft_buffer conf; /* encoded */
    uint64_t index;          /* get: which one */
    uint64_t data_len, data_at;
    uint64_t file_at;
    uint32_t chunk_len;
    uint32_t data_crc;
    uint8_t header[64];
};

/* One put at a time. */
void raft_snapshot_put_start(struct raft_snapshot_op *op);
/* The newest. -ENOENT. */
void raft_snapshot_get_start(struct raft_snapshot_op *op);
/* Its loop is dead: free what the op holds; done() is not called. */
void raft_snapshot_op_drop(struct raft_snapshot_op *op);

/* ---- A peer's snapshot file, for a server whose log is damaged. Blocking, in chunks ---- */

/* Up to RAFT_SNAPSHOT_CHUNK bytes of the newest file at `offset`, into an aligned buffer: the
 * number of bytes, or -errno. */
int64_t raft_snapshots_read_now(struct raft_snapshots *s, uint64_t index, uint64_t offset,
                                void *buf, uint64_t *file_size);

/* Begin a file of that size; write it with loop_write_now(); then check it as at load, and keep it
 * under its index. -EBADMSG when it is not whole. */
int raft_snapshots_adopt_begin(struct raft_snapshots *s, uint64_t size, struct loop_file **out);
int raft_snapshots_adopt_end(struct raft_snapshots *s, struct loop_file *f, uint64_t index,
                             struct raft_snapshot **out);

#endif /* RAFT_SNAPSHOT_H */

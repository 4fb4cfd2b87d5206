/*
 * The log on disk: what was acknowledged is here, or its loss is noticed.
 *
 * DIR/log/NUMBER (16 hex digits) are segments of one fixed size, preallocated, in pages of 4 KiB;
 * numbers without gaps, each segment's records continue those of the one before. All integers are
 * little-endian.
 *
 *   page 0, 1      the segment's header, twice the same
 *   pages 2 .. d-1 slots of 64 bytes: slot i is the copy of the header of the segment's i-th record
 *   pages d ..     records, each from the start of a page; d = 2 + ceil(size / 4096 * 64 / 4096)
 *
 * Segment header                          Record header, and its copy
 *    0  u32  magic 0x4d474553 ("SEGM")       0  u32  magic 0x44524352 ("RCRD")
 *    4  u32  format version, 1               4  u16  format version, 1
 *    8  u64  number                          6  u16  type (libraft's: 1 command, 2 barrier, 3
 * change) 16  u64  index of its first record       8  u64  index 24  u64  size of the file 16  u64
 * term 32  u32  crc of the record before it    24  u32  length of the data that follows the header
 *   36  ...  0                              28  u32  page the record starts at
 *   60  u32  crc32c of bytes 0..59          32  u64  number of the segment
 *                                           40  u32  crc of the record before it
 *                                           44  u32  crc32c of the data
 *                                           48  u64  0
 *                                           56  u32  0
 *                                           60  u32  crc32c of bytes 0..59: "the record's crc"
 *
 * Order of writing: records, flush, copies, flush, answer. So a copy says that its record once was
 * durable. At load a bad record
 *   - without a copy, and with no copy after it, is a torn tail: nobody was told of it; truncated;
 *   - with a copy, or before one, is corruption: reported, never truncated (see raft/repair.h).
 * A truncation removes the copies durably before it touches the records, and zeroes both before
 * the next append. README.md has the argument.
 *
 * Requests are done in the order they are queued; appends that wait together share their flushes.
 * A failed write or flush calls fatal() once, and nothing is answered after that.
 *
 * Threading: the control loop. Opening, truncating and the change of segments block; appends do
 * not. Memory: a request and the entries it names are the caller's until done().
 */

#ifndef RAFT_LOG_H
#define RAFT_LOG_H

#include <raft.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/task.h"
#include "io/loop.h"

enum {
    RAFT_LOG_PAGE = 4096,
    RAFT_LOG_HEADER = 64,
    RAFT_LOG_SEGMENT_SIZE = 8 << 20,
    RAFT_LOG_DATA_MAX = (512 << 10) - RAFT_LOG_HEADER, /* of one entry */
};

struct raft_log_record {
    uint64_t term;
    uint64_t segment;
    void *data; /* after load only, until taken: raft_malloc()ed */
    uint32_t page;
    uint32_t len;
    uint32_t data_crc;
    uint32_t crc;
    uint32_t crc_before;
    uint16_t type;
    bool is_bad;     /* unreadable here; term, len and crcs are its copy's */
    bool is_unknown; /* is_bad, and the copy is bad too: not even its term is known */
};

struct raft_log_segment {
    uint64_t number;
    uint64_t first_index;
    uint32_t crc_before;
};

enum raft_log_kind { RAFT_LOG_APPEND, RAFT_LOG_TRUNCATE, RAFT_LOG_RESET };

struct raft_log_op {
    /* Set by the caller. */
    enum raft_log_kind kind;
    const struct raft_entry *entries; /* append */
    unsigned entries_count;
    uint64_t index; /* truncate: the first to go; reset: the next to be appended */
    void (*done)(struct raft_log_op *op); /* only on success */

    /* Private. */
    struct list link;
    unsigned entries_done;
    unsigned entries_begun;
};

enum raft_log_state {
    RAFT_LOG_IDLE,          /* a request */
    RAFT_LOG_WRITING,       /* the records' write */
    RAFT_LOG_FLUSHING,      /* the records' flush */
    RAFT_LOG_COPYING,       /* the copies' write */
    RAFT_LOG_COPY_FLUSHING, /* the copies' flush */
    RAFT_LOG_FAILED,        /* nothing any more */
};

struct raft_log_config {
    struct loop *loop;
    const char *dir;       /* DIR; the log is in DIR/log */
    uint64_t segment_size; /* of a log that is made now; 0: RAFT_LOG_SEGMENT_SIZE */
    void (*fatal)(void *arg, const char *what, int error);
    void *arg;
};

struct raft_log_disk {
    struct raft_log_config config;
    char *dir;

    uint64_t first_index; /* of records[0]; last index is first_index + records_count - 1 */
    struct raft_log_record *records;
    uint64_t records_count, records_capacity;
    struct raft_log_segment *segments; /* oldest first; the last one is written to */
    uint32_t segments_count, segments_capacity;

    struct loop_file *tail;
    uint8_t *copies;    /* the tail's pages of slots, as on disk */
    uint32_t tail_page; /* where the next record goes */

    enum raft_log_state state;
    struct list queue; /* struct raft_log_op */
    uint8_t *stage;    /* records of the batch under way */
    uint32_t stage_len;
    uint32_t batch_count;
    uint64_t batch_first; /* place of its first record in records[] */
    struct loop_op op;
    struct task task;

    uint64_t flushes_count, records_written_count; /* for tests and metrics */
};

/* Make DIR/log with an empty first segment whose first record will have `first_index`. */
int raft_log_create(const struct raft_log_config *config, uint64_t first_index);

/*
 * Read everything, truncate a torn tail, mend lost copies. 0 also when records are bad (see
 * raft_log_bad_first). -ENOENT: no segments; -EBADMSG: a segment is missing or unreadable as a
 * whole; -ENOTSUP: a newer format.
 */
int raft_log_open(struct raft_log_disk *log, const struct raft_log_config *config);
void raft_log_close(struct raft_log_disk *log);

static inline uint64_t raft_log_last_index(const struct raft_log_disk *log)
{
    return log->first_index + log->records_count - 1;
}

/* NULL when it is not in the log. */
const struct raft_log_record *raft_log_get(const struct raft_log_disk *log, uint64_t index);

/* The first bad record with an index >= `from`; 0: none. */
uint64_t raft_log_bad_first(const struct raft_log_disk *log, uint64_t from);

/* The data read at load; the caller's from now on (raft_free). */
void *raft_log_take(struct raft_log_disk *log, uint64_t index);
/* Free the data nobody took. */
void raft_log_forget_data(struct raft_log_disk *log);

/* Queue a request. */
void raft_log_start(struct raft_log_disk *log, struct raft_log_op *op);
bool raft_log_is_idle(const struct raft_log_disk *log);

/* The same, blocking; nothing may be queued. */
int raft_log_append_now(struct raft_log_disk *log, const struct raft_entry *entry);
int raft_log_truncate_now(struct raft_log_disk *log, uint64_t index);
int raft_log_reset_now(struct raft_log_disk *log, uint64_t next_index);

/* Delete whole segments that only hold records below `index`. Blocking. */
int raft_log_trim_now(struct raft_log_disk *log, uint64_t index);

/* Read a record's data again (len of it), checked. Blocking; for peers that lost theirs. */
int raft_log_read_now(struct raft_log_disk *log, uint64_t index, void *data);

/*
 * Write a bad record anew, with what a peer holds at its index. Blocking. -EINVAL when it is not
 * what was here: it must have the copy's term, type and crc, or, where the copy is bad too, must
 * give the crc that the record behind it names.
 */
int raft_log_mend_now(struct raft_log_disk *log, uint64_t index, const struct raft_entry *entry);

#endif /* RAFT_LOG_H */

/* Opening the log: what is whole, what was torn, what is corrupt. Part of raft/log.c. */

#ifndef RAFT_LOG_LOAD_H
#define RAFT_LOG_LOAD_H

#include "raft/log_format.h"

/* Fill segments[] and records[]; the tail is open afterwards and has no torn record. */
int log_load(struct raft_log_disk *log);

/* Shared with log.c. */
enum { LOG_PATH = 4096 };
int log_path(const struct raft_log_disk *log, uint64_t number, char *dst);
int log_segment_open(const struct raft_log_disk *log, uint64_t number, struct loop_file **out);
void log_set_segment_size(struct raft_log_disk *log, uint64_t size);
struct raft_log_record *log_record_add(struct raft_log_disk *log);
struct raft_log_segment *log_segment_add(struct raft_log_disk *log);
int log_write_pages(struct loop_file *f, const void *buf, uint32_t page, uint32_t count);
/* Zero pages [from, to) and flush. */
int log_zero_pages(struct raft_log_disk *log, struct loop_file *f, uint32_t from, uint32_t to);

#endif /* RAFT_LOG_LOAD_H */

/*
 * The simulated world behind loop_sim.c: virtual time, hosts, disks and a
 * network, all in one thread, all from one seed. The same seed gives the same
 * run, to the byte; sim_trace_hash() proves it.
 *
 * A host is a machine: a clock (with a rate error and an offset), a disk with a
 * namespace of files, and one process at a time that owns any number of loops.
 *
 * Fault model, per component:
 *
 *   disk     A write goes to a volatile cache and is durable after a flush that began after its
 *            done(). Power loss keeps, per 4 KiB page of unflushed or unfinished writes: nothing,
 *            all, or a torn mix of 512-byte sectors, and pages in any order. A crash of the process
 *            keeps what was done and any part of what was in flight. Names that were created,
 *            renamed or removed and not yet dir-synced: a prefix of these changes survives power
 *            loss. On request: an error on the n-th call, flipped bits, slow or stuck I/O, lies
 *            (below), no space.
 *   network  Per connection an ordered byte stream with random delay, cut at random byte positions.
 *            It breaks (reset) when either process dies. A partition, per direction, stalls bytes
 *            silently until healed or until the owner gives up. A connect to a host where nobody
 *            listens is refused; one that is cut off hangs, and ends with -ETIMEDOUT after 127 s.
 *   process  Crash (memory gone), pause (all its loops stop for a while).
 *   clock    Its rate is off by less than 1 %, and it starts anywhere.
 */

#ifndef IO_SIM_H
#define IO_SIM_H

#include "base/prng.h"
#include "io/loop.h"

struct sim;
struct sim_host;

struct sim_config {
    uint64_t seed;
    uint64_t disk_ns_min, disk_ns_max; /* latency of a disk op; 0: 20 us .. 300 us */
    uint64_t net_ns_min, net_ns_max;   /* delay of a send; 0: 20 us .. 1 ms */
    uint64_t host_disk_bytes;          /* -ENOSPC beyond; 0: no limit */
};

struct sim *sim_create(const struct sim_config *config);
void sim_destroy(struct sim *s); /* every loop must be dead or destroyed */

/* Its address is 10.x.y.z with `number` = x.y.z, and any port. No unix sockets. */
struct sim_host *sim_host_create(struct sim *s, uint32_t number);
void sim_host_addr(const struct sim_host *h, uint16_t port, struct loop_addr *out);

/* A loop of the host's process. All its loop.h calls then work in virtual time. */
struct loop *sim_loop_create(struct sim_host *h);

/* Advance virtual time, running every event and task, until `ns` since the start; false if nothing
 * is left to happen. */
bool sim_run_until(struct sim *s, uint64_t ns);
bool sim_run_until_true(struct sim *s, bool (*cond)(void *arg), void *arg, uint64_t limit_ns);
uint64_t sim_now(const struct sim *s);          /* true time, ns since the start */
struct prng *sim_prng(struct sim *s);           /* for the generator of the test itself */
uint64_t sim_events_count(const struct sim *s); /* that have happened */

/*
 * Kill the host's process, with or without power loss. Its loops are dead: they call
 * nobody any more, ops in flight never come back, and loop.h calls on them do nothing.
 * The owner then frees its components and loop_destroy()s the loops; then it may create loops
 * again.
 */
void sim_host_crash(struct sim_host *h, bool power_loss);
void sim_host_pause(struct sim_host *h, uint64_t ns);
bool sim_loop_is_dead(const struct loop *l);

/* loop_stop() was called: the loop turns no more. The test then does what the end of the process
 * would: crash the host, or halt the loop. */
bool sim_loop_is_stopped(const struct loop *l);

/* Network: cut or heal one direction. */
void sim_net_cut(struct sim *s, uint32_t from, uint32_t to, bool cut);
void sim_net_heal_all(struct sim *s);
void sim_net_set_slow(struct sim *s, uint32_t num, uint32_t den,
                      uint64_t ns_max); /* num/den of sends are delayed up to ns_max */

/* Disk: faults by path prefix, "" = every file of the host; a path has no leading slash for this.
 * `after`: number of calls that still succeed. The blocking calls count too. */
enum sim_disk_op { SIM_DISK_READ, SIM_DISK_WRITE, SIM_DISK_FLUSH, SIM_DISK_DISCARD, SIM_DISK_ANY };
void sim_disk_fail(struct sim_host *h, const char *prefix, enum sim_disk_op op, uint64_t after,
                   int error, bool once);

/* A call that reports success and does something else, once. */
enum sim_disk_lie {
    SIM_LIE_WRITE_DROPPED = 1,
    SIM_LIE_WRITE_MISDIRECTED, /* to other pages of the file */
    SIM_LIE_READ_MISDIRECTED,
    SIM_LIE_READ_FLIPPED /* one bit, on the way */
};
void sim_disk_lie(struct sim_host *h, const char *prefix, enum sim_disk_lie lie, uint64_t after);

/* Ends all of these, and slowness. */
void sim_disk_clear_faults(struct sim_host *h);
void sim_disk_set_slow(struct sim_host *h, uint32_t num, uint32_t den, uint64_t ns_max);
/*
 * What loop_file_info() says of every file of the host, and how they behave: not is_volatile: what
 * a write that is done has written survives power loss; not can_discard: -EOPNOTSUPP. At first they
 * are files with a volatile cache, that can discard.
 */
void sim_disk_set_info(struct sim_host *h, const struct loop_file_info *info);
/* Flip a bit of the durable content; -ENOENT, -ERANGE. */
int sim_disk_flip(struct sim_host *h, const char *path, uint64_t bit);
/* What a read would find now: 0, -ENOENT, -ERANGE. */
int sim_disk_peek(struct sim_host *h, const char *path, uint64_t offset, void *buf, size_t len);

/* `watch` is called before every read, write, flush and discard of the host's processes, blocking
 * ones too: the moments between which a crash finds nothing new. It may take images, and must not
 * touch this world otherwise. NULL ends it. */
void sim_disk_watch(struct sim_host *h, void (*watch)(void *arg, enum sim_disk_op op), void *arg);

/*
 * What a file holds at one moment, with all that power loss could make of it: to try each crash
 * without living through it again. It belongs to no world: it may be put into another one's file.
 *
 * A page is open when a write to it is not flushed or not finished. Its contents are numbered from
 * 0, the durable one; each write of it adds one, those under way last. Of discards, those under way
 * have not happened.
 */
struct sim_image;
struct sim_image *sim_image_take(struct sim_host *h, const char *path); /* NULL: no such file */
void sim_image_free(struct sim_image *i);
uint32_t sim_image_open_pages(const struct sim_image *i);
uint64_t sim_image_page(const struct sim_image *i, uint32_t open); /* its number in the file */
uint32_t sim_image_contents(const struct sim_image *i, uint32_t open);
/* The content that reads see: without power loss, what shows is this one or a later one. */
uint32_t sim_image_cached(const struct sim_image *i, uint32_t open);

/* Of each of the 8 sectors of a page the number of the content it is of. */
struct sim_page_choice {
    uint8_t sectors[8];
};

/*
 * An existing file, which nobody has open, becomes the image. choices[k] says what the k-th open
 * page shows; NULL: the newest. Durable after power loss; else what is not content 0 is in the
 * cache, as after a crash of the process. -ENOENT.
 */
int sim_image_put(struct sim_host *h, const char *path, const struct sim_image *i,
                  const struct sim_page_choice *choices, bool power_loss);

/* A running hash over every event: (time, kind, who, how much). sim_trace_note() mixes in what a
 * test observes. */
uint64_t sim_trace_hash(const struct sim *s);
void sim_trace_note(struct sim *s, uint64_t value);

#endif /* IO_SIM_H */

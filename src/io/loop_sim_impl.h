/*
 * Inside the simulator: what loop_sim.c (events, hosts, turns), loop_sim_inode.c (contents),
 * loop_sim_image.c (copies of them), loop_sim_disk.c (files and their faults), loop_sim_name.c
 * (names) and loop_sim_net.c (connections) share. The promise is in io/sim.h.
 *
 * Determinism. Every decision is a function of the seed and of the calls made: events are ordered
 * by (time, insertion), lists are walked in order of insertion, hash tables are only looked up.
 * Addresses of memory find things (ops_flying) but never order them.
 *
 * Memory. Handles (file, listener, connection) stay until their loop is destroyed or they are
 * closed; both poison them first.
 */

#ifndef IO_LOOP_SIM_IMPL_H
#define IO_LOOP_SIM_IMPL_H

#include "base/hash.h"
#include "io/loop_impl.h"
#include "io/sim.h"

enum {
    SIM_PAGE_BYTES = 4096,
    SIM_SECTOR_BYTES = 512,
    SIM_PAGE_SECTORS = SIM_PAGE_BYTES / SIM_SECTOR_BYTES,
    SIM_SECTORS_ALL = (1 << SIM_PAGE_SECTORS) - 1,
    SIM_VERSIONS_MAX = 16, /* unflushed contents of one page; beyond, the oldest is written back */
    SIM_NAMES_MAX = 16384, /* names on one host */
    SIM_NAME_OPS_MAX = 1024,   /* name changes not yet durable; beyond, the oldest becomes so */
    SIM_PATH_MAX = 256,        /* with the terminator */
    SIM_SOCKET_BYTES = 262144, /* sent and not yet read, per direction of a connection */
    SIM_SEGMENTS_MAX = 32,     /* on the wire, per direction; beyond, bytes join the last one */
    SIM_BACKLOG_MAX = 128,     /* connections not yet accepted, per listener */
    SIM_TURN_TASKS_MAX = 4096  /* tasks run in one turn */
};

/* What an event is, for the trace. */
enum sim_kind {
    SIM_TURN = 1,
    SIM_DONE,
    SIM_POST,
    SIM_DISK,
    SIM_NAME,
    SIM_SEGMENT,
    SIM_RESET,
    SIM_CONNECT,
    SIM_TIMEOUT,
    SIM_CRASH,
    SIM_PAUSE,
    SIM_CUT,
    SIM_NOTE
};

struct sim_event {
    struct heap_node node; /* in sim.events, keyed by true time */
    void (*fire)(struct sim_event *e);
};

/* Something under way between two hosts. While the way is cut it waits in sim.stalled. */
struct sim_packet {
    struct sim_event event;
    struct list stalled;
    struct sim *sim;
    uint32_t from, to;
    void (*arrive)(struct sim_packet *p);
};

enum sim_op_kind {
    SIM_OP_READ,
    SIM_OP_WRITE,
    SIM_OP_DISCARD,
    SIM_OP_FLUSH,
    SIM_OP_ACCEPT,
    SIM_OP_CONNECT,
    SIM_OP_RECV,
    SIM_OP_SEND
};

/* The simulator's side of an op in flight; the caller's struct is touched only to hand it back. */
struct sim_op {
    struct hash_link flying; /* in sim.ops_flying, keyed by the address of `op` */
    struct list in_loop;     /* in sim_loop.ops, or in sim.ops_free */
    struct list completed;   /* in sim_loop.completed */
    struct list in_inode;    /* a write under way, in sim_inode.writes */
    struct sim_event event;
    struct sim_loop *loop;
    struct loop_op *op;
    enum sim_op_kind kind;
    bool is_complete;
    int64_t result;
    uint32_t crc; /* of the caller's bytes, to catch one who changes them */

    const struct iovec *iov;
    int iov_count;
    struct iovec buffer; /* of a recv */
    uint64_t len;
    uint64_t offset;   /* in the file */
    uint64_t progress; /* bytes of a send that are in the socket */
    uint32_t crc_copied;

    struct sim_file *file;
    int fault;             /* injected: 0, -errno, or enum sim_disk_lie */
    bool is_durable;       /* a write that is durable when it is done */
    struct sim_mark *mark; /* of a write that was carried out */
    uint64_t flush_seq;    /* a flush covers writes up to here */
    struct sim_listener *listener;
    struct sim_conn *conn;
    struct sim_connect *connect;
};

struct sim_loop {
    struct loop base;
    struct sim_host *host;
    struct sim *sim;
    uint32_t number;     /* unique in the world */
    struct list in_host; /* in sim_host.loops or sim.loops_dead */
    struct sim_event turn;
    uint64_t busy_until; /* true time */
    uint64_t debt_ns;    /* of blocking calls made in this turn */
    bool in_turn;
    bool stopped;
    struct loop_msg *inbox_first;
    struct loop_msg *inbox_last;
    uint64_t inbox_count;
    struct list ops;       /* struct sim_op */
    struct list completed; /* struct sim_op, to be handed back in the next turn */
    uint64_t completed_count;
    struct list files, listeners, conns;
};

/* ---- Disk ---- */

/* When a write was done: shared by the versions it made. */
struct sim_mark {
    uint64_t seq; /* UINT64_MAX: done() has not run */
    uint32_t refs;
};

struct sim_version {
    struct sim_version *next; /* newer */
    struct sim_mark *mark;
    uint32_t refs; /* of its page, and of images */
    bool lost;     /* a flush that covered it failed: no later one will save it */
    uint8_t data[SIM_PAGE_BYTES];
};

struct sim_page {
    struct hash_link link;       /* in sim_inode.pages, keyed by page number */
    struct list dirty;           /* in sim_inode.dirty while it has versions */
    struct sim_version *durable; /* NULL: zeros */
    struct sim_version *oldest, *newest;
    uint32_t versions_count;
    bool is_hole; /* its room was given back: the next write to it takes some again */
};

struct sim_inode {
    struct list in_disk;
    uint32_t refs; /* names, pending name changes, open files */
    uint32_t number;
    bool is_dir;
    uint64_t size, size_durable;
    uint64_t reserved_pages; /* counted as used from 0 on, written or not */
    uint64_t charged_pages;  /* written pages above those, but holes */
    uint64_t reserved_holes; /* holes below: not counted as used */
    struct hash pages;
    struct list dirty;
    struct list writes; /* struct sim_op under way */
    struct sim_file *locked_by;
};

/* Bytes for a file. */
struct sim_content {
    const struct iovec *iov;
    int iov_count;
    uint64_t offset, len;
};

struct sim_name {
    char *path;
    struct sim_inode *inode;
};

/* Sorted by path. */
struct sim_names {
    struct sim_name *items;
    uint32_t count, capacity;
};

struct sim_fault {
    struct list link;
    char prefix[SIM_PATH_MAX];
    enum sim_disk_op op;
    uint64_t after;
    int fault; /* -errno, or enum sim_disk_lie */
    bool once;
};

struct sim_disk {
    struct list inodes;
    struct sim_names names, names_durable;
    struct list name_ops; /* struct sim_name_op, oldest first */
    uint32_t name_ops_count;
    uint32_t inode_last;
    uint64_t seq;
    uint64_t used_pages;
    struct list faults;
    void (*watch)(void *arg, enum sim_disk_op op);
    void *watch_arg;
    uint32_t slow_num, slow_den;
    uint64_t slow_ns_max;
    bool has_info;
    struct loop_file_info info; /* of every file, if has_info */
};

struct sim_file {
    struct loop_file base;
    uint64_t magic;
    struct list in_loop;
    struct sim_loop *loop;
    struct sim_inode *inode;
    unsigned flags;
    uint32_t ops_count;
    char path[SIM_PATH_MAX];
};

/* ---- Network ---- */

struct sim_segment {
    uint64_t at;
    uint64_t end; /* position in the stream */
    bool fin;
};

/* One direction of a connection: from ends[i] to ends[1 - i]. Positions count bytes since the
 * beginning: consumed <= arrived <= sent. */
struct sim_pipe {
    struct sim_packet packet; /* the first segment's arrival */
    struct sim_link *link;
    uint32_t from_end;
    uint8_t *ring;
    uint64_t ring_size;
    uint64_t sent, arrived, consumed;
    uint64_t acked; /* consumed as far as the sender knows */
    struct sim_segment segments[SIM_SEGMENTS_MAX];
    uint32_t segments_first, segments_count;
    bool fin_arrived;
};

/* The news, on its way to `end`, that the connection is no more. */
struct sim_reset {
    struct sim_packet packet;
    struct sim_link *link;
    uint32_t end;
};

struct sim_link {
    struct sim *sim;
    struct list in_sim;
    uint32_t number;
    struct sim_conn *ends[2]; /* NULL: closed */
    bool is_reset[2];         /* that has reached this end */
    struct sim_reset resets[2];
    struct sim_pipe pipes[2];
};

struct sim_conn {
    struct loop_conn base;
    uint64_t magic;
    struct list in_loop;
    struct list in_backlog;
    struct sim_loop *loop;
    struct sim_link *link; /* NULL once closed */
    uint32_t end;
    struct loop_addr peer;
    struct sim_op *recv, *send;
    uint32_t ops_count; /* not yet handed back */
    bool closed;
};

struct sim_listener {
    struct loop_listener base;
    uint64_t magic;
    struct list in_loop;
    struct list in_host;
    struct sim_loop *loop;
    uint16_t port;
    struct list backlog; /* struct sim_conn */
    uint32_t backlog_count;
    struct list accepts; /* struct sim_op.completed, while waiting */
    uint32_t ops_count;
    bool closed;
};

/* A connection being made. */
struct sim_connect {
    struct sim_packet packet; /* the request, then the answer */
    struct sim_event timeout;
    struct sim_op *op;
    struct loop_addr addr;
    struct sim_conn *conn; /* our end, once the other side has one */
    int result;
};

/* ---- World ---- */

struct sim_host {
    struct sim *sim;
    struct list in_sim;
    struct hash_link link; /* in sim.hosts_by_number */
    uint32_t number;
    struct list loops;
    struct list listeners;
    uint16_t port_last;
    uint64_t paused_until;
    uint64_t clock_offset; /* what the clock showed at true time 0 */
    int64_t clock_ppm;
    int64_t wall_skew_ms;
    struct sim_disk disk;
};

struct sim_cut {
    struct hash_link link; /* keyed by from << 32 | to */
};

struct sim {
    struct sim_config config;
    struct prng world; /* every choice of the simulator */
    struct prng test;  /* sim_prng() */
    uint64_t now;
    uint64_t hash;
    uint64_t events_count;
    struct heap events;
    bool running;
    struct list hosts;
    struct hash hosts_by_number;
    struct list loops_dead;
    uint32_t loop_last;
    struct hash ops_flying;
    struct list ops_free;
    struct sim_version *versions_free;
    struct hash cuts;
    struct list stalled;
    struct list links;
    uint32_t link_last;
    uint32_t net_slow_num, net_slow_den;
    uint64_t net_slow_ns_max;
};

/* loop_sim.c */
static inline struct sim_loop *sim_loop_of(const struct loop *l)
{
    return container_of(l, struct sim_loop, base);
}

void sim_trace(struct sim *s, enum sim_kind kind, uint64_t who, uint64_t amount);
void sim_at(struct sim *s, struct sim_event *e, uint64_t at); /* schedules, or moves */
uint64_t sim_between(struct sim *s, uint64_t min, uint64_t max);
void sim_block(struct loop *l, uint64_t ns); /* a blocking call took this long */
struct sim_op *sim_op_begin(struct loop *l, struct loop_op *op, enum sim_op_kind kind);
void sim_op_complete(struct sim_op *o, int64_t result);
struct sim_host *sim_host_find(struct sim *s, uint32_t number);
size_t sim_iov_len(const struct iovec *iov, int iov_count);
uint32_t sim_iov_crc(const struct iovec *iov, int iov_count);
void sim_iov_get(const struct iovec *iov, int iov_count, uint64_t pos, void *dst, size_t len);
void sim_iov_put(const struct iovec *iov, int iov_count, uint64_t pos, const void *src, size_t len);

/* loop_sim_inode.c */
struct sim_inode *sim_inode_create(struct sim_host *h, bool is_dir);
void sim_inode_put(struct sim_host *h, struct sim_inode *n);
void sim_inode_clear(struct sim_host *h, struct sim_inode *n); /* no page is left */
struct sim_version *sim_version_new(struct sim *s, const uint8_t *content);
void sim_version_put(struct sim *s, struct sim_version *v);
void sim_versions_free(struct sim *s);
struct sim_page *sim_page_get(struct sim_host *h, struct sim_inode *n, uint64_t index);
/* One more content of the page, the newest. */
void sim_page_add(struct sim_host *h, struct sim_inode *n, struct sim_page *p,
                  struct sim_version *v, struct sim_mark *mark);
/* What the content has for these sectors of page `index` goes to their places in `page`. */
void sim_content_copy_page(const struct sim_content *c, uint64_t index, unsigned sectors,
                           uint8_t *page);
struct sim_mark *sim_mark_new(uint64_t seq);
void sim_mark_put(struct sim_mark *m);
int sim_inode_write(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                    struct sim_mark *mark);
/* A write that failed or was cut short: any part of it. */
void sim_inode_write_part(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                          struct sim_mark *mark);
/* The newest of what this write made, and so all that it says, is on the medium. */
void sim_inode_write_through(struct sim_host *h, struct sim_inode *n, const struct sim_content *c,
                             const struct sim_mark *mark);
/* Each page, or of a part of the discard any page, becomes zeros, anything, or stays. Of a file
 * that is no device, its room is given back. */
void sim_inode_discard(struct sim_host *h, struct sim_inode *n, uint64_t offset, uint64_t len,
                       struct sim_mark *mark, bool is_part);
bool sim_inode_is_sparse(const struct sim_inode *n);
void sim_inode_flush(struct sim_host *h, struct sim_inode *n, uint64_t seq);
void sim_inode_flush_fail(struct sim_host *h, struct sim_inode *n, uint64_t seq);
uint64_t sim_inode_readable(const struct sim_inode *n, uint64_t offset, uint64_t len);
void sim_inode_read(const struct sim_inode *n, const struct iovec *iov, int iov_count,
                    uint64_t offset, uint64_t len);
void sim_inode_flip(struct sim_host *h, struct sim_inode *n, uint64_t bit);
int sim_inode_resize(struct sim_host *h, struct sim_inode *n, uint64_t size, bool reserve);
void sim_inode_power_loss(struct sim_host *h, struct sim_inode *n);

/* loop_sim_disk.c */
struct sim_inode *sim_disk_find(struct sim_host *h, const char *path); /* NULL: no such file */
uint64_t sim_disk_latency(struct sim_host *h);
void sim_disk_init(struct sim_host *h);
void sim_disk_deinit(struct sim_host *h);
void sim_disk_power_loss(struct sim_host *h);
void sim_disk_op_done(struct sim_op *o);   /* it is being handed back */
void sim_disk_op_killed(struct sim_op *o); /* its process is gone */
void sim_files_release(struct sim_loop *l);
void sim_files_free(struct sim_loop *l);

int sim_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out);
void sim_file_close(struct loop_file *f);
uint64_t sim_file_size(const struct loop_file *f);
void sim_file_info(const struct loop_file *f, struct loop_file_info *out);
int sim_file_resize(struct loop_file *f, uint64_t size, bool reserve);
void sim_file_readv(struct loop *l, struct loop_op *op, struct loop_file *f,
                    const struct iovec *iov, int iov_count, uint64_t offset);
void sim_file_writev(struct loop *l, struct loop_op *op, struct loop_file *f,
                     const struct iovec *iov, int iov_count, uint64_t offset, bool is_durable);
void sim_file_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                      uint64_t len);
void sim_file_flush(struct loop *l, struct loop_op *op, struct loop_file *f);
int64_t sim_file_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset);
int64_t sim_file_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset);
int sim_file_flush_now(struct loop_file *f);
int64_t sim_disk_free_bytes(struct loop *l, const char *path);

/* loop_sim_name.c */
bool sim_path_normalize(const char *path, char dst[SIM_PATH_MAX]);
struct sim_inode *sim_name_find(const struct sim_host *h, const char *path); /* normalized */
int sim_name_create(struct sim_host *h, const char *path, bool is_dir, struct sim_inode **out);
void sim_names_init(struct sim_host *h);
void sim_names_deinit(struct sim_host *h);
void sim_names_power_loss(struct sim_host *h);
int sim_dir_create(struct loop *l, const char *path);
int sim_dir_sync(struct loop *l, const char *path);
int sim_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                 void *arg);
int sim_name_rename(struct loop *l, const char *from, const char *to);
int sim_name_unlink(struct loop *l, const char *path);

/* loop_sim_net.c */
void sim_net_op_done(struct sim_op *o);
void sim_net_op_killed(struct sim_op *o);
void sim_net_release(struct sim_loop *l);
void sim_net_free(struct sim_loop *l);
void sim_net_deinit(struct sim *s);

int sim_net_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                   struct loop_addr *bound);
int sim_net_listen_unix(struct loop *l, const char *path, struct loop_listener **out);
void sim_net_listener_close(struct loop_listener *s);
void sim_net_accept(struct loop *l, struct loop_op *op, struct loop_listener *s);
void sim_net_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr);
void sim_net_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);
void sim_net_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
                  int iov_count);
void sim_net_conn_close(struct loop_conn *c);
void sim_net_conn_peer(const struct loop_conn *c, struct loop_addr *out);
void sim_net_conn_move(struct loop_conn *c, struct loop *to);

#endif /* IO_LOOP_SIM_IMPL_H */

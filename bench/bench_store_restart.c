/*
 * How long does a start take, and how much memory the index, against the number of objects?
 *
 *   bench_store_restart FOLDER [SHAPES [MILLIONS...]]
 *
 * SHAPES: "full,sparse,fragmented,aged", all of them if not given. MILLIONS of objects: 1 2 5 10 if
 * not given, of aged only 1 2 then, since each dedup record takes memory too.
 *
 * For each shape and number, a store in a sparse file of FOLDER that is half as big again as so
 * many objects of 128 KiB; removed afterwards. Only its log is written, by the functions that
 * encode it (store/format.h), as the store would: the data of such records is settled, a start
 * does not look at it, and the holes of the file read as the zeros that their crcs are of. Reads of
 * some objects, which verify that, show that the store has what it should.
 *
 *   full        32 blocks in one run of slots
 *   sparse      one block
 *   fragmented  32 blocks, no two of which follow each other on the device
 *   aged        full, then overwritten at random by 4 KiB, each with a dedup record, until the log
 *               is nine tenths full or no slot is left that was never used: the longest log that a
 *               start may have to read, and more dedup records than an OSD leaves (their floors are
 *               known only after the start)
 *
 * Time is from store_open_start() to its done(), in a new process, from a cold page cache (direct
 * I/O; what the host caches is not known). Memory is what the process has more of (VmRSS) than
 * before, when it is open, and the most it ever had (VmHWM). The last line is JSON.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/pool.h"
#include "base/prng.h"
#include "store/format.h"
#include "store/store.h"

enum {
    OBJECT_BLOCKS = 32,
    IMAGE = 1,
    PGS = 128,
    PART_BLOCKS = 1024, /* of the ring, in one write */
    READS = 1000,
    FLOOR_AWAY = 64, /* requests that a client may still ask for */
    CASES_MAX = 64,
    AGED_MILLIONS_MAX = 2, /* if nobody says how many */
};

enum shape { FULL, SPARSE, FRAGMENTED, AGED, SHAPES };

static const char *const shape_names[SHAPES] = {"full", "sparse", "fragmented", "aged"};

/* ---- A log ---- */

struct writer {
    int fd;
    struct superblock super;
    struct block_head head;
    uint8_t *part;       /* blocks of the ring, before they are written */
    uint64_t part_first; /* number of its first block */
    uint32_t part_count;
    uint8_t record[RECORD_BYTES_MAX];
    uint64_t seq;       /* of the last record */
    uint64_t slots_end; /* slots from here on are not used yet */
    uint64_t deltas;
    uint8_t zeros[STORE_BLOCK];
};

static void super_read(int fd, struct superblock *out)
{
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);

    check(pread(fd, block, STORE_BLOCK, 0) == STORE_BLOCK);
    check(superblock_decode(block, out) == 0);
    free(block);
}

static void writer_flush(struct writer *w)
{
    uint64_t place = w->part_first % w->super.ring_blocks;
    size_t len = (size_t)w->part_count * STORE_BLOCK;

    check(place + w->part_count <= w->super.ring_blocks); /* the log is shorter than the ring */
    check(pwrite(w->fd, w->part, len, (off_t)((w->super.ring_first + place) * STORE_BLOCK)) ==
          (ssize_t)len);
    w->part_first += w->part_count;
    w->part_count = 0;
}

static uint8_t *writer_block(struct writer *w)
{
    return w->part + (size_t)w->part_count * STORE_BLOCK;
}

static void writer_seal(struct writer *w)
{
    struct block_head *h = &w->head;

    block_seal(writer_block(w), h);
    w->part_count++;
    if (w->part_count == PART_BLOCKS || h->seq == 1)
        writer_flush(w);
    *h = (struct block_head){
        .nonce = h->nonce,
        .seq = h->seq + 1,
        .boot = 1,
        .prev_crc = h->crc,
        .mark = w->seq,
        .tail = 1,
        .durable = h->seq,
    };
}

/* All that was appended is durable, says each later block. */
static void writer_append(struct writer *w, const struct record_head *h)
{
    uint32_t len = record_size(h->runs_count, h->crcs_count, h->dedups_count, false);

    w->seq++;
    for (uint32_t at = 0; at < len;) {
        uint32_t room = BLOCK_PAYLOAD - w->head.used;
        if (room < 2 * PIECE_HEADER) {
            writer_seal(w);
            continue;
        }
        uint32_t piece = room - PIECE_HEADER < len - at ? room - PIECE_HEADER : len - at;
        piece_put(
            writer_block(w), &w->head,
            &(struct piece){
                .seq = w->seq, .total = len, .offset = at, .len = piece, .bytes = w->record + at});
        at += piece;
    }
}

/* The k-th slot for data; a run of OBJECT_BLOCKS does not reach over the superblock in the middle.
 */
static uint64_t writer_slot(const struct writer *w, uint64_t k)
{
    uint64_t slot = w->super.ring_first + w->super.ring_blocks + k;

    return slot + OBJECT_BLOCKS <= superblock_place(w->super.blocks, 1) ? slot
                                                                        : slot + 2 * OBJECT_BLOCKS;
}

static void writer_crcs(struct writer *w, const struct record_head *h, uint32_t first)
{
    for (uint32_t i = 0; i < h->crcs_count; i++)
        record_crc_put(w->record, h, i,
                       crc32c_block(IMAGE, h->id.object, first + i, w->zeros, STORE_BLOCK));
}

static void writer_full(struct writer *w, enum shape shape, uint64_t object, uint64_t objects)
{
    uint32_t blocks = shape == SPARSE ? 1 : OBJECT_BLOCKS;
    struct record_head h = {
        .kind = RECORD_FULL,
        .runs_count = shape == FRAGMENTED ? blocks : 1,
        .crcs_count = blocks,
        .id = {IMAGE, object},
        .pg = object % PGS,
        .version = object + 1,
    };

    for (uint32_t i = 0; i < h.runs_count; i++) {
        uint64_t k = shape == FRAGMENTED ? i * objects + object : object * blocks;
        record_run_put(w->record, i,
                       &(struct record_run){.first = i,
                                            .count = blocks / h.runs_count,
                                            .slot = writer_slot(w, k),
                                            .settled = true});
    }
    record_head_encode(w->record, &h);
    writer_crcs(w, &h, 0);
    writer_append(w, &h);
}

/* One block of an object, and the request that wrote it. */
static void writer_delta(struct writer *w, struct prng *prng, uint64_t objects)
{
    uint64_t object = prng_below(prng, objects);
    uint32_t block = (uint32_t)prng_below(prng, OBJECT_BLOCKS);
    struct record_head h = {
        .kind = RECORD_DELTA,
        .runs_count = 1,
        .crcs_count = 1,
        .dedups_count = 1,
        .id = {IMAGE, object},
        .pg = object % PGS,
        .version = w->seq + 1,
    };

    /* Slots are given once: those that it replaces are free, but nobody needs them. */
    record_run_put(
        w->record, 0,
        &(struct record_run){
            .first = block, .count = 1, .slot = writer_slot(w, w->slots_end++), .settled = true});
    record_head_encode(w->record, &h);
    writer_crcs(w, &h, block);
    record_dedup_put(w->record, &h, 0, &(struct store_dedup){1, w->seq + 1, h.version});
    record_floor_put(w->record, &h, 0, w->seq < FLOOR_AWAY ? 0 : w->seq + 1 - FLOOR_AWAY);
    writer_append(w, &h);
    w->deltas++;
}

static void writer_log(struct writer *w, enum shape shape, uint64_t objects)
{
    struct prng prng;

    prng_init(&prng, 1);
    for (uint64_t i = 0; i < objects; i++)
        writer_full(w, shape, i, objects);
    w->slots_end = objects * OBJECT_BLOCKS;
    if (shape == AGED) {
        while (w->head.seq < w->super.ring_blocks / 10 * 9 &&
               writer_slot(w, w->slots_end) < w->super.blocks - OBJECT_BLOCKS)
            writer_delta(w, &prng, objects);
    }
    writer_seal(w);
    writer_seal(w); /* says that the one before is durable, and the data of its records */
    if (w->part_count > 0)
        writer_flush(w);
}

/* Blocks that the log of so many objects takes, and room to spare. */
static uint64_t log_blocks(enum shape shape, uint64_t objects)
{
    uint32_t runs = shape == FRAGMENTED ? OBJECT_BLOCKS : 1;
    uint32_t crcs = shape == SPARSE ? 1 : OBJECT_BLOCKS;

    return objects * (record_size(runs, crcs, 0, false) + PIECE_HEADER) / BLOCK_PAYLOAD * 5 / 4;
}

struct made {
    uint64_t device_blocks, ring_blocks, log_blocks, deltas;
};

static void store_make(const char *path, enum shape shape, uint64_t objects, struct made *out)
{
    static struct writer w;
    struct store_format format = {.object_size = OBJECT_BLOCKS * STORE_BLOCK};
    struct loop *loop;

    format.size = objects * OBJECT_BLOCKS * STORE_BLOCK * 3 / 2;
    format.size += log_blocks(shape, objects) * STORE_BLOCK * 4 + (64 << 20);
    check(loop_create(&loop, LOOP_AUTO, 64) == 0);
    int result = store_format(loop, path, &format, true);
    loop_destroy(loop);
    if (result != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-result));
        exit(1);
    }
    w.fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    check(w.fd >= 0);
    super_read(w.fd, &w.super);
    w.part = mem_alloc_aligned((size_t)PART_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    w.part_first = 1;
    w.head = (struct block_head){.nonce = w.super.nonce, .seq = 1, .tail = 1};
    writer_log(&w, shape, objects);
    check(fdatasync(w.fd) == 0);
    close(w.fd);
    *out = (struct made){w.super.blocks, w.super.ring_blocks, w.head.seq - 1, w.deltas};
}

/* ---- A start ---- */

struct started {
    uint64_t open_ns, cpu_us;
    uint64_t rss_bytes, peak_bytes; /* more than before */
    struct store_status status;
};

struct start {
    struct loop *loop;
    struct store_open open;
    struct store_read read;
    struct prng prng;
    uint64_t objects;
    uint32_t blocks; /* of each object */
    uint32_t reads_left;
    uint64_t begun_ns, done_ns;
    uint8_t *buf;
};

/* "VmRSS:" and the like, in bytes. */
static uint64_t memory_now(const char *field)
{
    char line[256];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/self/status", "re");

    check(f != NULL);
    while (fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtoull(line + strlen(field), NULL, 10);
    }
    fclose(f);
    return kib * 1024;
}

static uint64_t cpu_us_now(void)
{
    struct rusage u;

    check(getrusage(RUSAGE_SELF, &u) == 0);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void start_on_failed(void *arg, int error, const char *what)
{
    (void)arg;
    fprintf(stderr, "the store failed: %s: %s\n", what, strerror(-error));
    exit(1);
}

static void start_on_opened(struct store_open *o)
{
    struct start *st = container_of(o, struct start, open);

    st->done_ns = loop_now(st->loop);
    if (o->result != 0) {
        fprintf(stderr, "%s %s: %s\n", o->config.path, o->error, strerror(-o->result));
        exit(1);
    }
    loop_stop(st->loop);
}

static void start_read_next(struct start *st);

static void start_on_read(struct store_read *r)
{
    struct start *st = container_of(r, struct start, read);

    if (r->result != 0 || r->version == 0) {
        fprintf(stderr, "object %" PRIu64 ": %s\n", r->id.object, strerror(-r->result));
        exit(1);
    }
    if (--st->reads_left > 0)
        start_read_next(st);
    else
        loop_stop(st->loop);
}

static void start_read_next(struct start *st)
{
    struct store_object object;
    uint32_t present = 0;

    st->read = (struct store_read){
        .id = {IMAGE, prng_below(&st->prng, st->objects)},
        .len = OBJECT_BLOCKS * STORE_BLOCK,
        .buf = st->buf,
        .done = start_on_read,
    };
    check(store_lookup(st->open.store, &st->read.id, &object));
    for (uint32_t i = 0; i < COUNT_OF(object.present); i++)
        present += (uint32_t)__builtin_popcountll(object.present[i]);
    check(present == st->blocks);
    store_read_start(st->open.store, &st->read);
}

static void store_start(const char *path, enum shape shape, uint64_t objects, struct started *out)
{
    static struct start st;
    uint64_t rss = memory_now("VmRSS:"), cpu = cpu_us_now();

    check(loop_create(&st.loop, LOOP_AUTO, 256) == 0);
    st.open = (struct store_open){
        .config = {.loop = st.loop,
                   .path = path,
                   .failed = start_on_failed,
                   .discard = STORE_DISCARD_OFF},
        .done = start_on_opened,
    };
    st.begun_ns = loop_now(st.loop);
    store_open_start(&st.open);
    loop_run(st.loop);
    *out = (struct started){
        .open_ns = st.done_ns - st.begun_ns,
        .cpu_us = cpu_us_now() - cpu,
        .rss_bytes = memory_now("VmRSS:") - rss,
        .peak_bytes = memory_now("VmHWM:") - rss,
    };
    store_status(st.open.store, &out->status);
    check(out->status.objects == objects);

    st.objects = objects;
    st.blocks = shape == SPARSE ? 1 : OBJECT_BLOCKS;
    st.reads_left = READS;
    st.buf = mem_alloc_aligned((size_t)OBJECT_BLOCKS * STORE_BLOCK, STORE_BLOCK);
    prng_init(&st.prng, 2);
    start_read_next(&st);
    loop_run(st.loop);
    loop_halt(st.loop);
    store_close(st.open.store);
    loop_destroy(st.loop);
    free(st.buf);
}

/* ---- Each in a process of its own ---- */

struct measured {
    enum shape shape;
    uint64_t objects;
    struct made made;
    struct started started;
};

/* False: it did not end well. */
static bool in_process(const char *path, struct measured *m, bool make)
{
    int ends[2], status = 0;

    check(pipe(ends) == 0);
    fflush(stdout);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        if (make)
            store_make(path, m->shape, m->objects, &m->made);
        else
            store_start(path, m->shape, m->objects, &m->started);
        _exit(write(ends[1], m, sizeof(*m)) == sizeof(*m) ? 0 : 1);
    }
    close(ends[1]);
    bool all = read(ends[0], m, sizeof(*m)) == sizeof(*m);
    close(ends[0]);
    check(waitpid(pid, &status, 0) == pid);
    return all && status == 0;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576;
}

static bool measure(const char *path, struct measured *m)
{
    bool ok = in_process(path, m, true) && in_process(path, m, false);

    unlink(path);
    if (!ok)
        return false;
    printf("%-10s %9" PRIu64 "  %8.0f %8.0f  %8.2f %8.2f  %9.0f %9.0f %9.1f %9.1f\n",
           shape_names[m->shape], m->objects, mib(m->made.log_blocks * STORE_BLOCK),
           mib(m->made.ring_blocks * STORE_BLOCK), (double)m->started.open_ns / 1e9,
           (double)m->started.cpu_us / 1e6, mib(m->started.rss_bytes), mib(m->started.peak_bytes),
           (double)m->started.rss_bytes / (double)m->objects,
           (double)m->started.status.index_bytes / (double)m->objects);
    return true;
}

static void measured_print_json(const struct measured *m, bool first)
{
    printf("%s{\"shape\": \"%s\", \"objects\": %" PRIu64 ", \"device_bytes\": %" PRIu64
           ", \"ring_bytes\": %" PRIu64 ", \"log_bytes\": %" PRIu64 ", \"deltas\": %" PRIu64
           ", \"dedups\": %" PRIu64 ", \"open_ms\": %.1f, \"cpu_ms\": %.1f, \"rss_bytes\": %" PRIu64
           ", \"peak_bytes\": %" PRIu64 ", \"rss_per_object\": %.1f, \"index_bytes\": %" PRIu64 "}",
           first ? "" : ", ", shape_names[m->shape], m->objects,
           m->made.device_blocks * STORE_BLOCK, m->made.ring_blocks * STORE_BLOCK,
           m->made.log_blocks * STORE_BLOCK, m->made.deltas, m->started.status.dedups,
           (double)m->started.open_ns / 1e6, (double)m->started.cpu_us / 1e3, m->started.rss_bytes,
           m->started.peak_bytes, (double)m->started.rss_bytes / (double)m->objects,
           m->started.status.index_bytes);
}

int main(int argc, char **argv)
{
    static struct measured all[CASES_MAX];
    static char *millions_default[] = {"1", "2", "5", "10"};
    char **millions = argc > 3 ? argv + 3 : millions_default;
    int millions_count = argc > 3 ? argc - 3 : (int)COUNT_OF(millions_default);
    uint32_t count = 0;
    char path[512];

    if (argc < 2) {
        fprintf(stderr, "usage: bench_store_restart FOLDER [SHAPES [MILLIONS...]]\n");
        return 2;
    }
    snprintf(path, sizeof(path), "%s/bench_store_restart.%d", argv[1], (int)getpid());
    printf("shape        objects   log MiB ring MiB    open s    CPU s    RSS MiB  peak MiB "
           "RSS/object "
           "    index\n");
    for (enum shape shape = 0; shape < SHAPES; shape++) {
        if (argc > 2 && strstr(argv[2], shape_names[shape]) == NULL)
            continue;
        for (int i = 0; i < millions_count && count < CASES_MAX; i++) {
            double objects_millions = strtod(millions[i], NULL);
            if (shape == AGED && argc <= 3 && objects_millions > AGED_MILLIONS_MAX)
                continue;
            struct measured *m = &all[count++];
            m->shape = shape;
            m->objects = (uint64_t)(objects_millions * 1e6);
            if (m->objects == 0 || !measure(path, m))
                return 1;
        }
    }
    printf("{\"bench\": \"store_restart\", \"cases\": [");
    for (uint32_t i = 0; i < count; i++)
        measured_print_json(&all[i], i == 0);
    printf("]}\n");
    return 0;
}

/*
 * A store over the real loop, told from stdin what to do; bench/store.sh tells it, beside fio.
 *
 *   bench_store PATH SIZE [PROBE_OFFSET]
 *
 * Makes a store in the first SIZE bytes of PATH (a file or a device; what is there is lost), then
 * takes a command a line, and answers each with a line of JSON:
 *
 *   fill PERCENT                  new objects of 128 KiB until so much of the slots is in use
 *   randwrite|randread|write|read BYTES DEPTH MS     over all objects; fio's names
 *   stall BYTES DEPTH MS          randwrite, with a probe of the device beside it (see below)
 *
 * Everything is as the OSD does it (osd/write.c, osd/member.c, osd/read.c): the crc of what comes
 * in is computed before it is given to the store, and counts as CPU of the write; each write has a
 * dedup record of its client, and a floor, the oldest request that the client waits for, which the
 * PG hears with each write; reads ask for the crcs. CPU is user and system time of the process.
 *
 * The probe is a thread that writes 4 KiB at PROBE_OFFSET of the same file or device, fdatasyncs it
 * and sleeps for 10 ms. What the store has in flight is bounded and takes a few ms, so when the
 * probe waits for longer, the device does not serve, or the machine does not run. Of each write
 * that took more than 100 ms, what the longest probe that overlaps it took is the device's, and the
 * rest the store's. No probe, or one that was fast: all of it is the store's.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/list.h"
#include "base/pool.h"
#include "base/prng.h"
#include "store/store.h"

enum {
    DEPTH_MAX = 256,
    OBJECT_BLOCKS = 32,
    OBJECT_BYTES = OBJECT_BLOCKS * STORE_BLOCK,
    PGS = 128,
    CLIENT = 1,
    FILL_DEPTH = 16,
};

/* ---- Latencies: 32 buckets for each power of two, so to 3 % ---- */

enum { HISTOGRAM_SUB = 32, HISTOGRAM_BUCKETS = 60 * HISTOGRAM_SUB };

struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t count, sum, max;
};

static void histogram_add(struct histogram *h, uint64_t ns)
{
    unsigned shift = 0;

    while (ns >> shift >= 2 * HISTOGRAM_SUB)
        shift++;
    h->buckets[shift * HISTOGRAM_SUB + (ns >> shift)]++;
    h->count++;
    h->sum += ns;
    h->max = ns > h->max ? ns : h->max;
}

/* In us; the upper end of the bucket that it falls in. */
static double histogram_at(const struct histogram *h, double share)
{
    uint64_t wanted = (uint64_t)((double)h->count * share), seen = 0;

    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (h->buckets[i] == 0 || seen <= wanted)
            continue;
        unsigned shift = i < 2 * HISTOGRAM_SUB ? 0 : i / HISTOGRAM_SUB - 1;
        uint64_t top = ((uint64_t)(i - shift * HISTOGRAM_SUB) + 1) << shift;
        return (double)(top < h->max ? top : h->max) / 1e3;
    }
    return (double)h->max / 1e3;
}

static void histogram_print(const char *name, const struct histogram *h)
{
    printf(", \"%s\": {\"count\": %" PRIu64 ", \"mean\": %.1f, \"p50\": %.1f, \"p99\": %.1f, "
           "\"p99_9\": %.1f, \"max\": %.1f}",
           name, h->count, h->count == 0 ? 0 : (double)h->sum / (double)h->count / 1e3,
           histogram_at(h, 0.5), histogram_at(h, 0.99), histogram_at(h, 0.999),
           (double)h->max / 1e3);
}

/* ---- The probe ---- */

enum {
    PROBE_SLEEP_NS = 10 * 1000000,
    PROBE_SLOW_NS = 20 * 1000000, /* is remembered */
    STALL_NS = 100 * 1000000,
    SPANS_MAX = 1 << 16,
};

struct span {
    uint64_t begun, ended;
};

struct spans {
    struct span list[SPANS_MAX];
    uint32_t count;
    uint64_t lost; /* more than there is room for */
};

static void spans_add(struct spans *s, uint64_t begun, uint64_t ended)
{
    if (s->count == SPANS_MAX)
        s->lost++;
    else
        s->list[s->count++] = (struct span){begun, ended};
}

struct probe {
    pthread_t thread;
    int fd;
    uint64_t offset;
    uint8_t *block;
    atomic_bool is_over;
    int error;
    struct histogram latencies;
    struct spans slow;
};

static uint64_t clock_ns(void) /* as loop_now(), for a thread without a loop */
{
    struct timespec t;

    check(clock_gettime(CLOCK_BOOTTIME, &t) == 0);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void *probe_run(void *arg)
{
    struct probe *p = arg;
    struct timespec pause = {.tv_nsec = PROBE_SLEEP_NS};

    while (!atomic_load(&p->is_over) && p->error == 0) {
        uint64_t begun = clock_ns();
        if (pwrite(p->fd, p->block, STORE_BLOCK, (off_t)p->offset) != STORE_BLOCK ||
            fdatasync(p->fd) != 0)
            p->error = errno;
        uint64_t ended = clock_ns();
        histogram_add(&p->latencies, ended - begun);
        if (ended - begun >= PROBE_SLOW_NS)
            spans_add(&p->slow, begun, ended);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void probe_start(struct probe *p, const char *path, uint64_t offset)
{
    memset(p, 0, sizeof(*p));
    p->offset = offset;
    p->fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    check(p->fd >= 0);
    p->block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    memset(p->block, 1, STORE_BLOCK);
    check(pthread_create(&p->thread, NULL, probe_run, p) == 0);
}

static void probe_stop(struct probe *p)
{
    atomic_store(&p->is_over, true);
    pthread_join(p->thread, NULL);
    close(p->fd);
    free(p->block);
}

/* The longest that overlaps it. */
static uint64_t probe_longest(const struct probe *p, const struct span *s)
{
    uint64_t longest = 0;

    for (uint32_t i = 0; i < p->slow.count; i++) {
        const struct span *slow = &p->slow.list[i];
        if (slow->begun < s->ended && s->begun < slow->ended && slow->ended - slow->begun > longest)
            longest = slow->ended - slow->begun;
    }
    return longest;
}

/* ---- The store ---- */

struct bench;

struct slot {
    struct bench *bench;
    struct store_write write;
    struct store_read read;
    struct list link; /* in bench.oldest */
    uint32_t crcs[OBJECT_BLOCKS];
    uint8_t *data;
    uint64_t seq, begun_ns;
};

struct job {
    char name[16];
    bool is_write, is_random;
    uint32_t bytes, depth;
    uint64_t ms;
};

struct bench {
    struct loop *loop;
    struct store *store;
    struct store_open open;
    struct loop_timer quiet;
    struct prng prng;
    struct slot slots[DEPTH_MAX];
    struct list oldest; /* writes in flight, oldest request first */
    uint64_t floors[PGS];
    uint64_t objects, seq, position;
    uint64_t fill_until; /* objects; 0: not filling */
    uint64_t begun_ns, end_ns, last_ns;
    uint32_t running;
    int result;
    struct job job;
    struct histogram latencies;
    struct spans stalls;
    struct probe probe;
    bool has_probe;
};

struct usage {
    uint64_t user_us, system_us;
};

static struct usage usage_now(void)
{
    struct rusage u;

    check(getrusage(RUSAGE_SELF, &u) == 0);
    return (struct usage){
        (uint64_t)u.ru_utime.tv_sec * 1000000 + (uint64_t)u.ru_utime.tv_usec,
        (uint64_t)u.ru_stime.tv_sec * 1000000 + (uint64_t)u.ru_stime.tv_usec,
    };
}

static void slot_next(struct slot *s);

/* What the client no longer waits for, the PG need not remember (osd_floor()). */
static void slot_tell_floor(struct bench *b, uint64_t pg)
{
    const struct slot *oldest = container_of(b->oldest.next, struct slot, link);

    if (oldest->seq <= b->floors[pg])
        return;
    b->floors[pg] = oldest->seq;
    store_dedup_floor(b->store, pg, CLIENT, oldest->seq);
}

static void slot_done(struct slot *s, int result)
{
    struct bench *b = s->bench;
    uint64_t now = loop_now(b->loop);

    b->running--;
    b->last_ns = now;
    histogram_add(&b->latencies, now - s->begun_ns);
    if (now - s->begun_ns > STALL_NS)
        spans_add(&b->stalls, s->begun_ns, now);
    if (result != 0 && b->result == 0) {
        fprintf(stderr, "bench_store: %s: %s\n", b->job.name, strerror(-result));
        b->result = result;
    }
    if (b->result == 0 && (b->fill_until > 0 ? b->objects < b->fill_until : now < b->end_ns))
        slot_next(s);
    else if (b->running == 0)
        loop_stop(b->loop);
}

static void slot_on_written(struct store_write *w)
{
    struct slot *s = container_of(w, struct slot, write);

    list_remove(&s->link);
    slot_done(s, w->result);
}

static void slot_on_read(struct store_read *r)
{
    slot_done(container_of(r, struct slot, read), r->result);
}

static void slot_write(struct slot *s, uint64_t object, uint32_t offset, uint32_t len)
{
    struct bench *b = s->bench;
    uint64_t pg = object % PGS;

    s->seq = ++b->seq;
    list_push(&b->oldest, &s->link);
    for (uint32_t i = 0; i < len / STORE_BLOCK; i++) {
        uint8_t *block = s->data + (size_t)i * STORE_BLOCK;
        memcpy(block, &s->seq, sizeof(s->seq));
        s->crcs[i] = crc32c_block(1, object, offset / STORE_BLOCK + i, block, STORE_BLOCK);
    }
    slot_tell_floor(b, pg);
    s->write = (struct store_write){
        .kind = STORE_WRITE,
        .id = {1, object},
        .pg = pg,
        .version = s->seq,
        .offset = offset,
        .len = len,
        .data = s->data,
        .crcs = s->crcs,
        .client = CLIENT,
        .seq = s->seq,
        .done = slot_on_written,
    };
    store_write_start(b->store, &s->write);
}

static void slot_read(struct slot *s, uint64_t object, uint32_t offset, uint32_t len)
{
    s->read = (struct store_read){
        .id = {1, object},
        .offset = offset,
        .len = len,
        .buf = s->data,
        .crcs = s->crcs,
        .done = slot_on_read,
    };
    store_read_start(s->bench->store, &s->read);
}

static void slot_next(struct slot *s)
{
    struct bench *b = s->bench;
    uint64_t at;

    b->running++;
    s->begun_ns = loop_now(b->loop);
    if (b->fill_until > 0)
        at = b->objects++ * OBJECT_BYTES;
    else if (b->job.is_random)
        at = prng_below(&b->prng, b->objects * OBJECT_BYTES / b->job.bytes) * b->job.bytes;
    else
        at = b->position++ % (b->objects * OBJECT_BYTES / b->job.bytes) * b->job.bytes;

    uint64_t object = at / OBJECT_BYTES;
    uint32_t offset = (uint32_t)(at % OBJECT_BYTES);
    if (b->job.is_write)
        slot_write(s, object, offset, b->job.bytes);
    else
        slot_read(s, object, offset, b->job.bytes);
}

static void bench_on_quiet(struct loop_timer *t)
{
    loop_stop(container_of(t, struct bench, quiet)->loop);
}

/* What the store writes once it is quiet belongs to what was before. */
static void bench_quiet(struct bench *b)
{
    loop_timer_start(b->loop, &b->quiet, loop_now(b->loop) + 100 * NS_PER_MS);
    loop_run(b->loop);
}

static void bench_run(struct bench *b)
{
    memset(&b->latencies, 0, sizeof(b->latencies));
    b->stalls.count = 0;
    b->stalls.lost = 0;
    b->position = 0;
    b->begun_ns = b->last_ns = loop_now(b->loop);
    b->end_ns = b->begun_ns + b->job.ms * NS_PER_MS;
    for (uint32_t i = 0; i < b->job.depth; i++)
        slot_next(&b->slots[i]);
    loop_run(b->loop);
}

/* ---- Commands ---- */

/* Stalls that overlap are one; the first 100 are listed. */
static void bench_print_stalls(const struct bench *b)
{
    enum { LISTED_MAX = 100 };
    struct span all = {0, 0};
    uint64_t excess_max = 0, count = 0, over_200 = 0, over_400 = 0, over_800 = 0;

    printf(", \"stalls\": [");
    for (uint32_t i = 0; i <= b->stalls.count; i++) {
        const struct span *s = &b->stalls.list[i];
        bool is_last = i == b->stalls.count;
        if (!is_last && all.ended > s->begun && all.ended > 0) {
            all.begun = s->begun < all.begun ? s->begun : all.begun;
            all.ended = s->ended > all.ended ? s->ended : all.ended;
            continue;
        }
        if (all.ended > 0) {
            uint64_t device = probe_longest(&b->probe, &all), ns = all.ended - all.begun;
            count++;
            over_200 += ns > 2ull * STALL_NS;
            over_400 += ns > 4ull * STALL_NS;
            over_800 += ns > 8ull * STALL_NS;
            if (ns > device && ns - device > excess_max)
                excess_max = ns - device;
            if (count <= LISTED_MAX)
                printf("%s{\"at_s\": %.2f, \"ms\": %.1f, \"device_ms\": %.1f}",
                       count == 1 ? "" : ", ", (double)(all.begun - b->begun_ns) / 1e9,
                       (double)ns / 1e6, (double)device / 1e6);
        }
        if (!is_last)
            all = *s;
    }
    printf("], \"stalls_over_100_ms\": %" PRIu64 ", \"stalls_over_200_ms\": %" PRIu64
           ", \"stalls_over_400_ms\": %" PRIu64 ", \"stalls_over_800_ms\": %" PRIu64
           ", \"stalls_lost\": %" PRIu64 ", \"excess_ms_max\": %.1f",
           count, over_200, over_400, over_800, b->stalls.lost + b->probe.slow.lost,
           (double)excess_max / 1e6);
    histogram_print("probe_us", &b->probe.latencies);
}

static void bench_print(struct bench *b, const struct store_status *before, struct usage cpu)
{
    struct store_status st;
    double ops = (double)b->latencies.count, seconds = (double)(b->last_ns - b->begun_ns) / 1e9;

    store_status(b->store, &st);
    printf("{\"job\": \"%s\", \"bytes\": %u, \"depth\": %u, \"seconds\": %.3f, \"ops\": %.0f, "
           "\"iops\": %.1f, \"cpu_us\": %.3f, \"user_us\": %.3f, \"system_us\": %.3f",
           b->job.name, b->job.bytes, b->job.depth, seconds, ops, ops / seconds,
           (double)(cpu.user_us + cpu.system_us) / ops, (double)cpu.user_us / ops,
           (double)cpu.system_us / ops);
    histogram_print("latency_us", &b->latencies);
    if (b->job.is_write)
        printf(", \"written\": %.0f, \"to_device\": %" PRIu64
               ", \"amplification\": %.4f, \"flushes\": %" PRIu64 ", \"cleaned\": %" PRIu64,
               ops * b->job.bytes, (st.blocks_total - before->blocks_total) * STORE_BLOCK,
               (double)(st.blocks_total - before->blocks_total) * STORE_BLOCK /
                   (ops * b->job.bytes),
               st.flushes_total - before->flushes_total, st.cleaned_total - before->cleaned_total);
    if (strcmp(b->job.name, "stall") == 0)
        bench_print_stalls(b);
    printf(", \"objects\": %" PRIu64 ", \"used\": %.4f, \"index_bytes\": %" PRIu64 "}\n",
           b->objects, (double)st.used_bytes / (double)st.data_bytes, st.index_bytes);
    fflush(stdout);
}

static void bench_measure(struct bench *b)
{
    struct store_status before;

    store_status(b->store, &before);
    struct usage begun = usage_now();
    bench_run(b);
    struct usage ended = usage_now();
    if (b->result == 0)
        bench_quiet(b);
    if (b->has_probe) {
        probe_stop(&b->probe);
        b->has_probe = false;
        if (b->probe.error != 0) {
            fprintf(stderr, "bench_store: probe: %s\n", strerror(b->probe.error));
            b->result = -b->probe.error;
        }
    }
    if (b->result == 0)
        bench_print(
            b, &before,
            (struct usage){ended.user_us - begun.user_us, ended.system_us - begun.system_us});
}

static void bench_fill(struct bench *b, uint64_t percent)
{
    struct store_status st;

    store_status(b->store, &st);
    b->fill_until = st.data_bytes / 100 * percent / OBJECT_BYTES;
    if (b->fill_until < b->objects + FILL_DEPTH) /* each slot writes at least one */
        b->fill_until = b->objects + FILL_DEPTH;
    b->job = (struct job){"fill", true, false, OBJECT_BYTES, FILL_DEPTH, 0};
    bench_measure(b);
    b->fill_until = 0;
}

static bool job_parse(const char *line, struct job *j)
{
    memset(j, 0, sizeof(*j));
    if (sscanf(line, "%15s %" SCNu32 " %" SCNu32 " %" SCNu64, j->name, &j->bytes, &j->depth,
               &j->ms) != 4)
        return false;
    j->is_write = strcmp(j->name, "write") == 0 || strcmp(j->name, "randwrite") == 0 ||
                  strcmp(j->name, "stall") == 0;
    j->is_random = strcmp(j->name, "write") != 0 && strcmp(j->name, "read") != 0;
    if (!j->is_write && strcmp(j->name, "read") != 0 && strcmp(j->name, "randread") != 0)
        return false;
    return j->bytes > 0 && j->bytes % STORE_BLOCK == 0 && OBJECT_BYTES % j->bytes == 0 &&
           j->depth > 0 && j->depth <= DEPTH_MAX;
}

static bool bench_command(struct bench *b, const char *line, uint64_t probe_offset)
{
    uint64_t percent;

    if (sscanf(line, "fill %" SCNu64, &percent) == 1 && percent > 0 && percent <= 90) {
        bench_fill(b, percent);
        return true;
    }
    if (!job_parse(line, &b->job) || b->objects == 0)
        return false;
    if (strcmp(b->job.name, "stall") == 0) {
        if (probe_offset == 0)
            return false;
        probe_start(&b->probe, b->open.config.path, probe_offset);
        b->has_probe = true;
    }
    bench_measure(b);
    return true;
}

static int bench_serve(struct bench *b, uint64_t probe_offset)
{
    char line[128];

    while (b->result == 0 && fgets(line, sizeof(line), stdin) != NULL) {
        if (!bench_command(b, line, probe_offset)) {
            fprintf(stderr, "bench_store: not understood, or nothing is filled in yet: %s", line);
            return -EINVAL;
        }
    }
    return b->result;
}

/* ---- Begin and end ---- */

static void bench_on_failed(void *arg, int error, const char *what)
{
    struct bench *b = arg;

    fprintf(stderr, "bench_store: the store failed: %s: %s\n", what, strerror(-error));
    b->result = error;
}

static void bench_on_opened(struct store_open *o)
{
    struct bench *b = container_of(o, struct bench, open);

    b->store = o->store;
    b->result = o->result;
    if (o->result != 0)
        fprintf(stderr, "bench_store: %s %s\n", o->config.path, o->error);
    loop_stop(b->loop);
}

static int bench_open(struct bench *b, const char *path, uint64_t size)
{
    struct store_format format = {.size = size, .object_size = OBJECT_BYTES};
    int result = store_format(b->loop, path, &format, true);

    if (result != 0) {
        fprintf(stderr, "bench_store: %s: %s\n", path, strerror(-result));
        return result;
    }
    b->open = (struct store_open){
        .config = {.loop = b->loop, .path = path, .failed = bench_on_failed, .arg = b},
        .done = bench_on_opened,
    };
    store_open_start(&b->open);
    loop_run(b->loop);
    return b->result;
}

static void bench_init(struct bench *b)
{
    check(loop_create(&b->loop, LOOP_AUTO, 256) == 0);
    loop_timer_init(&b->quiet, bench_on_quiet);
    prng_init(&b->prng, 1);
    list_init(&b->oldest);
    for (uint32_t i = 0; i < DEPTH_MAX; i++) {
        struct slot *s = &b->slots[i];
        s->bench = b;
        list_init(&s->link);
        s->data = mem_alloc_aligned(OBJECT_BYTES, STORE_BLOCK);
        for (size_t at = 0; at < OBJECT_BYTES; at += 8) { /* nothing that a device could shrink */
            uint64_t word = prng_next(&b->prng);
            memcpy(s->data + at, &word, sizeof(word));
        }
    }
}

int main(int argc, char **argv)
{
    static struct bench b;

    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: bench_store PATH SIZE [PROBE_OFFSET] < COMMANDS\n");
        return 2;
    }
    bench_init(&b);
    int result = bench_open(&b, argv[1], strtoull(argv[2], NULL, 10));
    if (result == 0)
        result = bench_serve(&b, argc == 4 ? strtoull(argv[3], NULL, 10) : 0);
    loop_halt(b.loop);
    if (b.store != NULL)
        store_close(b.store);
    loop_destroy(b.loop);
    for (uint32_t i = 0; i < DEPTH_MAX; i++)
        free(b.slots[i].data);
    return result == 0 ? 0 : 1;
}

/*
 * Does a store that is nearly full go on and on? On a real disk, over io_uring.
 *
 *   bench_store_wear PATH SECONDS SIZE
 *
 * PATH is overwritten with a new store of SIZE bytes, filled, and then overwritten at random in
 * pieces of 4 KiB to 32 KiB, 64 at a time, each with a dedup record. Prints one line of JSON.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/pool.h"
#include "base/prng.h"
#include "store/store.h"

enum {
    DEPTH = 64,
    OBJECT_BLOCKS = 32,
    PIECE_BLOCKS_MAX = 8,
};

struct bench;

struct slot {
    struct bench *bench;
    struct store_write write;
    uint32_t crcs[OBJECT_BLOCKS];
    uint8_t *data;
};

struct bench {
    struct loop *loop;
    struct store *store;
    struct store_open open;
    struct store_format format;
    struct prng prng;
    struct slot slots[DEPTH];
    uint64_t objects, seq;
    uint64_t end_ns, begun_ns, last_ns, stall_ns;
    uint64_t writes, blocks;
    uint64_t cpu_us;
    struct store_status before;
    uint32_t running;
    bool filling;
    int result;
};

static uint64_t cpu_us_now(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void bench_write(struct slot *s);

static void slot_fill(struct slot *s, uint64_t object, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *block = s->data + (size_t)i * STORE_BLOCK;
        memcpy(block, &s->bench->seq, sizeof(s->bench->seq));
        s->crcs[i] = crc32c_block(1, object, first + i, block, STORE_BLOCK);
    }
}

static void bench_begin(struct bench *b)
{
    b->filling = false;
    b->begun_ns = b->last_ns = loop_now(b->loop);
    b->cpu_us = cpu_us_now();
    store_status(b->store, &b->before);
    for (uint32_t i = 0; i < DEPTH; i++)
        bench_write(&b->slots[i]);
}

static void bench_on_done(struct store_write *w)
{
    struct slot *s = container_of(w, struct slot, write);
    struct bench *b = s->bench;
    uint64_t now = loop_now(b->loop);

    b->running--;
    if (b->filling) {
        if (w->result == 0)
            b->objects++;
        if (w->result == 0 && b->result == 0)
            bench_write(s);
        else if (b->running == 0)
            bench_begin(b);
        return;
    }
    if (w->result != 0) {
        fprintf(stderr, "a write failed: %s\n", strerror(-w->result));
        b->result = w->result;
    }
    b->writes++;
    b->blocks += w->len / STORE_BLOCK;
    b->stall_ns = now - b->last_ns > b->stall_ns ? now - b->last_ns : b->stall_ns;
    b->last_ns = now;
    if (now < b->end_ns && b->result == 0)
        bench_write(s);
    else if (b->running == 0)
        loop_stop(b->loop);
}

static void bench_write(struct slot *s)
{
    struct bench *b = s->bench;
    uint64_t object = b->filling ? b->seq + 1 : 1 + prng_below(&b->prng, b->objects);
    uint32_t first = 0, count = OBJECT_BLOCKS;

    b->seq++;
    if (!b->filling) {
        count = 1 + (uint32_t)prng_below(&b->prng, PIECE_BLOCKS_MAX);
        first = (uint32_t)prng_below(&b->prng, OBJECT_BLOCKS - count + 1);
    }
    slot_fill(s, object, first, count);
    s->write = (struct store_write){
        .kind = STORE_WRITE,
        .id = {1, object},
        .pg = object % 16,
        .version = b->seq,
        .offset = first * STORE_BLOCK,
        .len = count * STORE_BLOCK,
        .data = s->data,
        .crcs = s->crcs,
        .client = b->filling ? 0 : 1,
        .seq = b->seq,
        .done = bench_on_done,
    };
    b->running++;
    store_write_start(b->store, &s->write);
    if (b->seq % 1024 == 0) {
        for (uint64_t pg = 0; pg < 16; pg++)
            store_dedup_floor(b->store, pg, 1, b->seq - 1000);
    }
}

static void bench_on_failed(void *arg, int error, const char *what)
{
    struct bench *b = arg;

    fprintf(stderr, "the store failed: %s: %s\n", what, strerror(-error));
    b->result = error;
}

static void bench_on_opened(struct store_open *o)
{
    struct bench *b = container_of(o, struct bench, open);

    if (o->result != 0) {
        fprintf(stderr, "%s %s\n", o->config.path, o->error);
        b->result = o->result;
        loop_stop(b->loop);
        return;
    }
    b->store = o->store;
    b->filling = true;
    for (uint32_t i = 0; i < DEPTH; i++)
        bench_write(&b->slots[i]);
}

static void bench_print(struct bench *b)
{
    struct store_status st;
    double seconds = (double)(b->last_ns - b->begun_ns) / 1e9;

    store_status(b->store, &st);
    printf("{\"seconds\": %.1f, \"writes\": %llu, \"writes_per_s\": %.0f, \"mib_per_s\": %.1f, "
           "\"write_amplification\": %.3f, \"stall_ms_max\": %.1f, \"cleaned\": %llu, "
           "\"ring_laps\": %.1f, \"flushes\": %llu, \"cpu_us_per_write\": %.2f, \"objects\": %llu, "
           "\"used_bytes\": %llu, \"index_bytes\": %llu}\n",
           seconds, (unsigned long long)b->writes, (double)b->writes / seconds,
           (double)b->blocks * STORE_BLOCK / 1048576 / seconds,
           (double)(st.blocks_total - b->before.blocks_total) / (double)b->blocks,
           (double)b->stall_ns / 1e6,
           (unsigned long long)(st.cleaned_total - b->before.cleaned_total),
           (double)(st.blocks_total - b->before.blocks_total - b->blocks) / (double)st.ring_blocks,
           (unsigned long long)(st.flushes_total - b->before.flushes_total),
           (double)(cpu_us_now() - b->cpu_us) / (double)b->writes, (unsigned long long)b->objects,
           (unsigned long long)st.used_bytes, (unsigned long long)st.index_bytes);
}

static int bench_run(struct bench *b, const char *path)
{
    int result = store_format(b->loop, path, &b->format, true);

    if (result != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-result));
        return result;
    }
    b->open = (struct store_open){
        .config = {.loop = b->loop, .path = path, .failed = bench_on_failed, .arg = b},
        .done = bench_on_opened,
    };
    store_open_start(&b->open);
    loop_run(b->loop);
    if (b->result == 0)
        bench_print(b);
    loop_halt(b->loop);
    if (b->store != NULL)
        store_close(b->store);
    return b->result;
}

int main(int argc, char **argv)
{
    static struct bench b;

    if (argc != 4) {
        fprintf(stderr, "usage: bench_store_wear PATH SECONDS SIZE\n");
        return 2;
    }
    check(loop_create(&b.loop, LOOP_AUTO, 256) == 0);
    prng_init(&b.prng, 1);
    b.format.size = strtoull(argv[3], NULL, 10);
    b.format.object_size = OBJECT_BLOCKS * STORE_BLOCK;
    b.end_ns = loop_now(b.loop) + strtoull(argv[2], NULL, 10) * NS_PER_S;
    for (uint32_t i = 0; i < DEPTH; i++) {
        b.slots[i].bench = &b;
        b.slots[i].data = mem_alloc_aligned((size_t)OBJECT_BLOCKS * STORE_BLOCK, STORE_BLOCK);
        memset(b.slots[i].data, (int)i, (size_t)OBJECT_BLOCKS * STORE_BLOCK);
    }
    int result = bench_run(&b, argv[1]);
    for (uint32_t i = 0; i < DEPTH; i++)
        free(b.slots[i].data);
    loop_destroy(b.loop);
    return result == 0 ? 0 : 1;
}

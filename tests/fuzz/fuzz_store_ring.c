/*
 * A log of any bytes. Each input is cut into blocks of the ring, sealed so that they chain, and put
 * into a small store; then it is opened. It is refused, or it serves and survives another start; it
 * never crashes, and no block lies in two objects.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "io/sim.h"
#include "store/impl.h"

enum {
    SIZE = 64 << 20,
    BLOCKS_MAX = 8, /* of the log, besides the first */
};

#define PATH "osd"

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct store_open open;
    bool opened;
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A start takes so long that inputs which grow with time would never be as long as one record. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static char *args[64], option[] = "-len_control=0";
    int count = *argc < 62 ? *argc : 62;

    memcpy(args, *argv, (size_t)count * sizeof(*args));
    args[count] = option;
    *argv = args;
    *argc = count + 1;
    return 0;
}

static void on_failed(void *arg, int error, const char *what)
{
    (void)arg;
    (void)error;
    (void)what;
    never("the disk is healthy");
}

static void on_opened(struct store_open *o)
{
    container_of(o, struct world, open)->opened = true;
}

static bool is_open(void *arg)
{
    return ((struct world *)arg)->opened;
}

static void world_open(struct world *w)
{
    w->opened = false;
    w->open = (struct store_open){
        .config = {.loop = w->loop, .path = PATH, .osd = 1, .failed = on_failed},
        .done = on_opened,
    };
    store_open_start(&w->open);
    check(sim_run_until_true(w->sim, is_open, w, sim_now(w->sim) + 60 * NS_PER_S));
}

static void world_close(struct world *w)
{
    sim_host_crash(w->host, true);
    if (w->open.store != NULL)
        store_close(w->open.store);
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
}

static uint64_t take_u64(const uint8_t **data, size_t *size)
{
    uint8_t bytes[8] = {0};
    size_t len = *size < sizeof(bytes) ? *size : sizeof(bytes);

    memcpy(bytes, *data, len);
    *data += len;
    *size -= len;
    return get_u64(bytes);
}

/* Payload of a block: records made of the input, in pieces that fit; or the input as it is. */
static void block_fill(uint8_t *block, struct block_head *h, uint64_t *seq, const uint8_t **data,
                       size_t *size)
{
    uint64_t control = take_u64(data, size);
    size_t len = control >> 8 & 0xfff;

    len = len < *size ? len : *size;
    if (len == 0)
        return;
    if (control % 4 == 0) {
        len = len < BLOCK_PAYLOAD ? len & ~(size_t)7 : BLOCK_PAYLOAD;
        memcpy(block + BLOCK_HEADER, *data, len);
        h->record = *seq + 1;
        h->used = (uint32_t)len;
    } else {
        uint32_t part = (uint32_t)len < BLOCK_ROOM ? (uint32_t)len : BLOCK_ROOM;
        struct piece p = {.seq = ++*seq, .total = part, .len = part, .bytes = *data};
        piece_put(block, h, &p);
    }
    *data += len;
    *size -= len;
}

static void world_put_log(struct world *w, const uint8_t *data, size_t size)
{
    struct loop_file *file;
    struct superblock sb;
    struct block_head head;
    uint8_t *block = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    uint64_t seq = 0;

    check(loop_file_open(w->loop, PATH, LOOP_FILE_WRITE, &file) == 0);
    check(loop_read_now(file, block, STORE_BLOCK, 0) == STORE_BLOCK);
    check(superblock_decode(block, &sb) == 0);
    check(loop_read_now(file, block, STORE_BLOCK, 2 * STORE_BLOCK) == STORE_BLOCK);
    check(block_open(block, sb.nonce, &head) == 0);
    for (uint32_t i = 0; i < BLOCKS_MAX && size > 0; i++) {
        uint64_t control = take_u64(&data, &size);
        struct block_head h = {
            .nonce = sb.nonce,
            .seq = i + 2,
            .boot = 1,
            .prev_crc = head.crc,
            .mark = control >> 8 & 0xff,
            .tail = 1 + (control >> 16) % (i + 2),
            .durable = (control >> 24) % (i + 2),
        };
        memset(block, 0, STORE_BLOCK);
        block_fill(block, &h, &seq, &data, &size);
        block_seal(block, &h);
        head = h;
        check(loop_write_now(file, block, STORE_BLOCK, (1 + h.seq) * STORE_BLOCK) == STORE_BLOCK);
    }
    check(loop_flush_now(file) == 0);
    loop_file_close(file);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.sim = sim_create(&(struct sim_config){.seed = 1})};
    struct store_format f = {.osd = 1, .size = SIZE, .object_size = 128 << 10};

    w.host = sim_host_create(w.sim, 1);
    w.loop = sim_loop_create(w.host);
    check(store_format(w.loop, PATH, &f, false) == 0);
    check(loop_dir_sync(w.loop, ".") == 0);
    world_put_log(&w, data, size);
    world_open(&w);
    if (w.open.result == 0) {
        struct store_status first, again;
        store_status(w.open.store, &first);
        sim_run_until(w.sim, sim_now(w.sim) + NS_PER_S);
        world_close(&w);
        world_open(&w);
        check(w.open.result == 0);
        store_status(w.open.store, &again);
        check(first.objects == again.objects && first.used_bytes == again.used_bytes);
        check(first.dedups == again.dedups && first.tombstones == again.tombstones);
    } else {
        check(w.open.result == -EBADMSG || w.open.result == -ENOTSUP);
    }
    world_close(&w);
    loop_destroy(w.loop);
    sim_destroy(w.sim);
    return 0;
}

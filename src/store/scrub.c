#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/prng.h"
#include "store/impl.h"

/*
 * Scrubbing: every block in use is read and checked once a round, and rounds follow each other, so
 * that what rots is found while another copy is still good.
 *
 * The position is a bucket of the index. How many buckets there are, and in which one an object is,
 * depends on the device and the id only, so the position means the same after a restart; each block
 * of the ring carries it (store.scrub_at: all buckets before it are done), with the time at which
 * the round began. Within a bucket objects are taken in the order of their ids. Hence: an object
 * that is there from the beginning to the end of a round is read in it, whatever comes and goes
 * around it, restarts included (a restart may read the objects of one bucket, and what came since
 * the last block of the ring, once more). Of an object with a prepared version that one is read
 * first: if it is committed in between, its blocks are read again, not missed.
 *
 *     PAUSE --timer: a goal, some buckets on--> LOOK --an object with blocks--> READ
 *       ^                                        | ^                             |
 *       +-------------- goal reached ------------+ +-- after the rate's pause ---+
 *
 * Pace. From one pause to the next it does what is left of the round over what is left of its time,
 * a random while at a time; so that the disks of a cluster do not work in step, the first round of
 * a new store is shorter, by chance. It aims at 15/16 of the period: the rest is for being late.
 * When the store is busy it waits, until it is a part of the round behind. Who is late still reads
 * one range after the other and not more than the rate, and says so (status).
 *
 * Time. While the process runs, only the clock that never steps counts. The wall clock is looked at
 * once, at the start: how long ago did the round begin? An answer that cannot be (before it began)
 * counts as "on schedule"; one that leaves little or no time, or is nonsense, lets it go at most
 * SCRUB_HASTE times as fast as an even round would.
 */
enum {
    SCRUB_RATE = 64 << 20, /* bytes a second, if nothing else was asked for */
    SCRUB_BEAT_MS = 100,   /* the shortest pause */
    SCRUB_BUSY_OPS = 4,    /* more than this in flight: others go first */
    SCRUB_BUSY_MS = 20,
    SCRUB_LOOK = 4096, /* buckets that one step looks at */
    SCRUB_HASTE = 4,
    SCRUB_PART = 64, /* it is polite until it is this part of a round behind */
    SCRUB_SAY_MS = 10 * 60 * 1000,
};

/* A year: times a number of buckets it fits 64 bits. */
static const uint64_t period_ms_max = 366ull * 86400 * 1000;

enum scrub_state { SCRUB_PAUSE, SCRUB_GO, SCRUB_READ };

struct scrub {
    struct store *s;
    struct task task;
    struct loop_timer timer;
    enum scrub_state state;
    uint64_t round_ms;    /* what a round aims at: 15/16 of the period */
    uint64_t deadline_ms; /* of loop_now(): when this round should be done */
    uint64_t over_ms;     /* … and when its period is over */
    uint64_t goal;        /* PAUSE is over when all buckets before this one are done */
    uint64_t rate;
    uint64_t wake_ns;   /* nothing is done before */
    uint64_t say_ms;    /* the next time to look whether the position was written down */
    uint64_t said_head; /* … the last block at the time before */
    uint64_t blocks_said;

    /* The object that is being read, in bucket store.scrub_at. */
    bool has_last;
    struct store_id last; /* the last one taken in this bucket; the one at work while has_object */
    bool has_object;
    bool prepared; /* its prepared version is read now; then what is */
    bool single;   /* something was wrong: one block at a time, so that each is named */
    uint64_t pg;
    uint64_t wanted[STORE_BLOCKS_MAX / 64]; /* blocks to be read still */

    struct store_read read;
    bool came; /* … the read did */
    uint8_t *buf;
};

static uint64_t scrub_now_ms(const struct scrub *sc)
{
    return loop_now(sc->s->loop) / NS_PER_MS;
}

static uint64_t scrub_wall_s(const struct scrub *sc)
{
    return loop_wall_ms(sc->s->loop) / 1000;
}

static uint64_t scrub_buckets(const struct scrub *sc)
{
    return sc->s->buckets_mask + 1;
}

/* What an even round takes for the buckets that are left. */
static uint64_t scrub_need_ms(const struct scrub *sc)
{
    uint64_t buckets = scrub_buckets(sc);

    return (buckets - sc->s->scrub_at) * sc->round_ms / buckets;
}

static uint64_t scrub_have_ms(const struct scrub *sc, uint64_t now_ms)
{
    return sc->deadline_ms > now_ms ? sc->deadline_ms - now_ms : 0;
}

/* ---- Rounds ---- */

static void scrub_begin_round(struct scrub *sc, uint64_t past_ms)
{
    struct store *s = sc->s;

    s->scrub_at = 0;
    s->scrub_since = (uint32_t)(scrub_wall_s(sc) - past_ms / 1000);
    sc->deadline_ms = scrub_now_ms(sc) + sc->round_ms - past_ms;
    sc->over_ms = sc->deadline_ms + sc->round_ms / 15;
    sc->goal = 0;
}

static void scrub_end_round(struct scrub *sc)
{
    struct store *s = sc->s;

    s->counters.scrub_finished_s = scrub_wall_s(sc);
    s->counters.scrub_rounds_total++;
    scrub_begin_round(sc, 0);
}

static void scrub_resume(struct scrub *sc)
{
    struct store *s = sc->s;
    uint64_t now_ms = scrub_now_ms(sc), wall_s = scrub_wall_s(sc);
    uint64_t need_ms = scrub_need_ms(sc), left_ms = need_ms;

    if (wall_s >= s->scrub_since) {
        uint64_t past_ms = (wall_s - s->scrub_since) * 1000;
        left_ms = past_ms < sc->round_ms ? sc->round_ms - past_ms : 0;
    } else {
        s->scrub_since = (uint32_t)(wall_s - (sc->round_ms - need_ms) / 1000);
    }
    sc->over_ms = now_ms + left_ms + sc->round_ms / 15;
    if (left_ms == 0)
        sc->over_ms = now_ms; /* it is, or may be, over already */
    sc->deadline_ms = now_ms + (left_ms > need_ms / SCRUB_HASTE ? left_ms : need_ms / SCRUB_HASTE);
}

/* ---- What is next ---- */

/* The next object of the bucket by id, after `last`; NULL: there is none. */
static struct object *scrub_next_in_bucket(const struct scrub *sc)
{
    const struct store *s = sc->s;
    struct object *best = NULL;

    for (struct object *o = object_at(s, s->buckets[s->scrub_at]); o != NULL;
         o = object_at(s, o->by_id)) {
        bool after = !sc->has_last || o->id.image > sc->last.image ||
                     (o->id.image == sc->last.image && o->id.object > sc->last.object);
        bool before = best == NULL || o->id.image < best->id.image ||
                      (o->id.image == best->id.image && o->id.object < best->id.object);
        if (after && before)
            best = o;
    }
    return best;
}

static bool scrub_wants_any(const struct scrub *sc)
{
    for (uint32_t i = 0; i < COUNT_OF(sc->wanted); i++) {
        if (sc->wanted[i] != 0)
            return true;
    }
    return false;
}

/* What there is to read of the object at work; false: nothing more. */
static bool scrub_want(struct scrub *sc)
{
    const struct object *o;

    while (sc->has_object) {
        if (scrub_wants_any(sc))
            return true;
        sc->single = false;
        if (!sc->prepared) {
            sc->has_object = false;
            break;
        }
        sc->prepared = false;
        o = object_find(sc->s, &sc->last);
        if (o == NULL)
            continue;
        sc->pg = object_pg(sc->s, o);
        map_present(o->map, o->runs, sc->wanted);
    }
    return false;
}

static void scrub_take_object(struct scrub *sc, const struct object *o)
{
    const struct work *x = object_work(sc->s, o);

    sc->has_last = true;
    sc->last = o->id;
    sc->pg = object_pg(sc->s, o);
    sc->has_object = true;
    sc->single = false;
    sc->prepared = true; /* first */
    memset(sc->wanted, 0, sizeof(sc->wanted));
    if (x != NULL && x->prepared != NULL)
        map_present(x->prepared->map, x->prepared->runs, sc->wanted);
}

/* True: there is something to read. False: the goal is reached, or `*looked` is used up. */
static bool scrub_find(struct scrub *sc, uint32_t *looked)
{
    struct store *s = sc->s;

    while (!scrub_want(sc)) {
        if (*looked == SCRUB_LOOK || s->scrub_at >= sc->goal)
            return false;
        const struct object *o = scrub_next_in_bucket(sc);
        if (o != NULL) {
            scrub_take_object(sc, o);
            (*looked)++;
            continue;
        }
        sc->has_last = false;
        s->scrub_at++;
        (*looked)++;
        if (s->scrub_at == scrub_buckets(sc)) {
            scrub_end_round(sc);
            return false;
        }
    }
    return true;
}

/* ---- Reading ---- */

/* From the first block that is wanted: all there are, with the holes between them; but of the
 * prepared version only what it changes. */
static void scrub_range(const struct scrub *sc, uint32_t *first, uint32_t *count)
{
    uint32_t b = 0;

    while (!bitmap_has(sc->wanted, b))
        b++;
    *first = b;
    *count = 1;
    for (b++; b < STORE_BLOCKS_MAX && !sc->single; b++) {
        if (bitmap_has(sc->wanted, b))
            *count = b - *first + 1;
        else if (sc->prepared)
            break;
    }
}

static void scrub_on_read(struct store_read *r)
{
    struct scrub *sc = container_of(r, struct scrub, read);

    sc->came = true;
    loop_wake(sc->s->loop, &sc->task);
}

static void scrub_read(struct scrub *sc)
{
    struct store *s = sc->s;
    uint32_t first, count, blocks = 0;

    scrub_range(sc, &first, &count);
    for (uint32_t b = first; b < first + count; b++)
        blocks += bitmap_has(sc->wanted, b);
    sc->state = SCRUB_READ;
    sc->came = false;
    sc->wake_ns = loop_now(s->loop) + blocks * STORE_BLOCK * NS_PER_S / sc->rate;
    sc->read = (struct store_read){
        .id = sc->last,
        .offset = first * STORE_BLOCK,
        .len = count * STORE_BLOCK,
        .buf = sc->buf,
        .prepared = sc->prepared,
        .done = scrub_on_read,
    };
    store_read_start(s, &sc->read);
}

static void scrub_bad(struct scrub *sc, uint32_t block, int error)
{
    struct store *s = sc->s;

    s->counters.scrub_bad_total++;
    log_warn("store", "scrub: bad block osd=%u image=%llu object=%llu block=%u error=%d",
             s->super.osd, (unsigned long long)sc->last.image, (unsigned long long)sc->last.object,
             block, error);
    if (s->config.scrub_bad != NULL)
        s->config.scrub_bad(s->config.arg, &sc->last, sc->pg, block, error);
}

/* Blocks first .. first + count - 1 need not be read any more. */
static void scrub_done_with(struct scrub *sc, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++) {
        sc->s->counters.scrub_blocks_total += bitmap_has(sc->wanted, b);
        sc->wanted[b / 64] &= ~((uint64_t)1 << (b % 64));
    }
}

/* An error of a longer range is not said of a block yet: all of it is read again, one by one. */
static void scrub_take_read(struct scrub *sc)
{
    const struct store_read *r = &sc->read;
    uint32_t first = r->offset / STORE_BLOCK, count = r->len / STORE_BLOCK;

    sc->state = SCRUB_GO;
    if (r->result == -EBADMSG) {
        scrub_done_with(sc, first, r->bad_block - first + 1);
        sc->single = true;
        scrub_bad(sc, r->bad_block, -EBADMSG);
    } else if (r->result == -EIO && count > 1) {
        sc->single = true;
    } else {
        scrub_done_with(sc, first, count);
        if (r->result == -EIO)
            scrub_bad(sc, first, -EIO);
    }
}

/* ---- The machine ---- */

static void scrub_sleep(struct scrub *sc, uint64_t until_ns)
{
    sc->wake_ns = until_ns;
    loop_timer_start(sc->s->loop, &sc->timer, until_ns);
}

/* A while, and how far it shall be after it: the fraction of a bucket counts as a chance. */
static void scrub_pause(struct scrub *sc)
{
    struct store *s = sc->s;
    uint64_t now_ms = scrub_now_ms(sc), have_ms = scrub_have_ms(sc, now_ms);
    uint64_t left = scrub_buckets(sc) - s->scrub_at, beat_ms = have_ms / left;

    sc->state = SCRUB_PAUSE;
    if (beat_ms < SCRUB_BEAT_MS)
        beat_ms = SCRUB_BEAT_MS;
    sc->goal = scrub_buckets(sc);
    if (have_ms > beat_ms) {
        uint64_t part = left * beat_ms;
        bool more = loop_random_u64(s->loop) % have_ms < part % have_ms;
        sc->goal = s->scrub_at + part / have_ms + more;
    }
    beat_ms = beat_ms / 2 + loop_random_u64(s->loop) % beat_ms;
    scrub_sleep(sc, (now_ms + beat_ms) * NS_PER_MS);
}

/* Others have the device, and there is time. */
static bool scrub_is_polite(const struct scrub *sc)
{
    const struct store *s = sc->s;
    uint64_t have_ms = scrub_have_ms(sc, scrub_now_ms(sc));

    return (s->ios_pool.used > SCRUB_BUSY_OPS || s->writes_count > SCRUB_BUSY_OPS) && have_ms > 0 &&
           have_ms + sc->round_ms / SCRUB_PART > scrub_need_ms(sc);
}

static uint64_t scrub_say_every_ms(const struct scrub *sc)
{
    uint64_t part_ms = sc->round_ms / 100;

    return part_ms < SCRUB_SAY_MS ? part_ms : SCRUB_SAY_MS;
}

/*
 * The position goes with any block of the ring. A store that writes none shall not begin again
 * where it was long ago: now and then an empty one says it (ring_wants_empty()), if there was
 * anything to check.
 */
static void scrub_say(struct scrub *sc)
{
    struct store *s = sc->s;
    uint64_t now_ms = scrub_now_ms(sc);

    if (now_ms < sc->say_ms)
        return;
    if (s->head == sc->said_head && s->counters.scrub_blocks_total != sc->blocks_said) {
        s->scrub_want = s->head + 1;
        store_wake(s);
    }
    sc->said_head = s->scrub_want > s->head ? s->scrub_want : s->head;
    sc->blocks_said = s->counters.scrub_blocks_total;
    sc->say_ms = now_ms + scrub_say_every_ms(sc);
}

static void scrub_go(struct scrub *sc)
{
    struct store *s = sc->s;
    uint32_t looked = 0;

    if (!scrub_find(sc, &looked)) {
        if (s->scrub_at < sc->goal)
            loop_wake(s->loop, &sc->task);
        else
            scrub_pause(sc);
        scrub_say(sc);
    } else if (scrub_is_polite(sc)) {
        scrub_sleep(sc, loop_now(s->loop) + SCRUB_BUSY_MS * NS_PER_MS);
    } else {
        scrub_read(sc);
    }
}

static void scrub_step(struct task *task)
{
    struct scrub *sc = container_of(task, struct scrub, task);
    struct store *s = sc->s;

    if (sc->state == SCRUB_READ && !sc->came)
        return;
    if (s->failed != 0) {
        loop_timer_stop(s->loop, &sc->timer);
        return;
    }
    if (sc->state == SCRUB_READ)
        scrub_take_read(sc);
    if (loop_now(s->loop) < sc->wake_ns) {
        scrub_sleep(sc, sc->wake_ns);
        return;
    }
    sc->state = SCRUB_GO;
    scrub_go(sc);
}

static void scrub_on_timer(struct loop_timer *t)
{
    struct scrub *sc = container_of(t, struct scrub, timer);

    loop_wake(sc->s->loop, &sc->task);
}

/* ---- Begin and end ---- */

void scrub_start(struct store *s)
{
    uint64_t period_s = s->config.scrub_period_s;

    if (period_s == 0)
        return;
    struct scrub *sc = mem_zalloc(sizeof(*sc));
    s->scrub = sc;
    sc->s = s;
    sc->buf = mem_alloc_aligned(STORE_OBJECT_MAX, STORE_BLOCK);
    sc->rate = s->config.scrub_rate != 0 ? s->config.scrub_rate : SCRUB_RATE;
    sc->round_ms = period_s < period_ms_max / 1000 ? period_s * 1000 : period_ms_max;
    sc->round_ms -= sc->round_ms / 16;
    task_init(&sc->task, scrub_step);
    loop_timer_init(&sc->timer, scrub_on_timer);
    if (s->scrub_since == 0 || s->scrub_at >= scrub_buckets(sc))
        scrub_begin_round(sc, loop_random_u64(s->loop) % (sc->round_ms - sc->round_ms / 8));
    else
        scrub_resume(sc);
    sc->said_head = s->head;
    sc->say_ms = scrub_now_ms(sc) + scrub_say_every_ms(sc);
    scrub_pause(sc);
}

void scrub_free(struct store *s)
{
    struct scrub *sc = s->scrub;

    if (sc == NULL)
        return;
    s->scrub = NULL;
    loop_timer_stop(s->loop, &sc->timer);
    task_cancel(&sc->task);
    free(sc->buf);
    free(sc);
}

void scrub_status(const struct store *s, struct store_status *out)
{
    const struct scrub *sc = s->scrub;

    if (sc == NULL)
        return;
    out->scrub_permille = (uint32_t)(s->scrub_at * 1000 / scrub_buckets(sc));
    out->scrub_started_s = s->scrub_since;
    out->scrub_late = scrub_now_ms(sc) > sc->over_ms;
}

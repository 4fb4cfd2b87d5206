/* store format, check, verify: of a disk that no node serves. */

#include "cli/store_cmd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/setup.h"

enum { STORE_ENTRIES = 64, STORE_BAD_MAX = 1000 };
#define STORE_SIZE_MIN (64ull << 20)

/* ---- For all of them ---- */

json_t *store_cmd_u64(uint64_t value)
{
    char text[24];

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    snprintf(text, sizeof(text), "%" PRIu64, value);
    return json_string(text);
}

void store_cmd_put(json_t *o, const char *key, uint64_t value)
{
    json_object_set_new(o, key, store_cmd_u64(value));
}

json_t *store_cmd_hex64(uint64_t value)
{
    char text[20];

    snprintf(text, sizeof(text), "%016" PRIx64, value);
    return json_string(text);
}

json_t *store_cmd_hex32(uint32_t value)
{
    char text[12];

    snprintf(text, sizeof(text), "%08x", value);
    return json_string(text);
}

static const char *severity_name(enum inspect_severity severity)
{
    return severity == INSPECT_NOTE ? "note" : severity == INSPECT_WARN ? "warning" : "damage";
}

static void store_on_found(void *arg, const struct inspect_finding *f)
{
    struct store_cmd *sc = arg;
    json_t *one = json_pack("{s:s, s:s, s:s}", "code", inspect_code_name(f->code), "severity",
                            severity_name(f->severity), "message", f->text);

    if (f->has_place) {
        store_cmd_put(one, "block", f->place);
        store_cmd_put(one, "byte", f->place * STORE_BLOCK);
    }
    json_array_append_new(sc->findings, one);
}

static int store_no_open(const char *path, int error, const char *text, struct problem *p)
{
    const char *code = error == -EWOULDBLOCK || error == -EBUSY ? "store_in_use"
                       : error == -ENOTSUP                      ? "store_of_another_version"
                       : error == -EINVAL                       ? "not_a_store"
                       : error == -ENOMEM                       ? "no_memory"
                                                                : "cannot_open";

    problem_set(p, PROBLEM_USAGE, code, "%.150s %.200s", path, text);
    if (error == -EWOULDBLOCK || error == -EBUSY)
        problem_action(p, "stop the node that serves it, and try again");
    else if (error == -ENOTSUP)
        problem_action(p, "use the version of skerry that made it");
    else if (error == -EINVAL)
        problem_action(p,
                       "name a disk of a node: the links in its directory, osd/ID, lead to them");
    else if (error == -ENOMEM)
        problem_action(p, "look at it on a machine with more memory");
    else
        problem_why(p, "%s", strerror(-error));
    return -1;
}

/* What a process may sensibly take of this machine. */
static uint64_t store_memory_max(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 10 * 9 : 0;
}

int store_cmd_open(struct store_cmd *sc, struct cli *c, struct problem *p)
{
    char error[INSPECT_ERROR_MAX] = "";

    *sc = (struct store_cmd){.c = c, .path = c->args[0], .findings = json_array()};
    int result = loop_create(&sc->loop, LOOP_AUTO, STORE_ENTRIES);
    if (result < 0)
        return setup_no_loop(LOOP_AUTO, result, p);
    struct inspect_config config = {
        .loop = sc->loop,
        .path = sc->path,
        .memory_max = store_memory_max(),
        .found = store_on_found,
        .arg = sc,
    };
    result = inspect_open(&config, &sc->in, error);
    if (result == 0)
        result = inspect_check(sc->in, &sc->report, error);
    return result < 0 ? store_no_open(sc->path, result, error, p) : 0;
}

void store_cmd_close(struct store_cmd *sc)
{
    if (sc->in != NULL)
        inspect_close(sc->in);
    if (sc->loop != NULL)
        loop_destroy(sc->loop);
    json_decref(sc->findings);
}

json_t *store_cmd_super(const struct inspect_super *copy, uint32_t number)
{
    const struct superblock *sb = &copy->super;
    char cluster[37], uuid[37];
    json_t *o = json_pack("{s:i, s:b}", "copy", (int)number, "whole", copy->is_whole);

    store_cmd_put(o, "block", copy->place);
    store_cmd_put(o, "byte", copy->place * STORE_BLOCK);
    if (!copy->is_whole)
        return o;
    setup_format_uuid(sb->cluster, cluster);
    setup_format_uuid(sb->uuid, uuid);
    json_object_set_new(o, "cluster", json_string(cluster));
    json_object_set_new(o, "uuid", json_string(uuid));
    store_cmd_put(o, "osd", sb->osd);
    store_cmd_put(o, "boots", sb->boot);
    store_cmd_put(o, "object_size_bytes", sb->object_size);
    store_cmd_put(o, "blocks", sb->blocks);
    store_cmd_put(o, "log_first_block", sb->ring_first);
    store_cmd_put(o, "log_blocks", sb->ring_blocks);
    json_object_set_new(o, "nonce", store_cmd_hex64(sb->nonce));
    return o;
}

/* ---- check: as JSON ---- */

static json_t *report_log(const struct inspect_report *rep)
{
    json_t *o = json_object();

    store_cmd_put(o, "blocks", rep->super.ring_blocks);
    store_cmd_put(o, "places_valid", rep->places_valid);
    store_cmd_put(o, "places_empty", rep->places_empty);
    store_cmd_put(o, "places_other", rep->places_other);
    store_cmd_put(o, "end", rep->end);
    store_cmd_put(o, "durable", rep->durable);
    store_cmd_put(o, "highest", rep->highest);
    if (!rep->has_state)
        return o;
    store_cmd_put(o, "tail", rep->tail);
    store_cmd_put(o, "mark", rep->mark);
    store_cmd_put(o, "used_blocks", rep->status.ring_used_blocks);
    store_cmd_put(o, "live_bytes", rep->status.log_bytes - rep->status.log_free_bytes);
    store_cmd_put(o, "live_bytes_max", rep->status.log_bytes);
    store_cmd_put(o, "scrub_at_block", rep->scrub_at);
    store_cmd_put(o, "scrub_since", rep->scrub_since);
    return o;
}

static json_t *report_records(const struct inspect_report *rep)
{
    json_t *o = json_object();

    store_cmd_put(o, "full", rep->records_full);
    store_cmd_put(o, "delta", rep->records_delta);
    store_cmd_put(o, "delta_of_two_phases", rep->records_steps);
    store_cmd_put(o, "purge", rep->records_purge);
    store_cmd_put(o, "last", rep->record_last);
    store_cmd_put(o, "beyond_mark", rep->records_beyond_mark);
    store_cmd_put(o, "to_be_dropped", rep->records_dropped);
    store_cmd_put(o, "dropped_before", rep->records_named);
    return o;
}

static json_t *report_images(const struct inspect_report *rep)
{
    json_t *list = json_array();

    for (uint64_t i = 0; i < rep->images_count; i++) {
        const struct inspect_image *image = &rep->images[i];
        json_t *o = json_object();
        store_cmd_put(o, "image", image->id);
        store_cmd_put(o, "objects", image->objects);
        store_cmd_put(o, "tombstones", image->tombstones);
        store_cmd_put(o, "prepared", image->prepared);
        store_cmd_put(o, "blocks", image->blocks);
        store_cmd_put(o, "bytes", image->blocks * STORE_BLOCK);
        json_array_append_new(list, o);
    }
    return list;
}

static const char *verdict_name(const struct inspect_report *rep)
{
    return rep->verdict == INSPECT_SOUND   ? "sound"
           : rep->verdict == INSPECT_DROPS ? "sound_drops_unanswered"
           : rep->verdict == INSPECT_LOSES ? "loses_answered"
                                           : "damaged";
}

static json_t *report_json(const struct store_cmd *sc)
{
    const struct inspect_report *rep = &sc->report;
    json_t *o = json_pack("{s:s, s:s}", "path", sc->path, "verdict", verdict_name(rep));
    json_t *supers = json_array(), *counts = json_object();

    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        json_array_append_new(supers, store_cmd_super(&rep->supers[i], i));
    store_cmd_put(o, "size_bytes", rep->device_blocks * STORE_BLOCK);
    json_object_set_new(o, "superblocks", supers);
    json_object_set_new(o, "log", report_log(rep));
    if (rep->has_state) {
        json_object_set_new(o, "records", report_records(rep));
        store_cmd_put(o, "objects", rep->status.objects);
        store_cmd_put(o, "tombstones", rep->status.tombstones);
        store_cmd_put(o, "prepared", rep->prepared);
        store_cmd_put(o, "dedups", rep->status.dedups);
        store_cmd_put(o, "used_bytes", rep->status.used_bytes);
        store_cmd_put(o, "data_bytes", rep->status.data_bytes);
        store_cmd_put(o, "index_bytes", rep->status.index_bytes);
        json_object_set_new(o, "images", report_images(rep));
    }
    for (int code = 0; code < INSPECT_CODES_COUNT; code++)
        if (rep->counts[code] > 0)
            store_cmd_put(counts, inspect_code_name((enum inspect_code)code), rep->counts[code]);
    json_object_set_new(o, "findings_count", counts);
    json_object_set(o, "findings", sc->findings);
    return o;
}

/* ---- check: for people ---- */

static void print_head(const struct store_cmd *sc)
{
    const struct inspect_report *rep = &sc->report;
    const struct superblock *sb = &rep->super;
    char cluster[37], uuid[37], size[32], object[32];
    uint32_t whole = 0;

    for (uint32_t i = 0; i < SUPER_COPIES; i++)
        whole += rep->supers[i].is_whole;
    setup_format_uuid(sb->cluster, cluster);
    setup_format_uuid(sb->uuid, uuid);
    size_to_str(sb->blocks * STORE_BLOCK, size, sizeof(size));
    size_to_str(sb->object_size, object, sizeof(object));
    printf("store        osd.%u of cluster %s, uuid %s\n", sb->osd, cluster, uuid);
    printf("size         %s: %" PRIu64 " blocks, for objects of %s\n", size, sb->blocks, object);
    printf("superblocks  %u of %d whole; started %u %s\n", whole, SUPER_COPIES, sb->boot,
           sb->boot == 1 ? "time" : "times");
}

static void print_log(const struct inspect_report *rep)
{
    uint64_t ring = rep->super.ring_blocks;
    char live[32], most[32];

    printf("log          %" PRIu64 " blocks: %" PRIu64 " valid, %" PRIu64 " never written, %" PRIu64
           " other\n",
           ring, rep->places_valid, rep->places_empty, rep->places_other);
    if (!rep->has_state)
        return;
    size_to_str(rep->status.log_bytes - rep->status.log_free_bytes, live, sizeof(live));
    size_to_str(rep->status.log_bytes, most, sizeof(most));
    printf("             from block %" PRIu64 " (tail) to %" PRIu64 " (end), %" PRIu64
           " %% in use; durable up to %" PRIu64 " by its own word\n",
           rep->tail, rep->end, rep->status.ring_used_blocks * 100 / ring, rep->durable);
    printf("             records of what is: %s of %s at most\n", live, most);
    printf("records      %" PRIu64 " full, %" PRIu64 " changes (%" PRIu64
           " of them prepare, commit or roll back), %" PRIu64 " purges; the last is %" PRIu64 "\n",
           rep->records_full, rep->records_delta, rep->records_steps, rep->records_purge,
           rep->record_last);
    printf("             data of records up to %" PRIu64 " (mark) is durable; %" PRIu64
           " beyond it, of which a start drops %" PRIu64 "; earlier starts dropped %" PRIu64 "\n",
           rep->mark, rep->records_beyond_mark, rep->records_dropped, rep->records_named);
}

static void print_scrub(const struct inspect_report *rep)
{
    char when[32] = "";
    time_t since = (time_t)rep->scrub_since;
    struct tm tm;

    if (rep->scrub_since == 0 || gmtime_r(&since, &tm) == NULL)
        return;
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
    printf("scrub        at block %" PRIu64 " of a round that began %s UTC\n", rep->scrub_at, when);
}

static void print_state(const struct inspect_report *rep)
{
    char used[32], room[32];

    size_to_str(rep->status.used_bytes, used, sizeof(used));
    size_to_str(rep->status.data_bytes, room, sizeof(room));
    printf("objects      %" PRIu64 ", %" PRIu64 " tombstones, %" PRIu64
           " prepared versions, %" PRIu64 " records of requests\n",
           rep->status.objects, rep->status.tombstones, rep->prepared, rep->status.dedups);
    printf("space        %s of %s in use\n", used, room);
    print_scrub(rep);
    if (rep->verdict == INSPECT_DAMAGED)
        printf("             (as far as the log can be read: not what was last)\n");
    if (rep->images_count > 0)
        printf("\n%20s  %10s  %10s  %10s  %12s\n", "IMAGE ID", "OBJECTS", "TOMBSTONES", "PREPARED",
               "BLOCKS");
    for (uint64_t i = 0; i < rep->images_count; i++) {
        const struct inspect_image *image = &rep->images[i];
        printf("%20" PRIu64 "  %10" PRIu64 "  %10" PRIu64 "  %10" PRIu64 "  %12" PRIu64 "\n",
               image->id, image->objects, image->tombstones, image->prepared, image->blocks);
    }
}

static void print_findings(const struct store_cmd *sc)
{
    size_t index;
    json_t *f;

    json_array_foreach(sc->findings, index, f)
    {
        const json_t *block = json_object_get(f, "block");
        printf("\n%s %s", json_string_value(json_object_get(f, "severity")),
               json_string_value(json_object_get(f, "code")));
        if (json_is_integer(block))
            printf(", at block %" JSON_INTEGER_FORMAT " of the device, byte %" JSON_INTEGER_FORMAT,
                   json_integer_value(block), json_integer_value(block) * STORE_BLOCK);
        printf("\n  %s.\n", json_string_value(json_object_get(f, "message")));
    }
    for (int code = 0; code < INSPECT_CODES_COUNT; code++)
        if (sc->report.counts[code] > INSPECT_TOLD_MAX)
            printf("\n%s: %" PRIu64 " in all\n", inspect_code_name((enum inspect_code)code),
                   sc->report.counts[code]);
}

static void print_report(const struct store_cmd *sc)
{
    print_head(sc);
    print_log(&sc->report);
    if (sc->report.has_state)
        print_state(&sc->report);
    print_findings(sc);
}

static void print_verdict(const struct store_cmd *sc, uint64_t bad)
{
    const struct inspect_report *rep = &sc->report;

    if (rep->verdict == INSPECT_DAMAGED)
        printf("\ndamaged: no node serves this disk as it is. Its cluster has the data on other "
               "disks: add another one, or make this one new and empty (skerry store format "
               "--force, then skerry disk add --yes)\n");
    else if (rep->verdict == INSPECT_LOSES)
        printf("\ndamaged: a node serves this disk, but drops %" PRIu64
               " records, some of which were answered: see that the cluster is whole without it "
               "before it is started\n",
               rep->records_dropped);
    else if (bad > 0)
        printf("\ndamaged: %" PRIu64 " blocks of data cannot be read. A node serves this disk, and "
               "takes these blocks from other copies\n",
               bad);
    else if (rep->verdict == INSPECT_DROPS)
        printf("\nsound: a start drops %" PRIu64 " records, none of which was ever answered\n",
               rep->records_dropped);
    else
        printf("\nsound, as far as the disk itself can tell: a start finds everything that its log "
               "vouches for\n");
}

int cli_store_check(struct cli *c, struct problem *p)
{
    struct store_cmd sc;
    int result = store_cmd_open(&sc, c, p);

    if (result == 0) {
        json_t *o = report_json(&sc);
        if (!cli_print_json(c, o)) {
            print_report(&sc);
            print_verdict(&sc, 0);
        }
        json_decref(o);
        c->exit_code = sc.report.verdict >= INSPECT_LOSES;
    }
    store_cmd_close(&sc);
    return result;
}

/* ---- verify ---- */

struct store_verify {
    struct inspect_verify v;
    struct store_cmd sc;
    json_t *bad; /* the first STORE_BAD_MAX */
    bool is_tty;
    uint64_t began, told; /* ns */
};

static void verify_on_bad(struct inspect_verify *v, const struct inspect_bad *b)
{
    struct store_verify *sv = container_of(v, struct store_verify, v);

    if (!sv->sc.c->json) {
        printf("bad: block %u of object %" PRIu64 "/%" PRIu64 "%s, at block %" PRIu64
               " of the device, byte %" PRIu64 ": ",
               b->block, b->id.image, b->id.object, b->prepared ? " (its prepared version)" : "",
               b->slot, b->slot * STORE_BLOCK);
        if (b->error == -EBADMSG)
            printf("checksum %08x expected, %08x found\n", b->expected, b->found);
        else
            printf("%s\n", strerror(-b->error));
        return;
    }
    if (json_array_size(sv->bad) >= STORE_BAD_MAX)
        return;
    json_t *o =
        json_pack("{s:s, s:b}", "error", b->error == -EBADMSG ? "checksum" : strerror(-b->error),
                  "prepared", b->prepared);
    store_cmd_put(o, "image", b->id.image);
    store_cmd_put(o, "object", b->id.object);
    store_cmd_put(o, "object_block", b->block);
    store_cmd_put(o, "block", b->slot);
    store_cmd_put(o, "byte", b->slot * STORE_BLOCK);
    json_object_set_new(o, "expected", store_cmd_hex32(b->expected));
    if (b->error == -EBADMSG)
        json_object_set_new(o, "found", store_cmd_hex32(b->found));
    json_array_append_new(sv->bad, o);
}

static void verify_on_progress(struct inspect_verify *v)
{
    struct store_verify *sv = container_of(v, struct store_verify, v);
    uint64_t now = loop_now(sv->sc.loop), ms = (now - sv->began) / NS_PER_MS + 1;
    char rate[32];

    if (!sv->is_tty || now - sv->told < NS_PER_S)
        return;
    sv->told = now;
    size_to_str(v->blocks_done * STORE_BLOCK * 1000 / ms, rate, sizeof(rate));
    fprintf(stderr, "\r%3u %% of %" PRIu64 " blocks, %s/s, %" PRIu64 " bad   ",
            (unsigned)(v->blocks_total == 0 ? 100 : v->blocks_done * 100 / v->blocks_total),
            v->blocks_total, rate, v->blocks_bad);
}

static void verify_on_done(struct inspect_verify *v)
{
    struct store_verify *sv = container_of(v, struct store_verify, v);

    if (sv->told > sv->began)
        fprintf(stderr, "\n");
    loop_stop(sv->sc.loop);
}

static void verify_data(struct store_verify *sv)
{
    if (!sv->sc.report.has_state)
        return;
    sv->v.in = sv->sc.in;
    sv->v.bad = verify_on_bad;
    sv->v.progress = verify_on_progress;
    sv->v.done = verify_on_done;
    sv->is_tty = isatty(STDERR_FILENO) == 1;
    sv->began = sv->told = loop_now(sv->sc.loop);
    inspect_verify_start(&sv->v);
    loop_run(sv->sc.loop);
}

static void verify_say(struct store_verify *sv)
{
    uint64_t ms = (loop_now(sv->sc.loop) - sv->began) / NS_PER_MS + 1;
    char read[32], rate[32];

    size_to_str(sv->v.blocks_done * STORE_BLOCK, read, sizeof(read));
    size_to_str(sv->v.blocks_done * STORE_BLOCK * 1000 / ms, rate, sizeof(rate));
    if (sv->sc.report.has_state)
        printf("\nread         %" PRIu64 " blocks of data (%s), %s/s: %" PRIu64 " bad\n",
               sv->v.blocks_done, read, rate, sv->v.blocks_bad);
    else
        printf("\nread         no data: where it lies is not known\n");
    print_verdict(&sv->sc, sv->v.blocks_bad);
}

int cli_store_verify(struct cli *c, struct problem *p)
{
    struct store_verify sv = {.bad = json_array()};
    int result = store_cmd_open(&sv.sc, c, p);

    if (result == 0) {
        if (!c->json)
            print_report(&sv.sc);
        fflush(stdout);
        verify_data(&sv);
        json_t *o = report_json(&sv.sc);
        store_cmd_put(o, "blocks_read", sv.v.blocks_done);
        store_cmd_put(o, "blocks_bad", sv.v.blocks_bad);
        json_object_set(o, "bad", sv.bad);
        if (sv.v.blocks_bad > 0 && sv.sc.report.verdict <= INSPECT_DROPS)
            json_object_set_new(o, "verdict", json_string("bad_data"));
        if (!cli_print_json(c, o))
            verify_say(&sv);
        json_decref(o);
        c->exit_code = sv.sc.report.verdict >= INSPECT_LOSES || sv.v.blocks_bad > 0;
    }
    json_decref(sv.bad);
    store_cmd_close(&sv.sc);
    return result;
}

/* ---- format ---- */

static bool parse_uuid(const char *text, uint8_t uuid[16])
{
    char hex[33];
    size_t n = 0;

    for (; *text != '\0' && n < 32; text++)
        if (*text != '-')
            hex[n++] = *text;
    hex[n] = '\0';
    return n == 32 && *text == '\0' && hex_decode(hex, uuid, 16);
}

static int format_refuse(const char *path, const char *why, struct problem *p)
{
    problem_set(p, PROBLEM_SAFETY, "disk_in_use", "%.200s is not empty", path);
    problem_why(p, "%s", why);
    problem_action(p, "choose another, or say --force if that data may go");
    return -1;
}

/* What is there already? *size: of it. */
static int format_look(struct loop *loop, const char *path, bool force, uint64_t *size,
                       struct problem *p)
{
    struct store_format found;
    struct stat st;
    bool blank = true;

    *size = 0;
    if (stat(path, &st) < 0 && errno == ENOENT)
        return 0;
    struct loop_file *file;
    int result = loop_file_open(loop, path, LOOP_FILE_LOCK, &file);
    if (result < 0)
        return store_no_open(path, result,
                             result == -EWOULDBLOCK || result == -EBUSY
                                 ? "is in use"
                                 : "is neither a file nor a block device that can be read",
                             p);
    *size = loop_file_size(file);
    loop_file_close(file);
    if (force || *size == 0)
        return 0;
    result = store_probe(loop, path, &found);
    if (result == 0 || result == -ENOTSUP)
        return format_refuse(path, "it holds a Skerry store already", p);
    result = setup_is_blank(path, &blank);
    if (result < 0)
        return store_no_open(path, result, "cannot be read", p);
    return blank ? 0 : format_refuse(path, "it begins with data, and would be overwritten", p);
}

static int format_numbers(struct cli *c, struct store_format *f, struct problem *p)
{
    const char *size = cli_value(c, "--size"), *osd = cli_value(c, "--osd");
    const char *object = cli_value(c, "--object-size"), *log = cli_value(c, "--log-blocks");
    uint64_t number = 0;

    if (size != NULL && cli_parse_size(size, "--size", &f->size, p) < 0)
        return -1;
    if (osd == NULL)
        return problem_set(p, PROBLEM_USAGE, "usage", "--osd N is missing: whose disk is it?");
    if (cli_parse_count(osd, "--osd", 1, UINT32_MAX, &number, p) < 0)
        return -1;
    f->osd = (uint32_t)number;
    number = 128 << 10;
    if (object != NULL && cli_parse_size(object, "--object-size", &number, p) < 0)
        return -1;
    if (number % STORE_BLOCK != 0 || number > STORE_OBJECT_MAX)
        return problem_set(p, PROBLEM_USAGE, "invalid_size",
                           "--object-size must be a multiple of 4K, up to 1M");
    f->object_size = (uint32_t)number;
    if (log != NULL && cli_parse_count(log, "--log-blocks", RING_BLOCKS_MIN, STORE_SLOTS_MAX / 4,
                                       &f->ring_blocks, p) < 0)
        return -1;
    return 0;
}

static int format_ids(struct cli *c, struct store_format *f, struct problem *p)
{
    const char *cluster = cli_value(c, "--cluster");

    if (getrandom(f->cluster, 16, 0) != 16 || getrandom(f->uuid, 16, 0) != 16)
        return problem_set(p, PROBLEM_FAILED, "no_randomness",
                           "the system gives no random numbers: %s", strerror(errno));
    if (cluster != NULL && !parse_uuid(cluster, f->cluster))
        return problem_set(p, PROBLEM_USAGE, "usage", "--cluster: \"%.100s\" is not a UUID",
                           cluster);
    return 0;
}

static int format_fit(const char *path, uint64_t there, struct store_format *f, struct problem *p)
{
    struct stat st;
    bool is_device = stat(path, &st) == 0 && S_ISBLK(st.st_mode);

    if (f->size == 0)
        f->size = there;
    if (f->size == 0)
        return problem_set(p, PROBLEM_USAGE, "size_missing",
                           "%.200s does not exist: say --size SIZE to make a file", path);
    if (f->size < there || (is_device && f->size > there))
        return problem_set(p, PROBLEM_USAGE, "invalid_size",
                           is_device
                               ? "%.200s is used whole: it has %llu bytes"
                               : "%.200s has %llu bytes, which is more than --size: remove it "
                                 "first, or leave --size out",
                           path, (unsigned long long)there);
    if (f->size < STORE_SIZE_MIN)
        return problem_set(p, PROBLEM_USAGE, "invalid_size", "a store must have at least 64 MiB");
    if (f->ring_blocks > f->size / STORE_BLOCK / 4)
        return problem_set(p, PROBLEM_USAGE, "usage",
                           "--log-blocks may be a quarter of the blocks, %llu",
                           (unsigned long long)(f->size / STORE_BLOCK / 4));
    return 0;
}

static int format_failed(const char *path, int result, struct problem *p)
{
    problem_set(p, result == -EWOULDBLOCK || result == -EBUSY ? PROBLEM_USAGE : PROBLEM_FAILED,
                "format_failed", "cannot format %.200s", path);
    problem_why(p, "%s",
                result == -EWOULDBLOCK || result == -EBUSY ? "it is in use" : strerror(-result));
    return -1;
}

static int format_say(struct cli *c, const struct store_format *f)
{
    char cluster[37], uuid[37], size[32];
    json_t *o = json_object();

    setup_format_uuid(f->cluster, cluster);
    setup_format_uuid(f->uuid, uuid);
    json_object_set_new(o, "path", json_string(c->args[0]));
    json_object_set_new(o, "cluster", json_string(cluster));
    json_object_set_new(o, "uuid", json_string(uuid));
    store_cmd_put(o, "osd", f->osd);
    store_cmd_put(o, "size_bytes", f->size);
    store_cmd_put(o, "object_size_bytes", f->object_size);
    size_to_str(f->size, size, sizeof(size));
    if (!cli_print_json(c, o))
        printf("%s is an empty store of %s: osd.%u of cluster %s, uuid %s\n", c->args[0], size,
               f->osd, cluster, uuid);
    json_decref(o);
    return 0;
}

int cli_store_format(struct cli *c, struct problem *p)
{
    struct store_format f = {0};
    bool force = cli_value(c, "--force") != NULL;
    uint64_t there;
    struct loop *loop;

    if (format_numbers(c, &f, p) < 0 || format_ids(c, &f, p) < 0)
        return -1;
    int result = loop_create(&loop, LOOP_AUTO, STORE_ENTRIES);
    if (result < 0)
        return setup_no_loop(LOOP_AUTO, result, p);
    result = format_look(loop, c->args[0], force, &there, p);
    if (result == 0)
        result = format_fit(c->args[0], there, &f, p);
    if (result == 0) {
        bool made = access(c->args[0], F_OK) < 0;
        result = store_format(loop, c->args[0], &f, force);
        if (result < 0 && made)
            unlink(c->args[0]);
        result = result < 0 ? format_failed(c->args[0], result, p) : format_say(c, &f);
    }
    loop_destroy(loop);
    return result;
}

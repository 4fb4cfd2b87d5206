/*
 * store dump: superblocks, the log, one object with its history, all objects. With -o json one
 * object a line, each with its "type".
 */

#include "cli/store_cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cli/setup.h"

enum { DUMP_CRCS_A_LINE = 8 };

struct dump {
    struct store_cmd sc;
    bool has_object; /* only records of this one */
    struct store_id id;
    bool runs; /* of objects */
};

static void dump_line(json_t *o)
{
    json_dumpf(o, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(o);
}

/* ---- Superblocks ---- */

static void dump_super(const struct dump *d, uint32_t i)
{
    const struct inspect_super *copy = &d->sc.report.supers[i];
    const struct superblock *sb = &copy->super;
    json_t *o = store_cmd_super(copy, i);

    if (d->sc.c->json) {
        json_object_set_new(o, "type", json_string("superblock"));
        dump_line(o);
        return;
    }
    json_decref(o);
    printf("superblock %u at block %" PRIu64 ", byte %" PRIu64 ":", i + 1, copy->place,
           copy->place * STORE_BLOCK);
    if (!copy->is_whole) {
        printf(" not whole\n");
        return;
    }
    char cluster[37], uuid[37];
    setup_format_uuid(sb->cluster, cluster);
    setup_format_uuid(sb->uuid, uuid);
    printf(" boot %u, osd.%u\n  cluster %s  uuid %s\n  blocks %" PRIu64
           "  object size %u  log %" PRIu64 " blocks from %" PRIu64 "  nonce %016" PRIx64 "\n",
           sb->boot, sb->osd, cluster, uuid, sb->blocks, sb->object_size, sb->ring_blocks,
           sb->ring_first, sb->nonce);
}

/* ---- The log ---- */

/* Where a block stands to the log as a start reads it. */
static const char *dump_standing(const struct dump *d, uint64_t seq)
{
    const struct inspect_report *rep = &d->sc.report;

    if (!rep->has_state)
        return "unknown";
    return seq < rep->tail ? "before_tail" : seq > rep->end ? "beyond_end" : "needed";
}

static void dump_block_json(const struct dump *d, const struct inspect_block *b)
{
    const struct block_head *h = &b->head;
    json_t *o = json_pack("{s:s}", "type", "block");

    store_cmd_put(o, "seq", b->seq);
    store_cmd_put(o, "block", b->place);
    store_cmd_put(o, "byte", b->place * STORE_BLOCK);
    json_object_set_new(o, "state", json_string(inspect_place_name(b->state)));
    json_object_set_new(o, "standing", json_string(dump_standing(d, b->seq)));
    if (b->state == INSPECT_PLACE_VALID) {
        store_cmd_put(o, "seq_found", h->seq);
        store_cmd_put(o, "boot", h->boot);
        store_cmd_put(o, "mark", h->mark);
        store_cmd_put(o, "tail", h->tail);
        store_cmd_put(o, "durable", h->durable);
        store_cmd_put(o, "record", h->record);
        store_cmd_put(o, "scrub_at", h->scrub_at);
        store_cmd_put(o, "scrub_since", h->scrub_since);
        store_cmd_put(o, "used", h->used);
        json_object_set_new(o, "crc", store_cmd_hex32(h->crc));
        json_object_set_new(o, "prev_crc", store_cmd_hex32(h->prev_crc));
    }
    dump_line(o);
}

static void dump_on_block(void *arg, const struct inspect_block *b)
{
    const struct dump *d = arg;
    const struct block_head *h = &b->head;

    if (d->sc.c->json) {
        dump_block_json(d, b);
        return;
    }
    printf("block %" PRIu64 " at block %" PRIu64 " of the device, byte %" PRIu64 ": %s, %s\n",
           b->seq, b->place, b->place * STORE_BLOCK, inspect_place_name(b->state),
           dump_standing(d, b->seq));
    if (b->state != INSPECT_PLACE_VALID)
        return;
    if (h->seq != b->seq)
        printf("  it is block %" PRIu64 ", of an earlier lap\n", h->seq);
    printf("  boot %u  mark %" PRIu64 "  tail %" PRIu64 "  durable %" PRIu64 "  record %" PRIu64
           "  used %u  crc %08x  prev %08x  scrub %" PRIu64 "/%u\n",
           h->boot, h->mark, h->tail, h->durable, h->record, h->used, h->crc, h->prev_crc,
           h->scrub_at, h->scrub_since);
}

static const char *kind_name(const struct record_head *h)
{
    switch (h->kind) {
    case RECORD_FULL:
        return "full";
    case RECORD_DELTA:
        return (h->flags & RECORD_PREPARE) != 0    ? "prepare"
               : (h->flags & RECORD_COMMIT) != 0   ? "commit"
               : (h->flags & RECORD_ROLLBACK) != 0 ? "rollback"
                                                   : "delta";
    case RECORD_PURGE:
        return "purge";
    case RECORD_DROPS:
        break;
    }
    return "drops";
}

static json_t *record_runs_json(const struct inspect_record *r)
{
    json_t *list = json_array();
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->head.runs_count; i++) {
        struct record_run run;
        record_run_get(r->bytes, i, &run);
        json_t *o = json_pack("{s:i, s:i, s:b, s:b}", "first", (int)run.first, "count",
                              (int)run.count, "settled", run.settled, "prepared", run.prepared);
        json_t *crcs = json_array();
        if (run.slot != 0)
            store_cmd_put(o, "slot", run.slot);
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++)
            json_array_append_new(crcs, store_cmd_hex32(record_crc_get(r->bytes, &r->head, n++)));
        json_object_set_new(o, "crcs", crcs);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *record_dedups_json(const struct inspect_record *r)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < r->head.dedups_count; i++) {
        if (r->head.kind == RECORD_DROPS) {
            json_array_append_new(list, store_cmd_u64(drops_get(r->bytes, i)));
            continue;
        }
        struct store_dedup dedup;
        json_t *o = json_object();
        record_dedup_get(r->bytes, &r->head, i, &dedup);
        store_cmd_put(o, "client", dedup.client);
        store_cmd_put(o, "seq", dedup.seq);
        store_cmd_put(o, "version", dedup.version);
        json_array_append_new(list, o);
    }
    return list;
}

static void dump_record_json(const struct inspect_record *r)
{
    const struct record_head *h = &r->head;
    json_t *o = json_pack("{s:s, s:b, s:b, s:b}", "type", "record", "bad", r->is_bad, "beyond_mark",
                          r->is_beyond_mark, "dropped", r->is_dropped);

    store_cmd_put(o, "seq", r->seq);
    store_cmd_put(o, "first_block", r->block_first);
    store_cmd_put(o, "last_block", r->block_last);
    store_cmd_put(o, "length", r->len);
    if (!r->is_bad)
        json_object_set_new(o, "kind", json_string(kind_name(h)));
    if (!r->is_bad && h->kind == RECORD_DROPS)
        json_object_set_new(o, "drops", record_dedups_json(r));
    if (!r->is_bad && h->kind != RECORD_DROPS) {
        store_cmd_put(o, "image", h->id.image);
        store_cmd_put(o, "object", h->id.object);
        store_cmd_put(o, "pg", h->pg);
        store_cmd_put(o, "version", h->version);
        json_object_set_new(o, "deleted", json_boolean((h->flags & RECORD_DELETED) != 0));
        json_object_set_new(o, "clear", json_boolean((h->flags & RECORD_CLEAR) != 0));
        json_object_set_new(o, "keep", json_boolean((h->flags & RECORD_KEEP) != 0));
        json_object_set_new(o, "runs", record_runs_json(r));
        json_object_set_new(o, "dedups", record_dedups_json(r));
    }
    if (!r->is_bad && h->kind == RECORD_FULL && (h->flags & RECORD_BOTH) != 0) {
        struct record_prepared both;
        record_prepared_get(r->bytes, h, &both);
        json_t *prepared = json_pack("{s:b, s:b}", "clear", both.clear, "deleted", both.deleted);
        store_cmd_put(prepared, "version", both.version);
        json_object_set_new(o, "prepared", prepared);
    }
    dump_line(o);
}

static void dump_crc(uint32_t n, uint32_t crc)
{
    printf("%s%08x", n % DUMP_CRCS_A_LINE == 0 ? "\n      crcs " : " ", crc);
}

static void dump_record_runs(const struct inspect_record *r)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->head.runs_count; i++) {
        struct record_run run;
        record_run_get(r->bytes, i, &run);
        printf("    blocks %u..%u", run.first, run.first + run.count - 1);
        if (run.slot == 0)
            printf(" holes");
        else
            printf(" in slots %" PRIu64 "..%" PRIu64, run.slot, run.slot + run.count - 1);
        printf("%s%s", run.settled ? ", settled" : "", run.prepared ? ", prepared" : "");
        for (uint32_t k = 0; run.slot != 0 && k < run.count; k++)
            dump_crc(k, record_crc_get(r->bytes, &r->head, n++));
        putchar('\n');
    }
}

static void dump_record_rest(const struct inspect_record *r)
{
    const struct record_head *h = &r->head;

    dump_record_runs(r);
    for (uint32_t i = 0; i < h->dedups_count; i++) {
        struct store_dedup dedup;
        record_dedup_get(r->bytes, h, i, &dedup);
        printf("    request %" PRIu64 " of client %" PRIu64 " was version %" PRIu64 "\n", dedup.seq,
               dedup.client, dedup.version);
    }
    if (h->kind == RECORD_FULL && (h->flags & RECORD_BOTH) != 0) {
        struct record_prepared both;
        record_prepared_get(r->bytes, h, &both);
        printf("    prepared version %" PRIu64 "%s%s\n", both.version, both.clear ? ", clear" : "",
               both.deleted ? ", deleted" : "");
    }
}

static void dump_on_record(void *arg, const struct inspect_record *r)
{
    const struct dump *d = arg;
    const struct record_head *h = &r->head;
    bool is_object = !r->is_bad && h->kind != RECORD_DROPS;

    if (d->has_object && (!is_object || h->id.image != d->id.image || h->id.object != d->id.object))
        return;
    if (d->sc.c->json) {
        dump_record_json(r);
        return;
    }
    printf("  record %" PRIu64 ", %s, in blocks %" PRIu64 "..%" PRIu64, r->seq,
           r->is_bad ? "which makes no sense" : kind_name(h), r->block_first, r->block_last);
    if (is_object)
        printf(": object %" PRIu64 "/%" PRIu64 " pg %" PRIu64 " version %" PRIu64 "%s%s%s",
               h->id.image, h->id.object, h->pg, h->version,
               (h->flags & RECORD_DELETED) != 0 ? ", deleted" : "",
               (h->flags & RECORD_CLEAR) != 0 ? ", clear" : "",
               (h->flags & RECORD_KEEP) != 0 ? ", version kept" : "");
    for (uint32_t i = 0; !r->is_bad && h->kind == RECORD_DROPS && i < h->dedups_count; i++)
        printf("%s%" PRIu64, i == 0 ? ": " : " ", drops_get(r->bytes, i));
    if (d->has_object)
        printf(" [%s]", dump_standing(d, r->block_last));
    printf("%s%s\n", r->is_beyond_mark ? " [beyond the mark]" : "",
           r->is_dropped ? " [dropped]" : "");
    if (is_object)
        dump_record_rest(r);
}

static int dump_ring(struct dump *d, struct problem *p)
{
    struct cli *c = d->sc.c;
    struct inspect_walk walk = {.block = dump_on_block, .record = dump_on_record, .arg = d};
    const char *from = cli_value(c, "--from"), *count = cli_value(c, "--count");

    if ((from != NULL && cli_parse_count(from, "--from", 1, INT64_MAX, &walk.from, p) < 0) ||
        (count != NULL && cli_parse_count(count, "--count", 1, INT64_MAX, &walk.count, p) < 0))
        return -1;
    inspect_walk(d->sc.in, &walk);
    return 0;
}

/* ---- Objects ---- */

static uint32_t layout_run(const struct layout *l, uint32_t first)
{
    uint32_t count = 1;

    while (first + count < l->count && l->slots[first + count] == l->slots[first] + count)
        count++;
    return count;
}

static json_t *layout_json(const struct layout *l)
{
    json_t *list = json_array();

    for (uint32_t b = 0, count; b < l->count; b += count) {
        count = 1;
        if (l->slots[b] == 0)
            continue;
        count = layout_run(l, b);
        json_t *o = json_pack("{s:i, s:i}", "first", (int)b, "count", (int)count);
        json_t *crcs = json_array();
        store_cmd_put(o, "slot", l->slots[b]);
        for (uint32_t k = 0; k < count; k++)
            json_array_append_new(crcs, store_cmd_hex32(l->crcs[b + k]));
        json_object_set_new(o, "crcs", crcs);
        json_array_append_new(list, o);
    }
    return list;
}

static void layout_print(const struct layout *l)
{
    for (uint32_t b = 0, count; b < l->count; b += count) {
        count = 1;
        if (l->slots[b] == 0)
            continue;
        count = layout_run(l, b);
        printf("    blocks %u..%u in slots %" PRIu64 "..%" PRIu64 ", byte %" PRIu64, b,
               b + count - 1, l->slots[b], l->slots[b] + count - 1, l->slots[b] * STORE_BLOCK);
        for (uint32_t k = 0; k < count; k++)
            dump_crc(k, l->crcs[b + k]);
        putchar('\n');
    }
}

static void dump_object_json(const struct dump *d, const struct inspect_object *o)
{
    json_t *line = json_pack("{s:s, s:b}", "type", "object", "deleted", o->deleted);

    store_cmd_put(line, "image", o->id.image);
    store_cmd_put(line, "object", o->id.object);
    store_cmd_put(line, "pg", o->pg);
    store_cmd_put(line, "version", o->version);
    store_cmd_put(line, "blocks", o->blocks);
    store_cmd_put(line, "dedups", o->dedups);
    store_cmd_put(line, "full_record_block", o->full_block);
    if (d->runs)
        json_object_set_new(line, "runs", layout_json(o->now));
    if (o->prepared != 0) {
        json_t *prepared =
            json_pack("{s:b, s:b}", "clear", o->prepared_clear, "deleted", o->prepared_deleted);
        store_cmd_put(prepared, "version", o->prepared);
        store_cmd_put(prepared, "blocks", o->prepared_blocks);
        if (d->runs)
            json_object_set_new(prepared, "runs", layout_json(o->changes));
        json_object_set_new(line, "prepared", prepared);
    }
    dump_line(line);
}

static void dump_on_object(void *arg, const struct inspect_object *o)
{
    const struct dump *d = arg;

    if (d->sc.c->json) {
        dump_object_json(d, o);
        return;
    }
    printf("object %" PRIu64 "/%" PRIu64 "  pg %" PRIu64 "  version %" PRIu64
           "%s  blocks %u  requests "
           "%u  full record in block %" PRIu64 "\n",
           o->id.image, o->id.object, o->pg, o->version, o->deleted ? "  deleted" : "", o->blocks,
           o->dedups, o->full_block);
    if (d->runs)
        layout_print(o->now);
    if (o->prepared == 0)
        return;
    printf("  prepared version %" PRIu64 "%s%s  blocks %u\n", o->prepared,
           o->prepared_clear ? ", clear" : "", o->prepared_deleted ? ", deleted" : "",
           o->prepared_blocks);
    if (d->runs)
        layout_print(o->changes);
}

static int parse_id(const char *text, struct store_id *id, struct problem *p)
{
    char image[24];
    const char *slash = strchr(text, '/');

    if (slash != NULL && (size_t)(slash - text) < sizeof(image)) {
        memcpy(image, text, (size_t)(slash - text));
        image[slash - text] = '\0';
        if (str_to_u64(image, &id->image) && str_to_u64(slash + 1, &id->object))
            return 0;
    }
    return problem_set(p, PROBLEM_USAGE, "usage",
                       "--object takes IMAGE/OBJECT, two numbers, not \"%.100s\"", text);
}

static int dump_object(struct dump *d, const char *text, struct problem *p)
{
    struct inspect_walk walk = {.from = 1, .record = dump_on_record, .arg = d};

    if (parse_id(text, &d->id, p) < 0)
        return -1;
    d->has_object = true;
    d->runs = true;
    if (!inspect_object(d->sc.in, &d->id, dump_on_object, d) && !d->sc.c->json)
        printf("object %" PRIu64 "/%" PRIu64 " is not there\n", d->id.image, d->id.object);
    if (!d->sc.c->json)
        printf("its records in the log, as far back as it goes:\n");
    inspect_walk(d->sc.in, &walk);
    d->has_object = false;
    d->runs = false;
    return 0;
}

/* ---- The command ---- */

static int dump_all(struct dump *d, struct problem *p)
{
    struct cli *c = d->sc.c;
    const char *object = cli_value(c, "--object");
    bool supers = cli_value(c, "--superblock") != NULL, objects = cli_value(c, "--objects") != NULL;
    bool ring = cli_value(c, "--ring") != NULL || cli_value(c, "--from") != NULL ||
                cli_value(c, "--count") != NULL;
    bool all = !supers && !ring && !objects && object == NULL;

    if (d->sc.report.verdict == INSPECT_DAMAGED)
        fprintf(stderr, "note: this store is damaged (skerry store check says how): this is what "
                        "can still be read of it\n");
    for (uint32_t i = 0; (supers || all) && i < SUPER_COPIES; i++)
        dump_super(d, i);
    if ((ring || all) && dump_ring(d, p) < 0)
        return -1;
    if (object != NULL && dump_object(d, object, p) < 0)
        return -1;
    if (objects || all)
        inspect_objects(d->sc.in, dump_on_object, d);
    return 0;
}

int cli_store_dump(struct cli *c, struct problem *p)
{
    struct dump d = {0};
    int result = store_cmd_open(&d.sc, c, p);

    if (result == 0)
        result = dump_all(&d, p);
    store_cmd_close(&d.sc);
    return result;
}

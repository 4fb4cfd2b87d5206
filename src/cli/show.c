/* The commands that ask a node and print what it says. */

#include "cli/api.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static long number_of(const json_t *object, const char *group, const char *key)
{
    const json_t *from = group != NULL ? json_object_get(object, group) : object;
    return (long)json_integer_value(json_object_get(from, key));
}

static int show_table(struct cli *c, const char *path, const struct cli_column *columns,
                      int columns_count, struct problem *p)
{
    json_t *reply;
    if (cli_api(c, "GET", path, NULL, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply))
        cli_print_table(reply, columns, columns_count);
    json_decref(reply);
    return 0;
}

/* ---- Status ---- */

/* How much of it is used a node knows of its own disks only. */
static void status_print_room(const json_t *s)
{
    char all[32], used[32], local[32];
    size_to_str((uint64_t)number_of(s, NULL, "size_bytes"), all, sizeof(all));
    size_to_str((uint64_t)number_of(s, "local", "used_bytes"), used, sizeof(used));
    size_to_str((uint64_t)number_of(s, "local", "size_bytes"), local, sizeof(local));
    printf("room       %s on all osds (every copy counts)", all);
    if (number_of(s, "local", "osds") > 0)
        printf("; of those of node %s, which was asked, %s of %s used", text_of(s, "node"), used,
               local);
    printf("\n");
}

static void status_print(const json_t *s)
{
    size_t index;
    json_t *one;
    bool writable = json_is_true(json_object_get(s, "writable"));
    bool survives = json_is_true(json_object_get(s, "survives_another_failure"));

    printf("cluster    %s  (asked node %s, skerry %s)\n", text_of(s, "cluster"), text_of(s, "node"),
           text_of(s, "version"));
    printf("health     %s\n", text_of(s, "health"));
    printf("writable   %s: %s\n", writable ? "yes" : "NO", text_of(s, "writable_why"));
    printf("survives another failure   %s: %s\n", survives ? "yes" : "NO",
           text_of(s, "survives_another_failure_why"));
    printf("nodes      %ld of %ld up\n", number_of(s, "nodes", "up"),
           number_of(s, "nodes", "total"));
    printf("osds       %ld of %ld up\n", number_of(s, "osds", "up"), number_of(s, "osds", "total"));
    printf("pgs        %ld: %ld whole, %ld misplaced, %ld degraded, %ld blocked\n",
           number_of(s, "pgs", "total"), number_of(s, "pgs", "whole"),
           number_of(s, "pgs", "misplaced"), number_of(s, "pgs", "degraded"),
           number_of(s, "pgs", "blocked"));
    status_print_room(s);
    const char *leader = text_of(json_object_get(s, "raft"), "leader_name");
    printf("metadata   leader %s, %ld of %ld voters up, term %ld, index %ld\n",
           leader[0] != '\0' ? leader : "unknown", number_of(s, "raft", "voters_up"),
           number_of(s, "raft", "voters"), number_of(s, "raft", "term"),
           number_of(s, "raft", "applied_index"));
    printf("images     %ld\n", number_of(s, NULL, "images"));
    json_array_foreach(json_object_get(s, "checks"), index, one) printf(
        "\n%s %s  %s\n  do:  %s\n", strcmp(text_of(one, "severity"), "error") == 0 ? "!!" : "!",
        text_of(one, "code"), text_of(one, "message"), text_of(one, "action"));
}

int cli_status(struct cli *c, struct problem *p)
{
    json_t *reply;
    if (cli_api(c, "GET", "status", NULL, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply))
        status_print(reply);
    json_decref(reply);
    return 0;
}

int cli_meta_dump(struct cli *c, struct problem *p)
{
    json_t *reply;
    if (cli_api(c, "GET", "meta", NULL, &reply, p) < 0)
        return -1;
    json_dumpf(reply, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(reply);
    return 0;
}

/* ---- OSDs and disks ---- */

int cli_osd_list(struct cli *c, struct problem *p)
{
    static const struct cli_column columns[] = {
        {"OSD", "name", CLI_TEXT},
        {"NODE", "node", CLI_TEXT},
        {"UP", "up", CLI_YESNO},
        {"SIZE", "size_bytes", CLI_SIZE},
        {"USED", "used_bytes", CLI_SIZE},
        {"PGS", "pgs", CLI_NUMBER},
        {"PRIMARY", "pgs_primary", CLI_NUMBER},
        {"STARTS", "incarnation", CLI_NUMBER},
        {"STATE", "state", CLI_TEXT},
    };
    return show_table(c, "osds", columns, COUNT_OF(columns), p);
}

/* The node opens the path, and its working directory is not ours. */
static int absolute_path(const char *path, char *dst, size_t dst_size, struct problem *p)
{
    char here[PATH_MAX];
    if (path[0] == '/')
        snprintf(dst, dst_size, "%s", path);
    else if (getcwd(here, sizeof(here)) == NULL ||
             (size_t)snprintf(dst, dst_size, "%s/%s", here, path) >= dst_size)
        return problem_set(p, PROBLEM_USAGE, "invalid_path", "the path is too long");
    return 0;
}

int cli_disk_add(struct cli *c, struct problem *p)
{
    char path[PATH_MAX * 2], admin[512];
    const char *size_text = cli_value(c, "--size");
    uint64_t size = 0;
    if (absolute_path(c->args[0], path, sizeof(path), p) < 0 ||
        (size_text != NULL && cli_parse_size(size_text, "--size", &size, p) < 0) ||
        cli_admin_path(c, admin, sizeof(admin), p) < 0)
        return -1;

    json_t *body = json_pack("{s:s, s:I, s:b}", "path", path, "size_bytes", (json_int_t)size,
                             "force", cli_value(c, "--yes") != NULL);
    json_t *reply;
    if (api_call(admin, "POST", "disks", body, 600, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply)) {
        printf("%s is %s of node %s.\n", text_of(reply, "path"), text_of(reply, "name"),
               text_of(reply, "node"));
        printf("Next: the same on the other nodes, then skerry image create NAME SIZE\n");
    }
    json_decref(reply);
    return 0;
}

/* ---- Pools ---- */

int cli_pool_list(struct cli *c, struct problem *p)
{
    static const struct cli_column columns[] = {
        {"POOL", "name", CLI_TEXT},
        {"REPLICAS", "replicas", CLI_NUMBER},
        {"MIN", "min_size", CLI_NUMBER},
        {"DOMAIN", "domain", CLI_TEXT},
        {"PGS", "pg_count", CLI_NUMBER},
        {"WHOLE", "pgs_whole", CLI_NUMBER},
        {"DEGRADED", "pgs_degraded", CLI_NUMBER},
        {"BLOCKED", "pgs_blocked", CLI_NUMBER},
        {"IMAGES", "images", CLI_NUMBER},
    };
    return show_table(c, "pools", columns, COUNT_OF(columns), p);
}

int cli_pool_show(struct cli *c, struct problem *p)
{
    static const struct cli_column columns[] = {
        {"pool", "name", CLI_TEXT},
        {"replicas", "replicas", CLI_NUMBER},
        {"min_size", "min_size", CLI_NUMBER},
        {"domain", "domain", CLI_TEXT},
        {"pgs", "pg_count", CLI_NUMBER},
        {"whole", "pgs_whole", CLI_NUMBER},
        {"degraded", "pgs_degraded", CLI_NUMBER},
        {"blocked", "pgs_blocked", CLI_NUMBER},
        {"object size", "object_size_bytes", CLI_SIZE},
        {"images", "images", CLI_NUMBER},
    };
    char path[600];
    json_t *reply;
    api_path(path, sizeof(path), "pools", c->args[0]);
    if (cli_api(c, "GET", path, NULL, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply)) {
        long replicas = number_of(reply, NULL, "replicas"),
             min = number_of(reply, NULL, "min_size");
        cli_print_object(reply, columns, COUNT_OF(columns));
        printf(
            "\nKeeps %ld copies on as many hosts. Stays writable with %ld of those hosts down, and "
            "stops at %ld.\n",
            replicas, replicas - min, replicas - min + 1);
    }
    json_decref(reply);
    return 0;
}

/* ---- Images ---- */

int cli_image_create(struct cli *c, struct problem *p)
{
    uint64_t size;
    if (cli_parse_size(c->args[1], "SIZE", &size, p) < 0)
        return -1;
    json_t *body = json_pack("{s:s, s:I}", "name", c->args[0], "size_bytes", (json_int_t)size);
    if (body == NULL)
        return problem_set(p, PROBLEM_USAGE, "invalid_name", "the name is not valid UTF-8");
    if (cli_value(c, "--pool") != NULL)
        json_object_set_new(body, "pool", json_string(cli_value(c, "--pool")));

    json_t *reply;
    if (cli_api(c, "POST", "images", body, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply)) {
        printf("Image %s is there.\n", text_of(reply, "name"));
        if (text_of(reply, "nbd")[0] != '\0')
            printf("Next: qemu-img info %s\n", text_of(reply, "nbd"));
    }
    json_decref(reply);
    return 0;
}

int cli_image_list(struct cli *c, struct problem *p)
{
    static const struct cli_column columns[] = {
        {"IMAGE", "name", CLI_TEXT},
        {"SIZE", "size_bytes", CLI_SIZE},
        {"POOL", "pool", CLI_TEXT},
        {"NBD", "nbd", CLI_TEXT},
    };
    return show_table(c, "images", columns, COUNT_OF(columns), p);
}

int cli_image_show(struct cli *c, struct problem *p)
{
    static const struct cli_column columns[] = {
        {"image", "name", CLI_TEXT},
        {"id", "id", CLI_TEXT},
        {"size", "size_bytes", CLI_SIZE},
        {"pool", "pool", CLI_TEXT},
        {"object size", "object_size_bytes", CLI_SIZE},
        {"nbd", "nbd", CLI_TEXT},
    };
    char path[600];
    json_t *reply;
    api_path(path, sizeof(path), "images", c->args[0]);
    if (cli_api(c, "GET", path, NULL, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply))
        cli_print_object(reply, columns, COUNT_OF(columns));
    json_decref(reply);
    return 0;
}

int cli_image_delete(struct cli *c, struct problem *p)
{
    char path[600];
    json_t *reply;
    if (cli_value(c, "--yes") == NULL) {
        problem_set(p, PROBLEM_SAFETY, "needs_yes", "deleting image %.128s destroys its data",
                    c->args[0]);
        problem_action(p, "say it with --yes");
        return -1;
    }
    api_path(path, sizeof(path), "images", c->args[0]);
    if (cli_api(c, "DELETE", path, NULL, &reply, p) < 0)
        return -1;
    if (!cli_print_json(c, reply))
        printf("Image %s is gone.\n", c->args[0]);
    json_decref(reply);
    return 0;
}

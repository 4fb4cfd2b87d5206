/*
 * The command line. One table (cli/commands.c) says what there is: from it come parsing, usage
 * errors, `skerry help` and docs/reference/cli.md, so that they cannot disagree.
 *
 * A handler gets its arguments checked against the table and returns 0, or -1 with the problem
 * filled in; cli_main() turns that into text or JSON and an exit code (DESIGN.md section 17).
 */

#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "gw/problem.h"

enum { CLI_ARGS_MAX = 4, CLI_OPTIONS_MAX = 16 };

struct cli;

struct cli_option {
    const char *name;  /* with its dashes */
    const char *value; /* what it takes, as help shows it; NULL: a flag */
    const char *help;
};

struct cli_command {
    const char *noun;
    const char *verb; /* NULL: a bare command */
    const char *args; /* as help shows them, names in capitals, [] around what may be left out */
    int args_min, args_max;
    const struct cli_option *options; /* ended by an empty one; NULL: none */
    const char *summary;              /* one line, no full stop */
    const char *text;                 /* what else there is to say; NULL: nothing */
    int (*run)(struct cli *c, struct problem *p);
};

/* What main.c brings along, so that src/cli/ does not depend on the node. */
struct cli_hooks {
    int (*node)(struct cli *c, struct problem *p);
};

struct cli {
    const struct cli_hooks *hooks;
    const struct cli_command *command;
    const char *args[CLI_ARGS_MAX];
    int args_count;
    struct {
        const char *name, *value;
    } given[CLI_OPTIONS_MAX];
    int given_count;
    bool json;
    const char *admin; /* --admin, or NULL */
    const char *dir;   /* --dir, or NULL */
    int exit_code;     /* of a handler that returns 0, but has bad news, and has told them */
};

int cli_main(int argc, char **argv, const struct cli_hooks *hooks);

extern const struct cli_command cli_commands[];
extern const struct cli_option cli_globals[];

/* The value of an option, NULL if it was not given; of a flag: not NULL if it was given. */
const char *cli_value(const struct cli *c, const char *name);

/* A size ("8G") or a number that an option or argument must be; `what` names it in the error. */
int cli_parse_size(const char *text, const char *what, uint64_t *out, struct problem *p);
int cli_parse_count(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out,
                    struct problem *p);

/* The node directory: --dir, else /var/lib/skerry. */
const char *cli_dir(const struct cli *c);

/* Path of the admin socket to use: --admin; the one of the node in --dir, which must run;
 * SKERRY_ADMIN; or the default, if there is one for this user. -1 with the problem. */
int cli_admin_path(const struct cli *c, char *dst, size_t dst_size, struct problem *p);
int cli_admin_default(char *dst, size_t dst_size, struct problem *p);

/* ---- Output ---- */

/* -o json: the object as it is; else nothing. Returns c->json. Does not take the reference. */
bool cli_print_json(const struct cli *c, const json_t *object);

struct cli_column {
    const char *title, *key;
    enum { CLI_TEXT, CLI_NUMBER, CLI_SIZE, CLI_YESNO } form;
};

void cli_print_table(const json_t *rows, const struct cli_column *columns, int columns_count);
void cli_print_object(const json_t *object, const struct cli_column *columns, int columns_count);

/* ---- Help ---- */

void cli_help_all(void);
bool cli_help_command(const char *noun, const char *verb); /* false: there is none */
void cli_help_reference(void);                             /* Markdown: docs/reference/cli.md */

/* ---- Handlers ---- */

int cli_init(struct cli *c, struct problem *p);
int cli_join(struct cli *c, struct problem *p);
int cli_node(struct cli *c, struct problem *p);
int cli_demo(struct cli *c, struct problem *p);
int cli_status(struct cli *c, struct problem *p);
int cli_token_show(struct cli *c, struct problem *p);
int cli_disk_add(struct cli *c, struct problem *p);
int cli_pool_list(struct cli *c, struct problem *p);
int cli_pool_show(struct cli *c, struct problem *p);
int cli_image_create(struct cli *c, struct problem *p);
int cli_image_list(struct cli *c, struct problem *p);
int cli_image_show(struct cli *c, struct problem *p);
int cli_image_delete(struct cli *c, struct problem *p);
int cli_osd_list(struct cli *c, struct problem *p);
int cli_meta_dump(struct cli *c, struct problem *p);
int cli_store_format(struct cli *c, struct problem *p);
int cli_store_check(struct cli *c, struct problem *p);
int cli_store_dump(struct cli *c, struct problem *p);
int cli_store_verify(struct cli *c, struct problem *p);
int cli_version(struct cli *c, struct problem *p);
int cli_help(struct cli *c, struct problem *p);

#endif /* CLI_CLI_H */

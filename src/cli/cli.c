#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/nodedir.h"

/* ---- Parsing ---- */

static const struct cli_option *cli_find_option(const struct cli_option *options, const char *name,
                                                size_t len)
{
    for (; options != NULL && options->name != NULL; options++)
        if (strlen(options->name) == len && memcmp(options->name, name, len) == 0)
            return options;
    return NULL;
}

/* The command that the first one or two words name. *words: how many they were. */
static const struct cli_command *cli_find_command(const char *const *words, int count, int *used)
{
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL; cmd++) {
        if (count < 1 || strcmp(cmd->noun, words[0]) != 0)
            continue;
        *used = cmd->verb == NULL ? 1 : 2;
        if (cmd->verb == NULL || (count >= 2 && strcmp(cmd->verb, words[1]) == 0))
            return cmd;
    }
    return NULL;
}

static int cli_bad_command(const char *const *words, int count, struct problem *p)
{
    char verbs[200] = "";
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL; cmd++) {
        if (strcmp(cmd->noun, words[0]) != 0)
            continue;
        size_t len = strlen(verbs);
        snprintf(verbs + len, sizeof(verbs) - len, "%s%s", len > 0 ? ", " : "", cmd->verb);
    }
    if (verbs[0] == '\0') {
        problem_set(p, PROBLEM_USAGE, "usage", "there is no command \"%.100s\"", words[0]);
        problem_action(p, "skerry help shows them all");
    } else if (count < 2) {
        problem_set(p, PROBLEM_USAGE, "usage", "%s what?", words[0]);
        problem_action(p, "say one of: %s", verbs);
    } else {
        problem_set(p, PROBLEM_USAGE, "usage", "%s has no \"%.100s\"", words[0], words[1]);
        problem_action(p, "say one of: %s", verbs);
    }
    return -1;
}

static int cli_set_option(struct cli *c, const struct cli_option *o, const char *value,
                          struct problem *p)
{
    if (strcmp(o->name, "--admin") == 0) {
        c->admin = value;
    } else if (strcmp(o->name, "--dir") == 0) {
        c->dir = value;
    } else if (strcmp(o->name, "-o") == 0) {
        c->json = strcmp(value, "json") == 0;
        if (!c->json && strcmp(value, "table") != 0) {
            problem_set(p, PROBLEM_USAGE, "usage", "-o takes table or json, not \"%.100s\"", value);
            return -1;
        }
    } else {
        if (cli_value(c, o->name) != NULL)
            return problem_set(p, PROBLEM_USAGE, "usage", "%s is given twice", o->name);
        c->given[c->given_count].name = o->name;
        c->given[c->given_count].value = value;
        c->given_count++;
    }
    return 0;
}

/*
 * Words and options may come in any order, so the words are collected first: they say which
 * command it is, and that says which options there are.
 */
struct cli_words {
    const char *words[CLI_ARGS_MAX + 3];
    int count;
    bool help, version;
};

/* Does this option take a value in some command? Then the next word is not one of ours. */
static const struct cli_option *cli_any_option(const char *name, size_t len)
{
    const struct cli_option *o = cli_find_option(cli_globals, name, len);
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL && o == NULL; cmd++)
        o = cli_find_option(cmd->options, name, len);
    return o;
}

static size_t cli_option_len(const char *arg)
{
    return arg[1] == '-' ? strcspn(arg, "=") : strlen(arg);
}

static int cli_collect_words(int argc, char **argv, struct cli_words *w, struct problem *p)
{
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1] != '\0') {
            size_t len = cli_option_len(argv[i]);
            const struct cli_option *o = cli_any_option(argv[i], len);
            if (strcmp(argv[i], "-h") == 0 || (o != NULL && strcmp(o->name, "--help") == 0))
                w->help = true;
            if (o != NULL && strcmp(o->name, "--version") == 0)
                w->version = true;
            if (o != NULL && o->value != NULL && argv[i][len] == '\0')
                i++;
        } else if (w->count < (int)(sizeof(w->words) / sizeof(w->words[0]))) {
            w->words[w->count++] = argv[i];
        } else {
            return problem_set(p, PROBLEM_USAGE, "usage", "too many words");
        }
    }
    return 0;
}

static int cli_collect_options(struct cli *c, int argc, char **argv, struct problem *p)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (argv[i][0] != '-' || argv[i][1] == '\0')
            continue;
        size_t len = cli_option_len(argv[i]);
        const struct cli_option *o = cli_find_option(cli_globals, argv[i], len);
        if (o == NULL)
            o = cli_find_option(c->command->options, argv[i], len);
        if (o == NULL) {
            problem_set(p, PROBLEM_USAGE, "usage", "%s%s%s takes no %.100s", c->command->noun,
                        c->command->verb != NULL ? " " : "",
                        c->command->verb != NULL ? c->command->verb : "", argv[i]);
            problem_action(p, "skerry help %s shows what it takes", c->command->noun);
            return -1;
        }
        bool inline_value = argv[i][len] == '=';
        const char *value = inline_value ? argv[i] + len + 1 : "";
        if (o->value == NULL && inline_value)
            return problem_set(p, PROBLEM_USAGE, "usage", "%s takes no value", o->name);
        if (o->value != NULL && !inline_value) {
            if (++i >= argc)
                return problem_set(p, PROBLEM_USAGE, "usage", "%s needs %s", o->name, o->value);
            value = argv[i];
        }
        if (cli_set_option(c, o, value, p) < 0)
            return -1;
    }
    return 0;
}

static int cli_take_args(struct cli *c, const struct cli_words *w, int used, struct problem *p)
{
    c->args_count = w->count - used;
    if (c->args_count < c->command->args_min || c->args_count > c->command->args_max) {
        problem_set(p, PROBLEM_USAGE, "usage", "it is: skerry %s%s%s%s%s", c->command->noun,
                    c->command->verb != NULL ? " " : "",
                    c->command->verb != NULL ? c->command->verb : "",
                    c->command->args[0] != '\0' ? " " : "", c->command->args);
        problem_action(p, "skerry help %s says more", c->command->noun);
        return -1;
    }
    for (int i = 0; i < c->args_count; i++)
        c->args[i] = w->words[used + i];
    return 0;
}

static int cli_parse(struct cli *c, int argc, char **argv, bool *help, struct problem *p)
{
    static const char *const version[] = {"version"};
    struct cli_words w = {0};
    int used = 0;
    if (cli_collect_words(argc, argv, &w, p) < 0)
        return -1;
    *help = w.help;
    if (w.version && !w.help) {
        c->command = cli_find_command(version, COUNT_OF(version), &used);
        return cli_collect_options(c, argc, argv, p);
    }
    if (w.count == 0 && !w.help) {
        problem_set(p, PROBLEM_USAGE, "usage", "no command was given");
        problem_action(p, "skerry help shows them all; skerry demo is a good start");
        return -1;
    }
    if (w.count == 0) {
        cli_help_all();
        return 0;
    }
    c->command = cli_find_command(w.words, w.count, &used);
    if (w.help && (c->command != NULL || cli_help_command(w.words[0], NULL)))
        return 0;
    if (c->command == NULL)
        return cli_bad_command(w.words, w.count, p);
    if (cli_collect_options(c, argc, argv, p) < 0)
        return -1;
    return cli_take_args(c, &w, used, p);
}

/* ---- For handlers ---- */

const char *cli_value(const struct cli *c, const char *name)
{
    for (int i = 0; i < c->given_count; i++)
        if (strcmp(c->given[i].name, name) == 0)
            return c->given[i].value;
    return NULL;
}

int cli_parse_size(const char *text, const char *what, uint64_t *out, struct problem *p)
{
    bool is_size = str_to_size(text, out) && *out > 0;
    if (is_size && *out <= INT64_MAX)
        return 0;
    problem_set(p, PROBLEM_USAGE, "invalid_size",
                is_size ? "%s: \"%.100s\" is more than anything can hold"
                        : "%s: \"%.100s\" is not a size",
                what, text);
    problem_action(p, "say bytes, or a number with K, M, G, T or P (powers of 1024): 10G");
    return -1;
}

int cli_parse_count(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out,
                    struct problem *p)
{
    if (str_to_u64(text, out) && *out >= min && *out <= max)
        return 0;
    return problem_set(p, PROBLEM_USAGE, "usage", "%s must be a number from %llu to %llu", what,
                       (unsigned long long)min, (unsigned long long)max);
}

const char *cli_dir(const struct cli *c)
{
    return c->dir != NULL ? c->dir : "/var/lib/skerry";
}

int cli_admin_default(char *dst, size_t dst_size, struct problem *p)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0) {
        snprintf(dst, dst_size, "/run/skerry/admin.sock");
    } else if (runtime != NULL && runtime[0] == '/') {
        snprintf(dst, dst_size, "%s/skerry/admin.sock", runtime);
    } else {
        problem_set(p, PROBLEM_USAGE, "no_admin_path", "no admin socket is named");
        problem_why(p, "XDG_RUNTIME_DIR is not set, so there is no default for this user");
        problem_action(p, "say --admin PATH, or set SKERRY_ADMIN");
        return -1;
    }
    return 0;
}

/* Of the node in a directory, and of no other: what is meant for it must not reach whichever node
 * happens to answer elsewhere. */
static int cli_admin_of_dir(const char *dir, char *dst, size_t dst_size, struct problem *p)
{
    struct identity id;
    if (nodedir_read_identity(dir, &id, p) < 0)
        return -1;
    bool runs = nodedir_running(dir) > 0;
    if (runs && nodedir_admin_path(dir, dst, dst_size) == 0)
        return 0;
    problem_set(p, PROBLEM_UNREACHABLE, runs ? "starting" : "not_running",
                runs ? "the node in %.200s is starting" : "the node in %.200s does not run", dir);
    problem_why(p, "%s",
                runs ? "it has not written down its admin socket yet"
                     : "no process holds its lock, and --dir asks no other node");
    if (runs)
        problem_action(p, "try again in a moment");
    else
        problem_action(p, "start it (skerry node --dir %.200s), or ask another: leave --dir out",
                       dir);
    return -1;
}

int cli_admin_path(const struct cli *c, char *dst, size_t dst_size, struct problem *p)
{
    const char *path = c->admin != NULL || c->dir != NULL ? c->admin : getenv("SKERRY_ADMIN");
    if (path != NULL && path[0] != '\0')
        snprintf(dst, dst_size, "%s", path);
    else if (c->dir != NULL)
        return cli_admin_of_dir(c->dir, dst, dst_size, p);
    else
        return cli_admin_default(dst, dst_size, p);
    return 0;
}

int cli_node(struct cli *c, struct problem *p)
{
    return c->hooks->node(c, p);
}

int cli_version(struct cli *c, struct problem *p)
{
    (void)p;
    json_t *object = json_pack("{s:s}", "version", SKERRY_VERSION);
    if (!cli_print_json(c, object))
        printf("skerry %s\n", SKERRY_VERSION);
    json_decref(object);
    return 0;
}

/* ---- Main ---- */

static void cli_print_problem(const struct cli *c, const struct problem *p)
{
    if (c->json) {
        json_t *object = json_pack("{s:o}", "error", problem_to_json(p));
        cli_print_json(c, object);
        json_decref(object);
        return;
    }
    fprintf(stderr, "error: %s\n", p->message);
    if (p->why[0] != '\0')
        fprintf(stderr, "  why:  %s\n", p->why);
    if (p->action[0] != '\0')
        fprintf(stderr, "  do:   %s\n", p->action);
}

/* Also what is wrong with the words themselves is told in the form asked for. */
static const char *cli_form(int argc, char **argv, bool *of_environment)
{
    const char *form = getenv("SKERRY_OUTPUT");
    *of_environment = true;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-o") == 0 && i + 1 < argc) {
            form = argv[i + 1];
            *of_environment = false;
        }
    }
    return form != NULL ? form : "";
}

static int cli_check_form(const char *form, bool of_environment, struct problem *p)
{
    if (!of_environment || form[0] == '\0' || strcmp(form, "json") == 0 ||
        strcmp(form, "table") == 0)
        return 0;
    problem_set(p, PROBLEM_USAGE, "usage", "SKERRY_OUTPUT is table or json, not \"%.100s\"", form);
    problem_action(p, "set it to one of these, or unset it");
    return -1;
}

/* Names and paths travel in JSON, which is UTF-8. */
static int cli_check_text(int argc, char **argv, struct problem *p)
{
    const char *texts[] = {getenv("SKERRY_ADMIN"), getenv("SKERRY_OUTPUT"),
                           getenv("XDG_RUNTIME_DIR")};
    bool ok = true;
    for (int i = 1; i < argc + (int)COUNT_OF(texts); i++) {
        const char *text = i < argc ? argv[i] : texts[i - argc];
        json_t *string = text != NULL ? json_string(text) : json_null();
        ok = ok && string != NULL;
        json_decref(string);
    }
    return ok ? 0
              : problem_set(p, PROBLEM_USAGE, "usage",
                            "an argument, SKERRY_ADMIN, SKERRY_OUTPUT or XDG_RUNTIME_DIR is not "
                            "valid UTF-8");
}

int cli_main(int argc, char **argv, const struct cli_hooks *hooks)
{
    bool help = false, of_environment;
    const char *form = cli_form(argc, argv, &of_environment);
    struct cli c = {.hooks = hooks, .json = strcmp(form, "json") == 0};
    struct problem p = {0};

    int result = cli_check_text(argc, argv, &p);
    if (result == 0)
        result = cli_check_form(form, of_environment, &p);
    if (result == 0)
        result = cli_parse(&c, argc, argv, &help, &p);
    if (result == 0 && help) {
        if (c.command != NULL)
            cli_help_command(c.command->noun, c.command->verb);
        return 0;
    }
    if (result == 0)
        result = c.command->run(&c, &p);
    if (result == 0 && fflush(stdout) == 0)
        return c.exit_code;
    if (result == 0)
        problem_set(&p, PROBLEM_FAILED, "output_failed", "writing the output failed: %s",
                    strerror(errno));
    cli_print_problem(&c, &p);
    fflush(stdout);
    return problem_exit_code(p.kind);
}

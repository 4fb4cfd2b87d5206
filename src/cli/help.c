#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static void help_name(const struct cli_command *cmd, char *dst, size_t dst_size)
{
    snprintf(dst, dst_size, "%s%s%s%s%s", cmd->noun, cmd->verb != NULL ? " " : "",
             cmd->verb != NULL ? cmd->verb : "", cmd->args[0] != '\0' ? " " : "", cmd->args);
}

static void help_option(const struct cli_option *o)
{
    char left[60];
    snprintf(left, sizeof(left), "%s%s%s", o->name, o->value != NULL ? " " : "",
             o->value != NULL ? o->value : "");
    printf("  %-24s %s\n", left, o->help);
}

/* A summary that is a question has its mark. */
static const char *help_stop(const struct cli_command *cmd)
{
    return cmd->summary[strlen(cmd->summary) - 1] == '?' ? "" : ".";
}

void cli_help_all(void)
{
    printf("usage: skerry [--admin PATH] [-o table|json] COMMAND ...\n\n");
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL; cmd++) {
        char name[80];
        help_name(cmd, name, sizeof(name));
        printf("  %-24s %s\n", name, cmd->summary);
    }
    printf("\nOptions of every command, anywhere on the line:\n");
    for (const struct cli_option *o = cli_globals; o->name != NULL; o++)
        help_option(o);
    printf("\nTo begin: skerry demo\n");
}

static void help_one(const struct cli_command *cmd)
{
    char name[80];
    help_name(cmd, name, sizeof(name));
    printf("usage: skerry %s\n\n%s%s\n", name, cmd->summary, help_stop(cmd));
    if (cmd->text != NULL)
        printf("%s\n", cmd->text);
    if (cmd->options != NULL)
        printf("\n");
    for (const struct cli_option *o = cmd->options; o != NULL && o->name != NULL; o++)
        help_option(o);
}

bool cli_help_command(const char *noun, const char *verb)
{
    bool found = false;
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL; cmd++) {
        if (strcmp(cmd->noun, noun) != 0 ||
            (verb != NULL && (cmd->verb == NULL || strcmp(cmd->verb, verb) != 0)))
            continue;
        if (found)
            printf("\n");
        help_one(cmd);
        found = true;
    }
    return found;
}

static void reference_options(const struct cli_option *o)
{
    if (o == NULL)
        return;
    printf("\n| option | |\n|---|---|\n");
    for (; o->name != NULL; o++) {
        char value[40] = "";
        /* A bar would end the table's cell. */
        for (size_t i = 0, k = 0; o->value != NULL && o->value[i] != '\0' && k < 36; i++) {
            if (o->value[i] == '|')
                value[k++] = '\\';
            value[k++] = o->value[i];
        }
        printf("| `%s%s%s` | %s |\n", o->name, value[0] != '\0' ? " " : "", value, o->help);
    }
}

void cli_help_reference(void)
{
    printf("# The command line\n\n"
           "Made by `skerry help --reference` from the table the program parses by.\n\n"
           "Options may stand anywhere; those of every command:\n");
    reference_options(cli_globals);
    printf("\nSizes are bytes, or a number with K, M, G, T or P (powers of 1024; small letters "
           "too).\n\n"
           "| exit code | |\n|---|---|\n"
           "| 0 | done |\n| 1 | failed |\n| 2 | the command line is wrong |\n| 3 | not found |\n"
           "| 4 | exists already |\n| 5 | not permitted (a wrong token, another user's socket) |\n"
           "| 6 | refused for safety: it would destroy something, and --yes was not said |\n"
           "| 7 | no node can be reached, or there is no quorum |\n| 8 | partly done |\n"
           "| 9 | timed out; whether it was done is not known |\n| 130 | interrupted |\n\n"
           "With `-o json` an error is printed on the standard output as\n"
           "`{\"error\": {\"code\", \"message\", \"why\", \"action\"}}`.\n");
    for (const struct cli_command *cmd = cli_commands; cmd->noun != NULL; cmd++) {
        char name[80];
        help_name(cmd, name, sizeof(name));
        printf("\n## skerry %s\n\n%s%s\n", name, cmd->summary, help_stop(cmd));
        if (cmd->text != NULL)
            printf("\n%s\n", cmd->text);
        reference_options(cmd->options);
    }
}

int cli_help(struct cli *c, struct problem *p)
{
    if (cli_value(c, "--reference") != NULL)
        cli_help_reference();
    else if (c->args_count == 0)
        cli_help_all();
    else if (!cli_help_command(c->args[0], c->args_count > 1 ? c->args[1] : NULL))
        return problem_set(p, PROBLEM_NOT_FOUND, "no_such_command",
                           "there is no command \"%.60s%s%.60s\"", c->args[0],
                           c->args_count > 1 ? " " : "", c->args_count > 1 ? c->args[1] : "");
    return 0;
}

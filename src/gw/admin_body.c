#include "gw/admin_body.h"

#include <stdio.h>
#include <string.h>

static bool body_key_fits(const struct admin_key *k, const json_t *value)
{
    return k->type == JSON_TRUE ? json_is_boolean(value) : json_typeof(value) == k->type;
}

static bool body_invalid(const struct admin_key *keys, size_t count, struct problem *p)
{
    char list[PROBLEM_TEXT_MAX] = "";
    for (size_t i = 0; i < count; i++) {
        size_t len = strlen(list);
        snprintf(list + len, sizeof(list) - len, "%s%s (%s%s)", i > 0 ? ", " : "", keys[i].name,
                 keys[i].type == JSON_STRING    ? "a string"
                 : keys[i].type == JSON_INTEGER ? "a number"
                                                : "true or false",
                 keys[i].must ? "" : "; may be left out");
    }
    problem_why(p, "it takes %.380s", list);
    problem_action(p, "send these and no others");
    return false;
}

bool admin_body_fits(json_t *body, const struct admin_key *keys, size_t count, struct problem *p)
{
    const char *name;
    json_t *value;
    json_object_foreach(body, name, value)
    {
        size_t i = 0;
        while (i < count && strcmp(keys[i].name, name) != 0)
            i++;
        if (i < count && body_key_fits(&keys[i], value))
            continue;
        problem_set(p, PROBLEM_USAGE, "invalid_body",
                    i < count ? "the body's \"%.100s\" is of the wrong kind"
                              : "the body has an unknown key \"%.100s\"",
                    name);
        return body_invalid(keys, count, p);
    }
    for (size_t i = 0; i < count; i++) {
        if (!keys[i].must || json_object_get(body, keys[i].name) != NULL)
            continue;
        problem_set(p, PROBLEM_USAGE, "invalid_body", "the body has no \"%s\"", keys[i].name);
        return body_invalid(keys, count, p);
    }
    return true;
}

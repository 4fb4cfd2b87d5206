#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { CELL_MAX = 160 };

bool cli_print_json(const struct cli *c, const json_t *object)
{
    if (!c->json)
        return false;
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fputc('\n', stdout);
    return true;
}

static void cell_format(const json_t *row, const struct cli_column *col, char *dst)
{
    const json_t *v = json_object_get(row, col->key);
    if (v == NULL || json_is_null(v))
        snprintf(dst, CELL_MAX, "-");
    else if (col->form == CLI_SIZE)
        size_to_str((uint64_t)json_integer_value(v), dst, CELL_MAX);
    else if (col->form == CLI_YESNO)
        snprintf(dst, CELL_MAX, "%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_integer(v))
        snprintf(dst, CELL_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else
        snprintf(dst, CELL_MAX, "%s", json_is_string(v) ? json_string_value(v) : "?");
}

static bool cell_is_right(const struct cli_column *col)
{
    return col->form == CLI_NUMBER || col->form == CLI_SIZE;
}

void cli_print_table(const json_t *rows, const struct cli_column *columns, int columns_count)
{
    int width[16] = {0};
    char cell[CELL_MAX];
    size_t index;
    const json_t *row;

    for (int i = 0; i < columns_count; i++)
        width[i] = (int)strlen(columns[i].title);
    json_array_foreach((json_t *)(uintptr_t)rows, index, row)
    {
        for (int i = 0; i < columns_count; i++) {
            cell_format(row, &columns[i], cell);
            if ((int)strlen(cell) > width[i])
                width[i] = (int)strlen(cell);
        }
    }
    for (int i = 0; i < columns_count; i++)
        printf("%s%*s", i > 0 ? "  " : "", cell_is_right(&columns[i]) ? width[i] : -width[i],
               columns[i].title);
    printf("\n");
    json_array_foreach((json_t *)(uintptr_t)rows, index, row)
    {
        for (int i = 0; i < columns_count; i++) {
            cell_format(row, &columns[i], cell);
            printf("%s%*s", i > 0 ? "  " : "", cell_is_right(&columns[i]) ? width[i] : -width[i],
                   cell);
        }
        printf("\n");
    }
}

void cli_print_object(const json_t *object, const struct cli_column *columns, int columns_count)
{
    char cell[CELL_MAX];
    for (int i = 0; i < columns_count; i++) {
        cell_format(object, &columns[i], cell);
        printf("%-14s %s\n", columns[i].title, cell);
    }
}

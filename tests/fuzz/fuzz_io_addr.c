/* Whatever text loop_addr_parse() takes, loop_addr_format() gives an address that is the same. */

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "io/loop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    char formatted[LOOP_ADDR_STR];
    struct loop_addr a, b;

    check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (loop_addr_parse(text, &a)) {
        loop_addr_format(&a, formatted, sizeof(formatted));
        check(loop_addr_parse(formatted, &b));
        check(loop_addr_equal(&a, &b));
    }
    free(text);
    return 0;
}

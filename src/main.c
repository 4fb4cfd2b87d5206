#include "cli/cli.h"
#include "node.h"

int main(int argc, char **argv)
{
    const struct cli_hooks hooks = {.node = node_main};
    return cli_main(argc, argv, &hooks);
}

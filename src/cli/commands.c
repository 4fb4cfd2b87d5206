#include "cli/cli.h"

const struct cli_option cli_globals[] = {
    {"--admin", "PATH",
     "the admin socket of the node to ask (else --dir's, else SKERRY_ADMIN, else the default)"},
    {"--dir", "DIR",
     "the node directory (default /var/lib/skerry); what asks a node asks the one in DIR"},
    {"-o", "table|json", "how to print: for people, or the API's JSON (else SKERRY_OUTPUT)"},
    {"--help", NULL, "what the command does and takes"},
    {"--version", NULL, "the version, whatever the command"},
    {NULL, NULL, NULL},
};

static const struct cli_option init_options[] = {
    {"--name", "NAME", "the node's name (default: the host's)"},
    {"--listen", "ADDR", "IP:PORT for the other nodes (default 127.0.0.1:7400)"},
    {"--replicas", "N", "copies the default pool keeps, on as many hosts (default 3)"},
    {NULL, NULL, NULL},
};

static const struct cli_option join_options[] = {
    {"--name", "NAME", "the node's name (default: the host's)"},
    {"--listen", "ADDR", "IP:PORT for the other nodes (default 127.0.0.1:7400)"},
    {NULL, NULL, NULL},
};

static const struct cli_option node_options[] = {
    {"--config", "FILE", "the node file (default /etc/skerry/node.conf, if it is there)"},
    {"--listen", "ADDR", "IP:PORT for the other nodes (default: what init or join was told)"},
    {"--nbd", "ADDR", "IP:PORT for NBD clients (default 127.0.0.1:10809), or `off`"},
    {"--log", "LEVEL", "debug, info, warn or error (default info; else SKERRY_LOG)"},
    {"--io", "uring|uv|auto",
     "over io_uring, over libuv, or over libuv only where io_uring is refused (default auto)"},
    {NULL, NULL, NULL},
};

static const struct cli_option demo_options[] = {
    {"--nodes", "N", "how many nodes (default 3, at most 9)"},
    {"--size", "SIZE", "of each node's sparse disk file (default 8G)"},
    {"--keep-data", NULL, "leave the directory when the demo ends"},
    {"--io", "uring|uv|auto", "what every node is given as its --io"},
    {NULL, NULL, NULL},
};

static const struct cli_option disk_add_options[] = {
    {"--size", "SIZE", "make the file, or make it as large; a device is used whole"},
    {"--yes", NULL, "overwrite what the file or device holds"},
    {NULL, NULL, NULL},
};

static const struct cli_option image_create_options[] = {
    {"--pool", "POOL", "where its data is kept (default: default)"},
    {NULL, NULL, NULL},
};

static const struct cli_option yes_options[] = {
    {"--yes", NULL, "yes, destroy it"},
    {NULL, NULL, NULL},
};

static const struct cli_option store_format_options[] = {
    {"--size", "SIZE", "of the file to make; what is there is used whole"},
    {"--osd", "N", "the number of the OSD it is the disk of"},
    {"--cluster", "UUID", "the cluster it belongs to (default: a random one)"},
    {"--object-size", "SIZE", "the largest object to expect: sizes the log (default 128K)"},
    {"--log-blocks", "N",
     "blocks of the log, at least 256 and at most a quarter (default: by size)"},
    {"--force", NULL, "overwrite what is there"},
    {NULL, NULL, NULL},
};

static const struct cli_option store_dump_options[] = {
    {"--superblock", NULL, "the copies of the superblock"},
    {"--ring", NULL, "the log: its blocks and their records"},
    {"--from", "N", "... from this block of it (default: the tail)"},
    {"--count", "N", "... so many blocks (default: to the last one)"},
    {"--object", "IMAGE/OBJECT", "one object as it is, and its records, by numbers"},
    {"--objects", NULL, "all objects, a line each"},
    {NULL, NULL, NULL},
};

static const struct cli_option help_options[] = {
    {"--reference", NULL, "every command, as Markdown"},
    {NULL, NULL, NULL},
};

const struct cli_command cli_commands[] = {
    {"demo", NULL, "", 0, 0, demo_options, "run a whole cluster on this machine",
     "Starts N nodes on loopback with sparse files for disks, without root, prints what to try, "
     "and stops them all on Ctrl-C. demo.json in its directory says where everything is and how "
     "to start each node again by hand; a node that dies is never restarted.",
     cli_demo},
    {"init", NULL, "", 0, 0, init_options, "make a new cluster, with this node as its first",
     "Writes the node directory and prints the token that lets other nodes join. Needs no "
     "running node. Start it with `skerry node`.",
     cli_init},
    {"join", NULL, "TOKEN", 1, 1, join_options, "make this node a member of a cluster",
     "Asks a node named in the token for a node number and writes the node directory. Start it "
     "with `skerry node`.",
     cli_join},
    {"node", NULL, "", 0, 0, node_options, "run the node, in the foreground",
     "SIGTERM or SIGINT stops it in order, within 10 s; a second one at once.", cli_node},
    {"status", NULL, "", 0, 0, NULL, "is it writable, and does it survive another failure?",
     "Exits 0 when a node answered, whatever the health is; scripts read health, writable and "
     "checks of -o json.",
     cli_status},
    {"token", "show", "", 0, 0, NULL, "print this cluster's join token again",
     "Reads the node directory. Whoever has the token can join: keep it as a password.",
     cli_token_show},
    {"disk", "add", "PATH", 1, 1, disk_add_options,
     "make a device or file a data disk of this node",
     "A file is reserved in full at once. What holds data is refused without --yes; a disk of "
     "this cluster is taken back as the OSD it was.",
     cli_disk_add},
    {"osd", "list", "", 0, 0, NULL, "the data disks of the cluster", NULL, cli_osd_list},
    {"pool", "list", "", 0, 0, NULL, "the pools", NULL, cli_pool_list},
    {"pool", "show", "NAME", 1, 1, NULL, "one pool, and what its numbers mean", NULL,
     cli_pool_show},
    {"image", "create", "NAME SIZE", 2, 2, image_create_options, "make a block device",
     "It is thin: space is taken when it is written.", cli_image_create},
    {"image", "list", "", 0, 0, NULL, "the images", NULL, cli_image_list},
    {"image", "show", "NAME", 1, 1, NULL, "one image", NULL, cli_image_show},
    {"image", "delete", "NAME", 1, 1, yes_options, "delete an image and its data",
     "Refused without --yes.", cli_image_delete},
    {"meta", "dump", "", 0, 0, NULL, "the replicated cluster state, table by table, as JSON", NULL,
     cli_meta_dump},
    {"store", "format", "PATH", 1, 1, store_format_options,
     "make an empty store, without a cluster",
     "For tests, benches and recovery work; a cluster's disk is made by `skerry disk add`. What "
     "holds data is refused without --force.",
     cli_store_format},
    {"store", "check", "PATH", 1, 1, NULL, "what would a node find on this disk?",
     "Reads the superblocks, the log, and the data that was on its way at the end; writes nothing. "
     "Exits 0 if a node would serve the disk, 1 if it is damaged, 2 if it is no store, or in use. "
     "Takes as much memory as a node does to serve it.",
     cli_store_check},
    {"store", "dump", "PATH", 1, 1, store_dump_options, "what lies on a disk, for people or tools",
     "Writes nothing. Without options: superblocks, log and objects. With -o json an object a "
     "line; "
     "numbers of 2^63 and more are strings.",
     cli_store_dump},
    {"store", "verify", "PATH", 1, 1, NULL, "check, then read every block of data and compare it",
     "Writes nothing. Exits 1 if a block is bad or check finds damage. -o json lists the first "
     "1000 "
     "bad blocks.",
     cli_store_verify},
    {"version", NULL, "", 0, 0, NULL, "print the version", NULL, cli_version},
    {"help", NULL, "[COMMAND [VERB]]", 0, 2, help_options, "this, or more on one command", NULL,
     cli_help},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL},
};

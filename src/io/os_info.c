#include "io/os.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

/* The text of one of the queue's files, without the end of its line; empty if it cannot be read. */
static void queue_read(const char *sysfs_dir, const char *name, char *text, size_t text_size)
{
    static const char *const places[] = {"queue", "../queue"};
    char path[512];

    text[0] = '\0';
    for (uint32_t i = 0; i < COUNT_OF(places) && text[0] == '\0'; i++) {
        int len = snprintf(path, sizeof(path), "%s/%s/%s", sysfs_dir, places[i], name);
        if (len < 0 || (size_t)len >= sizeof(path))
            continue;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t got = read(fd, text, text_size - 1);
        close(fd);
        text[got > 0 ? got : 0] = '\0';
        text[strcspn(text, "\n")] = '\0';
    }
}

/* 0: not a number, or not to be read. */
static uint64_t queue_number(const char *sysfs_dir, const char *name)
{
    char text[32];
    uint64_t value;

    queue_read(sysfs_dir, name, text, sizeof(text));
    return str_to_u64(text, &value) ? value : 0;
}

void os_device_info(const char *sysfs_dir, struct loop_file_info *out)
{
    char cache[32];
    uint64_t block = queue_number(sysfs_dir, "logical_block_size");
    uint64_t granularity = queue_number(sysfs_dir, "discard_granularity");

    queue_read(sysfs_dir, "write_cache", cache, sizeof(cache));
    *out = (struct loop_file_info){
        .is_volatile = strcmp(cache, "write through") != 0,
        .has_fua = queue_number(sysfs_dir, "fua") == 1,
        .can_discard = queue_number(sysfs_dir, "discard_max_bytes") > 0 && granularity > 0,
        .io_align = block > 0 && block <= UINT32_MAX ? (uint32_t)block : OS_BLOCK,
    };
    if (out->can_discard)
        out->discard_align = granularity;
}

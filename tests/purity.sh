#!/bin/sh
# Logic is pure: outside io/ nobody calls the clock, a file, a socket, a thread, randomness or the
# environment. Lists what the objects of the pure folders want from elsewhere and fails on such names.
#
#     tests/purity.sh BUILD_DIR
#
# Folders whose libraries do I/O themselves (gw, cli) are exempt, and io is the door; its simulator
# (sim) is pure, or a seed would not give the same run twice.

set -eu

build=${1:?usage: purity.sh BUILD_DIR}
pure="base net raft meta store osd client volume sim"

forbidden='pthread_.*|thrd_.*|mtx_.*|cnd_.*|sem_.*'
forbidden="$forbidden|clock_.*|gettimeofday|time|times|timespec_get|localtime(_r)?|mktime|ftime"
forbidden="$forbidden|nanosleep|usleep|sleep|alarm|timer_.*|timerfd_.*"
forbidden="$forbidden|p?readv?(64)?|p?writev?(64)?|preadv2|pwritev2|__p?read(64)?_chk"
forbidden="$forbidden|open(at)?(64)?|__open(64)?_2|creat(64)?|close|dup[23]?|lseek(64)?|fcntl(64)?|ioctl|flock"
forbidden="$forbidden|fsync|fdatasync|sync|syncfs|f?truncate(64)?|(posix_)?fallocate(64)?"
forbidden="$forbidden|unlink(at)?|rename(at2?)?|remove|mkdir(at)?|rmdir|opendir|readdir(64)?|(f|l)?stat(64)?|(f)?statvfs(64)?"
forbidden="$forbidden|fopen(64)?|fdopen|freopen(64)?|popen|system|tmpfile(64)?|mkstemp(64)?|mkdtemp|fread|fgets|getline"
forbidden="$forbidden|socket|socketpair|bind|listen|accept4?|connect|shutdown|send(to|msg|mmsg|file)?|recv(from|msg|mmsg)?"
forbidden="$forbidden|[gs]etsockopt|getpeername|getsockname|getaddrinfo|gethostby.*|poll|ppoll|select|pselect|epoll_.*|eventfd.*|pipe2?"
forbidden="$forbidden|io_uring_.*|uv_.*"
forbidden="$forbidden|rand|rand_r|srand|random(_r)?|srandom(_r)?|[delmnj]rand48|getrandom|getentropy|arc4random.*|gnutls_rnd|sqlite3_randomness"
forbidden="$forbidden|fork|vfork|exec.*|posix_spawn.*|wait(pid)?|kill|raise|signal|sigaction|getpid|getppid|gettid"
forbidden="$forbidden|(secure_)?getenv|setenv|putenv|syscall|mmap(64)?"
# Even what is said goes through base/log.h; check.c alone speaks for itself, before it aborts.
output='v?printf|v?fprintf|__v?f?printf_chk|puts|putchar|fputs|fputc|fwrite|perror|stderr|stdout|abort|_?exit'

count=0
status=0
for folder in $pure; do
    library=$build/libskerry_$folder.a
    [ -e "$library" ] || continue
    count=$((count + 1))
    found=$(nm --undefined-only --print-file-name "$library" |
        awk -v forbidden="^($forbidden)$" -v output="^($output)$" '
            {
                object = $1; sub(/:$/, "", object); sub(/.*:/, "", object)
                name = $NF; sub(/@.*/, "", name)
            }
            name ~ forbidden || (name ~ output && object != "check.c.o") { print object " calls " name }' |
        sort -u)
    if [ -n "$found" ]; then
        echo "$found" | sed "s|^|$folder: |"
        status=1
    fi
done

if [ "$count" -eq 0 ]; then
    echo "purity: no libraries in $build: build first" >&2
    exit 2
fi
[ "$status" -ne 0 ] || echo "purity: $count folders are pure"
exit "$status"

/* sendloop: what the kernel asks for the same work. A loop of send() over loopback TCP sockets, and nothing else.
 *
 * A child process drains the other ends by epoll. Prints as JSON the CPU time of the sending process per send, and the
 * sends per second; no server that sends each message by itself can be cheaper.
 *
 *     cc -O2 -std=c11 -o sendloop sendloop.c
 *     sendloop SOCKETS ROUNDS ROUNDS_PER_SECOND BYTES       (0 rounds per second: as fast as it goes)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "sendloop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void drain(const int *sockets, int count, uint64_t expected) {
    static char buffer[1 << 18];
    static struct epoll_event events[1024];
    int epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = sockets[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[i], &event))
            fail("epoll_ctl");
    }
    while (expected) {
        int found = epoll_wait(epoll, events, 1024, -1);
        for (int i = 0; i < found; i++) {
            ssize_t size = recv(events[i].data.fd, buffer, sizeof buffer, 0);
            if (size <= 0)
                fail("recv");
            expected -= (uint64_t)size;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fputs("usage: sendloop SOCKETS ROUNDS ROUNDS_PER_SECOND BYTES\n", stderr);
        return 2;
    }
    int count = atoi(argv[1]), rounds = atoi(argv[2]), bytes = atoi(argv[4]);
    double rate = atof(argv[3]);
    if (count < 1 || rounds < 1 || bytes < 1 || bytes > 65536)
        fail("the numbers");
    int *near = calloc((size_t)count, sizeof *near), *far = calloc((size_t)count, sizeof *far);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        fail("listen");
    for (int i = 0; i < count; i++) {
        far[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (far[i] < 0 || connect(far[i], (struct sockaddr *)&address, sizeof address))
            fail("connect");
        near[i] = accept(listener, 0, 0);
        if (near[i] < 0)
            fail("accept");
        setsockopt(near[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    }
    pid_t reader = fork();
    if (reader == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        drain(far, count, (uint64_t)count * (uint64_t)rounds * (uint64_t)bytes);
        return 0;
    }
    static char data[65536];
    memset(data, '.', sizeof data);
    usleep(100000);
    double start = seconds(), before = cpu();
    for (int round = 0; round < rounds; round++) {
        for (double wait; rate > 0 && (wait = start + round / rate - seconds()) > 0;)
            usleep((useconds_t)(wait * 1e6) + 1);
        for (int i = 0; i < count; i++)
            if (send(near[i], data, (size_t)bytes, MSG_NOSIGNAL) != bytes)
                fail("send");
    }
    double used = cpu() - before, sends = (double)count * rounds;
    int status;
    waitpid(reader, &status, 0);
    printf("{\"sends\": %.0f, \"cpu_us_per_send\": %.4f, \"sends_per_s\": %.0f}\n", sends, used * 1e6 / sends,
           sends / (seconds() - start));
    return status != 0;
}

/* publish: POST to an HTTP server on loopback as fast as it answers, and say what came of it, as one JSON object.
 *
 * Every connection is kept alive and has one request outstanding: a closed loop, so latency and throughput are two
 * sides of one thing, and the number of connections is how many publishes the server can take together. The messages
 * are JSON strings that end with their number and a tilde, and go to the channels in turn. An answer counts when all of
 * it has come; 2xx is a publish, everything else is counted by its status. The clock is CLOCK_MONOTONIC.
 *
 *     cc -O2 -std=c11 -o publish publish.c
 *     publish --port 8088 --connections 64 --channels 100 --seconds 5
 *     publish --port 8088 --prefix /pub/ --connections 1 --channels 1 --messages 100000
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER = 1 << 14, REQUEST = 1 << 16, STATUSES = 600, MAX_US = 20 * 1000 * 1000, DIGITS = 9 };

struct connection {
    int fd;
    bool pending;
    int64_t asked;
    size_t have;            /* bytes of the answer */
    char answer[ANSWER];
};

static struct option_values {
    unsigned port, connections, channels, size;
    uint64_t messages;      /* 0: as many as there is time for */
    double seconds, timeout;
    const char *prefix, *channel;
} opt = {.connections = 1, .channels = 1, .size = 128, .seconds = 5, .timeout = 10, .prefix = "/", .channel = "bench"};

static struct connection *connections;
static uint32_t *histogram; /* of latencies, in microseconds */
static uint64_t sent, answered, accepted, statuses[STATUSES];
static int64_t last_answer;

static _Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("publish: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void open_connection(int epoll, struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail("connect: %s", strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void ask(struct connection *c) {
    static char request[REQUEST];
    size_t size = (size_t)snprintf(request, 1024, "POST %s%s%llu HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: "
                                   "application/json\r\nContent-Length: %u\r\n\r\n", opt.prefix, opt.channel,
                                   (unsigned long long)(sent % opt.channels), opt.port, opt.size);
    char *body = request + size;
    memset(body, '.', opt.size);
    body[0] = '"';
    uint64_t number = sent++;
    for (unsigned i = 0; i < DIGITS; i++, number /= 10)
        body[opt.size - 3 - i] = (char)('0' + number % 10);
    body[opt.size - 2] = '~';
    body[opt.size - 1] = '"';
    size += opt.size;
    c->asked = now();
    c->pending = true;
    c->have = 0;
    if (send(c->fd, request, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("send: %s", errno ? strerror(errno) : "the socket's buffer is full");
}

/* The status of the answer, or 0 as long as it is not complete. RFC 9112 section 6.3 says where it ends. */
static unsigned status_of(struct connection *c) {
    c->answer[c->have] = 0;
    char *body = strstr(c->answer, "\r\n\r\n");
    if (!body)
        return 0;
    unsigned status = 0;
    if (sscanf(c->answer, "HTTP/1.1 %3u", &status) != 1 || status < 200 || status >= STATUSES)
        fail("not an answer: %.60s", c->answer);
    body += 4;
    size_t got = (size_t)(c->answer + c->have - body), length = 0;
    for (char *line = strstr(c->answer, "\r\n"); line + 4 < body; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "Content-Length:", 15))
            length = strtoul(line + 17, 0, 10);
        else if (!strncasecmp(line + 2, "Transfer-Encoding:", 18))
            return got >= 5 && !memcmp(body + got - 5, "0\r\n\r\n", 5) ? status : 0;
    }
    if (status == 204 || status == 304)
        length = 0;
    if (got > length)
        fail("more than was asked for: %.200s", c->answer);
    return got == length ? status : 0;
}

static void take_answer(struct connection *c) {
    ssize_t size = recv(c->fd, c->answer + c->have, ANSWER - 1 - c->have, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size < 0)
        fail("recv: %s", strerror(errno));
    if (size == 0)
        fail("the server has closed a connection, or its answer is too long; its last words: %.200s", c->answer);
    if (!c->pending)
        fail("nothing was asked, but came: %.200s", c->answer);
    c->have += (size_t)size;
    unsigned status = status_of(c);
    if (!status)
        return;
    c->pending = false;
    last_answer = now();
    answered++;
    statuses[status]++;
    if (status < 300) {
        int64_t us = (last_answer - c->asked) / 1000;
        accepted++;
        histogram[us < MAX_US ? us : MAX_US]++;
    }
}

static double percentile(double share) {
    uint64_t rank = (uint64_t)(share * (double)accepted), below = 0;
    for (unsigned us = 0; us <= MAX_US; us++)
        if ((below += histogram[us]) > rank)
            return us;
    return 0;
}

static void parse(int count, char **words) {
    for (int i = 1; i < count; i++) {
        const char *name = words[i];
        if (++i == count)
            fail("%s needs a value", name);
        const char *value = words[i];
        struct { const char *name; unsigned *integer; double *real; const char **text; } table[] = {
            {"--port", &opt.port, 0, 0}, {"--connections", &opt.connections, 0, 0}, {"--channels", &opt.channels, 0, 0},
            {"--size", &opt.size, 0, 0}, {"--seconds", 0, &opt.seconds, 0}, {"--timeout", 0, &opt.timeout, 0},
            {"--prefix", 0, 0, &opt.prefix}, {"--channel", 0, 0, &opt.channel},
        };
        bool found = !strcmp(name, "--messages");
        if (found)
            opt.messages = strtoull(value, 0, 10);
        for (unsigned j = 0; j < sizeof table / sizeof *table; j++) {
            if (strcmp(table[j].name, name))
                continue;
            found = true;
            if (table[j].integer)
                *table[j].integer = (unsigned)strtoul(value, 0, 10);
            else if (table[j].real)
                *table[j].real = strtod(value, 0);
            else
                *table[j].text = value;
        }
        if (!found)
            fail("unknown option %s", name);
    }
    if (!opt.port || opt.port > 65535 || !opt.connections || !opt.channels)
        fail("needs --port, and counts that are not 0");
    if (opt.size < 16 || opt.size > REQUEST - 1024 || strlen(opt.prefix) + strlen(opt.channel) > 256)
        fail("--size is 16 to %u, --prefix and --channel together up to 256 bytes", REQUEST - 1024);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    int epoll = epoll_create1(0);
    connections = calloc(opt.connections, sizeof *connections);
    histogram = calloc(MAX_US + 1, sizeof *histogram);
    for (unsigned i = 0; i < opt.connections; i++)
        open_connection(epoll, &connections[i]);
    double used = cpu();
    int64_t start = now(), stop = start + (int64_t)(opt.seconds * 1e9), patience = (int64_t)(opt.timeout * 1e9);
    last_answer = start;
    for (unsigned i = 0; i < opt.connections && (!opt.messages || sent < opt.messages); i++)
        ask(&connections[i]);
    while (answered < sent) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            take_answer(c);
            if (!c->pending && (opt.messages ? sent < opt.messages : last_answer < stop))
                ask(c);
        }
        if (now() - last_answer > patience)
            fail("%llu answers did not come within %.0f s", (unsigned long long)(sent - answered), opt.timeout);
    }
    used = cpu() - used;
    double elapsed = (double)(last_answer - start) / 1e9;
    printf("{\"published\": %llu, \"elapsed_s\": %.4f, \"publishes_per_s\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"tool_cpu_s\": %.4f, \"statuses\": {", (unsigned long long)accepted, elapsed,
           elapsed > 0 ? (double)accepted / elapsed : 0, percentile(0.50), percentile(0.99), used);
    const char *separator = "";
    for (unsigned status = 0; status < STATUSES; status++) {
        if (!statuses[status])
            continue;
        printf("%s\"%u\": %llu", separator, status, (unsigned long long)statuses[status]);
        separator = ", ";
    }
    printf("}}\n");
    return 0;
}

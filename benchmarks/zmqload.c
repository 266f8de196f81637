/* zmqload: one publisher and its subscribers, of ZeroMQ (libzmq's PUSH and SUB) or NATS (plain sockets), and what came
 * of it, as one JSON object.
 *
 * A payload begins with its number and the time it was handed over, which tell what was lost, what came out of order
 * and how long each took; its other bytes are dots. One thread publishes: as fast as a window allows, which is how far
 * it may be ahead of the slowest subscriber, or at a pace. Another thread receives for all subscribers. The clock is
 * CLOCK_MONOTONIC.
 *
 *     cc -O2 -std=c11 -pthread -o zmqload zmqload.c -lzmq
 *     zmqload --push tcp://127.0.0.1:7072 --sub tcp://127.0.0.1:7071 --type application/octet-stream --rate 2000
 *     zmqload --nats 4222 --subs 50 --window 1000
 *
 * It says "ready" once each subscriber has heard something, begins when it reads a line, prints what came of it, and
 * ends when its standard input does: who measures the server's CPU does so in between.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define HELLO "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"

enum { READ = 1 << 18, WRITE = 1 << 15, MAX_US = 20 * 1000 * 1000, AT_ONCE = 1000, SETTLE_MS = 200 };
static const uint64_t PROBE = UINT64_MAX; /* the number of what is sent to see whether subscriptions hold */

struct subscriber {
    void *socket;           /* of libzmq, or */
    int fd;                 /* a connection to NATS, */
    size_t have;            /* with what came and is not yet taken */
    char *buffer;
    bool ready;
    uint64_t next, received;
};

static struct option_values {
    unsigned nats, subs, size, window, json;
    double rate, seconds, drain, timeout;
    const char *push, *sub, *type, *channel;
} opt = {.subs = 1, .size = 128, .window = 1000, .seconds = 2, .drain = 3, .timeout = 60, .channel = "bench"};

static struct subscriber *subscribers;
static uint32_t *histogram; /* of latencies, in microseconds */
static uint64_t delivered, misordered;
static int64_t last_delivery;
static atomic_uint ready;
static atomic_ullong slowest; /* what the subscriber that is furthest behind waits for */
static atomic_bool over;

static _Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("zmqload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    _exit(1); /* whatever the other thread does */
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void sleep_until(int64_t time) {
    struct timespec at = {time / 1000000000, time % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static int connection(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.nats)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

static void write_all(int fd, const char *data, size_t size) {
    for (ssize_t done; size; data += done, size -= (size_t)done)
        if ((done = send(fd, data, size, MSG_NOSIGNAL)) < 0)
            fail("send: %s", strerror(errno));
}

static void *zmq_connected(void *context, int type, const char *endpoint) {
    void *made = zmq_socket(context, type);
    if (!made || zmq_setsockopt(made, ZMQ_LINGER, &(int){0}, sizeof(int)) || zmq_connect(made, endpoint))
        fail("%s: %s", endpoint, zmq_strerror(zmq_errno()));
    return made;
}

/* Payloads. */

struct mark {
    uint64_t number;
    int64_t time;
};

static void write_payload(char *at, uint64_t number) {
    struct mark mark = {number, now()};
    if (opt.json) { /* a string */
        char digits[40];
        snprintf(digits, sizeof digits, "\"%016llx%016llx", (unsigned long long)mark.number,
                 (unsigned long long)mark.time);
        memcpy(at, digits, 33);
    } else
        memcpy(at, &mark, sizeof mark);
}

static uint64_t hexadecimal(const char *at) {
    uint64_t number = 0;
    for (unsigned i = 0; i < 16; i++)
        number = number << 4 | (uint64_t)(at[i] <= '9' ? at[i] - '0' : at[i] - 'a' + 10);
    return number;
}

static struct mark read_payload(const char *at, size_t size) {
    struct mark mark;
    if (size != opt.size)
        fail("a payload has %zu bytes instead of %u", size, opt.size);
    if (opt.json) {
        return (struct mark){hexadecimal(at + 1), (int64_t)hexadecimal(at + 17)};
    }
    memcpy(&mark, at, sizeof mark);
    return mark;
}

/* Receiving. */

static void take(struct subscriber *s, const char *payload, size_t size) {
    struct mark mark = read_payload(payload, size);
    if (!s->ready) {
        s->ready = true;
        ready++;
    }
    if (mark.number == PROBE)
        return;
    if (mark.number < s->next) {
        misordered++;
        return;
    }
    last_delivery = now();
    int64_t us = (last_delivery - mark.time) / 1000;
    histogram[us < MAX_US ? us : MAX_US]++;
    s->next = mark.number + 1;
    s->received++;
    delivered++;
}

static void tell_slowest(void) {
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < opt.subs; i++)
        if (subscribers[i].next < least)
            least = subscribers[i].next;
    slowest = least;
}

/* One message, if there is one: [channel, payload], and a cursor from Raiden. */
static bool receive_zmq(struct subscriber *s) {
    zmq_msg_t channel, payload, cursor;
    zmq_msg_init(&channel);
    if (zmq_msg_recv(&channel, s->socket, ZMQ_DONTWAIT) < 0)
        return false;
    zmq_msg_init(&payload);
    if (!zmq_msg_more(&channel) || zmq_msg_recv(&payload, s->socket, ZMQ_DONTWAIT) < 0)
        fail("a message has only one frame");
    if (zmq_msg_more(&payload)) {
        zmq_msg_init(&cursor);
        if (zmq_msg_recv(&cursor, s->socket, ZMQ_DONTWAIT) < 0 || zmq_msg_more(&cursor))
            fail("a message has more than three frames");
        zmq_msg_close(&cursor);
    }
    take(s, zmq_msg_data(&payload), zmq_msg_size(&payload));
    zmq_msg_close(&channel);
    zmq_msg_close(&payload);
    return true;
}

static void *receive_all_zmq(void *context) {
    zmq_pollitem_t *items = calloc(opt.subs, sizeof *items);
    for (unsigned i = 0; i < opt.subs; i++) {
        void *socket = zmq_connected(context, ZMQ_SUB, opt.sub);
        zmq_setsockopt(socket, ZMQ_SUBSCRIBE, opt.channel, strlen(opt.channel));
        items[i] = (zmq_pollitem_t){socket, -1, ZMQ_POLLIN, 0};
        subscribers[i].socket = socket;
    }
    while (!over) {
        if (zmq_poll(items, (int)opt.subs, 20) < 0)
            fail("poll: %s", zmq_strerror(zmq_errno()));
        for (unsigned i = 0; i < opt.subs; i++)
            for (unsigned count = 0; items[i].revents && count < AT_ONCE && receive_zmq(&subscribers[i]); count++)
                ;
        tell_slowest();
    }
    return NULL;
}

/* INFO, +OK and PING need no answer: a PING only matters after minutes. */
static void receive_nats(struct subscriber *s) {
    ssize_t got = recv(s->fd, s->buffer + s->have, READ - s->have, MSG_DONTWAIT);
    if (got <= 0)
        fail("a subscriber's connection: %s", got ? strerror(errno) : "closed");
    char *at = s->buffer, *end = at + s->have + got, *line_end;
    while ((line_end = memchr(at, '\n', (size_t)(end - at)))) {
        char *next = line_end + 1;
        if (!memcmp(at, "MSG ", 4)) {
            char *number = line_end - 1; /* the last word is the payload's size */
            while (number[-1] != ' ')
                number--;
            size_t size = strtoul(number, NULL, 10);
            if ((size_t)(end - next) < size + 2)
                break;
            take(s, next, size);
            next += size + 2;
        } else if (*at == '-')
            fail("NATS says %.*s", (int)(line_end - at), at);
        at = next;
    }
    s->have = (size_t)(end - at);
    memmove(s->buffer, at, s->have);
}

static void *receive_all_nats(void *unused) {
    (void)unused;
    int epoll = epoll_create1(0);
    char hello[256];
    int size = snprintf(hello, sizeof hello, HELLO "SUB %s 1\r\n", opt.channel);
    for (unsigned i = 0; i < opt.subs; i++) {
        struct subscriber *s = &subscribers[i];
        s->fd = connection();
        s->buffer = malloc(READ);
        write_all(s->fd, hello, (size_t)size);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &event))
            fail("epoll_ctl: %s", strerror(errno));
    }
    while (!over) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, 20);
        for (int i = 0; i < count; i++)
            receive_nats(events[i].data.ptr);
        tell_slowest();
    }
    return NULL;
}

/* Publishing. */

struct publisher {
    void *socket; /* of libzmq, or */
    int fd;       /* a connection to NATS, */
    size_t have;  /* with what is not yet written, as NATS's clients gather it */
    char buffer[WRITE];
    char *payload;
};

static void flush(struct publisher *p) {
    if (p->have)
        write_all(p->fd, p->buffer, p->have);
    p->have = 0;
}

static void publish(struct publisher *p, uint64_t number) {
    write_payload(p->payload, number);
    if (opt.nats) {
        if (p->have + opt.size + 256 > WRITE)
            flush(p);
        p->have += (size_t)sprintf(p->buffer + p->have, "PUB %s %u\r\n", opt.channel, opt.size);
        memcpy(p->buffer + p->have, p->payload, opt.size);
        p->have += opt.size;
        memcpy(p->buffer + p->have, "\r\n", 2);
        p->have += 2;
        return;
    }
    if (zmq_send(p->socket, opt.channel, strlen(opt.channel), ZMQ_SNDMORE) < 0 ||
        zmq_send(p->socket, p->payload, opt.size, opt.type ? ZMQ_SNDMORE : 0) < 0 ||
        (opt.type && zmq_send(p->socket, opt.type, strlen(opt.type), 0) < 0))
        fail("send: %s", zmq_strerror(zmq_errno()));
}

static void open_publisher(struct publisher *p, void *context) {
    p->have = 0;
    p->payload = malloc(opt.size);
    memset(p->payload, '.', opt.size);
    p->payload[opt.size - 1] = opt.json ? '"' : '.';
    if (!opt.nats) {
        p->socket = zmq_connected(context, ZMQ_PUSH, opt.push);
        return;
    }
    p->fd = connection();
    write_all(p->fd, HELLO, strlen(HELLO));
}

static void wait_until_ready(struct publisher *p, int64_t deadline) {
    while (ready < opt.subs) {
        if (now() > deadline)
            fail("%u of %u subscribers have heard nothing", opt.subs - ready, opt.subs);
        publish(p, PROBE);
        flush(p);
        sleep_until(now() + 10 * 1000 * 1000);
    }
    sleep_until(now() + SETTLE_MS * INT64_C(1000000));
}

/* Publish for the time that was asked for, then wait for the last message, or until none comes; how many there were. */
static uint64_t run(struct publisher *p, int64_t start) {
    int64_t until = start + (int64_t)(opt.seconds * 1e9), patience = (int64_t)(opt.drain * 1e9), progress = start;
    uint64_t sent = 0, known = 0;
    while (now() < until) {
        if (opt.rate > 0) {
            flush(p);
            sleep_until(start + (int64_t)((double)sent * 1e9 / opt.rate));
        } else if (sent - slowest >= opt.window) {
            flush(p);
            sleep_until(now() + 50 * 1000);
            if (slowest != known) {
                known = slowest;
                progress = now();
            } else if (now() > progress + patience)
                break; /* the end was lost, so that the window stays closed */
            continue;
        }
        publish(p, sent++);
    }
    flush(p);
    for (progress = now(); slowest < sent && now() < progress + patience; sleep_until(now() + 1000 * 1000))
        if (slowest != known) {
            known = slowest;
            progress = now();
        }
    return sent;
}

static double percentile(double share) {
    uint64_t rank = (uint64_t)(share * (double)delivered), below = 0;
    for (unsigned us = 0; us <= MAX_US; us++)
        if ((below += histogram[us]) > rank)
            return us;
    return 0;
}

static void parse(int count, char **words) {
    for (int i = 1; i < count; i++) {
        const char *name = words[i];
        if (!strcmp(name, "--json")) {
            opt.json = 1;
            continue;
        }
        if (++i == count)
            fail("%s needs a value", name);
        const char *value = words[i];
        struct { const char *name; unsigned *integer; double *real; const char **text; } table[] = {
            {"--nats", &opt.nats, 0, 0}, {"--subs", &opt.subs, 0, 0}, {"--size", &opt.size, 0, 0},
            {"--window", &opt.window, 0, 0}, {"--rate", 0, &opt.rate, 0}, {"--seconds", 0, &opt.seconds, 0},
            {"--drain", 0, &opt.drain, 0}, {"--timeout", 0, &opt.timeout, 0}, {"--push", 0, 0, &opt.push},
            {"--sub", 0, 0, &opt.sub}, {"--type", 0, 0, &opt.type}, {"--channel", 0, 0, &opt.channel},
        };
        bool found = false;
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
    if (!opt.nats == !(opt.push && opt.sub) || !opt.subs || !opt.window)
        fail("needs either --nats or --push and --sub, and counts that are not 0");
    if (opt.size < (opt.json ? 40 : sizeof(struct mark)) || opt.size > WRITE - 256 || strlen(opt.channel) > 64)
        fail("--size is %zu (40 with --json) to %u, --channel up to 64 bytes", sizeof(struct mark), WRITE - 256);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    alarm((unsigned)opt.timeout + 1); /* and it ends, wherever it hangs */
    subscribers = calloc(opt.subs, sizeof *subscribers);
    histogram = calloc(MAX_US + 1, sizeof *histogram);
    void *context = zmq_ctx_new();
    struct publisher *p = malloc(sizeof *p);
    open_publisher(p, context);
    pthread_t receiver;
    if (pthread_create(&receiver, NULL, opt.nats ? receive_all_nats : receive_all_zmq, context))
        fail("no thread");
    wait_until_ready(p, now() + (int64_t)(opt.timeout / 4 * 1e9));
    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 0;
    int64_t start = now();
    last_delivery = start;
    uint64_t sent = run(p, start);
    over = true;
    pthread_join(receiver, NULL);
    double elapsed = (double)(last_delivery - start) / 1e9;
    printf("{\"published\": %llu, \"deliveries\": %llu, \"lost\": %lld, \"misordered\": %llu, \"elapsed_s\": %.4f, "
           "\"publishes_per_s\": %.1f, \"deliveries_per_s\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f}\n",
           (unsigned long long)sent, (unsigned long long)delivered, (long long)(sent * opt.subs - delivered),
           (unsigned long long)misordered, elapsed, elapsed > 0 ? (double)sent / elapsed : 0,
           elapsed > 0 ? (double)delivered / elapsed : 0, percentile(0.50), percentile(0.99));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}

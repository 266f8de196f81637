/* fanout: load an HTTP server on loopback and say what came of it, as one JSON object.
 *
 * Subscribers (WebSockets or event streams) of one channel, and publishers that POST to it, in one process and one epoll
 * loop. Every message carries a marker <<nanoseconds-sequence>>, which is looked for in the raw bytes that a subscriber
 * gets: framing does not matter, and what is counted is what has arrived. The clock is CLOCK_MONOTONIC.
 *
 *     cc -O2 -std=c11 -o fanout fanout.c
 *     fanout --port 8088 --subs 1000 --msgs 2000 --rate 200 --pid SUPERVISOR
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
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MARKER = 33, CARRY = 64, READ = 1 << 18, MAX_PIDS = 64, HANDSHAKES = 64, MAX_US = 20 * 1000 * 1000 };

struct connection {
    int fd;
    bool ready, closed;
    int64_t last;       /* a subscriber's highest sequence number so far */
    unsigned pending;   /* a publisher's requests without an answer */
    unsigned carried;   /* bytes of the end of the last read, where a marker may have been cut */
    char carry[CARRY];
};

static struct option_values {
    unsigned port, subs, msgs, window, pubs, size, sources, one_by_one;
    double rate, settle, drain, timeout;
    const char *transport, *channel;
} opt = {.subs = 1, .window = 1, .pubs = 1, .size = 128, .sources = 1, .settle = 0.5, .drain = 3, .timeout = 60,
         .transport = "ws", .channel = "bench"};

static struct connection *connections;  /* the subscribers, then the publishers */
static int epoll;
static char buffer[CARRY + READ];
static uint8_t *seen;                   /* a bit for each subscriber and message */
static uint32_t *histogram;             /* of latencies, in microseconds */
static uint64_t delivered, duplicates, out_of_order, acknowledged, refused, sent;
static unsigned ready, closed;
static int64_t last_delivery, last_answer;
static pid_t pids[MAX_PIDS], memory_pids[MAX_PIDS];
static unsigned pid_count, memory_count;

static _Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("fanout: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* What /proc says. */

static double cpu_of(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    unsigned long user = 0, system = 0;
    char *end = strrchr(text, ')');
    if (end)
        sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Append to `pids` the children of each process in it, and theirs. */
static void add_descendants(void) {
    for (unsigned i = 0; i < pid_count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", pids[i], pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            fail("no process %d", pids[i]);
        for (int child; fscanf(file, "%d", &child) == 1;) {
            bool known = false;
            for (unsigned j = 0; j < pid_count; j++)
                known |= pids[j] == child;
            if (!known && pid_count < MAX_PIDS)
                pids[pid_count++] = child;
        }
        fclose(file);
    }
}

static double pss_kb(void) {
    double total = 0;
    for (unsigned i = 0; i < memory_count; i++) {
        char path[64], line[256];
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", memory_pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            fail("cannot read %s", path);
        double kb;
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "Pss: %lf", &kb) == 1)
                total += kb;
        fclose(file);
    }
    return total;
}

/* Connections. */

static void open_connection(struct connection *c) {
    unsigned index = (unsigned)(c - connections);
    struct sockaddr_in address = {.sin_family = AF_INET};
    c->last = -1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    if (opt.sources > 1) {
        int one = 1;
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index % opt.sources);
        if (bind(c->fd, (struct sockaddr *)&address, sizeof address))
            fail("bind: %s", strerror(errno));
    }
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)opt.port);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail("connect: %s", strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void send_all(struct connection *c, const char *data, size_t size) {
    if (send(c->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("send: %s", errno ? strerror(errno) : "the socket's buffer is full");
}

static void subscribe(struct connection *c) {
    char request[512];
    bool ws = !strcmp(opt.transport, "ws");
    int size = snprintf(request, sizeof request, "GET /%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s\r\n\r\n", opt.channel,
                        opt.port, ws ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                       "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA=="
                                     : "Accept: text/event-stream");
    send_all(c, request, (size_t)size);
}

static size_t put_message(char *at) {
    size_t head = (size_t)sprintf(at, "POST /%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                                  "Content-Length: %u\r\n\r\n", opt.channel, opt.port, opt.size);
    at += head;
    int used = sprintf(at, "\"<<%019lld-%09llu>>", (long long)now(), (unsigned long long)sent++);
    memset(at + used, '.', opt.size - (size_t)used);
    at[opt.size - 1] = '"';
    return head + opt.size;
}

/* Publish what the pace and the windows allow. */
static void publish(int64_t start) {
    static char *batch;
    if (!batch)
        batch = malloc(opt.window * (opt.size + 512));
    for (unsigned i = 0; i < opt.pubs; i++) {
        struct connection *c = &connections[opt.subs + i];
        size_t size = 0;
        while (sent < opt.msgs && c->pending < opt.window) {
            if (opt.rate > 0 && (double)(now() - start) < (double)sent * 1e9 / opt.rate)
                break;
            if (opt.one_by_one && delivered + duplicates < sent * opt.subs)
                break;
            size += put_message(batch + size);
            c->pending++;
        }
        if (size)
            send_all(c, batch, size);
    }
}

static int64_t digits(const char *at, int count) {
    int64_t number = 0;
    while (count--)
        number = number * 10 + (*at++ - '0');
    return number;
}

/* As memmem; memchr is faster where the first character is rare. */
static char *find(char *at, char *end, const char *pattern, size_t length) {
    while ((at = memchr(at, *pattern, (size_t)(end - at))) && (size_t)(end - at) >= length) {
        if (!memcmp(at, pattern, length))
            return at;
        at++;
    }
    return NULL;
}

static void take_marker(struct connection *c, const char *at, int64_t time) {
    int64_t stamp = digits(at + 2, 19), sequence = digits(at + 22, 9);
    if (memcmp(at + MARKER - 2, ">>", 2) || sequence >= (int64_t)opt.msgs)
        fail("not a marker of this run: %.33s", at);
    uint64_t bit = (uint64_t)(c - connections) * opt.msgs + (uint64_t)sequence;
    if (seen[bit >> 3] & (1 << (bit & 7))) {
        duplicates++;
        return;
    }
    seen[bit >> 3] |= (uint8_t)(1 << (bit & 7));
    delivered++;
    if (sequence < c->last)
        out_of_order++;
    else
        c->last = sequence;
    int64_t us = (time - stamp) / 1000;
    histogram[us < MAX_US ? us : MAX_US]++;
    last_delivery = time;
}

/* Look for complete patterns in what was carried over and has been read; carry over what may be cut. */
static void scan(struct connection *c, char *data, size_t size, bool subscriber) {
    const char *pattern = !subscriber || !c->ready ? "HTTP/1.1 " : "<<";
    size_t length = strlen(pattern), whole = subscriber && c->ready ? MARKER : length + 3;
    char *at = data, *end = data + size, *found;
    int64_t time = now();
    if (subscriber && !c->ready) {
        found = memmem(at, size, "\r\n\r\n", 4);
        if (!found)
            fail("the handshake's answer came in pieces");
        if (memcmp(at, pattern, length) || strncmp(at + length, *opt.transport == 'w' ? "101" : "200", 3))
            fail("not subscribed: %.*s", (int)size, data);
        c->ready = true;
        ready++;
        size = (size_t)(end - found - 4);
        if (size)
            scan(c, found + 4, size, true);
        return;
    }
    while ((found = find(at, end, pattern, length))) {
        at = found;
        if ((size_t)(end - at) < whole)
            break;
        if (subscriber) {
            take_marker(c, at, time);
        } else {
            c->pending--;
            *(at[length] == '2' ? &acknowledged : &refused) += 1;
            last_answer = time;
        }
        at += whole;
    }
    if (!found && (size_t)(end - at) >= length)
        at = end - (length - 1);  /* the pattern's beginning may be there */
    c->carried = (unsigned)(end - at);
    memcpy(c->carry, at, c->carried);
}

static void wait_and_read(int timeout_ms) {
    static struct epoll_event events[128];
    int count = epoll_wait(epoll, events, 128, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[events[i].data.u32];
        memcpy(buffer, c->carry, c->carried);
        ssize_t size = recv(c->fd, buffer + c->carried, READ, 0);
        if (size < 0 && errno == EAGAIN)
            continue;
        if (size <= 0) {
            if (events[i].data.u32 >= opt.subs)
                fail("the server has closed a publisher's connection");
            close(c->fd);
            c->closed = true;
            closed++;
            continue;
        }
        scan(c, buffer, c->carried + (size_t)size, events[i].data.u32 < opt.subs);
    }
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
        if (!strcmp(name, "--one-by-one")) {
            opt.one_by_one = 1;
            continue;
        }
        if (++i == count)
            fail("%s needs a value", name);
        const char *value = words[i];
        struct { const char *name; unsigned *integer; double *real; const char **text; } table[] = {
            {"--port", &opt.port, 0, 0}, {"--subs", &opt.subs, 0, 0}, {"--msgs", &opt.msgs, 0, 0},
            {"--window", &opt.window, 0, 0}, {"--pubs", &opt.pubs, 0, 0}, {"--size", &opt.size, 0, 0},
            {"--sources", &opt.sources, 0, 0}, {"--rate", 0, &opt.rate, 0}, {"--settle", 0, &opt.settle, 0},
            {"--drain", 0, &opt.drain, 0}, {"--timeout", 0, &opt.timeout, 0}, {"--transport", 0, 0, &opt.transport},
            {"--channel", 0, 0, &opt.channel},
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
        if (!strcmp(name, "--pid") && pid_count < MAX_PIDS)
            pids[pid_count++] = atoi(value);
        else if (!strcmp(name, "--memory-pid") && memory_count < MAX_PIDS)
            memory_pids[memory_count++] = atoi(value);
        else if (!found)
            fail("unknown option %s", name);
    }
    if (!opt.port || opt.size < 48 || !opt.window || !opt.pubs || !opt.sources || strlen(opt.channel) > 64)
        fail("needs --port, a --size of 48 or more, and counts that are not 0");
    if (strcmp(opt.transport, "ws") && strcmp(opt.transport, "sse"))
        fail("--transport is ws or sse");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    add_descendants();
    int64_t begin = now(), deadline = begin + (int64_t)(opt.timeout * 1e9);
    epoll = epoll_create1(0);
    connections = calloc(opt.subs + opt.pubs, sizeof *connections);
    seen = calloc((uint64_t)opt.subs * opt.msgs / 8 + 1, 1);
    histogram = calloc(MAX_US + 1, sizeof *histogram);
    double pss_before = pss_kb();
    for (unsigned opened = 0; ready < opt.subs && now() < deadline;) {
        for (; opened < opt.subs && opened - ready < HANDSHAKES; opened++) {
            open_connection(&connections[opened]);
            subscribe(&connections[opened]);
        }
        wait_and_read(100);
    }
    if (ready < opt.subs)
        fail("%u of %u subscribers are ready in time", ready, opt.subs);
    double connect_s = (double)(now() - begin) / 1e9;
    for (int64_t until = now() + (int64_t)(opt.settle * 1e9); now() < until;)
        wait_and_read(10);
    double pss_after = pss_kb(), cpu[MAX_PIDS], cpu_total = 0;
    for (unsigned i = 0; opt.msgs && i < opt.pubs; i++)
        open_connection(&connections[opt.subs + i]);
    for (unsigned i = 0; i < pid_count; i++)
        cpu[i] = cpu_of(pids[i]);
    int64_t start = now();
    uint64_t expected = (uint64_t)opt.msgs * opt.subs;
    last_delivery = last_answer = start;
    while (delivered < expected || acknowledged + refused < opt.msgs) {
        int64_t time = now(), quiet = time - (last_delivery > last_answer ? last_delivery : last_answer);
        if (time > deadline || quiet > (int64_t)(opt.drain * 1e9))
            break;
        publish(start);
        int wait_ms = 100;
        if (opt.rate > 0 && sent < opt.msgs) {
            double ms = ((double)sent * 1e9 / opt.rate - (double)(now() - start)) / 1e6;
            wait_ms = ms <= 0 ? 1 : ms > 100 ? 100 : (int)ms + 1;
        }
        wait_and_read(wait_ms);
    }
    for (unsigned i = 0; i < pid_count; i++)
        cpu_total += cpu[i] = cpu_of(pids[i]) - cpu[i];
    double deliver_s = (double)(last_delivery - start) / 1e9, answer_s = (double)(last_answer - start) / 1e9;
    printf("{\"subscribers\": %u, \"closed\": %u, \"connect_s\": %.3f, \"published\": %llu, \"acknowledged\": %llu, "
           "\"refused\": %llu, \"publishes_per_s\": %.1f, \"deliveries\": %llu, \"lost\": %llu, \"duplicates\": %llu, "
           "\"out_of_order\": %llu, \"elapsed_s\": %.4f, \"deliveries_per_s\": %.1f, \"p50_us\": %.0f, "
           "\"p99_us\": %.0f, \"server_cpu_s\": %.3f, \"pss_before_kb\": %.0f, \"pss_after_kb\": %.0f, \"cpu_s\": {",
           ready, closed, connect_s, (unsigned long long)sent, (unsigned long long)acknowledged,
           (unsigned long long)refused, answer_s > 0 ? (double)acknowledged / answer_s : 0,
           (unsigned long long)delivered, (unsigned long long)(expected - delivered), (unsigned long long)duplicates,
           (unsigned long long)out_of_order, deliver_s, deliver_s > 0 ? (double)delivered / deliver_s : 0,
           percentile(0.50), percentile(0.99), cpu_total, pss_before, pss_after);
    for (unsigned i = 0; i < pid_count; i++)
        printf("%s\"%d\": %.3f", i ? ", " : "", pids[i], cpu[i]);
    printf("}}\n");
    return 0;
}

/* load: load a server of publish/subscribe on loopback, and say what came of it, as one JSON object.
 *
 * It opens subscribers, publishes messages, and compares what arrives with what was sent. It does not know servers: how
 * to subscribe and how to publish are templates of its command line, and each message carries a marker, with its time
 * and its number, that is looked for in the raw bytes that a subscriber gets. So a delivery is the same thing whether
 * it comes in a WebSocket frame, an event stream, a long-poll's answer, by ZeroMQ, or in any protocol over TCP.
 *
 *     cc -O2 -std=c11 -o load load.c options.c wire.c meter.c sign.c
 *     load --sub ws --sub-addr 127.0.0.1:8088 --subs 1000 --pub http --pub-addr 127.0.0.1:8088 \
 *          --pub-header 'Content-Type: text/plain' --msgs 2000 --rate 200 --pid PID
 *
 * `load --help` names all options. A run goes through phases: connect, settle, publish, drain; or instead of publishing
 * it connects again and again (--storm), or subscribes to other channels again and again (--churn-on). One thread, one
 * epoll, edge-triggered; wire.c knows the protocols, meter.c what things cost, sign.c how Pusher signs.
 *
 * Latency is from when a message is written into its connection's buffer, which is sent before anything is read, until
 * the read that brought it. `expected` counts for each message the subscribers of its channel that were there when
 * publishing began; `lost` is what of that did not come. A publish is acknowledged by a 2xx response, by --pub-ack, or
 * where there is neither by being handed to the kernel. Two processes may share a run, because the clock is the
 * machine's: one with --pub none, which waits for --msgs messages, one with --subs 0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "meter.h"
#include "options.h"
#include "sign.h"
#include "wire.h"

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)

enum { READ = 1 << 18, WRITE = 1 << 16, EVENTS = 512, STATUSES = 600 };
enum { CONNECT_SECONDS = 60, PUBLISHERS_SECONDS = 10, STUCK_SECONDS = 15 };

static void warn(const char *format, ...) {
    static unsigned warned;
    if (warned++ >= 12)
        return;
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static void *allocated(uint64_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        fail("no memory");
    return memory;
}

/* What is going on. */

enum { MARKER = 16 };

struct connection {
    int fd;
    enum { CLOSED, CONNECTING, GREETING, OPEN } state;
    bool publisher, welcome, ready, stalled;
    unsigned index, channel;
    struct buffer out, in;  /* what could not be sent yet; what a pattern is looked for in */
    struct response response;
    struct frames frames;
    char *cursor[REPEATED];
    unsigned carried;       /* bytes at the end of the last read, where a marker may have been cut */
    char carry[MARKER];
    uint64_t next, changes; /* above the highest number that a subscriber got; how often --churn-on and off were sent */
    int64_t *asked;         /* when a publisher sent its outstanding requests: a ring, */
    unsigned first, outstanding;
};

static struct connection *subscribers, *publishers;
static int epoll;
static char input[MARKER + READ], *message;
static int64_t started, deadline, clock_now;
static volatile sig_atomic_t interrupted;

static enum phase { CONNECTS, STORMS, CHURNS, PUBLISHES, DRAINS } phase;
static int64_t begun = INT64_MAX, until = INT64_MAX; /* of publishing, storm or churn */
static int64_t last_ready, last_delivery, last_answer, last_publish, last_progress;

static unsigned ready, failed;
static struct {
    uint64_t connected, connect_errors, handshake_errors, disconnects, disconnects_in_run, sub_reconnects, responses;
    uint64_t sub_http_errors, pings, bytes_in, connects, changes;
    uint64_t published, accepted, pub_errors, pub_reconnects, statuses[STATUSES];
    uint64_t expected, delivered, duplicates, out_of_order, misrouted, stale;
} count;
static struct histogram latency, answer_time, lag, change_time;

static uint64_t *audience;        /* of each channel: the subscribers that are expected to get its messages */
static uint8_t *seen;             /* of each subscriber a bit for each message of its channel */
static uint64_t seen_size;
static uint32_t *copies;          /* with --inflight: deliveries of each message, */
static uint64_t done, given_up;   /* messages that all have, and that some will never have */

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static bool going_on(void) {
    return clock_now < deadline && !interrupted;
}

/* The marker: `@`, the time modulo 2^48 in eight digits, the number in six, `!`. The digits are those of base64url, so
 * that no protocol escapes or cuts them, and ordinary text is hardly ever taken for one. */

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static int8_t digit_of[256];
static const uint64_t TIME_MASK = (UINT64_C(1) << 48) - 1;

static void write_marker(char *at, int64_t time, uint64_t number) {
    uint64_t stamp = (uint64_t)time;
    at[0] = '@';
    for (int i = 8; i > 0; i--, stamp >>= 6)
        at[i] = DIGITS[stamp & 63];
    for (int i = 14; i > 8; i--, number >>= 6)
        at[i] = DIGITS[number & 63];
    at[MARKER - 1] = '!';
}

/* What `count` digits stand for; one that is none makes `valid` negative. */
static inline uint64_t digits(const char *at, int count, int *valid) {
    uint64_t number = 0;
    for (int i = 0; i < count; i++) {
        int digit = digit_of[(uint8_t)at[i]];
        *valid |= digit;
        number = number << 6 | (uint64_t)(digit & 63);
    }
    return number;
}

static uint64_t channel_of(uint64_t number) {
    return opt.channels == 1 ? 0 : number / opt.batch % opt.channels;
}

/* Which one of its channel's messages this is. */
static uint64_t place_of(uint64_t number) {
    return opt.channels == 1 ? number : number / (opt.batch * opt.channels) * opt.batch + number % opt.batch;
}

static void take_message(struct connection *c, uint64_t stamp, uint64_t number) {
    int64_t age = (int64_t)(((uint64_t)clock_now - stamp) & TIME_MASK);
    if (begun == INT64_MAX || age > clock_now - begun || number >= opt.msgs) {
        count.stale++;
        return;
    }
    if (channel_of(number) != c->channel) {
        count.misrouted++;
        return;
    }
    uint64_t place = place_of(number);
    uint8_t *byte = seen + c->index * seen_size + (place >> 3), bit = (uint8_t)(1 << (place & 7));
    if (*byte & bit) {
        count.duplicates++;
        return;
    }
    *byte |= bit;
    if (number < c->next)
        count.out_of_order++;
    else
        c->next = number + 1;
    count.delivered++;
    if (copies && ++copies[number] == audience[c->channel])
        done++;
    last_delivery = last_progress = clock_now;
    record(&latency, (uint64_t)age);
}

/* Look for markers in what was carried over and `data`, before which there is room; carry over what may be cut. */
static void scan(struct connection *c, char *data, size_t size) {
    char *at = data - c->carried, *end = data + size;
    memcpy(at, c->carry, c->carried);
    c->carried = 0;
    while ((at = memchr(at, '@', (size_t)(end - at)))) {
        if (end - at < MARKER) {
            c->carried = (unsigned)(end - at);
            memcpy(c->carry, at, c->carried);
            return;
        }
        int valid = at[MARKER - 1] == '!' ? 0 : -1;
        uint64_t stamp = digits(at + 1, 8, &valid), number = digits(at + 9, 6, &valid);
        if (valid >= 0)
            take_message(c, stamp, number);
        at += valid >= 0 ? MARKER : 1;
    }
}

/* How often a pattern is in a connection's stream, of which this is the next piece. */
static unsigned occurrences(struct connection *c, const struct buffer *pattern, const char *data, size_t size) {
    unsigned found = 0;
    if (!size)
        return 0;
    append(&c->in, data, size);
    char *at = c->in.data, *end = at + c->in.size, *match;
    while ((match = memmem(at, (size_t)(end - at), pattern->data, pattern->size))) {
        at = match + pattern->size;
        found++;
    }
    size_t kept = (size_t)(end - at) < pattern->size ? (size_t)(end - at) : pattern->size - 1;
    drop_front(&c->in, c->in.size - kept);
    return found;
}

/* Connections. */

static void flush(struct connection *c) {
    size_t sent = 0;
    while (sent < c->out.size) {
        ssize_t size = send(c->fd, c->out.data + sent, c->out.size - sent, MSG_NOSIGNAL);
        if (size < 0)
            break; /* EPOLLOUT comes, or reading tells why not */
        sent += (size_t)size;
    }
    drop_front(&c->out, sent);
}

static void close_connection(struct connection *c) {
    struct linger reset = {.l_onoff = 1}; /* so that the port is free at once */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->out.size = c->in.size = 0;
    c->carried = 0;
}

static void refused(struct connection *c, int error) {
    warn("connect: %s", strerror(error));
    count.connect_errors++;
    close_connection(c);
    if (c->publisher)
        fail("a publisher can't connect");
    if (!c->ready)
        failed++;
}

static void open_connection(struct connection *c) {
    const struct address *to = c->publisher ? &opt.pub_addr : &opt.sub_addr;
    int one = 1, size = (int)opt.rcvbuf;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!c->publisher && size)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (!c->publisher && opt.src_ips > 1) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + c->index % (uint32_t)opt.src_ips);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from))
            fail("bind: %s", strerror(errno));
    }
    c->state = CONNECTING;
    c->response.state = HEAD;
    c->response.begun = false;
    c->frames.have = 0;
    c->frames.left = 0;
    if (connect(c->fd, (const struct sockaddr *)&to->in, sizeof to->in) && errno != EINPROGRESS) {
        refused(c, errno);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static const char *channel_name(unsigned channel) {
    static char name[128];
    static unsigned named = UINT32_MAX;
    if (channel != named)
        snprintf(name, sizeof name, "%s%06u", opt.channel_prefix, channel);
    named = channel;
    return name;
}

/* NATS asks now and then, mostly when it has nothing else to send, and is content with an answer in some minutes. */
static void answer_ping(struct connection *c, const char *data, size_t size) {
    if (size < 6 || memcmp(data + size - 6, "PING\r\n", 6))
        return;
    count.pings++;
    append_text(&c->out, "PONG\r\n");
    flush(c);
}

static struct values values_of(const struct connection *c) {
    return (struct values){.channel = channel_name(c->channel), .index = c->index, .cursor = c->cursor[0]};
}

/* Subscribers. */

static void send_text(struct connection *c, const struct template *template, const struct values *values) {
    if (opt.sub == WS) {
        struct buffer text = {0};
        render(template, values, &text);
        append_frame(&c->out, TEXT, text.data, text.size);
        free(text.data);
    } else
        render(template, values, &c->out);
    flush(c);
}

static void request(struct connection *c) {
    struct values values = values_of(c);
    append_text(&c->out, "GET ");
    render(&opt.sub_path, &values, &c->out);
    append_text(&c->out, " HTTP/1.1\r\nHost: ");
    append_text(&c->out, opt.sub_addr.text);
    if (opt.sub == WS)
        append_text(&c->out, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                             "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==");
    for (unsigned i = 0; i < opt.sub_header.count; i++) {
        append_text(&c->out, "\r\n");
        render(&opt.sub_header.list[i], &values, &c->out);
    }
    for (unsigned i = 0; i < opt.cursor_header.count; i++)
        if (c->cursor[i]) {
            append_text(&c->out, "\r\n");
            append_text(&c->out, opt.cursor_header.right[i].data);
            append_text(&c->out, ": ");
            append_text(&c->out, c->cursor[i]);
        }
    append_text(&c->out, "\r\n\r\n");
    flush(c);
}

static void be_ready(struct connection *c) {
    if (c->ready)
        return;
    last_ready = clock_now;
    if (phase == STORMS) {
        count.connects++;
        close_connection(c);
        return;
    }
    c->ready = true;
    ready++;
    if (c->index >= opt.subs - opt.stall) {
        c->stalled = true;
        epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
    }
}

static void subscribe(struct connection *c) {
    struct values values = values_of(c);
    c->welcome = true;
    c->in.size = 0;
    for (unsigned i = 0; (opt.sub == WS || opt.sub == TCP) && i < opt.sub_send.count; i++)
        send_text(c, &opt.sub_send.list[i], &values);
}

static void opened(struct connection *c) {
    struct values values = values_of(c);
    c->state = OPEN;
    c->welcome = false;
    c->in.size = 0;
    if (!opt.sub_after.size)
        subscribe(c);
    for (unsigned i = 0; opt.sub == ZMQ && i < opt.sub_topic.count; i++) {
        struct buffer topic = {0};
        append(&topic, "\1", 1);
        render(&opt.sub_topic.list[i], &values, &topic);
        append_zmtp_frame(&c->out, false, topic.data, topic.size);
        free(topic.data);
    }
    flush(c);
    if (!opt.ready_marker.size)
        be_ready(c);
}

static void subscriber_connected(struct connection *c) {
    count.connected += !c->ready;
    c->state = GREETING;
    if (opt.sub == ZMQ) {
        append_zmtp_hello(&c->out, "SUB");
        flush(c);
    } else if (opt.sub != TCP)
        request(c);
    if (opt.sub == TCP || opt.longpoll)
        opened(c);
}

static void subscriber_lost(struct connection *c) {
    close_connection(c);
    if (opt.longpoll && c->ready && phase != DRAINS) {
        count.sub_reconnects++;
        open_connection(c);
    } else if (c->ready) {
        count.disconnects++;
        count.disconnects_in_run += begun != INT64_MAX;
    } else {
        warn("subscriber %u was closed before it was ready", c->index);
        count.handshake_errors++;
        failed++;
    }
}

static void keep_cursors(struct connection *c) {
    for (unsigned i = 0; i < opt.cursor_header.count; i++) {
        size_t size;
        const char *value = field_of(&c->response.head, opt.cursor_header.left[i].data, &size);
        if (value) {
            free(c->cursor[i]);
            c->cursor[i] = strndup(value, size);
        }
    }
}

static void take_polls(struct connection *c, const char *data, size_t size) {
    while (size && c->state == OPEN) {
        unsigned reached;
        size_t used = read_response(&c->response, data, size, &reached);
        data += used;
        size -= used;
        if (reached & HEAD_READ)
            keep_cursors(c);
        if (!(reached & COMPLETE))
            continue;
        unsigned status = c->response.status;
        count.responses++;
        if (status != 200 && status != 204 && status != 304 && status != 408) {
            warn("a long-poll was answered %u", status);
            if (++count.sub_http_errors > 10000)
                fail("long-polls fail");
        }
        if (c->response.keep_alive)
            request(c);
        else
            subscriber_lost(c);
    }
}

static const struct buffer zmtp_ready = {.data = "\5READY", .size = 6};

/* The answer to a handshake; whether it is complete and good. */
static bool take_greeting(struct connection *c, const char **data, size_t *size) {
    if (opt.sub == ZMQ) {
        bool found = occurrences(c, &zmtp_ready, *data, *size);
        *data += *size;
        *size = 0;
        return found;
    }
    unsigned reached;
    size_t used = read_response(&c->response, *data, *size, &reached);
    *data += used;
    *size -= used;
    if (!(reached & HEAD_READ))
        return false;
    if (c->response.status == (opt.sub == WS ? 101 : 200))
        return true;
    warn("subscriber %u was answered %.*s", c->index, (int)strcspn(c->response.head.data, "\r"), c->response.head.data);
    subscriber_lost(c);
    return false;
}

static void take_frames(struct connection *c, const char *at, const char *end) {
    struct frames *f = &c->frames;
    while (next_frame(f, &at, end, opt.ws_reply.count)) {
        if (f->opcode == PING) {
            count.pings++;
            append_frame(&c->out, PONG, f->payload.data, f->payload.size);
        } else if (f->opcode == CLOSE)
            append_frame(&c->out, CLOSE, f->payload.data, f->payload.size < 2 ? 0 : 2);
        for (unsigned i = 0; f->opcode == TEXT && i < opt.ws_reply.count; i++) {
            const struct buffer *asked = &opt.ws_reply.left[i], *answer = &opt.ws_reply.right[i];
            if (asked->size != f->payload.size || memcmp(asked->data, f->payload.data, asked->size))
                continue;
            count.pings++;
            append_frame(&c->out, TEXT, answer->data, answer->size);
        }
    }
    if (c->out.size)
        flush(c);
}

/* Subscribe to the next channel, or unsubscribe. */
static void change(struct connection *c) {
    char name[160];
    uint64_t number = c->changes / 2 + 1;
    snprintf(name, sizeof name, "%schurn%u-%llu", opt.channel_prefix, c->index, (unsigned long long)number);
    struct values values = {.channel = name, .index = c->index, .number = number};
    *c->asked = now();
    send_text(c, c->changes++ % 2 ? &opt.churn_off : &opt.churn_on, &values);
}

static void take_confirmation(struct connection *c, const char *data, size_t size) {
    if (phase != CHURNS || !occurrences(c, &opt.churn_ok, data, size))
        return;
    count.changes++;
    record(&change_time, (uint64_t)(clock_now - *c->asked));
    if (clock_now < until)
        change(c);
}

static void take_delivery(struct connection *c, char *input_data, size_t size) {
    const char *data = input_data;
    scan(c, input_data, size);
    if (c->state == GREETING) {
        if (!take_greeting(c, &data, &size))
            return;
        opened(c);
    }
    if (c->state != OPEN || c->stalled)
        return;
    if (!c->welcome && occurrences(c, &opt.sub_after, data, size))
        subscribe(c);
    else if (c->welcome && !c->ready && occurrences(c, &opt.ready_marker, data, size)) {
        c->in.size = 0;
        be_ready(c);
    } else if (c->ready && opt.churn_on.count)
        take_confirmation(c, data, size);
    if (c->state != OPEN)
        return; /* a storm has closed it */
    if (opt.longpoll)
        take_polls(c, data, size);
    else if (opt.sub == WS)
        take_frames(c, data, data + size);
    else if (opt.sub == TCP)
        answer_ping(c, data, size);
}

/* Publishers. */

static bool acknowledges(void) {
    return opt.pub == HTTP || (opt.pub == TCP && opt.pub_ack.size);
}

static void put_request(struct connection *c, struct values *values) {
    static struct buffer body;
    body.size = 0;
    render(&opt.pub_body, values, &body);
    for (uint64_t i = 1; i < opt.batch; i++) {
        write_marker(message, clock_now, ++values->number);
        render(&opt.pub_body, values, &body);
    }
    append_text(&c->out, "POST ");
    size_t path = c->out.size;
    render(&opt.pub_path, values, &c->out);
    if (opt.pub_sign)
        append_signature(&c->out, path, &body);
    append_text(&c->out, " HTTP/1.1\r\nHost: ");
    append_text(&c->out, opt.pub_addr.text);
    for (unsigned i = 0; i < opt.pub_header.count; i++) {
        append_text(&c->out, "\r\n");
        render(&opt.pub_header.list[i], values, &c->out);
    }
    append_text(&c->out, "\r\nContent-Length: ");
    append_number(&c->out, body.size);
    append_text(&c->out, "\r\n\r\n");
    append(&c->out, body.data, body.size);
}

static void put_parts(struct connection *c, struct values *values) {
    static struct buffer part;
    for (unsigned i = 0; i < opt.pub_part.count; i++) {
        part.size = 0;
        render(&opt.pub_part.list[i], values, &part);
        append_zmtp_frame(&c->out, i + 1 < opt.pub_part.count, part.data, part.size);
    }
}

static void put_message(struct connection *c) {
    unsigned channel = (unsigned)channel_of(count.published);
    struct values values = {channel_name(channel), c->index, count.published, message, opt.size, NULL};
    write_marker(message, clock_now, count.published);
    if (opt.pub == TCP)
        render(&opt.pub_body, &values, &c->out);
    else
        (opt.pub == HTTP ? put_request : put_parts)(c, &values);
    if (acknowledges())
        c->asked[(c->first + c->outstanding++) % opt.window] = clock_now;
    else
        count.accepted += opt.batch;
    count.published += opt.batch;
    count.expected += audience[channel] * opt.batch;
    last_publish = last_progress = clock_now;
    if (!audience[channel])
        done += opt.batch;
}

static bool window_open(const struct connection *c) {
    uint64_t most = !acknowledges() ? UINT64_MAX : opt.pub == HTTP && !opt.pipeline ? 1 : opt.window;
    return c->state == OPEN && c->outstanding < most;
}

static bool all_published(void) {
    return count.published >= opt.msgs || clock_now >= until;
}

static bool flow_open(void) {
    return !opt.inflight || count.published < done + given_up + opt.inflight;
}

/* Publish what is due and what the windows allow; the nanoseconds until it is worth while again. */
static int64_t publish(void) {
    static unsigned turn;
    bool more = false;
    for (uint64_t i = 0; i < opt.pubs; i++, turn++) {
        struct connection *c = &publishers[turn % opt.pubs];
        while (window_open(c) && c->out.size < WRITE && flow_open()) {
            clock_now = now();
            int64_t due = clock_now;
            if (opt.rate > 0)
                due = begun + (int64_t)((double)count.published * (double)SECOND / opt.rate);
            if (all_published() || due > clock_now) {
                flush(c);
                turn++;
                return all_published() ? SECOND : due - clock_now;
            }
            if (opt.rate > 0)
                record(&lag, (uint64_t)(clock_now - due));
            put_message(c);
        }
        bool stopped = c->out.size >= WRITE;
        if (c->out.size && c->state == OPEN)
            flush(c);
        more |= stopped && !c->out.size;
    }
    return more ? 0 : SECOND;
}

static void answered(struct connection *c, bool accepted) {
    if (!c->outstanding)
        return; /* NATS acknowledges what --pub-init sends, too */
    record(&answer_time, (uint64_t)(clock_now - c->asked[c->first]));
    c->first = (c->first + 1) % (unsigned)opt.window;
    c->outstanding--;
    *(accepted ? &count.accepted : &count.pub_errors) += opt.batch;
    last_answer = last_progress = clock_now;
}

static void publisher_connected(struct connection *c) {
    struct values values = values_of(c);
    c->state = opt.pub == ZMQ ? GREETING : OPEN;
    if (opt.pub == ZMQ)
        append_zmtp_hello(&c->out, opt.pub_zmq);
    for (unsigned i = 0; opt.pub == TCP && i < opt.pub_init.count; i++)
        render(&opt.pub_init.list[i], &values, &c->out);
    flush(c);
}

static void publisher_lost(struct connection *c) {
    count.pub_errors += c->outstanding * opt.batch;
    c->outstanding = 0;
    close_connection(c);
    if (phase != DRAINS && !all_published()) {
        count.pub_reconnects++;
        open_connection(c);
    }
}

static void take_responses(struct connection *c, const char *data, size_t size) {
    while (size && c->state == OPEN) {
        unsigned reached, status;
        size_t used = read_response(&c->response, data, size, &reached);
        data += used;
        size -= used;
        if (!(reached & COMPLETE))
            continue;
        status = c->response.status < STATUSES ? c->response.status : 0;
        if (status / 100 != 2)
            warn("a publish was answered %u", status);
        count.statuses[status]++;
        answered(c, status / 100 == 2);
        if (!c->response.keep_alive)
            publisher_lost(c);
    }
}

static void take_answers(struct connection *c, char *data, size_t size) {
    if (opt.pub == HTTP)
        take_responses(c, data, size);
    else if (opt.pub == ZMQ && c->state == GREETING && occurrences(c, &zmtp_ready, data, size))
        c->state = OPEN;
    else if (opt.pub == TCP && opt.pub_ack.size)
        for (unsigned found = occurrences(c, &opt.pub_ack, data, size); found; found--)
            answered(c, true);
    if (opt.pub == TCP)
        answer_ping(c, data, size);
    if (phase == PUBLISHES && opt.rate <= 0)
        publish();
}

/* The loop. */

/* One read; whether there may be more. */
static bool receive(struct connection *c, bool ending) {
    ssize_t size = recv(c->fd, input + MARKER, READ, 0);
    clock_now = now();
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (size <= 0) {
        (c->publisher ? publisher_lost : subscriber_lost)(c);
        return false;
    }
    count.bytes_in += (uint64_t)size;
    (c->publisher ? take_answers : take_delivery)(c, input + MARKER, (size_t)size);
    return (size == READ || ending) && c->state != CLOSED && c->state != CONNECTING && !c->stalled;
}

static void handle(struct connection *c, uint32_t events) {
    if (c->state == CLOSED)
        return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            refused(c, error);
            return;
        }
        if (!(events & EPOLLOUT))
            return;
        clock_now = now();
        (c->publisher ? publisher_connected : subscriber_connected)(c);
    } else if (c->out.size)
        flush(c);
    bool ending = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if ((events & EPOLLIN || ending) && c->state != CLOSED && !c->stalled)
        while (receive(c, ending))
            ;
}

/* Wait for events, so many nanoseconds at most, and handle them. */
static void turn(int64_t wait) {
    static struct epoll_event events[EVENTS];
    static int64_t last;
    int64_t early = last + (int64_t)opt.coalesce * 1000 - now();
    if (early > 0 && begun != INT64_MAX) {
        if (early > wait)
            early = wait;
        nanosleep(&(struct timespec){.tv_nsec = early}, NULL);
        wait -= early;
    }
    last = now();
    int found = epoll_pwait2(epoll, events, EVENTS, &(struct timespec){wait / SECOND, wait % SECOND}, NULL);
    if (found < 0 && errno != EINTR)
        fail("epoll: %s", strerror(errno));
    clock_now = now();
    for (int i = 0; i < found; i++) {
        handle(events[i].data.ptr, events[i].events);
        if (i % 64 == 63 && phase == PUBLISHES && opt.rate > 0)
            publish(); /* a large fan-out must not delay what is due */
    }
}

static void connect_subscribers(void) {
    int64_t patience = clock_now + CONNECT_SECONDS * SECOND;
    for (unsigned begun_with = 0; ready + failed < opt.subs && going_on() && clock_now < patience;) {
        for (; begun_with < opt.subs && begun_with - ready - failed < opt.connect_cap; begun_with++)
            open_connection(&subscribers[begun_with]);
        turn(SECOND / 10);
    }
    if (opt.subs && !ready)
        fail("no subscriber is ready");
}

static void connect_publishers(void) {
    int64_t patience = clock_now + PUBLISHERS_SECONDS * SECOND;
    for (uint64_t i = 0; i < opt.pubs; i++)
        open_connection(&publishers[i]);
    for (uint64_t open = 0; open < opt.pubs; turn(MILLISECOND)) {
        if (clock_now > patience || !going_on())
            fail("the publishers can't connect");
        open = 0;
        for (uint64_t i = 0; i < opt.pubs; i++)
            open += publishers[i].state == OPEN;
    }
}

static void settle(void) {
    int64_t end = clock_now + (int64_t)opt.settle * MILLISECOND;
    while (clock_now < end && going_on())
        turn(end - clock_now);
}

static void begin(enum phase next, double seconds) {
    phase = next;
    begun = last_progress = clock_now = now();
    until = seconds > 0 ? begun + (int64_t)(seconds * (double)SECOND) : INT64_MAX;
}

static void publish_all(void) {
    while (going_on()) {
        int64_t wait = publish(), idle = clock_now - last_progress;
        if (all_published() && count.accepted + count.pub_errors >= count.published)
            return;
        if (!flow_open() && idle > SECOND) {
            given_up = count.published - done; /* they were lost: do not wait for them */
            last_progress = clock_now;
        } else if (idle > STUCK_SECONDS * SECOND) {
            warn("publishing is stuck");
            return;
        }
        int64_t left = until - clock_now;
        if (left > 0 && left < wait)
            wait = left;
        turn(wait < SECOND / 10 ? wait : SECOND / 10);
    }
}

static void drain(void) {
    phase = DRAINS;
    int64_t patience = (int64_t)opt.drain * MILLISECOND;
    last_progress = clock_now = now();
    while (count.delivered < count.expected && clock_now - last_progress < patience && going_on())
        turn(10 * MILLISECOND);
}

static void storm(void) {
    uint64_t slots = opt.subs < opt.connect_cap ? opt.subs : opt.connect_cap;
    begin(STORMS, opt.storm);
    while (clock_now < until && going_on()) {
        for (uint64_t i = 0; i < slots; i++)
            if (subscribers[i].state == CLOSED)
                open_connection(&subscribers[i]);
        turn(SECOND / 10);
    }
}

static void churn(void) {
    begin(CHURNS, opt.churn_seconds);
    for (uint64_t i = 0; i < opt.subs; i++)
        if (subscribers[i].state == OPEN && subscribers[i].ready)
            change(&subscribers[i]);
    while (clock_now < until && going_on())
        turn(until - clock_now);
}

/* The result. */

/* What the server had used before the first connection, once the last was ready, before and after the measuring. */
static struct usage at_start, at_ready, at_begin, at_end;
static double own_begin, own_end, stolen_begin, stolen_end;

static void measure_begin(void) {
    at_begin = usage_of(opt.pids, opt.pid_count, true);
    stolen_begin = stolen_cpu();
    own_begin = own_cpu();
}

static void measure_end(void) {
    own_end = own_cpu();
    stolen_end = stolen_cpu();
    at_end = usage_of(opt.pids, opt.pid_count, true);
}

static double per(double amount, double divisor) {
    return divisor > 0 ? amount / divisor : 0;
}

static double seconds_between(int64_t from, int64_t to) {
    return to > from ? (double)(to - from) / (double)SECOND : 0;
}

struct figure {
    const char *name;
    double value;
};

static void print_figures(const struct figure *figures, size_t size) {
    for (const struct figure *f = figures; f < figures + size / sizeof *figures; f++)
        printf(f->value == (double)(int64_t)f->value ? "\"%s\":%.0f," : "\"%s\":%.4f,", f->name, f->value);
}

/* Stalled subscribers that the server has given up. */
static unsigned stalled_closed(void) {
    unsigned closed = 0;
    for (uint64_t i = 0; i < opt.subs; i++) {
        struct tcp_info info;
        socklen_t size = sizeof info;
        if (subscribers[i].stalled && !getsockopt(subscribers[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size))
            closed += info.tcpi_state != TCP_ESTABLISHED;
    }
    return closed;
}

static void print_clients(int64_t end) {
    int64_t published_until = acknowledges() ? last_answer : last_publish;
    double publish_s = seconds_between(begun, published_until), measured_s = seconds_between(begun, end);
    double elapsed_s = seconds_between(begun, last_delivery > published_until ? last_delivery : published_until);
    double connect_s = seconds_between(started, last_ready);
    double connects_per_s = opt.storm > 0 ? per((double)count.connects, measured_s) : per(ready, connect_s);
    struct figure figures[] = {
        {"subs", (double)opt.subs}, {"channels", (double)opt.channels}, {"size", (double)opt.size}, {"rate", opt.rate},
        {"pubs", (double)opt.pubs}, {"window", (double)opt.window}, {"connected", (double)count.connected},
        {"ready", ready}, {"connects", (double)count.connects}, {"connect_s", connect_s},
        {"connects_per_s", connects_per_s}, {"connect_errors", (double)count.connect_errors},
        {"handshake_errors", (double)count.handshake_errors}, {"stalled", (double)opt.stall},
        {"stalled_closed", stalled_closed()}, {"disconnects", (double)count.disconnects},
        {"disconnects_in_run", (double)count.disconnects_in_run}, {"sub_reconnects", (double)count.sub_reconnects},
        {"sub_responses", (double)count.responses}, {"sub_http_errors", (double)count.sub_http_errors},
        {"pings", (double)count.pings}, {"bytes_in", (double)count.bytes_in}, {"published", (double)count.published},
        {"pub_ok", (double)count.accepted}, {"pub_errors", (double)count.pub_errors},
        {"pub_reconnects", (double)count.pub_reconnects}, {"pub_s", publish_s},
        {"pub_per_s", per((double)count.accepted, publish_s)}, {"expected", (double)count.expected},
        {"delivered", (double)count.delivered}, {"lost", (double)count.expected - (double)count.delivered},
        {"duplicates", (double)count.duplicates}, {"out_of_order", (double)count.out_of_order},
        {"misrouted", (double)count.misrouted}, {"stale", (double)count.stale}, {"elapsed_s", elapsed_s},
        {"deliveries_per_s", per((double)count.delivered, elapsed_s)}, {"changes", (double)count.changes},
        {"changes_per_s", per((double)count.changes, measured_s)}, {"load_cpu_s", own_end - own_begin},
        {"steal_s", stolen_end - stolen_begin}, {"measured_s", measured_s},
    };
    print_figures(figures, sizeof figures);
    print_histogram("latency_us", &latency);
    print_histogram("pub_ack_us", &answer_time);
    print_histogram("sched_lag_us", &lag);
    print_histogram("change_us", &change_time);
    printf("\"statuses\":{");
    for (unsigned status = 0, some = 0; status < STATUSES; status++)
        if (count.statuses[status])
            printf("%s\"%u\":%llu", some++ ? "," : "", status, (unsigned long long)count.statuses[status]);
    printf("},");
}

static void print_server(void) {
    double cpu = total_cpu_since(&at_begin, &at_end), connecting = total_cpu_since(&at_start, &at_ready);
    double each = opt.storm > 0 ? per(cpu, (double)count.connects) : per(connecting, ready);
    struct figure figures[] = {
        {"server_procs", at_end.count}, {"server_cpu_s", cpu}, {"server_connect_cpu_s", connecting},
        {"connect_cpu_us", each * 1e6}, {"change_cpu_us", per(cpu * 1e6, (double)count.changes)},
        {"cpu_us_per_delivery", per(cpu * 1e6, (double)count.delivered)},
        {"cpu_us_per_publish", per(cpu * 1e6, (double)count.published)}, {"pss_before_kb", (double)at_start.pss / 1024},
        {"pss_after_kb", (double)at_begin.pss / 1024}, {"pss_end_kb", (double)at_end.pss / 1024},
        {"rss_ready", (double)at_begin.rss}, {"rss_end", (double)at_end.rss},
        {"bytes_per_conn", per((double)at_begin.pss - (double)at_start.pss, ready)},
    };
    print_figures(figures, sizeof figures);
    printf("\"server_cpu_by_pid\":{");
    for (unsigned i = 0; i < at_end.count; i++)
        printf("%s\"%d\":%.2f", i ? "," : "", at_end.pids[i], cpu_since(&at_begin, &at_end, i));
    printf("},");
}

/* Preparing. */

static void interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static void raise_limits(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < opt.subs + opt.pubs + 16)
        fail("only %llu descriptors are allowed", (unsigned long long)files.rlim_max);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* ns */
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
}

/* Memory that only takes room where it is touched: there is a place for as many messages as there might be. */
static void *sparse(uint64_t size) {
    void *memory = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        fail("no memory to remember what %llu subscribers get: fewer --msgs?", (unsigned long long)opt.subs);
    return memory;
}

static void prepare(void) {
    memset(digit_of, -1, sizeof digit_of);
    for (int i = 0; i < 64; i++)
        digit_of[(uint8_t)DIGITS[i]] = (int8_t)i;
    message = allocated(opt.size, 1);
    memset(message, '.', opt.size);
    seen_size = place_of(opt.msgs + opt.batch * opt.channels) / 8 + 1;
    seen = sparse(opt.subs * seen_size);
    copies = opt.inflight ? sparse(opt.msgs * sizeof *copies) : NULL;
    audience = allocated(opt.channels, sizeof *audience);
    subscribers = allocated(opt.subs, sizeof *subscribers);
    publishers = allocated(opt.pubs, sizeof *publishers);
    for (unsigned i = 0; i < opt.subs; i++)
        subscribers[i] = (struct connection){
            .fd = -1, .index = i, .channel = i % (unsigned)opt.channels, .asked = allocated(1, sizeof(int64_t))};
    for (unsigned i = 0; i < opt.pubs; i++)
        publishers[i] = (struct connection){
            .fd = -1, .index = i, .publisher = true, .asked = allocated(opt.window, sizeof(int64_t))};
    epoll = epoll_create1(EPOLL_CLOEXEC);
}

static void run_publishing(void) {
    for (uint64_t i = 0; i < opt.subs; i++)
        audience[subscribers[i].channel] += subscribers[i].ready && subscribers[i].fd >= 0 && !subscribers[i].stalled;
    begin(PUBLISHES, opt.seconds);
    if (opt.pub != NONE)
        publish_all();
    else {
        begun = started;
        for (uint64_t number = 0; number < opt.msgs; number++)
            count.expected += audience[channel_of(number)];
    }
    drain();
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    raise_limits();
    prepare();
    started = clock_now = now();
    deadline = started + (int64_t)(opt.timeout * (double)SECOND);
    at_start = usage_of(opt.pids, opt.pid_count, true);
    if (opt.storm > 0) {
        measure_begin();
        storm();
    } else {
        connect_subscribers();
        at_ready = usage_of(opt.pids, opt.pid_count, false);
        if (opt.pub != NONE)
            connect_publishers();
        settle();
        measure_begin();
        if (opt.churn_on.count)
            churn();
        else if (opt.msgs)
            run_publishing();
    }
    clock_now = now();
    measure_end();
    printf("{\"label\":\"%s\",", opt.label);
    print_clients(clock_now);
    if (opt.pid_count)
        print_server();
    printf("\"timed_out\":%s}\n", going_on() ? "false" : "true");
    return 0;
}

/* options: see options.h. */
#define _GNU_SOURCE
#include "options.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sign.h"

enum { MAX_RATE = 4000000 };

static const char *const TRANSPORTS[] = {"none", "ws", "http", "tcp", "zmq"};

struct options opt = {
    .sub = WS, .subs = 1, .channels = 1, .connect_cap = 100, .src_ips = 1, .settle = 500, .pubs = 1, .window = 1,
    .batch = 1, .size = 128, .drain = 3000, .timeout = 120, .churn_seconds = 5, .label = "", .channel_prefix = "ch",
    .pub_zmq = "PUB",
};

enum kind { TITLE, SWITCH, COUNT, REAL, WORD, BYTES, TEMPLATE, TEMPLATES, PAIRS, TRANSPORT, ADDRESS, PROCESS };

static const struct {
    const char *name;
    enum kind kind;
    void *target;
    const char *help;
} OPTIONS[] = {
    {"subscribers", TITLE, 0, 0},
    {"--sub", TRANSPORT, &opt.sub, "ws (the default), http, tcp or zmq"},
    {"--sub-addr", ADDRESS, &opt.sub_addr, "IP:PORT, on loopback"},
    {"--subs", COUNT, &opt.subs, "how many (1)"},
    {"--channels", COUNT, &opt.channels, "of how many channels, in turn (1)"},
    {"--channel-prefix", WORD, &opt.channel_prefix, "a channel's name is this and six digits (ch)"},
    {"--sub-path", TEMPLATE, &opt.sub_path, "ws, http: what to GET (/{ch})"},
    {"--sub-header", TEMPLATES, &opt.sub_header, "ws, http: a further header"},
    {"--sub-send", TEMPLATES, &opt.sub_send, "tcp: bytes to send; ws: a text message"},
    {"--sub-topic", TEMPLATES, &opt.sub_topic, "zmq: a subscription ({ch})"},
    {"--sub-after", BYTES, &opt.sub_after, "ws, tcp: what a subscriber waits for before it sends --sub-send"},
    {"--ready-marker", BYTES, &opt.ready_marker, "what a subscriber waits for before it counts as ready"},
    {"--ws-reply", PAIRS, &opt.ws_reply, "A=B: answer the text message A, of up to 125 bytes, with B"},
    {"--longpoll", SWITCH, &opt.longpoll, "http: ask again after each answer"},
    {"--cursor-header", PAIRS, &opt.cursor_header,
     "R=Q: send the answer's header R as Q (nchan: its two); the first is {cursor}"},
    {"--connect-cap", COUNT, &opt.connect_cap, "handshakes in progress (100)"},
    {"--src-ips", COUNT, &opt.src_ips, "connect from 127.0.0.1 to 127.0.0.this (1)"},
    {"--rcvbuf", COUNT, &opt.rcvbuf, "SO_RCVBUF of their sockets"},
    {"--stall", COUNT, &opt.stall, "the last so many read nothing once they are ready"},
    {"publishers", TITLE, 0, 0},
    {"--pub", TRANSPORT, &opt.pub, "http, tcp, zmq, or none (the default): somebody else publishes"},
    {"--pub-addr", ADDRESS, &opt.pub_addr, "IP:PORT, on loopback"},
    {"--pubs", COUNT, &opt.pubs, "connections (1)"},
    {"--pub-path", TEMPLATE, &opt.pub_path, "http: what to POST to (/{ch})"},
    {"--pub-header", TEMPLATES, &opt.pub_header, "http: a further header"},
    {"--pub-sign", WORD, &opt.pub_sign, "KEY:SECRET; http: sign the requests as the API of Pusher asks"},
    {"--pub-init", TEMPLATES, &opt.pub_init, "tcp: bytes to send first"},
    {"--pub-body", TEMPLATE, &opt.pub_body, "http: the body; tcp: all of a message ({msg})"},
    {"--pub-ack", BYTES, &opt.pub_ack, "tcp: what the server answers to each message"},
    {"--pub-zmq", WORD, &opt.pub_zmq, "PUSH or PUB (the default)"},
    {"--pub-part", TEMPLATES, &opt.pub_part, "zmq: a frame of the message ({ch} and {msg})"},
    {"--msgs", COUNT, &opt.msgs, "messages; with --seconds, at most"},
    {"--seconds", REAL, &opt.seconds, "publish for so long"},
    {"--rate", REAL, &opt.rate, "messages a second (0: as fast as the windows allow)"},
    {"--size", COUNT, &opt.size, "bytes of {msg}, 16 or more (128)"},
    {"--window", COUNT, &opt.window,
     "requests outstanding on a connection: tcp with --pub-ack, http with --pipeline (1)"},
    {"--pipeline", SWITCH, &opt.pipeline, "http: do not wait for each response"},
    {"--batch", COUNT, &opt.batch, "http: messages in a request, each with a body of its own, one after the other (1)"},
    {"--inflight", COUNT, &opt.inflight, "messages that some subscriber does not have yet (0: any number)"},
    {"instead of publishing", TITLE, 0, 0},
    {"--storm", REAL, &opt.storm, "for so many seconds, close each subscriber once it is ready, and connect again"},
    {"--churn-on", TEMPLATE, &opt.churn_on, "ws, tcp: subscribe to a channel that is new each time, ..."},
    {"--churn-off", TEMPLATE, &opt.churn_off, "... and unsubscribe, again and again; {seq} is the same for the two"},
    {"--churn-ok", BYTES, &opt.churn_ok, "what answers each"},
    {"--churn-seconds", REAL, &opt.churn_seconds, "for so long (5)"},
    {"the run", TITLE, 0, 0},
    {"--settle", COUNT, &opt.settle, "milliseconds between the last subscriber and the first message (500)"},
    {"--drain", COUNT, &opt.drain, "milliseconds without anything, and the rest is lost (3000)"},
    {"--timeout", REAL, &opt.timeout, "seconds, and it ends whatever happens (120)"},
    {"--coalesce", COUNT, &opt.coalesce,
     "look for events once in so many microseconds: less CPU, later deliveries (0)"},
    {"--pid", PROCESS, 0, "a process of the server, measured with all that it has started"},
    {"--label", WORD, &opt.label, "copied into the result"},
};

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void add_template(struct templates *to, const char *text) {
    if (to->count == REPEATED)
        fail("more than %d times %s", REPEATED, text);
    to->list[to->count++] = template_of(text);
}

static void add_pair(struct pairs *to, const char *text) {
    const char *equals = strchr(text, '=');
    if (!equals || to->count == REPEATED)
        fail("%s is not A=B, or one too many", text);
    char *left = strndup(text, (size_t)(equals - text));
    to->left[to->count] = unescaped(left);
    to->right[to->count++] = unescaped(equals + 1);
    free(left);
}

static void set_address(struct address *to, const char *text) {
    char ip[16];
    unsigned port;
    to->text = text;
    to->in.sin_family = AF_INET;
    if (sscanf(text, "%15[0-9.]:%u", ip, &port) != 2 || !port || port > 65535 ||
        !inet_pton(AF_INET, ip, &to->in.sin_addr))
        fail("%s is not IP:PORT", text);
    if (ntohl(to->in.sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
        fail("%s is not a loopback address", text);
    to->in.sin_port = htons((uint16_t)port);
}

static void set_option(enum kind kind, void *target, const char *name, const char *value) {
    char *end = "";
    switch (kind) {
    case COUNT: *(uint64_t *)target = strtoull(value, &end, 10); break;
    case REAL: *(double *)target = strtod(value, &end); break;
    case WORD: *(const char **)target = value; break;
    case BYTES: *(struct buffer *)target = unescaped(value); break;
    case TEMPLATE: *(struct template *)target = template_of(value); break;
    case TEMPLATES: add_template(target, value); break;
    case ADDRESS: set_address(target, value); break;
    case PAIRS:
        if (!strcmp(value, "nchan")) {
            add_pair(target, "Last-Modified=If-Modified-Since");
            add_pair(target, "Etag=If-None-Match");
        } else
            add_pair(target, value);
        break;
    case TRANSPORT:
        for (enum transport i = NONE; i <= ZMQ; i++)
            if (!strcmp(value, TRANSPORTS[i])) {
                *(enum transport *)target = i;
                return;
            }
        fail("%s is not %s", name, value);
    case PROCESS:
        if (opt.pid_count == MAX_ROOTS)
            fail("too many of %s", name);
        opt.pids[opt.pid_count++] = (pid_t)strtol(value, &end, 10);
        break;
    case TITLE: case SWITCH: abort();
    }
    if (*end)
        fail("%s is not a number: %s", name, value);
}

static _Noreturn void help(void) {
    puts("usage: load OPTION VALUE ...");
    for (unsigned i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        enum kind kind = OPTIONS[i].kind;
        if (kind == TITLE)
            printf("\n%s\n", OPTIONS[i].name);
        else
            printf("  %-18s%s%s\n", OPTIONS[i].name, OPTIONS[i].help,
                   kind == TEMPLATES || kind == PAIRS || kind == PROCESS ? "; repeatable" : "");
    }
    puts("\nTemplates know {ch} {chlen} {i} {seq} {msg} {len} {cursor}; \\r \\n \\t \\0 \\\\ \\xHH are escapes.");
    exit(0);
}

static void check_options(void) {
    bool churn = opt.churn_on.count, needs_pub = opt.pub != NONE;
    if (opt.subs && !opt.sub_addr.text)
        fail("--sub-addr is missing");
    if (needs_pub && (!opt.pub_addr.text || opt.pub == WS))
        fail(opt.pub == WS ? "nobody publishes by ws here" : "--pub-addr is missing");
    if (!opt.channels || !opt.connect_cap || !opt.src_ips || !opt.pubs || !opt.window || !opt.batch || opt.sub == NONE)
        fail("counts are 1 or more, and --sub is not none");
    if (opt.size < 16 || opt.stall > opt.subs || opt.src_ips > 250 || (opt.batch > 1 && opt.pub != HTTP))
        fail("--size is 16 or more, --stall not above --subs, --src-ips up to 250, and --batch is for http");
    if (opt.longpoll && opt.sub != HTTP)
        fail("--longpoll is for http");
    if (opt.pub_sign)
        sign_by(opt.pub_sign);
    if (churn && (!opt.churn_off.count || !opt.churn_ok.size || (opt.sub != WS && opt.sub != TCP)))
        fail("--churn-on needs --churn-off and --churn-ok, and --sub ws or tcp");
    if (opt.seconds > 0 && !opt.msgs)
        opt.msgs = (uint64_t)(opt.seconds * (opt.rate > 0 ? opt.rate : MAX_RATE)) + 1;
    opt.msgs -= opt.msgs % opt.batch;
    if (!opt.sub_topic.count)
        add_template(&opt.sub_topic, "{ch}");
    if (!opt.pub_part.count) {
        add_template(&opt.pub_part, "{ch}");
        add_template(&opt.pub_part, "{msg}");
    }
}

void parse_options(int count, char **words) {
    opt.sub_path = opt.pub_path = template_of("/{ch}");
    opt.pub_body = template_of("{msg}");
    for (int i = 1; i < count; i++) {
        const char *name = words[i];
        unsigned found = 0;
        if (!strcmp(name, "--help"))
            help();
        while (found < sizeof OPTIONS / sizeof *OPTIONS && strcmp(OPTIONS[found].name, name))
            found++;
        if (found == sizeof OPTIONS / sizeof *OPTIONS || OPTIONS[found].kind == TITLE)
            fail("there is no option %s", name);
        if (OPTIONS[found].kind == SWITCH)
            *(bool *)OPTIONS[found].target = true;
        else if (++i == count)
            fail("%s needs a value", name);
        else
            set_option(OPTIONS[found].kind, OPTIONS[found].target, name, words[i]);
    }
    check_options();
}

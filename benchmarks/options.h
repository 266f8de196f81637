/* options: what load's command line says. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include <netinet/in.h>
#include <sys/types.h>

#include "wire.h"

enum { REPEATED = 16, MAX_ROOTS = 32 }; /* how often an option may be given, and --pid */

enum transport { NONE, WS, HTTP, TCP, ZMQ };

struct templates {
    struct template list[REPEATED];
    unsigned count;
};

struct address {
    struct sockaddr_in in;
    const char *text;
};

struct pairs { /* A=B */
    struct buffer left[REPEATED], right[REPEATED];
    unsigned count;
};

struct options {
    enum transport sub, pub;
    struct address sub_addr, pub_addr;
    uint64_t subs, channels, connect_cap, src_ips, settle, stall, rcvbuf;
    uint64_t pubs, msgs, window, inflight, batch, size, coalesce, drain;
    double rate, seconds, timeout, storm, churn_seconds;
    bool longpoll, pipeline;
    const char *label, *channel_prefix, *pub_zmq, *pub_sign;
    struct template sub_path, pub_path, pub_body, churn_on, churn_off;
    struct templates sub_header, sub_send, sub_topic, pub_header, pub_init, pub_part;
    struct buffer sub_after, ready_marker, pub_ack, churn_ok;
    struct pairs ws_reply, cursor_header;
    pid_t pids[MAX_ROOTS];
    unsigned pid_count;
};

extern struct options opt;

/* Set `opt`, or end with a message that says why not. */
void parse_options(int count, char **words);

/* End with a message. */
_Noreturn void fail(const char *format, ...);

#endif

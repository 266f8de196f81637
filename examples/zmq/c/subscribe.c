/* Prints what comes on channels, and says where messages are missing: subscribe ENDPOINT PREFIX COUNT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define IN_FORCE "-/in-force/1"

/* The last cursor of each channel. */
struct last {
    struct last *next;
    char channel[256], cursor[64];
} *lasts;

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
        exit(2);
    }
}

static void use_keys(void *socket)
{
    const char *server = getenv("ZMQ_SERVER_KEY"), *public = getenv("ZMQ_PUBLIC_KEY"), *secret = getenv("ZMQ_SECRET_KEY");
    if (!server || !public || !secret)
        return;
    check(!zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server, strlen(server)), "ZMQ_SERVER_KEY");
    check(!zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, strlen(public)), "ZMQ_PUBLIC_KEY");
    check(!zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, strlen(secret)), "ZMQ_SECRET_KEY");
}

/* Receives a frame and copies it as a string that ends in 0; the caller frees it. */
static char *receive(void *socket)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    check(zmq_msg_recv(&frame, socket, 0) >= 0, "receive");
    char *text = strndup(zmq_msg_data(&frame), zmq_msg_size(&frame));
    zmq_msg_close(&frame);
    return text;
}

/* Notes the cursor; 1 if messages are missing before it. */
static int is_gap(const char *channel, const char *cursor)
{
    int gap = 0;
    struct last *last = lasts;
    while (last && strcmp(last->channel, channel))
        last = last->next;
    if (last) {
        size_t epoch = strcspn(cursor, ":") + 1;
        if (strncmp(cursor, last->cursor, epoch))
            fprintf(stderr, "new epoch: %s\n", channel);
        else if ((gap = atoll(cursor + epoch) > atoll(last->cursor + epoch) + 1))
            fprintf(stderr, "gap: %s after %s\n", channel, last->cursor);
    } else {
        last = calloc(1, sizeof *last);
        snprintf(last->channel, sizeof last->channel, "%s", channel);
        last->next = lasts;
        lasts = last;
    }
    snprintf(last->cursor, sizeof last->cursor, "%s", cursor);
    return gap;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: subscribe ENDPOINT PREFIX COUNT\n");
        return 2;
    }
    long count = atol(argv[3]), received = 0;
    int gaps = 0;
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_SUB);
    setvbuf(stdout, NULL, _IOLBF, 0);
    use_keys(socket);
    check(!zmq_connect(socket, argv[1]), argv[1]);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, argv[2], strlen(argv[2]));
    /* Comes when both subscriptions hold, and again after each reconnect. */
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, IN_FORCE, strlen(IN_FORCE));
    while (!count || received < count) {
        char *channel = receive(socket), *payload = receive(socket), *cursor = receive(socket);
        if (!strcmp(channel, IN_FORCE))
            puts("ready");
        else {
            if (*cursor) /* the channel keeps a history */
                gaps += is_gap(channel, cursor);
            printf("%s\t%s\t%s\n", channel, cursor, payload);
            received++;
        }
        free(channel), free(payload), free(cursor);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return gaps > 0;
}

/* zmqproxy: libzmq's own proxy from PULL to PUB, on ports of the kernel's choice. What any server behind such doors
 * costs at least: frames go through unread.
 *
 *     cc -O2 -std=c11 -o zmqproxy zmqproxy.c -lzmq
 *     zmqproxy                 prints "PUSH tcp://127.0.0.1:PORT, SUB tcp://127.0.0.1:PORT", what clients connect
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <zmq.h>

static void *listening(void *context, int type, const char *peers) {
    char endpoint[128];
    size_t size = sizeof endpoint;
    void *made = zmq_socket(context, type);
    /* No high-water marks, at which PUB would drop: the load bounds what is on its way. */
    if (!made || zmq_setsockopt(made, ZMQ_SNDHWM, &(int){0}, sizeof(int)) ||
        zmq_setsockopt(made, ZMQ_RCVHWM, &(int){0}, sizeof(int)) || zmq_bind(made, "tcp://127.0.0.1:*") ||
        zmq_getsockopt(made, ZMQ_LAST_ENDPOINT, endpoint, &size)) {
        fprintf(stderr, "zmqproxy: %s\n", zmq_strerror(zmq_errno()));
        exit(1);
    }
    printf("%s %s", peers, endpoint);
    return made;
}

int main(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it has nobody else who would end it */
    void *context = zmq_ctx_new();
    void *pull = listening(context, ZMQ_PULL, "PUSH");
    void *pub = listening(context, ZMQ_PUB, ", SUB");
    puts("");
    fflush(stdout);
    return zmq_proxy(pull, pub, NULL);
}

/* meter: what load measures with: a histogram of times, and what /proc says of processes. */
#ifndef METER_H
#define METER_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Nanoseconds, in buckets of which each power of two has 64: a percentile is off by 1 % at most. */
enum { STEPS = 64, BUCKETS = STEPS * 40 };

struct histogram {
    uint64_t count, max, buckets[BUCKETS];
    double sum;
};

static inline void record(struct histogram *h, uint64_t ns) {
    unsigned shift = ns < STEPS ? 0 : 57 - (unsigned)__builtin_clzll(ns);
    unsigned bucket = (shift ? (shift + 1) * STEPS : 0) + (unsigned)(ns >> shift) - (shift ? STEPS : 0);
    h->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    h->count++;
    h->sum += (double)ns;
    if (ns > h->max)
        h->max = ns;
}

/* Prints `"name":{"mean":...,"p50":...,"p90":...,"p99":...,"p999":...,"max":...},` in microseconds. */
void print_histogram(const char *name, const struct histogram *);

/* What processes have used until now: those of --pid, and all their descendants. */
enum { MAX_PROCESSES = 256 };

struct usage {
    unsigned count;
    pid_t pids[MAX_PROCESSES];
    double cpu[MAX_PROCESSES]; /* seconds of user and system time */
    uint64_t rss, pss;         /* bytes, where they were asked for */
};

struct usage usage_of(const pid_t *roots, unsigned count, bool with_memory);
/* The CPU that a process of `after`, or all, took since `before`. */
double cpu_since(const struct usage *before, const struct usage *after, unsigned process);
double total_cpu_since(const struct usage *before, const struct usage *after);
double own_cpu(void);
/* What the hypervisor took from this machine. */
double stolen_cpu(void);

#endif

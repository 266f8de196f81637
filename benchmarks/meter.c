/* meter: see meter.h. */
#define _GNU_SOURCE
#include "meter.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static double percentile(const struct histogram *h, double share) {
    uint64_t rank = (uint64_t)(share * (double)h->count), below = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++)
        if ((below += h->buckets[bucket]) > rank) {
            unsigned shift = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;
            uint64_t first = shift ? (uint64_t)(bucket % STEPS + STEPS) << shift : bucket;
            double middle = (double)first + (double)(UINT64_C(1) << shift) / 2;
            return middle < (double)h->max ? middle : (double)h->max;
        }
    return (double)h->max;
}

void print_histogram(const char *name, const struct histogram *h) {
    printf("\"%s\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f},", name,
           h->count ? h->sum / (double)h->count / 1e3 : 0, percentile(h, 0.5) / 1e3, percentile(h, 0.9) / 1e3,
           percentile(h, 0.99) / 1e3, percentile(h, 0.999) / 1e3, (double)h->max / 1e3);
}

static void add_process(struct usage *u, pid_t pid) {
    for (unsigned i = 0; i < u->count; i++)
        if (u->pids[i] == pid)
            return;
    if (u->count < MAX_PROCESSES)
        u->pids[u->count++] = pid;
}

/* Each thread has the processes that it started. */
static void add_children(struct usage *u, pid_t pid) {
    char path[300];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    for (struct dirent *thread; threads && (thread = readdir(threads));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", pid, thread->d_name);
        FILE *file = *thread->d_name == '.' ? NULL : fopen(path, "r");
        for (pid_t child; file && fscanf(file, "%d", &child) == 1;)
            add_process(u, child);
        if (file)
            fclose(file);
    }
    if (threads)
        closedir(threads);
}

static double cpu_of(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    unsigned long user = 0, system = 0;
    const char *name_end = strrchr(text, ')');
    if (name_end)
        sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void add_memory(struct usage *u, pid_t pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    unsigned long long kb;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %llu", &kb) == 1)
            u->rss += kb * 1024;
        else if (sscanf(line, "Pss: %llu", &kb) == 1)
            u->pss += kb * 1024;
    if (file)
        fclose(file);
}

struct usage usage_of(const pid_t *roots, unsigned count, bool with_memory) {
    struct usage u = {0};
    for (unsigned i = 0; i < count; i++)
        add_process(&u, roots[i]);
    for (unsigned i = 0; i < u.count; i++) {
        add_children(&u, u.pids[i]);
        u.cpu[i] = cpu_of(u.pids[i]);
        if (with_memory)
            add_memory(&u, u.pids[i]);
    }
    return u;
}

double cpu_since(const struct usage *before, const struct usage *after, unsigned process) {
    for (unsigned i = 0; i < before->count; i++)
        if (before->pids[i] == after->pids[process])
            return after->cpu[process] - before->cpu[i];
    return after->cpu[process]; /* it was started since */
}

double total_cpu_since(const struct usage *before, const struct usage *after) {
    double total = 0;
    for (unsigned i = 0; i < after->count; i++)
        total += cpu_since(before, after, i);
    return total;
}

double own_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

double stolen_cpu(void) {
    unsigned long long stolen = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (file && fscanf(file, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &stolen) != 1)
        stolen = 0;
    if (file)
        fclose(file);
    return (double)stolen / (double)sysconf(_SC_CLK_TCK);
}

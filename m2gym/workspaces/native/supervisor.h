/*
 * The helper of a box, in C. It has two parts, each the twin of a function in ../supervisor.py:
 *
 *   supervisor launch [--cgroup FILE] [--private] [--overlay OPTIONS DEST] [--rbind SRC DEST]
 *                     [--map BASE | --self] -- PROGRAM ARG...
 *       prepares mounts and user ids, then becomes PROGRAM (bubblewrap).
 *   supervisor serve FD NPROC DATA FSIZE CPU
 *   supervisor connect PATH NPROC DATA FSIZE CPU
 *       process 1 of the box: starts, signals and kills commands at the host's request, over the
 *       socket FD, or over one that listens at PATH (shown in a container by its engine).
 *
 * Requests and replies are packets on the socket FD; channel.py documents them. A command's pipes
 * are made by the host and arrive with the request, so no byte of its output passes through here.
 *
 * launch.c: `launch` · packets.c: requests, replies, descriptors · minder.c: the process between a
 * command and process 1 · kill.c: whatever a command left behind · commands.c: the table of
 * commands · serve.c: process 1's loop, `main`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EXEC = 1, KILL = 2, SIGNAL = 3, KILLALL = 4, LISTEN = 5 };
enum { HELLO = 100, EXITED = 101, FAILED = 102, GONE = 103, SOCKET = 104 };
enum { STAGE_FORK = 1, STAGE_CWD = 2, STAGE_USER = 3, STAGE_EXEC = 4 };
enum { MAX_FDS = 16, MAX_STRINGS = 8192, BUFFER = 1 << 18 };

struct request {
    uint32_t op, id;
    int32_t a, b; /* EXEC: uid, gid (-1: keep) · KILL, SIGNAL: target id, signal · LISTEN: port */
    uint32_t argc, envc;
};

struct packet { /* a request as it arrives: its strings, and the descriptors that ride along */
    union {
        struct request request;
        char bytes[BUFFER];
    };
    size_t size;
    int fds[MAX_FDS], count;
};

struct shared { /* written by a minder, read by process 1 */
    volatile int32_t main, reported;
};

/* serve.c */
void die(const char *what);

/* launch.c */
int launch(int argc, char **argv);

/* packets.c */
extern int channel;
int pass(int to, struct iovec *parts, int count_of_parts, const int *fds, int count, int flags);
int receive(int from, struct iovec *parts, int count_of_parts, struct packet *into);
void reply(uint32_t op, uint32_t id, int32_t a, int32_t b, int fd);

/* minder.c */
void set_limits(char **words);
void be_minder(void);
void mind(struct packet *packet, struct shared *mine);

/* kill.c */
void kill_below(pid_t root);
void kill_everything(void);
void kill_strays(int (*is_minder)(pid_t));
int has_no_children(void);

/* commands.c */
int make_table(void);
void fork_ahead(void);
void start(struct packet *packet);
void ask_signal(uint32_t id, int number);
void ask_kill(uint32_t id);
void kill_all(uint32_t id);
void reap(void);
int any_asked(void);
void see_to_asked(void);

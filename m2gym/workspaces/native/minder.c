/*
 * Each command has a minder between it and process 1: a child subreaper, so that whatever the
 * command leaves behind (setsid, double forks) stays below the minder and can be found and killed.
 */
#include "supervisor.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { FIRST_EXTRA_FD = 197 };

static rlim_t limits[4];
static const int limit_names[4] = {RLIMIT_NPROC, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_CPU};

/* Four numbers, -1 for none: what every command is held to. */
void set_limits(char **words) {
    for (int n = 0; n < 4; n++) {
        long long value = atoll(words[n]);
        limits[n] = value < 0 ? RLIM_INFINITY : (rlim_t)value;
    }
}

/* What a minder does before it knows its command. */
void be_minder(void) { prctl(PR_SET_CHILD_SUBREAPER, 1); }

static void run_command(struct packet *packet, char *cwd, char **argv, char **envp,
                        volatile int *error, volatile int *stage) {
    struct request *request = &packet->request;
    struct rlimit core = {0, 0};
    sigset_t none;
    setsid();
    for (int n = 0; n < packet->count; n++)
        if (dup2(packet->fds[n], n < 3 ? n : FIRST_EXTRA_FD + n - 3) < 0) goto fail;
    for (int n = 0; n < 4; n++) {
        struct rlimit limit = {limits[n], limits[n]};
        if (limits[n] != RLIM_INFINITY) setrlimit(limit_names[n], &limit);
    }
    setrlimit(RLIMIT_CORE, &core);
    *stage = STAGE_USER;
    if (request->b >= 0) {
        gid_t gid = request->b;
        if (syscall(SYS_setgroups, 1, &gid) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0)
            goto fail;
    }
    if (request->a >= 0 && syscall(SYS_setresuid, request->a, request->a, request->a) < 0)
        goto fail;
    if (request->a > 0) { /* what was inheritable for process 1 is nothing to a user */
        struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none_of_them[2] = {{0, 0, 0}, {0, 0, 0}};
        if (syscall(SYS_capset, &head, none_of_them) < 0) goto fail;
    }
    *stage = STAGE_CWD;
    if (chdir(cwd) < 0) goto fail;
    *stage = STAGE_EXEC;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    environ = envp; /* execvp looks for PATH there; the memory is the minder's alone */
    execvp(argv[0], argv);
fail:
    *error = errno;
    _exit(127);
}

/* A minder's life: find the strings of a request, start its command, see it out. */
void mind(struct packet *packet, struct shared *mine) {
    static char *strings[MAX_STRINGS];
    struct request *request = &packet->request;
    volatile int error = 0, stage = STAGE_FORK;
    int status;
    size_t at = 0;
    char *cwd = packet->bytes + sizeof *request, *end = packet->bytes + packet->size;
    char *next = cwd + strlen(cwd) + 1;
    for (uint32_t n = 0; n < request->argc + request->envc; n++) {
        if (n == request->argc) strings[at++] = NULL;
        if (next >= end) break;
        strings[at++] = next;
        next += strlen(next) + 1;
    }
    if (request->envc == 0) strings[at++] = NULL;
    strings[at] = NULL;
    pid_t child = vfork();
    if (child == 0)
        run_command(packet, cwd, strings, strings + request->argc + 1, &error, &stage);
    if (child < 0) error = errno;
    for (int n = 0; n < packet->count; n++) close(packet->fds[n]);
    if (error) {
        mine->reported = 1;
        reply(FAILED, request->id, error, stage, -1);
    }
    mine->main = child;
    for (;;) {
        pid_t pid = wait4(-1, &status, 0, NULL);
        if (pid < 0 && errno == ECHILD) _exit(0);
        if (pid == child && !mine->reported) {
            mine->main = 0;
            mine->reported = 1;
            reply(EXITED, request->id, status, 0, -1);
        }
    }
}

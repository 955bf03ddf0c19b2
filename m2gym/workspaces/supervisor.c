/*
 * The helper of a box. It has two parts, each the twin of a function in supervisor.py:
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
 * Each command has a minder between it and process 1: a child subreaper, so that whatever the
 * command leaves behind (setsid, double forks) stays below the minder and can be found and killed.
 * One minder is forked ahead and waits for the next request, so that no fork of process 1 lies on the
 * way to a command.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXEC = 1, KILL = 2, SIGNAL = 3, KILLALL = 4, LISTEN = 5 };
enum { HELLO = 100, EXITED = 101, FAILED = 102, GONE = 103, SOCKET = 104 };
enum { STAGE_FORK = 1, STAGE_CWD = 2, STAGE_USER = 3, STAGE_EXEC = 4 };
enum { MAX_FDS = 16, SLOTS = 4096, FIRST_EXTRA_FD = 197, BUFFER = 1 << 18 };

struct request {
    uint32_t op, id;
    int32_t a, b; /* EXEC: uid, gid (-1: keep) · KILL, SIGNAL: target id, signal · LISTEN: port */
    uint32_t argc, envc;
};

struct reply {
    uint32_t op, id;
    int32_t a, b; /* EXITED: wait status · FAILED: errno, stage */
};

struct shared { /* written by a minder, read by process 1 */
    volatile int32_t main, reported;
};

struct slot {
    uint32_t id;
    pid_t minder;
    int killing;
    uint64_t signals; /* bit n - 1: signal n, asked for before the command ran */
};

static int channel;
static struct slot slots[SLOTS];
static pid_t idle; /* the minder that was forked ahead, or 0 */
static int idle_socket;
static int top; /* no slot from here on was ever used */
static struct shared *shared;
static rlim_t limits[4];
static const int limit_names[4] = {RLIMIT_NPROC, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_CPU};

static void die(const char *what) {
    fprintf(stderr, "supervisor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---------------------------------------------------------------- launch */

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) die(path);
    close(fd);
}

static void map_range(const char *base) {
    int go[2];
    char byte;
    if (pipe2(go, O_CLOEXEC) < 0) die("pipe");
    pid_t parent = getpid(), writer = fork();
    if (writer < 0) die("fork");
    if (writer == 0) {
        char path[64], text[64];
        close(go[1]);
        if (read(go[0], &byte, 1) != 1) _exit(1);
        snprintf(text, sizeof text, "0 %s 65536", base);
        snprintf(path, sizeof path, "/proc/%d/uid_map", parent);
        write_file(path, text);
        snprintf(path, sizeof path, "/proc/%d/gid_map", parent);
        write_file(path, text);
        _exit(0);
    }
    int status;
    if (unshare(CLONE_NEWUSER) < 0) die("a new user namespace");
    if (write(go[1], "x", 1) != 1) die("pipe");
    if (waitpid(writer, &status, 0) < 0 || status != 0) {
        fprintf(stderr, "supervisor: the map of user ids was refused\n");
        exit(1);
    }
    close(go[0]);
    close(go[1]);
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) die("setuid");
}

static void map_self(uid_t uid, gid_t gid) {
    char text[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", text);
}

static int launch(int argc, char **argv) {
    int i = 2;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (!strcmp(argv[i], "--cgroup")) {
            write_file(argv[++i], "0");
        } else if (!strcmp(argv[i], "--self")) {
            uid_t uid = getuid();
            gid_t gid = getgid();
            if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) die("a new user namespace");
            map_self(uid, gid);
        } else if (!strcmp(argv[i], "--private")) {
            if (unshare(CLONE_NEWNS) < 0) die("a new mount namespace");
            if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) die("private mounts");
        } else if (!strcmp(argv[i], "--overlay")) {
            if (mount("overlay", argv[i + 2], "overlay", MS_NODEV | MS_NOSUID, argv[i + 1]) < 0)
                die("overlay");
            i += 2;
        } else if (!strcmp(argv[i], "--rbind")) {
            if (mount(argv[i + 1], argv[i + 2], NULL, MS_BIND | MS_REC, NULL) < 0) die(argv[i + 1]);
            i += 2;
        } else if (!strcmp(argv[i], "--map")) {
            map_range(argv[++i]);
        } else {
            errno = EINVAL;
            die(argv[i]);
        }
    }
    if (i + 1 >= argc) return 2;
    execv(argv[i + 1], argv + i + 1);
    die(argv[i + 1]);
    return 1;
}

/* ----------------------------------------------------------------- serve */

static void send_reply(uint32_t op, uint32_t id, int32_t a, int32_t b, int fd) {
    struct reply body = {op, id, a, b};
    struct iovec part = {&body, sizeof body};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    while (sendmsg(channel, &message, MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

static void run_command(struct request *request, char *cwd, char **argv, char **envp, int *fds,
                        int count, volatile int *error, volatile int *stage) {
    sigset_t none;
    setsid();
    for (int n = 0; n < count; n++)
        if (dup2(fds[n], n < 3 ? n : FIRST_EXTRA_FD + n - 3) < 0) goto fail;
    for (int n = 0; n < 4; n++) {
        struct rlimit limit = {limits[n], limits[n]};
        if (limits[n] != RLIM_INFINITY) setrlimit(limit_names[n], &limit);
    }
    struct rlimit core = {0, 0};
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

static void mind(struct request *request, char *cwd, char **argv, char **envp, int *fds, int count,
                 struct shared *mine) {
    volatile int error = 0, stage = STAGE_FORK;
    int status;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t child = vfork();
    if (child == 0) run_command(request, cwd, argv, envp, fds, count, &error, &stage);
    if (child < 0) error = errno;
    for (int n = 0; n < count; n++) close(fds[n]);
    if (error) {
        mine->reported = 1;
        send_reply(FAILED, request->id, error, stage, -1);
    }
    mine->main = child;
    for (;;) {
        pid_t pid = wait4(-1, &status, 0, NULL);
        if (pid < 0 && errno == ECHILD) _exit(0);
        if (pid == child && !mine->reported) {
            mine->main = 0;
            mine->reported = 1;
            send_reply(EXITED, request->id, status, 0, -1);
        }
    }
}

static struct slot *find(uint32_t id) {
    for (int n = 0; n < top; n++)
        if (slots[n].minder && slots[n].id == id) return &slots[n];
    return NULL;
}

/* A minder's life: find the strings of a request, start its command, see it out. */
static void obey(struct request *request, size_t size, int *fds, int count, struct shared *mine) {
    static char *pointers[8192];
    size_t at = 0;
    char *text = (char *)(request + 1), *end = (char *)request + size, *cwd = text;
    char *next = text + strlen(text) + 1;
    for (uint32_t n = 0; n < request->argc + request->envc; n++) {
        if (n == request->argc) pointers[at++] = NULL;
        if (next >= end) break;
        pointers[at++] = next;
        next += strlen(next) + 1;
    }
    if (request->envc == 0) pointers[at++] = NULL;
    pointers[at] = NULL;
    mind(request, cwd, pointers, pointers + request->argc + 1, fds, count, mine);
}

static int receive(int from, void *buffer, size_t room, int *fds, int *count, size_t *size) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {buffer, room};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t length = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    *count = 0;
    if (length < 0) return errno == EINTR || errno == EAGAIN ? 0 : -1;
    if (length == 0) return -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
            *count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(head), *count * sizeof(int));
        }
    *size = length;
    return 1;
}

/* Fork a minder that waits for its request. Where that fails, one is forked when it is needed. */
static void fork_ahead(void) {
    static struct {
        struct shared *mine;
        char request[BUFFER];
    } order;
    int ends[2], fds[MAX_FDS], count, got;
    size_t size = 0;
    if (idle || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return;
    pid_t minder = fork();
    if (minder == 0) {
        close(ends[0]);
        while ((got = receive(ends[1], &order, sizeof order, fds, &count, &size)) == 0) {
        }
        if (got < 0) _exit(0);
        close(ends[1]);
        obey((struct request *)order.request, size - sizeof order.mine, fds, count, order.mine);
    }
    close(ends[1]);
    if (minder < 0) {
        close(ends[0]);
        return;
    }
    idle = minder;
    idle_socket = ends[0];
}

/* Give a request to the minder that waits; whether it took it. */
static int hand_over(struct request *request, size_t size, int *fds, int count,
                     struct shared *mine) {
    struct iovec parts[2] = {{&mine, sizeof mine}, {request, size}};
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (!idle) return 0;
    if (count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    }
    return sendmsg(idle_socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

static void start(struct request *request, size_t size, int *fds, int count) {
    struct slot *slot = NULL;
    char *text = (char *)(request + 1), *end = (char *)request + size;
    for (int n = 0; n < SLOTS && !slot; n++)
        if (!slots[n].minder) slot = &slots[n];
    if (!slot || (size_t)request->argc + request->envc + 3 > 8192 || end == text || end[-1] != 0 ||
        request->argc == 0) {
        send_reply(FAILED, request->id, slot ? E2BIG : EAGAIN, STAGE_FORK, -1);
        return;
    }
    struct shared *mine = &shared[slot - slots];
    mine->main = mine->reported = 0;
    pid_t minder = idle;
    if (hand_over(request, size, fds, count, mine)) {
        close(idle_socket);
        idle = 0;
    } else if ((minder = fork()) == 0) {
        obey(request, size, fds, count, mine);
    }
    if (minder < 0) {
        send_reply(FAILED, request->id, errno, STAGE_FORK, -1);
        return;
    }
    *slot = (struct slot){request->id, minder, 0, 0};
    if (slot - slots >= top) top = slot - slots + 1;
}

/* Kill everything below `root`, not itself; what forks meanwhile is found by the next call. */
static void kill_below(pid_t root) {
    static pid_t pids[65536], parents[65536];
    static char marked[65536];
    int count = 0, grew = 1;
    DIR *proc = opendir("/proc");
    if (!proc) return;
    for (struct dirent *entry; count < 65536 && (entry = readdir(proc));) {
        char path[300], text[512], *close_paren;
        pid_t pid = atoi(entry->d_name);
        if (pid <= 0) continue;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        if (length <= 0) continue;
        text[length] = 0;
        if (!(close_paren = strrchr(text, ')'))) continue;
        pids[count] = pid;
        parents[count] = atoi(close_paren + 4);
        marked[count++] = 0;
    }
    closedir(proc);
    while (grew) {
        grew = 0;
        for (int n = 0; n < count; n++) {
            if (marked[n] || pids[n] == root) continue;
            int below = parents[n] == root;
            for (int m = 0; m < count && !below; m++) below = marked[m] && pids[m] == parents[n];
            if (below) {
                marked[n] = 1;
                grew = 1;
                kill(pids[n], SIGKILL);
            }
        }
    }
}

static void kill_everything(void) {
    if (getpid() == 1)
        kill(-1, SIGKILL);
    else
        kill_below(getpid());
}

/* Children of process 1 that are no minders: a command killed its minder to be lost sight of. */
static void kill_strays(void) {
    for (int round = 0, found = 1; found && round < 200; round++) {
        DIR *proc = opendir("/proc");
        found = 0;
        if (!proc) return;
        for (struct dirent *entry; (entry = readdir(proc));) {
            char path[300], text[512], *close_paren;
            pid_t pid = atoi(entry->d_name);
            if (pid <= 0) continue;
            snprintf(path, sizeof path, "/proc/%d/stat", pid);
            int fd = open(path, O_RDONLY | O_CLOEXEC), minder = 0;
            if (fd < 0) continue;
            ssize_t length = read(fd, text, sizeof text - 1);
            close(fd);
            if (length <= 0) continue;
            text[length] = 0;
            if (!(close_paren = strrchr(text, ')')) || atoi(close_paren + 4) != getpid()) continue;
            for (int n = 0; n < top && !minder; n++) minder = slots[n].minder == pid;
            if (minder || pid == idle || close_paren[2] == 'Z') continue;
            found = 1;
            kill_below(pid);
            kill(pid, SIGKILL);
        }
        closedir(proc);
        if (found) usleep(500);
    }
}

static void reap(void) {
    int status, strays = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == idle) {
            close(idle_socket);
            idle = 0;
        }
        for (int n = 0; n < top; n++) {
            if (slots[n].minder != pid) continue;
            if (!shared[n].reported) send_reply(EXITED, slots[n].id, SIGKILL, 0, -1);
            if (slots[n].killing) send_reply(GONE, slots[n].id, 0, 0, -1);
            slots[n].minder = 0;
            strays |= WIFSIGNALED(status);
            break;
        }
    }
    if (strays) kill_strays();
}

/* At once, before the next request: a command that follows must not be caught by it. */
static void kill_all(uint32_t id) {
    for (int n = 0; n < 20000; n++) {
        kill_everything();
        reap();
        if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD) break;
        usleep(500);
    }
    send_reply(GONE, id, 0, 0, -1);
}

/* Signals that came before the minder said who the command is. */
static void pass_on(struct slot *slot) {
    struct shared *its = &shared[slot - slots];
    pid_t main = its->main;
    if (!main && !its->reported) return;
    for (int n = 1; main > 0 && n <= 64; n++)
        if (slot->signals >> (n - 1) & 1) kill(-main, n);
    slot->signals = 0;
}

static void give_listener(struct request *request) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(request->a)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
        send_reply(FAILED, request->id, errno, 0, -1);
    else
        send_reply(SOCKET, request->id, 0, 0, fd);
    if (fd >= 0) close(fd);
}

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die(path);
    return fd;
}

static int serve(int argc, char **argv) {
    static char buffer[BUFFER];
    int fds[MAX_FDS], count;
    size_t size = 0;
    sigset_t set;
    if (argc < 7) return 2;
    channel = strcmp(argv[1], "connect") ? atoi(argv[2]) : dial(argv[2]);
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    for (int n = 0; n < 4; n++) {
        long long value = atoll(argv[3 + n]);
        limits[n] = value < 0 ? RLIM_INFINITY : (rlim_t)value;
    }
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    shared = mmap(NULL, sizeof(struct shared) * SLOTS, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (shared == MAP_FAILED || signals < 0 || root < 0) die("start");
    send_reply(HELLO, 0, 0, 0, root);
    close(root);
    fork_ahead();
    for (;;) {
        struct pollfd waits[2] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
        int any = 0;
        for (int n = 0; n < top && !any; n++) any = slots[n].minder && (slots[n].killing || slots[n].signals);
        poll(waits, 2, any ? 1 : -1);
        if (waits[1].revents) {
            struct signalfd_siginfo info;
            while (read(signals, &info, sizeof info) > 0) {
            }
            reap();
        }
        if (waits[0].revents) {
            int got = receive(channel, buffer, BUFFER, fds, &count, &size);
            if (got < 0) break;
            struct request *request = (struct request *)buffer;
            struct slot *slot;
            if (got && size >= sizeof *request) switch (request->op) {
                case EXEC:
                    start(request, size, fds, count);
                    break;
                case KILL:
                    if ((slot = find(request->a)))
                        slot->killing = 1;
                    else
                        send_reply(GONE, request->a, 0, 0, -1);
                    break;
                case SIGNAL:
                    if ((slot = find(request->a)) && request->b > 0 && request->b <= 64) {
                        slot->signals |= UINT64_C(1) << (request->b - 1);
                        pass_on(slot);
                    }
                    break;
                case KILLALL:
                    kill_all(request->id);
                    break;
                case LISTEN:
                    give_listener(request);
                    break;
            }
            for (int n = 0; n < count; n++) close(fds[n]);
        }
        fork_ahead();
        for (int n = 0; n < top; n++) {
            if (slots[n].minder && slots[n].signals) pass_on(&slots[n]);
            if (slots[n].minder && slots[n].killing) kill_below(slots[n].minder);
        }
    }
    if (getpid() != 1)
        for (int n = 0; n < 2000; n++) {
            kill_below(getpid());
            while (waitpid(-1, NULL, WNOHANG) > 0) {
            }
            if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD) break;
            usleep(1000);
        }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "launch")) return launch(argc, argv);
    if (argc > 2 && !strcmp(argv[1], "serve")) return serve(argc, argv);
    if (argc > 2 && !strcmp(argv[1], "connect")) return serve(argc, argv);
    fprintf(stderr, "usage: supervisor launch ... -- PROGRAM | serve FD ... | connect PATH ...\n");
    return 2;
}

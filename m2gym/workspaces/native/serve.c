/* Process 1 of the box: its loop, and the program's entry. */
#include "supervisor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

void die(const char *what) {
    fprintf(stderr, "supervisor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void give_listener(struct request *request) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(request->a)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
        reply(FAILED, request->id, errno, 0, -1);
    else
        reply(SOCKET, request->id, 0, 0, fd);
    if (fd >= 0) close(fd);
}

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die(path);
    return fd;
}

static void obey(struct packet *packet) {
    struct request *request = &packet->request;
    if (packet->size >= sizeof *request) switch (request->op) {
        case EXEC:
            start(packet);
            break;
        case KILL:
            ask_kill(request->a);
            break;
        case SIGNAL:
            ask_signal(request->a, request->b);
            break;
        case KILLALL:
            kill_all(request->id);
            break;
        case LISTEN:
            give_listener(request);
            break;
    }
    for (int n = 0; n < packet->count; n++) close(packet->fds[n]);
}

static void say_hello(void) {
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) die("/");
    reply(HELLO, 0, 0, 0, root);
    close(root);
}

/* Until the host closes the channel. */
static void loop(int signals) {
    static struct packet packet;
    struct iovec part = {packet.bytes, BUFFER};
    for (;;) {
        struct pollfd waits[2] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
        poll(waits, 2, any_asked() ? 1 : -1);
        if (waits[1].revents) {
            struct signalfd_siginfo info;
            while (read(signals, &info, sizeof info) > 0) {
            }
            reap();
            fork_ahead();
        }
        if (waits[0].revents) {
            int got = receive(channel, &part, 1, &packet);
            if (got < 0) return;
            if (got) obey(&packet);
        }
        see_to_asked();
    }
}

static int serve(int argc, char **argv) {
    sigset_t set;
    if (argc < 7) return 2;
    channel = strcmp(argv[1], "connect") ? atoi(argv[2]) : dial(argv[2]);
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    set_limits(argv + 3);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (!make_table() || signals < 0) die("start");
    say_hello();
    fork_ahead();
    loop(signals);
    for (int n = 0; getpid() != 1 && n < 2000; n++) {
        kill_below(getpid());
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        if (has_no_children()) break;
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

/*
 * The table of commands that run. One minder is forked ahead and waits for the next request, so
 * that no fork of process 1 lies on the way to a command. It is forked when a command has ended:
 * while one starts, the fork would take its processor.
 */
#include "supervisor.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { SLOTS = 4096 };

static struct slot {
    uint32_t id;
    pid_t minder;
    int killing;
    uint64_t signals; /* bit n - 1: signal n, asked for before the command ran */
} slots[SLOTS];
static int top; /* no slot from here on was ever used */
static struct shared *shared;
static pid_t idle; /* the minder that was forked ahead, or 0 */
static int idle_socket;

/* Before the first command; whether there is memory for it. */
int make_table(void) {
    shared = mmap(NULL, sizeof(struct shared) * SLOTS, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared != MAP_FAILED;
}

static struct slot *find(uint32_t id) {
    for (int n = 0; n < top; n++)
        if (slots[n].minder && slots[n].id == id) return &slots[n];
    return NULL;
}

static int is_minder(pid_t pid) {
    for (int n = 0; n < top; n++)
        if (slots[n].minder == pid) return 1;
    return pid == idle;
}

/* Fork a minder that waits for its request. Where that fails, one is forked when it is needed. */
void fork_ahead(void) {
    static struct packet packet;
    int ends[2], got;
    if (idle || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return;
    pid_t minder = fork();
    if (minder == 0) {
        struct shared *mine;
        struct iovec parts[2] = {{&mine, sizeof mine}, {packet.bytes, BUFFER}};
        close(ends[0]);
        be_minder();
        while ((got = receive(ends[1], parts, 2, &packet)) == 0) {
        }
        if (got < 0) _exit(0);
        close(ends[1]);
        packet.size -= sizeof mine;
        mind(&packet, mine);
    }
    close(ends[1]);
    if (minder < 0) {
        close(ends[0]);
        return;
    }
    idle = minder;
    idle_socket = ends[0];
}

/* Give a request to the minder that waits; its id, or 0 where there is none. */
static pid_t hand_over(struct packet *packet, struct shared *mine) {
    struct iovec parts[2] = {{&mine, sizeof mine}, {packet->bytes, packet->size}};
    pid_t minder = idle;
    if (!idle || !pass(idle_socket, parts, 2, packet->fds, packet->count, MSG_DONTWAIT)) return 0;
    close(idle_socket);
    idle = 0;
    return minder;
}

void start(struct packet *packet) {
    struct request *request = &packet->request;
    struct slot *slot = NULL;
    size_t strings = (size_t)request->argc + request->envc + 3;
    for (int n = 0; n < SLOTS && !slot; n++)
        if (!slots[n].minder) slot = &slots[n];
    if (!slot || strings > MAX_STRINGS || request->argc == 0 || packet->size == sizeof *request ||
        packet->bytes[packet->size - 1] != 0) {
        reply(FAILED, request->id, slot ? E2BIG : EAGAIN, STAGE_FORK, -1);
        return;
    }
    struct shared *mine = &shared[slot - slots];
    mine->main = mine->reported = 0;
    pid_t minder = hand_over(packet, mine);
    if (!minder && (minder = fork()) == 0) {
        be_minder();
        mind(packet, mine);
    }
    if (minder < 0) {
        reply(FAILED, request->id, errno, STAGE_FORK, -1);
        return;
    }
    *slot = (struct slot){request->id, minder, 0, 0};
    if (slot - slots >= top) top = slot - slots + 1;
}

/* Send the signals that came before the minder said who the command is. */
static void pass_on(struct slot *slot) {
    struct shared *its = &shared[slot - slots];
    pid_t main = its->main;
    if (!main && !its->reported) return;
    for (int n = 1; main > 0 && n <= 64; n++)
        if (slot->signals >> (n - 1) & 1) kill(-main, n);
    slot->signals = 0;
}

void ask_signal(uint32_t id, int number) {
    struct slot *slot = find(id);
    if (!slot || number < 1 || number > 64) return;
    slot->signals |= UINT64_C(1) << (number - 1);
    pass_on(slot);
}

void ask_kill(uint32_t id) {
    struct slot *slot = find(id);
    if (slot)
        slot->killing = 1;
    else
        reply(GONE, id, 0, 0, -1);
}

/* At once, before the next request: a command that follows must not be caught by it. */
void kill_all(uint32_t id) {
    for (int n = 0; n < 20000; n++) {
        kill_everything();
        reap();
        if (has_no_children()) break;
        usleep(500);
    }
    reply(GONE, id, 0, 0, -1);
}

void reap(void) {
    int status, strays = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == idle) {
            close(idle_socket);
            idle = 0;
        }
        for (int n = 0; n < top; n++) {
            if (slots[n].minder != pid) continue;
            if (!shared[n].reported) reply(EXITED, slots[n].id, SIGKILL, 0, -1);
            if (slots[n].killing) reply(GONE, slots[n].id, 0, 0, -1);
            slots[n].minder = 0;
            strays |= WIFSIGNALED(status);
            break;
        }
    }
    if (strays) kill_strays(is_minder);
}

/* Whether a command is being killed, or waits for a signal. */
int any_asked(void) {
    for (int n = 0; n < top; n++)
        if (slots[n].minder && (slots[n].killing || slots[n].signals)) return 1;
    return 0;
}

void see_to_asked(void) {
    for (int n = 0; n < top; n++) {
        if (slots[n].minder && slots[n].signals) pass_on(&slots[n]);
        if (slots[n].minder && slots[n].killing) kill_below(slots[n].minder);
    }
}

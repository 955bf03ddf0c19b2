/* Packets on a socket, with descriptors that ride along. */
#include "supervisor.h"

#include <sys/socket.h>

int channel;

union control {
    char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    struct cmsghdr align;
};

/* Send one packet; whether it went. */
int pass(int to, struct iovec *parts, int count_of_parts, const int *fds, int count, int flags) {
    union control control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count_of_parts};
    ssize_t sent;
    if (count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    }
    while ((sent = sendmsg(to, &message, MSG_NOSIGNAL | flags)) < 0 && errno == EINTR) {
    }
    return sent > 0;
}

/* Take one packet into `parts`, its size and descriptors into `into`: 1, or 0 for none yet, or -1
 * for the end. */
int receive(int from, struct iovec *parts, int count_of_parts, struct packet *into) {
    union control control;
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = count_of_parts,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t length = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    into->count = 0;
    if (length < 0) return errno == EINTR || errno == EAGAIN ? 0 : -1;
    if (length == 0) return -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
            into->count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(into->fds, CMSG_DATA(head), into->count * sizeof(int));
        }
    into->size = length;
    return 1;
}

void reply(uint32_t op, uint32_t id, int32_t a, int32_t b, int fd) {
    struct {
        uint32_t op, id;
        int32_t a, b; /* EXITED: wait status · FAILED: errno, stage */
    } body = {op, id, a, b};
    struct iovec part = {&body, sizeof body};
    pass(channel, &part, 1, &fd, fd >= 0, 0);
}

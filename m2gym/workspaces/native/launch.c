/* Before the box: mounts and user ids of the process that becomes bubblewrap. */
#include "supervisor.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

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

int launch(int argc, char **argv) {
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

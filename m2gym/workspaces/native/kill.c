/* Killing what commands leave behind, found by who is whose parent. */
#include "supervisor.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>

enum { MOST = 65536 };

struct process {
    pid_t pid, parent;
    char state;
};

/* The next process that `/proc` shows; whether there was one. */
static int next_process(DIR *proc, struct process *found) {
    for (struct dirent *entry; (entry = readdir(proc));) {
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
        *found = (struct process){pid, atoi(close_paren + 4), close_paren[2]};
        return 1;
    }
    return 0;
}

/* Kill everything below `root`, not itself; what forks meanwhile is found by the next call. */
void kill_below(pid_t root) {
    static struct process all[MOST];
    static char marked[MOST];
    int count = 0, grew = 1;
    DIR *proc = opendir("/proc");
    if (!proc) return;
    while (count < MOST && next_process(proc, &all[count])) marked[count++] = 0;
    closedir(proc);
    while (grew) {
        grew = 0;
        for (int n = 0; n < count; n++) {
            if (marked[n] || all[n].pid == root) continue;
            int below = all[n].parent == root;
            for (int m = 0; m < count && !below; m++)
                below = marked[m] && all[m].pid == all[n].parent;
            if (below) {
                marked[n] = 1;
                grew = 1;
                kill(all[n].pid, SIGKILL);
            }
        }
    }
}

void kill_everything(void) {
    if (getpid() == 1)
        kill(-1, SIGKILL);
    else
        kill_below(getpid());
}

/* Children of process 1 that are no minders: a command killed its minder to be lost sight of. */
void kill_strays(int (*is_minder)(pid_t)) {
    for (int round = 0, found = 1; found && round < 200; round++) {
        struct process one;
        DIR *proc = opendir("/proc");
        found = 0;
        if (!proc) return;
        while (next_process(proc, &one)) {
            if (one.parent != getpid() || one.state == 'Z' || is_minder(one.pid)) continue;
            found = 1;
            kill_below(one.pid);
            kill(one.pid, SIGKILL);
        }
        closedir(proc);
        if (found) usleep(500);
    }
}

int has_no_children(void) { return waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD; }

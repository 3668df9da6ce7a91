// See sockets.h.

#include "sockets.h"

#ifdef _WIN32
#  include <winsock2.h>
#else
#  include <netinet/in.h>
#  include <netinet/tcp.h>
#  include <sys/socket.h>
#  include <sys/time.h>
#endif

int rpc_send_flags() {
#ifdef MSG_NOSIGNAL
    return MSG_NOSIGNAL;
#else
    return 0;
#endif
}

void rpc_limit_waiting(int fd, double seconds) {
#ifdef _WIN32
    const DWORD limit = (DWORD) (seconds*1000);
#else
    timeval limit;
    limit.tv_sec  = (time_t) seconds;
    limit.tv_usec = (suseconds_t) ((seconds - (double) limit.tv_sec)*1e6);
#endif
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, (const char *) &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, (const char *) &limit, sizeof(limit));
}

#ifndef _WIN32
static void set_int(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
}
#endif

void rpc_notice_lost_hosts(int fd) {
#ifdef _WIN32
    const BOOL on = TRUE;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, (const char *) &on, sizeof(on));
#else
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#  ifdef TCP_KEEPIDLE
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
#  endif
#  ifdef TCP_USER_TIMEOUT
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000); // milliseconds, of what was sent
#  endif
#  ifdef SO_NOSIGPIPE
    set_int(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#  endif
#endif
}

// Options of the sockets of both ends.
#pragma once

// Flags of send(): a peer that is gone must not end this process with SIGPIPE.
int rpc_send_flags();

// Sends and receives that make no progress for so long fail; so does connect().
void rpc_limit_waiting(int fd, double seconds);

// A peer whose host has gone without a word is noticed within half a minute.
void rpc_notice_lost_hosts(int fd);

// The session talks to the kernel, so it is no part of the core that every target is linked with.
#pragma once
#include "../../native/fuse/session.cc"

// libfuse's low-level interface, as every C file here includes it. The version of the interface is said here and in
// Sources/CFuse3/shim.h; headers from 3.10 to 3.18 accept it.
#ifndef PLATTER_FUSE_LIBRARY_H
#define PLATTER_FUSE_LIBRARY_H
#define FUSE_USE_VERSION 314
#include <fuse_log.h>
#include <fuse_lowlevel.h>
#endif

// The C side of the FUSE session: what libfuse3 offers only as macros, or not at all.
#ifndef PLATTER_CLINUX_FUSE_H
#define PLATTER_CLINUX_FUSE_H

#endif

#ifndef PLATTER_CFUSE3_H
#define PLATTER_CFUSE3_H
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#endif

// What ThreadSanitizer does not see of Swift's own synchronisation, told to it. Without -fsanitize=thread there is nothing
// here but the answer to one question.
#ifndef PLATTER_TSAN_SUPPORT_H
#define PLATTER_TSAN_SUPPORT_H

#include <stdbool.h>

// Whether this program was built with ThreadSanitizer.
bool tsan_support_is_active(void);

#endif

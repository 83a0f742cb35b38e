/* All kernels as one unit, which compiles in half the time of five. */

#include "leaves.h"
#include "masks.h"
#include "merge.h"
#include "ranks.h"
#include "tally.h"

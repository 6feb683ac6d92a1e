/* The C library as Swift sees it. */
#define SKIM_EXPERIMENTAL /* The sleep student's input format. */
#include "skimstone.h"

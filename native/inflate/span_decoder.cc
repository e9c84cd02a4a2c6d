#include "span_decoder.h"

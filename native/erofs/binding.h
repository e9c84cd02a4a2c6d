// For the wrappers of other components that take an open image from JavaScript.
#pragma once
#include <napi.h>

#include <memory>

#include "image.h"

namespace ocifs::erofs {

// The image behind an object that openErofsImage() returned; it stays mapped for as long as the pointer is held, also
// after the object's close(). Throws a TypeError for any other value, and "aborted" when the object is closed.
std::shared_ptr<Image> UnwrapImage(const Napi::Value& value);

}  // namespace ocifs::erofs

namespace ocifs {
using erofs::UnwrapImage;
}

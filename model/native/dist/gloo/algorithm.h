// In place of Gloo's headers, which libtorch does not install: the names that its own headers use, and
// nothing of what they are. Only pointers to these are handled here.
#pragma once

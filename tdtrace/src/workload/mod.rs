//! A KVM guest of our own that makes an exact number of exits.

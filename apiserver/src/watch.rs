//! Watches: a stream of frames that all watchers share.

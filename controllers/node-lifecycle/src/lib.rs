//! node-lifecycle-controller.

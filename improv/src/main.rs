//! Improv: Kubernetes as a jazz combo. This command runs every component in one process.
mod image;
mod layout;
fn main() {}

//! Memory that the allocator holds and nobody uses goes back to the system.

use std::time::Duration;

/// Pause between two looks: short beside the minutes for which a cluster idles, long beside what a look takes.
const EVERY: Duration = Duration::from_secs(2);

/// Gives free memory back from time to time, for programs whose global allocator is mimalloc.
///
/// Left alone it does so only while somebody allocates: a server that has just started, or that was under load and
/// idles now, would keep all that it ever needed at once.
pub async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        collect();
    }
}

#[expect(unsafe_code, reason = "mimalloc has no safe wrapper for it")]
fn collect() {
    // SAFETY: it has no arguments that could be wrong, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

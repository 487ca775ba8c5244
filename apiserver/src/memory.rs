//! Memory that the allocator holds and nobody uses goes back to the system.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Pause between two looks: short beside the minutes for which a cluster idles, long beside what a look takes.
const EVERY: Duration = Duration::from_secs(2);

/// Processor time after which there may be something to give back. Looking for it takes a few milliseconds, which an
/// idle server, whose memory has been given back, need not spend at every look.
const WORK: Duration = Duration::from_millis(100);

/// Gives free memory back from time to time, for programs whose global allocator is mimalloc.
///
/// Left alone it does so only while somebody allocates: a server that has just started, or that was under load and
/// idles now, would keep all that it ever needed at once.
pub async fn give_back() {
    let mut last = Duration::ZERO;
    loop {
        tokio::time::sleep(EVERY).await;
        if processor_time().saturating_sub(last) >= WORK {
            collect();
            last = processor_time();
        }
    }
}

/// What the process has used of all processors; the clock is there on every Linux. Source: clock_gettime(2).
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

#[expect(unsafe_code, reason = "mimalloc has no safe wrapper for it")]
fn collect() {
    // SAFETY: it has no arguments that could be wrong, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_noticed() {
        let before = processor_time();
        while processor_time() < before + Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        assert!(processor_time() < before + Duration::from_secs(60));
    }
}

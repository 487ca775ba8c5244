//! How a container ends: waiting for it, and killing it.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{RETRY, hook, log_path, termination_log};
use crate::events::Severity;
use crate::pods::adopt::exit_of;
use crate::pods::context::Context;
use crate::pods::observed::{Exit, Wanted};
use crate::runtime::{ContainerId, ImageRef};

/// Most bytes of a termination message.
///
/// Source: kubernetes.io, "Determine the Reason for Pod Failure".
const MESSAGE_MAX: usize = 4096;
/// Most bytes and lines that the log lends to a termination message.
const MESSAGE_FROM_LOG: (u64, usize) = (2048, 80);

/// Waits for a container's end.
pub(in crate::pods) async fn wait(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    id: &str,
    attempt: u32,
    started_at: Option<Timestamp>,
) -> Exit {
    let id = ContainerId(id.to_owned());
    loop {
        match ctx.runtime.wait_container(&id).await {
            Ok(exit) => {
                let message = termination_message(ctx, wanted, container, attempt, exit.code != 0);
                return exit_of(&exit, started_at, message);
            }
            Err(error) if error.is_not_found() => {
                return Exit {
                    code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: Some("The container could not be located".to_owned()),
                    started_at,
                    finished_at: Timestamp::now(),
                };
            }
            Err(error) => {
                tracing::debug!(container = %id, error = %error, "wait failed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn termination_message(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    attempt: u32,
    failed: bool,
) -> Option<String> {
    let path = termination_log(ctx, wanted, container, attempt);
    let mut written = Vec::new();
    let file = std::fs::File::open(path).ok();
    file.and_then(|f| f.take(MESSAGE_MAX as u64).read_to_end(&mut written).ok());
    if !written.is_empty() {
        return Some(String::from_utf8_lossy(&written).into_owned());
    }
    let spec = &wanted.container(container)?.spec;
    let fall_back =
        spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && failed;
    fall_back.then(|| log_tail(&log_path(ctx, wanted, container, attempt)))?
}

/// The end of a CRI log without its times.
fn log_tail(path: &Path) -> Option<String> {
    let (bytes, lines) = MESSAGE_FROM_LOG;
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    // Each line carries about 45 bytes of time and stream, which do not count.
    file.seek(SeekFrom::Start(size.saturating_sub(bytes * 4))).ok()?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw).ok()?;
    Some(tail(&String::from_utf8_lossy(&raw), usize::try_from(bytes).ok()?, lines))
        .filter(|text| !text.is_empty())
}

/// The last bytes of the last lines of CRI records, of which the first may be cut.
fn tail(records: &str, bytes: usize, lines: usize) -> String {
    let mut text = String::new();
    for record in records.lines() {
        let mut parts = record.splitn(4, ' ').skip(2);
        let (Some(tag), Some(content)) = (parts.next(), parts.next()) else { continue };
        text.push_str(content);
        if tag == "F" {
            text.push('\n');
        }
    }
    let from = text.trim_end_matches('\n').rmatch_indices('\n').nth(lines - 1);
    let from = from.map_or(0, |(at, _)| at + 1).max(text.len().saturating_sub(bytes));
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.split_off(from)
}

/// preStop, stop signal, and SIGKILL when the grace period is over. Returns once the container has ended, which its watcher reports.
pub(in crate::pods) async fn kill(
    ctx: &Context,
    wanted: &Wanted,
    container: &str,
    id: &str,
    ip: String,
    grace: Duration,
    mut shrink: watch::Receiver<Option<Duration>>,
) {
    let begin = Instant::now();
    let container_id = ContainerId(id.to_owned());
    let spec = wanted.container(container).map(|c| c.spec.clone());
    let lifecycle = spec.as_ref().and_then(|s| s.lifecycle.clone());
    let gentle = async {
        if let Some(hook) = lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && let Err(why) = self::hook(ctx, wanted, container, id, &ip, hook).await
        {
            let recorder = &ctx.recorder;
            recorder.container(wanted, container, Severity::Warning, "FailedPreStopHook", why);
        }
        let signal = lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
        let signal = match signal {
            Some(named) => signal_number(named),
            None => image_signal(ctx, spec.as_deref()).await,
        };
        if let Err(error) = ctx.runtime.kill_container(&container_id, signal).await {
            tracing::warn!(container = %container_id, error = %error, "stop signal not sent");
        }
        ctx.runtime.wait_container(&container_id).await
    };
    // The grace period may shrink meanwhile: a second delete with a smaller one.
    let patience = async {
        let mut deadline = begin + grace;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => break,
                changed = shrink.changed() => match changed {
                    Ok(()) => {
                        let shorter = *shrink.borrow_and_update();
                        deadline = shorter.map_or(deadline, |g| deadline.min(begin + g));
                    }
                    Err(_) => tokio::time::sleep_until(deadline).await,
                },
            }
        }
    };
    // Even without any grace the signal is sent first.
    let ended = tokio::select! {
        biased;
        ended = gentle => ended.ok(),
        () = patience => None,
    };
    if ended.is_none() {
        kill_hard(ctx, &container_id).await;
    }
}

async fn kill_hard(ctx: &Context, id: &ContainerId) {
    loop {
        let killed = ctx.runtime.kill_container(id, libc::SIGKILL).await;
        let waited = tokio::time::timeout(RETRY * 10, ctx.runtime.wait_container(id)).await;
        match waited {
            Ok(Ok(_)) => return,
            Ok(Err(error)) if error.is_not_found() => return,
            other => {
                tracing::warn!(container = %id, ?killed, ended = other.is_ok(), "container not killed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn image_signal(ctx: &Context, spec: Option<&Container>) -> i32 {
    let image = spec.and_then(|s| s.image.as_ref()).and_then(|i| i.parse::<ImageRef>().ok());
    let Some(image) = image else { return libc::SIGTERM };
    let known = ctx.runtime.image(&image).await.ok().flatten();
    known.and_then(|i| i.stop_signal).map_or(libc::SIGTERM, |s| signal_number(&s))
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
fn signal_number(name: &str) -> i32 {
    if let Ok(number) = name.parse() {
        return number;
    }
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        return 34 + offset.trim_start_matches('+').parse::<i32>().unwrap_or(0);
    }
    if let Some(offset) = bare.strip_prefix("RTMAX") {
        return 64 - offset.trim_start_matches('-').parse::<i32>().unwrap_or(0);
    }
    let full = format!("SIG{bare}");
    full.parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_end_of_what_was_written() {
        let records = "t stdout F one\nt stderr F two three\nt stdout P fo\nt stdout P ur\n";
        assert_eq!(tail(records, 100, 80), "one\ntwo three\nfour");
        assert_eq!(tail(records, 100, 2), "two three\nfour");
        assert_eq!(tail("t stdout F one\nt stdout F two\n", 100, 1), "two\n");
        assert_eq!(tail(records, 5, 80), "\nfour");
        assert_eq!(tail("cut\nt stdout F x\n", 5, 80), "x\n");
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |name: &str, number| assert_eq!(signal_number(name), number, "{name}");
        check("SIGTERM", 15);
        check("QUIT", 3);
        check("9", 9);
        check("SIGRTMIN+3", 37);
        check("SIGRTMAX", 64);
        check("nonsense", 15);
    }
}

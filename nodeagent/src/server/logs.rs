//! Container logs, read from the files that the runtime's logger writes, across rotation.
//!
//! A line of such a file is `<time> <stream> <F|P> <text>`; P is a part without its end of line.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use super::routes::{Query, pod_of};
use super::{Response, Shared, text};
use crate::pods::worker::Handle;

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Bytes gathered before they are sent.
const BATCH: usize = 32 << 10;

/// Which lines, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    timestamps: bool,
    previous: bool,
    limit: Option<u64>,
    /// Only `stdout` or `stderr`.
    stream: Option<String>,
}

impl Options {
    fn read(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str| match query.get(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(n) if n >= 0 => Ok(Some(n)),
                _ => Err(format!("invalid {name}: {text}")),
            },
        };
        let since =
            match (number("sinceSeconds")?, query.get("sinceTime").filter(|v| !v.is_empty())) {
                (Some(seconds), _) => Some(now - SignedDuration::from_secs(seconds)),
                (None, Some(time)) => {
                    Some(time.parse().map_err(|e| format!("invalid sinceTime: {e}"))?)
                }
                (None, None) => None,
            };
        let stream = match query.get("stream") {
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            _ => None,
        };
        Ok(Self {
            follow: query.flag("follow"),
            tail: number("tailLines")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            since,
            timestamps: query.flag("timestamps"),
            previous: query.flag("previous"),
            limit: number("limitBytes")?.map(i64::unsigned_abs),
            stream,
        })
    }
}

pub(super) async fn serve(
    shared: &Shared,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response {
    let options = match Options::read(query, Timestamp::now()) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let handle = match pod_of(shared, namespace, pod) {
        Ok(handle) => handle,
        Err(refusal) => return *refusal,
    };
    let (wanted, attempts, state) = {
        let view = handle.view();
        let Some(wanted) = view.wanted.clone() else {
            return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
        };
        let state = waiting_reason(&view.status, container);
        (wanted, view.attempts.get(container).copied().unwrap_or(0), state)
    };
    if wanted.container(container).is_none() {
        let refusal = format!("container {container} not found in pod {pod}");
        return text(StatusCode::NOT_FOUND, refusal);
    }
    let latest = attempts.checked_sub(1).or_else(|| {
        // The pod ended before this agent began: the newest file tells.
        let folder = crate::pods::log_path(&shared.ctx, &wanted, container, 0);
        newest_attempt(folder.parent()?)
    });
    let attempt = if options.previous { latest.and_then(|a| a.checked_sub(1)) } else { latest };
    let Some(attempt) = attempt else {
        let refusal = if options.previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            let why = state.map(|s| format!(": {s}")).unwrap_or_default();
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start{why}")
        };
        return text(StatusCode::BAD_REQUEST, refusal);
    };
    let path = crate::pods::log_path(&shared.ctx, &wanted, container, attempt);
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(4);
    let root = shared.ctx.config.log_dir.clone();
    let live = Live { handle, container: container.to_owned(), attempt, root };
    tokio::spawn(async move {
        let mut out = Out::new(sender, options.limit);
        if let Err(error) = copy(&path, &options, &live, &mut out).await {
            tracing::debug!(error = %error, path = %path.display(), "log not read to its end");
        }
        out.flush().await;
    });
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let frames = futures::StreamExt::map(frames, |r| r.map(Frame::data));
    let mut response = http::Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn waiting_reason(
    status: &k8s_openapi::api::core::v1::PodStatus,
    container: &str,
) -> Option<String> {
    let all = [&status.container_statuses, &status.init_container_statuses];
    let found = all.into_iter().flatten().flatten().find(|s| s.name == container)?;
    let waiting = found.state.as_ref()?.waiting.as_ref()?;
    match &waiting.message {
        Some(message) if !message.is_empty() => Some(message.clone()),
        _ => waiting.reason.clone(),
    }
}

fn newest_attempt(folder: &Path) -> Option<u32> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let numbers =
        entries.filter_map(|e| e.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok());
    numbers.max()
}

/// The container whose log is followed.
struct Live {
    handle: Handle,
    container: String,
    attempt: u32,
    /// Folder of all logs.
    root: PathBuf,
}

impl Live {
    /// Whether more lines may come.
    fn runs(&self) -> bool {
        if self.handle.is_over() {
            return false;
        }
        let view = self.handle.view();
        let newest = view.attempts.get(&self.container).is_none_or(|a| *a == self.attempt + 1);
        newest && view.containers.get(&self.container).is_none_or(|(_, running)| *running)
    }
}

/// Opens a log below the folder of logs. No part of the path may be a symbolic link: a pod that sees this folder of
/// the node could make one, and have any file of the node read to it.
fn open(root: &Path, path: &Path) -> io::Result<tokio::fs::File> {
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, folder, Mode::empty())?;
    let how = OpenHow::new()
        // Nor does a pipe in its place make us wait.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = std::fs::File::from(openat2(&root, below, how)?);
    Ok(tokio::fs::File::from_std(file))
}

/// The file and the older ones that rotation has set aside, oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = path.parent().and_then(|p| std::fs::read_dir(p).ok()).into_iter().flatten();
    let mut rotated: Vec<_> = entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().strip_prefix(&format!("{name}.")).is_some())
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    rotated.sort();
    rotated.into_iter().map(|(_, path)| path).chain([path.to_owned()]).collect()
}

async fn copy(path: &Path, options: &Options, live: &Live, out: &mut Out) -> io::Result<()> {
    let mut tail: Option<VecDeque<String>> = options.tail.map(|_| VecDeque::new());
    let mut current = None;
    for file in files(path) {
        let mut reader = match open(&live.root, &file) {
            Ok(file) => BufReader::with_capacity(64 << 10, file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let mut line = String::new();
        while read_line(&mut reader, &mut line).await? {
            let whole = std::mem::take(&mut line);
            match &mut tail {
                // Parts of one line count as one: only the last part ends it.
                Some(kept) => keep(kept, whole, options),
                None => out.line(&whole, options).await?,
            }
        }
        current = Some((reader, line));
    }
    for line in tail.into_iter().flatten() {
        out.line(&line, options).await?;
    }
    if options.follow {
        out.flush().await;
        follow(path, options, live, out, current).await?;
    }
    Ok(())
}

fn keep(kept: &mut VecDeque<String>, line: String, options: &Options) {
    let Some(most) = options.tail else { return };
    if !Line::parse(&line).is_some_and(|l| l.wanted(options)) {
        return;
    }
    kept.push_back(line);
    let ends = |l: &String| Line::parse(l).is_some_and(|l| l.ends);
    while kept.iter().filter(|l| ends(l)).count() > most {
        while let Some(old) = kept.pop_front() {
            if ends(&old) {
                break;
            }
        }
    }
    if most == 0 {
        kept.clear();
    }
}

/// Reads on in `line` until its end; answers whether it is whole.
async fn read_line(reader: &mut BufReader<tokio::fs::File>, line: &mut String) -> io::Result<bool> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes).await?;
    line.push_str(&String::from_utf8_lossy(&bytes));
    Ok(line.ends_with('\n'))
}

async fn follow(
    path: &Path,
    options: &Options,
    live: &Live,
    out: &mut Out,
    mut current: Option<(BufReader<tokio::fs::File>, String)>,
) -> io::Result<()> {
    loop {
        // Asked before the read, so that what was written until the end is read.
        let runs = live.runs();
        if current.is_none() {
            match open(&live.root, path) {
                Ok(file) => current = Some((BufReader::new(file), String::new())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => (),
                Err(e) => return Err(e),
            }
        }
        if let Some((reader, line)) = &mut current {
            // Seen before the read: lines written before the rename are read from the old file.
            let rotated = is_other_file(reader.get_ref(), path).await;
            while read_line(reader, line).await? {
                out.line(line, options).await?;
                line.clear();
            }
            if rotated {
                current = None;
                continue;
            }
        }
        out.flush().await;
        if !runs || out.is_full() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => (),
            () = out.closed() => return Ok(()),
        }
    }
}

async fn is_other_file(open: &tokio::fs::File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (open.metadata().await, tokio::fs::symlink_metadata(path).await)
    else {
        return false;
    };
    (open.dev(), open.ino()) != (named.dev(), named.ino())
}

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    ends: bool,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn parse(raw: &'a str) -> Option<Self> {
        let raw = raw.strip_suffix('\n').unwrap_or(raw);
        let mut fields = raw.splitn(4, ' ');
        let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
        let ends = tag.split(':').next() != Some("P");
        Some(Self { time, stream, ends, text: fields.next().unwrap_or_default() })
    }

    fn wanted(&self, options: &Options) -> bool {
        let late = |since: Timestamp| self.time.parse::<Timestamp>().is_ok_and(|t| t >= since);
        options.stream.as_ref().is_none_or(|s| s == self.stream) && options.since.is_none_or(late)
    }
}

/// Gathers bytes and sends them until the limit or until nobody listens.
struct Out {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    buffer: Vec<u8>,
    left: Option<u64>,
    /// The next text begins a line (and so gets its time).
    fresh: bool,
}

impl Out {
    fn new(sender: mpsc::Sender<Result<Bytes, io::Error>>, limit: Option<u64>) -> Self {
        Self { sender, buffer: Vec::new(), left: limit, fresh: true }
    }

    async fn line(&mut self, raw: &str, options: &Options) -> io::Result<()> {
        let Some(line) = Line::parse(raw).filter(|l| l.wanted(options)) else { return Ok(()) };
        if options.timestamps && self.fresh {
            self.put(line.time.as_bytes());
            self.put(b" ");
        }
        self.put(line.text.as_bytes());
        if line.ends {
            self.put(b"\n");
        }
        self.fresh = line.ends;
        if self.is_full() {
            self.flush().await;
            return Err(io::Error::other("limit reached"));
        }
        if self.buffer.len() >= BATCH {
            self.flush().await;
        }
        if self.sender.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        let most = self.left.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let bytes = &bytes[..bytes.len().min(most)];
        self.buffer.extend_from_slice(bytes);
        if let Some(left) = &mut self.left {
            *left -= bytes.len() as u64;
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    async fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.buffer));
            let _ = self.sender.send(Ok(bytes)).await;
        }
    }

    async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
        2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n\
        2026-01-01T00:00:04Z stdout F \n";

    async fn check(options: Options, expected: &str) {
        let (sender, mut receiver) = mpsc::channel(64);
        let mut out = Out::new(sender, options.limit);
        let mut kept = VecDeque::new();
        for line in LOG.split_inclusive('\n') {
            match options.tail {
                Some(_) => keep(&mut kept, line.to_owned(), &options),
                None => drop(out.line(line, &options).await),
            }
        }
        for line in kept {
            out.line(&line, &options).await.unwrap();
        }
        out.flush().await;
        drop(out);
        let mut got = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            got.extend(bytes.unwrap());
        }
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let all = Options::default();
        check(all.clone(), "one\ntwo\nthree\n\n").await;
        check(Options { tail: Some(2), ..all.clone() }, "three\n\n").await;
        check(Options { tail: Some(0), ..all.clone() }, "").await;
        check(Options { limit: Some(5), ..all.clone() }, "one\nt").await;
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        check(Options { since, ..all.clone() }, "three\n\n").await;
        check(Options { stream: Some("stderr".into()), ..all.clone() }, "two\n").await;
        let timed = "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z \n";
        check(Options { since, timestamps: true, ..all }, timed).await;
    }

    #[tokio::test]
    async fn links_among_the_logs_are_not_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("logs");
        std::fs::create_dir_all(root.join("pod/c")).unwrap();
        std::fs::write(root.join("pod/c/0.log"), "x").unwrap();
        std::fs::write(folder.path().join("0.log"), "secret").unwrap();
        symlink(folder.path().join("0.log"), root.join("pod/c/1.log")).unwrap();
        symlink(folder.path(), root.join("pod/d")).unwrap();
        assert!(open(&root, &root.join("pod/c/0.log")).is_ok());
        for trap in ["pod/c/1.log", "pod/d/0.log", "../0.log"] {
            assert!(open(&root, &root.join(trap)).is_err(), "{trap}");
        }
    }
}

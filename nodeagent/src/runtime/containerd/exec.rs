//! Processes in running containers, and the streams of the first one.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use nix::sys::stat::Mode;
use prost_types::Any;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::Inner;
use super::client::{Client, failed, is_away};
use super::container::not_found;
use crate::logger;
use crate::runtime::{BoxRead, ContainerId, Error, ExecIo, ExecOutput, ExecSpec, TerminalSize};

/// Type of the JSON payload.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Output of a probe or hook that is kept, in bytes a stream.
const MAX_OUTPUT: usize = 16 << 10;

/// How long output is awaited after the process has ended: a child of it may hold the streams open for ever.
pub(super) const DRAIN: Duration = Duration::from_millis(500);

/// Bytes between the logger and a slow attach client.
const ATTACH_BUFFER: usize = 64 << 10;

impl Inner {
    pub(super) async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecIo, Error> {
        let (_, container) = self.record(&id.0).await?.ok_or_else(|| not_found(id))?;
        let process = process(&container.spec.unwrap_or_default().value, spec)?;
        let exec = uuid::Uuid::new_v4().simple().to_string();
        let fifos = Fifos::make(&self.options.state_dir.join("exec").join(&exec), spec)
            .map_err(|error| Error::runtime("make the streams of an exec", error))?;
        let handle = Handle { client: self.client.clone(), container: id.0.clone(), exec };
        let request = ExecProcessRequest {
            container_id: id.0.clone(),
            exec_id: handle.exec.clone(),
            stdin: fifos.path("stdin", spec.stdin),
            stdout: fifos.path("stdout", spec.stdout),
            stderr: fifos.path("stderr", spec.stderr && !spec.tty),
            terminal: spec.tty,
            spec: Some(Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: process.to_string().into_bytes(),
            }),
        };
        self.client
            .tasks()
            .exec(self.client.request(request))
            .await
            .map_err(|status| cannot_exec(id, &status))?;
        if let Err(status) = handle.start().await {
            handle.delete().await;
            return Err(cannot_exec(id, &status));
        }
        Ok(handle.streams(fifos, spec))
    }

    pub(super) async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let spec = ExecSpec {
            command: command.to_vec(),
            stdout: true,
            stderr: true,
            ..ExecSpec::default()
        };
        let work = async {
            let io = self.exec(id, &spec).await?;
            let (stdout, stderr) =
                (tokio::spawn(beginning(io.stdout)), tokio::spawn(beginning(io.stderr)));
            let code = io.exit.await?;
            let take = async |reader: tokio::task::JoinHandle<Vec<u8>>| {
                tokio::time::timeout(DRAIN, reader)
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .unwrap_or_default()
            };
            Ok(ExecOutput { code, stdout: take(stdout).await, stderr: take(stderr).await })
        };
        match timeout {
            None => work.await,
            Some(limit) => {
                tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::ExecTimeout(limit)))
            }
        }
    }

    pub(super) async fn attach(self: &Arc<Self>, id: &ContainerId) -> Result<ExecIo, Error> {
        let (record, _) = self.record(&id.0).await?.ok_or_else(|| not_found(id))?;
        let cannot = |error| Error::runtime("attach to a container", error);
        let folder = self.io_folder(&id.0);
        let socket = connect(&folder, "attach").await.map_err(cannot)?;
        let (stdout, to_stdout) = tokio::io::duplex(ATTACH_BUFFER);
        let (stderr, to_stderr) = tokio::io::duplex(ATTACH_BUFFER);
        let demultiplexer = tokio::spawn(demultiplex(socket, to_stdout, to_stderr));
        let handle =
            Handle { client: self.client.clone(), container: id.0.clone(), exec: String::new() };
        let stdin = match record.stdin {
            false => None,
            true => {
                let writer = open_writer(&folder.join("stdin")).map_err(cannot)?;
                // Only stdinOnce ends the input with its first client; else the next one goes on.
                Some(Stdin::new(writer, record.stdin_once.then(|| handle.clone())))
            }
        };
        let resize = record.tty.then(|| handle.resizer());
        let (inner, id) = (self.clone(), id.clone());
        let exit = async move {
            let exit = inner.wait_container(&id).await;
            // What was written last is on its way; the socket itself ends with the container's removal.
            let _ = tokio::time::timeout(DRAIN, demultiplexer).await;
            Ok(exit?.code)
        };
        Ok(ExecIo {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: Some(Box::new(stdout)),
            stderr: (!record.tty).then(|| Box::new(stderr) as BoxRead),
            resize,
            exit: Box::pin(exit),
        })
    }
}

/// The container's own process with another command.
fn process(container_spec: &[u8], spec: &ExecSpec) -> Result<Value, Error> {
    let parsed: Value = serde_json::from_slice(container_spec)
        .map_err(|error| Error::runtime("read a container's specification", error))?;
    let mut process = parsed["process"].clone();
    process["args"] = spec.command.clone().into();
    process["terminal"] = spec.tty.into();
    if let Some(size) = spec.size.filter(|_| spec.tty) {
        process["consoleSize"] = serde_json::json!({"width": size.width, "height": size.height});
    }
    let has_term = |env: &Vec<Value>| {
        env.iter().any(|entry| entry.as_str().is_some_and(|text| text.starts_with("TERM=")))
    };
    if let (true, Some(env)) = (spec.tty, process["env"].as_array_mut())
        && !has_term(env)
    {
        env.push("TERM=xterm".into());
    }
    Ok(process)
}

/// The words of a shell for what runc says.
fn cannot_exec(id: &ContainerId, status: &Status) -> Error {
    let reason = status.message().to_owned();
    if is_away(status) {
        return Error::Unavailable(reason);
    }
    if status.code() == tonic::Code::NotFound {
        return not_found(id);
    }
    let missing = ["executable file not found", "no such file or directory"];
    let code = if missing.iter().any(|text| reason.contains(text)) { 127 } else { 126 };
    Error::Exec { code, reason }
}

/// The named pipes of one exec. They are opened before the process starts, since the shim waits for its readers.
struct Fifos {
    folder: PathBuf,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Fifos {
    fn make(folder: &Path, spec: &ExecSpec) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let make = |name: &str, wanted: bool| -> io::Result<Option<PathBuf>> {
            let path = folder.join(name);
            if wanted {
                nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            }
            Ok(wanted.then_some(path))
        };
        let read = |path: PathBuf| pipe::OpenOptions::new().open_receiver(path);
        Ok(Self {
            folder: folder.to_owned(),
            stdin: make("stdin", spec.stdin)?.as_deref().map(open_writer).transpose()?,
            stdout: make("stdout", spec.stdout)?.map(read).transpose()?,
            stderr: make("stderr", spec.stderr && !spec.tty)?.map(read).transpose()?,
        })
    }

    fn path(&self, name: &str, wanted: bool) -> String {
        if wanted { self.folder.join(name).display().to_string() } else { String::new() }
    }
}

/// Opened for reading too, since without a reader a pipe cannot be opened for writing only.
fn open_writer(path: &Path) -> io::Result<pipe::Sender> {
    pipe::OpenOptions::new().read_write(true).open_sender(path)
}

/// A process of a task: an exec, or with an empty exec id the container's first one.
#[derive(Clone)]
struct Handle {
    client: Client,
    container: String,
    exec: String,
}

impl Handle {
    async fn start(&self) -> Result<(), Status> {
        let request =
            StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        self.client.tasks().start(self.client.request(request)).await.map(drop)
    }

    async fn delete(&self) {
        let request = DeleteProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
        };
        let _ = self.client.tasks().delete_process(self.client.request(request)).await;
    }

    async fn kill(&self) {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal: u32::try_from(libc::SIGKILL).unwrap_or_default(),
            all: false,
        };
        let _ = self.client.tasks().kill(self.client.request(request)).await;
    }

    async fn close_stdin(&self) {
        let request = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
        };
        let _ = self.client.tasks().close_io(self.client.request(request)).await;
    }

    async fn resize(&self, size: TerminalSize) {
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width: size.width.into(),
            height: size.height.into(),
        };
        let _ = self.client.tasks().resize_pty(self.client.request(request)).await;
    }

    /// A channel for new sizes.
    fn resizer(&self) -> mpsc::Sender<TerminalSize> {
        let (sender, mut sizes) = mpsc::channel(4);
        let handle = self.clone();
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                handle.resize(size).await;
            }
        });
        sender
    }

    /// Hands out the streams of a started exec and sees it to its end.
    fn streams(self, fifos: Fifos, spec: &ExecSpec) -> ExecIo {
        let stdin = fifos.stdin.map(|writer| Box::new(Stdin::new(writer, Some(self.clone()))) as _);
        let resize = spec.tty.then(|| self.resizer());
        let (done, exit) = oneshot::channel();
        let (handle, folder) = (self.clone(), fifos.folder);
        tokio::spawn(async move {
            let request = WaitRequest {
                container_id: handle.container.clone(),
                exec_id: handle.exec.clone(),
            };
            let answer = handle.client.tasks().wait(handle.client.open_ended(request)).await;
            let code =
                answer.map(|answer| i32::try_from(answer.into_inner().exit_status).unwrap_or(255));
            let _ = done.send(code.map_err(failed("wait for an exec")));
            handle.delete().await; // Takes two seconds if a child still holds the streams.
            let _ = fs::remove_dir_all(folder);
        });
        let mut guard = KillUnlessDone { handle: Some(self) };
        let exit = async move {
            let code = exit
                .await
                .map_err(|_| Error::Unavailable("the exec's task was cut off".to_owned()))?;
            guard.disarm();
            code
        };
        let boxed = |pipe: pipe::Receiver| Box::new(pipe) as BoxRead;
        ExecIo {
            stdin,
            stdout: fifos.stdout.map(boxed),
            stderr: fifos.stderr.map(boxed),
            resize,
            exit: Box::pin(exit),
        }
    }
}

/// Kills an exec that nobody waits for any more.
struct KillUnlessDone {
    handle: Option<Handle>,
}

impl KillUnlessDone {
    fn disarm(&mut self) {
        self.handle = None;
    }
}

impl Drop for KillUnlessDone {
    fn drop(&mut self) {
        if let (Some(handle), Ok(runtime)) =
            (self.handle.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { handle.kill().await });
        }
    }
}

/// Standard input. The shim holds a writing end too, so that its end must be told apart from closing the pipe.
struct Stdin {
    pipe: Option<pipe::Sender>,
    at_end: Option<Handle>,
}

impl Stdin {
    fn new(pipe: pipe::Sender, at_end: Option<Handle>) -> Self {
        Self { pipe: Some(pipe), at_end }
    }

    fn end(&mut self) {
        self.pipe = None;
        if let (Some(handle), Ok(runtime)) =
            (self.at_end.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { handle.close_stdin().await });
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.end();
    }
}

/// The beginning of a stream, which is read to its end.
async fn beginning(stream: Option<BoxRead>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = vec![0; MAX_OUTPUT];
    while let Ok(n) = stream.read(&mut buffer).await
        && n > 0
    {
        let room = MAX_OUTPUT - kept.len();
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    kept
}

/// Connects through the folder's descriptor, since a socket's path may have 107 characters only.
pub(super) async fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = fs::File::open(folder)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name))
        .await
}

/// Sorts the logger's frames into two streams. A reader that has gone does not stop the other one.
async fn demultiplex(
    mut socket: impl AsyncRead + Unpin,
    mut stdout: impl AsyncWrite + Unpin,
    mut stderr: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    loop {
        let mut header = [0; 5];
        socket.read_exact(&mut header).await?;
        let [kind, length @ ..] = header;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut frame).await?;
        let result = match kind {
            logger::run::STDERR => stderr.write_all(&frame).await,
            _ => stdout.write_all(&frame).await,
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_the_first_process_with_another_command() {
        let container =
            br#"{"process": {"args": ["a"], "cwd": "/x", "env": ["A=1"], "user": {"uid": 5}}}"#;
        let spec = ExecSpec {
            command: vec!["sh".into()],
            tty: true,
            size: Some(TerminalSize { width: 80, height: 24 }),
            ..ExecSpec::default()
        };
        let expected = serde_json::json!({
            "args": ["sh"], "cwd": "/x", "env": ["A=1", "TERM=xterm"], "user": {"uid": 5},
            "terminal": true, "consoleSize": {"width": 80, "height": 24},
        });
        assert_eq!(process(container, &spec).unwrap(), expected);
    }

    #[test]
    fn shells_know_the_codes() {
        let code = |text: &str| match cannot_exec(&ContainerId("c".into()), &Status::unknown(text))
        {
            Error::Exec { code, .. } => code,
            other => panic!("{other}"),
        };
        assert_eq!(code("exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(code("exec: \"/etc\": permission denied"), 126);
    }

    #[tokio::test]
    async fn frames_find_their_stream() {
        let input: &[u8] = b"\x01\x00\x00\x00\x02ab\x02\x00\x00\x00\x01c\x01\x00\x00\x00\x01d";
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        demultiplex(input, &mut stdout, &mut stderr).await.unwrap_err();
        assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"abd"[..], &b"c"[..]));
    }
}

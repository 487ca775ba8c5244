//! A process whose disk is slow or broken: strace delays its syncs, or lets one fail.

use std::{
    io,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What happens to a process's `fsync` and `fdatasync` for as long as this lives. It needs `strace` on the path.
pub struct BadDisk(Child);

impl BadDisk {
    /// Each sync takes `delay` longer.
    ///
    /// # Errors
    /// strace cannot be started.
    pub fn slow(process: u32, delay: Duration) -> io::Result<BadDisk> {
        Self::inject(process, &format!("delay_enter={}", delay.as_micros()))
    }

    /// Each sync fails with an input/output error.
    ///
    /// # Errors
    /// strace cannot be started.
    pub fn broken(process: u32) -> io::Result<BadDisk> {
        Self::inject(process, "error=EIO")
    }

    fn inject(process: u32, what: &str) -> io::Result<BadDisk> {
        let strace = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "strace", "-f", "-qq", "-o", "/dev/null"])
            .args(["-e", "trace=fsync,fdatasync", "-e"])
            .arg(format!("inject=fsync,fdatasync:{what}"))
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(BadDisk(strace))
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        // Asked nicely, it lets the process go on.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

//! hostPath volumes: nothing is mounted, only looked at or made.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks the path against its type, and makes it where the type says so.
///
/// # Errors
/// The path is not what the type asks for.
///
/// Source: kubernetes.io, "Volumes", "hostPath volume types".
pub fn prepare(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = std::fs::metadata(path).ok();
    let is =
        |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(|m| test(&m.file_type()));
    let refuse =
        |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    match kind {
        "" if found.is_none() => std::fs::create_dir_all(path).map_err(|e| e.to_string()),
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            std::fs::create_dir_all(path).map_err(|e| e.to_string())
        }
        "FileOrCreate" if found.is_none() => {
            std::fs::File::create_new(path).map(drop).map_err(|e| e.to_string())
        }
        "Directory" | "DirectoryOrCreate" if is(std::fs::FileType::is_dir) => Ok(()),
        "Directory" | "DirectoryOrCreate" => refuse("a directory"),
        "File" | "FileOrCreate" if is(std::fs::FileType::is_file) => Ok(()),
        "File" | "FileOrCreate" => refuse("a file"),
        "Socket" if is(FileTypeExt::is_socket) => Ok(()),
        "Socket" => refuse("a socket file"),
        "CharDevice" if is(FileTypeExt::is_char_device) => Ok(()),
        "CharDevice" => refuse("a character device"),
        "BlockDevice" if is(FileTypeExt::is_block_device) => Ok(()),
        "BlockDevice" => refuse("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_checked() {
        let check = |path: &str, kind: &str, expected: Result<(), &str>| {
            let source = HostPathVolumeSource { path: path.into(), type_: Some(kind.into()) };
            assert_eq!(prepare(&source), expected.map_err(str::to_owned));
        };
        check("/proc", "Directory", Ok(()));
        check("/proc", "File", Err("hostPath type check failed: /proc is not a file"));
        check(
            "/proc/none",
            "Directory",
            Err("hostPath type check failed: /proc/none is not a directory"),
        );
        check("/dev/null", "CharDevice", Ok(()));
        check("/dev/null", "x", Err("x is an invalid volume type"));
    }
}
